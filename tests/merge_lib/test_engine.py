import json
from pathlib import Path

import pytest
import torch

import merge_lib
from merge_lib import MergeSpec, merge_checkpoints, merge_many, registry
from merge_lib.checkpoints import (
    checkpoint_digest,
    combine_digests,
    open_checkpoint,
    read_state_dict,
    tensor_digest,
    verify,
    write_state_dict,
)
from merge_lib.checkpoints.reader import CheckpointReader
from merge_lib.engine import merge_in_torch
from merge_lib.errors import (
    CheckpointCorruptError,
    CheckpointError,
    CheckpointMismatchError,
    MethodInputError,
    SpecError,
)

GOLDEN = Path("tests/golden")
WITH_DATA = tuple(info.name for info in registry.methods() if info.data != "none")
WITHOUT_DATA = tuple(name for name in registry.names() if name not in WITH_DATA)


def same(left, right) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


@pytest.mark.parametrize("name", WITHOUT_DATA)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_files_and_memory_give_the_same_bytes(name, dtype, make_models, on_disk, tmp_path):
    models = make_models(dtype=dtype)
    base, experts = on_disk(models)
    out = tmp_path / "out.safetensors"
    report = merge_checkpoints(MergeSpec(method=name, base=base, experts=experts, seed=4), out)
    assert same(read_state_dict(out), merge_lib.merge(name, models[1], models[0], seed=4))
    assert (report.path, report.digest, report.size_bytes) == (
        out,
        checkpoint_digest(out),
        out.stat().st_size,
    )
    assert report.elapsed_s > 0
    assert verify(out).matches


@pytest.mark.parametrize("name", WITHOUT_DATA)
def test_golden_digests(name, tmp_path):
    """Changed only together with a sentence in the changelog."""
    experts = (GOLDEN / "expert_1.safetensors", GOLDEN / "expert_2.safetensors")
    spec = MergeSpec(method=name, base=GOLDEN / "base.safetensors", experts=experts, seed=1)
    report = merge_checkpoints(spec, tmp_path / "out")
    assert report.digest == json.loads((GOLDEN / "digests.json").read_text())[name]


@pytest.mark.parametrize("name", WITH_DATA)
def test_golden_digests_with_made_up_data(name, merge_with_data):
    base, *experts = (
        read_state_dict(GOLDEN / f"{file}.safetensors") for file in ("base", "expert_1", "expert_2")
    )
    merged = merge_with_data(name, experts, base, seed=1)
    digest = combine_digests({key: tensor_digest(tensor) for key, tensor in merged.items()})
    assert digest == json.loads((GOLDEN / "digests.json").read_text())[name]


def test_the_lineage_names_the_recipe_and_the_inputs(make_models, on_disk, tmp_path):
    base, experts = on_disk(make_models(2))
    out = tmp_path / "out"
    spec = MergeSpec(
        method="ties", params={"density": 0.3}, base=base, experts=experts, seed=2, exclude=("a.*",)
    )
    report = merge_checkpoints(spec, out, lineage={"study": "digits", "method": "is the engine's own"})
    with open_checkpoint(out) as reader:
        assert reader.lineage == {
            "study": "digits",
            "kind": "merge",
            "method": "ties",
            "params": {"density": 0.3, "scale": 1.0, "trim": "model"},
            "seed": 2,
            "exclude": ["a.*"],
            "base": checkpoint_digest(base),
            "experts": [checkpoint_digest(path) for path in experts],
            "digest": report.digest,
        }
    assert report.excluded == ("a.*",)


def test_a_file_says_nothing_of_where_it_was_made(make_models, on_disk, tmp_path):
    base, experts = on_disk(make_models(2))
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    copies = [Path(path.rename(moved / path.name)) for path in (base, *experts)]
    there = merge_checkpoints(MergeSpec(method="dare", base=copies[0], experts=copies[1:]), moved / "out")
    back = [Path(path.rename(tmp_path / path.name)) for path in copies]
    here = merge_checkpoints(MergeSpec(method="dare", base=back[0], experts=back[1:]), tmp_path / "out")
    assert here.path.read_bytes() == there.path.read_bytes()


def test_excluded_tensors_are_left_as_in_the_base(make_models, on_disk, tmp_path):
    base, experts = make_models(2)
    experts[0]["a.bias"] = torch.zeros(99)
    experts[1]["own.head"] = torch.full((2,), float("nan"), dtype=torch.float64)
    experts[1]["steps"] += 1
    exclude = ("a.*", "own.head", "steps")
    merged = merge_lib.merge("ties", experts, base, exclude=exclude)
    assert list(merged) == sorted(base)
    assert torch.equal(merged["a.bias"], base["a.bias"])
    assert torch.equal(merged["steps"], base["steps"])
    assert not torch.equal(merged["conv"], base["conv"])
    paths = on_disk((base, experts))
    report = merge_checkpoints(
        MergeSpec(method="ties", base=paths[0], experts=paths[1], exclude=exclude), tmp_path / "o"
    )
    assert same(read_state_dict(report.path), merged)


def test_an_exclude_that_matches_nothing(make_models):
    base, experts = make_models(1)
    with pytest.raises(SpecError, match=r"`exclude` names 'a\.bais', but .* did you mean 'a\.bias'\?"):
        merge_lib.merge("average", experts, base, exclude=["a.bais"])


def test_many_merges_are_each_the_one_made_alone(make_models, on_disk, tmp_path):
    base, experts = on_disk(make_models(4))
    specs = [
        MergeSpec(method=name, base=base, experts=chosen, seed=3)
        for name in WITHOUT_DATA
        for chosen in (experts, experts[:2], experts[::-1])
    ]
    specs.append(
        MergeSpec(method="ties", base=base, experts=experts, params={"density": 0.7}, exclude=("conv",))
    )
    outs = [tmp_path / "many" / str(i) for i in range(len(specs))]
    reports = merge_many(specs, outs)
    for spec, report in zip(specs, reports, strict=True):
        alone = merge_checkpoints(spec, tmp_path / "alone")
        assert alone.path.read_bytes() == report.path.read_bytes()


def test_many_merges_in_torch_read_each_tensor_once_a_pass(make_models, on_disk, tmp_path, monkeypatch):
    base, experts = on_disk(make_models(3, dtype=torch.float32))
    reads = []
    read = CheckpointReader.tensor
    monkeypatch.setattr(
        CheckpointReader, "tensor", lambda self, name: reads.append((self.path, name)) or read(self, name)
    )

    def count(*methods) -> int:
        reads.clear()
        specs = [MergeSpec(method=method, base=base, experts=experts) for method in methods]
        merge_in_torch(specs, [tmp_path / "out" / str(i) for i in range(len(specs))], [{} for _ in specs])
        return len(reads)

    tensors, floating, files = 7, 5, 4
    assert count("average", "dare", "magmax", "linear") == tensors * files
    assert count("average", "ties", "ties") == tensors * files + 2 * floating * files


def test_runs_that_would_overwrite_something(make_models, on_disk, tmp_path):
    base, experts = on_disk(make_models(2))
    spec = MergeSpec(method="average", base=base, experts=experts)
    with pytest.raises(SpecError, match="is an input or another output"):
        merge_many([spec, spec], [tmp_path / "x", tmp_path / "x"])
    with pytest.raises(SpecError, match=r"expert0\.safetensors is an input or another output"):
        merge_checkpoints(spec, experts[0])
    with pytest.raises(SpecError, match="2 merges and 1 outputs were given"):
        merge_many([spec, spec], [tmp_path / "x"])
    other = MergeSpec(method="average", experts=experts)
    with pytest.raises(SpecError, match="different bases"):
        merge_many([spec, other], [tmp_path / "x", tmp_path / "y"])


def leaves_nothing(folder: Path) -> bool:
    return not [path for path in folder.iterdir() if not path.name.endswith(".safetensors")]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("method", ["average", "ties"])
def test_an_expert_that_is_not_finite(value, method, make_models, on_disk, tmp_path):
    base, experts = make_models(2)
    experts[1]["conv"][0, 1, 0, 1] = value
    base, experts = on_disk((base, experts))
    message = (
        r"Tensor 'conv' in '.*expert1\.safetensors' has 1 of 24 values that are NaN or infinite\. Only finite"
    )
    with pytest.raises(MethodInputError, match=message):
        merge_checkpoints(MergeSpec(method=method, base=base, experts=experts), tmp_path / "out")
    assert leaves_nothing(tmp_path)


def test_a_result_that_its_dtype_cannot_hold():
    base, expert = (
        {"w": torch.zeros(2, dtype=torch.float16)},
        {"w": torch.full((2,), 6e4, dtype=torch.float16)},
    )
    with pytest.raises(
        MethodInputError, match=r"'w' merged by 'task_arithmetic' left the finite numbers of torch\.float16"
    ):
        merge_lib.merge("task_arithmetic", [expert, expert], base, scale=1.0)


def test_all_mismatches_at_once(make_models):
    base, experts = make_models(2)
    del experts[0]["conv"]
    experts[0]["extra"] = torch.zeros(1)
    experts[1]["a.bias"] = torch.zeros(8, dtype=torch.float32)
    with pytest.raises(CheckpointMismatchError) as caught:
        merge_lib.merge("average", experts, base)
    assert str(caught.value).splitlines() == [
        "Tensor 'conv' is missing in expert 'expert 0' but is in base 'base'.",
        "Tensor 'extra' is in expert 'expert 0' but not in base 'base'.",
        "Tensor 'a.bias' has shape (8,) in expert 'expert 1' but (7,) in base 'base'.",
        "Tensor 'a.bias' has dtype torch.float32 in expert 'expert 1' but torch.float64 in base 'base'.",
        "Experts must be fine-tuned from the same base. Check that these checkpoints belong together "
        "(4 differences), or list the tensors in `exclude` to leave them as in the base. "
        "Floating dtypes may differ if `dtype` states the result's.",
    ]


def test_without_a_base_experts_are_compared_with_the_first(make_models):
    _, experts = make_models(2)
    del experts[1]["conv"]
    with pytest.raises(
        CheckpointMismatchError, match="missing in expert 'expert 1' but is in expert 'expert 0'"
    ):
        merge_lib.merge("average", experts)


@pytest.mark.parametrize("key", ["steps", "flags"])
def test_tensors_that_are_not_floating_must_be_equal(key, make_models):
    base, experts = make_models(3)
    experts[2][key] = experts[2][key].flip(0)
    with pytest.raises(
        CheckpointMismatchError, match=f"'{key}' .* differs between experts 'expert 0' and 'expert 2'"
    ):
        merge_lib.merge("average", experts, base)


def test_nothing_to_merge(make_models):
    with pytest.raises(MethodInputError, match="Method 'average' was given no expert"):
        merge_lib.merge("average", [])
    with pytest.raises(SpecError, match="works on task vectors"):
        merge_lib.merge("ties", make_models()[1])


def test_a_missing_expert(make_models, on_disk, tmp_path):
    base, experts = on_disk(make_models(1))
    spec = MergeSpec(method="average", base=base, experts=(*experts, tmp_path / "gone.safetensors"))
    with pytest.raises(CheckpointError, match=r"gone\.safetensors does not exist"):
        merge_checkpoints(spec, tmp_path / "out")
    assert leaves_nothing(tmp_path)


def test_an_expert_that_changed_since_it_was_written(make_models, on_disk, tmp_path):
    base, experts = on_disk(make_models(2))
    data = bytearray(experts[1].read_bytes())
    data[-40] ^= 1
    experts[1].write_bytes(data)
    with pytest.raises(
        CheckpointCorruptError, match=r"expert1\.safetensors has the digest .* It changed after"
    ):
        merge_checkpoints(MergeSpec(method="average", base=base, experts=experts), tmp_path / "out")
    assert leaves_nothing(tmp_path)


def test_an_error_of_a_method_names_the_tensor(make_models, monkeypatch):
    def fail(*_, **__):
        raise MethodInputError("too bad")

    implementation = registry.get("average").implementation
    monkeypatch.setitem(
        registry._implementations, "average", type(implementation)(merge=fail, takes=("experts",))
    )
    base, experts = make_models(1)
    with pytest.raises(MethodInputError, match="too bad") as caught:
        merge_lib.merge("average", experts, base)
    assert caught.value.__notes__ == ["in method 'average', tensor 'a.bias'"]


def test_one_expert_twice_counts_twice(tmp_path):
    for name, value in (("1", 0.0), ("2", 3.0)):
        write_state_dict(tmp_path / name, {"w": torch.tensor([value])}, lineage={})
    spec = MergeSpec(method="average", experts=(tmp_path / "1", tmp_path / "2", tmp_path / "2"))
    assert read_state_dict(merge_checkpoints(spec, tmp_path / "out").path)["w"].tolist() == [2.0]
