"""Adapters merged among themselves."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from merge_lib import MergeSpec, merge_checkpoints
from merge_lib.checkpoints import (
    merge_adapter_factors,
    merge_adapters,
    open_checkpoint,
    read_state_dict,
    write_state_dict,
)
from merge_lib.errors import CheckpointError, CheckpointMismatchError, SpecError


def write_adapter(folder, tensors, **fields):
    folder.mkdir()
    config = {"peft_type": "LORA", "r": 1, "lora_alpha": 1, "target_modules": ["x"], **fields}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    save_file(
        {f"base_model.model.{name}": t for name, t in tensors.items()}, folder / "adapter_model.safetensors"
    )
    return folder


def factors(a, b, module="x"):
    return {f"{module}.lora_A.weight": torch.tensor(a), f"{module}.lora_B.weight": torch.tensor(b)}


@pytest.fixture
def two(tmp_path):
    """Updates 4 · e1 e1ᵀ (with scale 2) and 3 · e2 e2ᵀ."""
    one = write_adapter(tmp_path / "1", factors([[2.0, 0.0]], [[1.0], [0.0]]), lora_alpha=2)
    other = write_adapter(tmp_path / "2", factors([[0.0, 1.0]], [[0.0], [3.0]]))
    return [one, other]


@pytest.fixture
def base(tmp_path):
    return write_state_dict(tmp_path / "base", {"x.weight": torch.zeros(2, 2)}, lineage={}).path


def test_exact_at_the_sum_of_the_ranks(two, base, tmp_path):
    report = merge_adapters(two, tmp_path / "out", weights=[0.5, 1.0], rank=2)
    update = read_state_dict(tmp_path / "out", base=base)["x.weight"]
    torch.testing.assert_close(update, torch.diag(torch.tensor([2.0, 3.0])))
    assert report.relative_error < 1e-12
    assert (report.rank, report.path, list(report.errors)) == (2, tmp_path / "out", ["x"])


def test_a_lower_rank_keeps_what_is_largest_and_says_what_is_lost(two, base, tmp_path):
    report = merge_adapters(two, tmp_path / "out", weights=[1.0, 1.0], rank=1)
    update = read_state_dict(tmp_path / "out", base=base)["x.weight"]
    torch.testing.assert_close(update, torch.diag(torch.tensor([4.0, 0.0])))
    assert report.relative_error == pytest.approx(3 / 5)  # 3 lost of √(4² + 3²)
    assert report.errors == {"x": pytest.approx(3 / 5)}


def test_a_rank_above_what_a_module_can_have(two, base, tmp_path):
    merge_adapters(two, tmp_path / "out", weights=[1.0, 1.0], rank=5)
    assert load_file(tmp_path / "out" / "adapter_model.safetensors")[
        "base_model.model.x.lora_A.weight"
    ].shape == (5, 2)
    update = read_state_dict(tmp_path / "out", base=base)["x.weight"]
    torch.testing.assert_close(update, torch.diag(torch.tensor([4.0, 3.0])))


def test_a_module_that_one_adapter_lacks_counts_as_zero(two, tmp_path):
    base = write_state_dict(
        tmp_path / "b2", {"x.weight": torch.zeros(2, 2), "z.weight": torch.zeros(1, 2)}, lineage={}
    ).path
    three = write_adapter(tmp_path / "3", factors([[1.0, 1.0]], [[2.0]], "z"))
    report = merge_adapters([*two, three], tmp_path / "out", weights=[1.0, 1.0, 0.5], rank=2)
    state = read_state_dict(tmp_path / "out", base=base)
    torch.testing.assert_close(state["z.weight"], torch.ones(1, 2))
    assert report.relative_error < 1e-12


@pytest.mark.parametrize("rank", [6, 3])
def test_it_is_the_merge_of_what_peft_makes(tiny, rank, make_adapter, tmp_path):
    base = tiny.save(tiny.make(0), tmp_path / "base", save_original_format=False)
    paths, merged = [tmp_path / "1", tmp_path / "2"], []
    for i, path in enumerate(paths):
        options = {"r": 2 + 2 * i, "lora_alpha": 3, "target_modules": [tiny.query]}
        merged.append(make_adapter(tiny.load(base), path, seed=i, **options).state_dict())
    report = merge_adapters(paths, tmp_path / "out", weights=[0.25, 0.75], rank=rank)
    assert (report.relative_error < 1e-6) == (rank == 6)
    from peft import PeftModel

    loaded = PeftModel.from_pretrained(tiny.load(base), tmp_path / "out").merge_and_unload().eval()
    start = read_state_dict(base)
    lost = total = 0.0
    for name, tensor in start.items():
        exact = 0.25 * merged[0][name] + 0.75 * merged[1][name]
        lost += float((loaded.state_dict()[name] - exact).double().square().sum())
        total += float((exact - tensor).double().square().sum())
    assert (lost / total) ** 0.5 == pytest.approx(report.relative_error, abs=1e-5)
    assert tiny.run(loaded).isfinite().all()


def test_the_same_input_gives_the_same_bytes(two, tmp_path):
    for out in ("a", "b"):
        merge_adapters(two, tmp_path / out, weights=[1.0, 1.0], rank=2)
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_factors_are_merged_only_under_that_name(two, base, tmp_path):
    other = write_adapter(tmp_path / "o", factors([[0.0, 2.0]], [[0.0], [1.0]]), lora_alpha=2)
    written = merge_adapter_factors([two[0], other], tmp_path / "out", weights=[0.5, 0.5])
    update = read_state_dict(tmp_path / "out", base=base)["x.weight"]
    assert update.tolist() == [[1.0, 1.0], [1.0, 1.0]]  # 2 · [½; ½] [1 1], not diag(2, 2)
    assert written.path == tmp_path / "out" / "adapter_model.safetensors"
    with pytest.raises(CheckpointMismatchError, match="differ in modules, ranks or scales"):
        merge_adapter_factors(two, tmp_path / "no", weights=[0.5, 0.5])


@pytest.fixture
def with_bias(two):
    """Stores whole tensors in the two adapters."""

    def store(*values, name="x.bias"):
        for path, value in zip(two, values, strict=True):
            state = load_file(path / "adapter_model.safetensors")
            if value is not None:
                state[f"base_model.model.{name}"] = torch.as_tensor(value)
            save_file(state, path / "adapter_model.safetensors")
        return two

    return store


def stored_in(folder, name="x.bias"):
    return load_file(folder / "adapter_model.safetensors")[f"base_model.model.{name}"]


def test_whole_tensors_are_copied_if_equal(with_bias, tmp_path):
    merge_adapters(with_bias([1.0], [1.0]), tmp_path / "out", weights=[1.0, 1.0], rank=2)
    assert stored_in(tmp_path / "out").tolist() == [1.0]


@pytest.mark.parametrize("merge", [merge_adapters, merge_adapter_factors])
def test_whole_tensors_are_averaged_where_the_weights_sum_to_one(merge, with_bias, tmp_path):
    paths = with_bias([1.0], [5.0])
    more = {"rank": 2}
    if merge is merge_adapter_factors:
        more = {}
        config = json.loads((paths[1] / "adapter_config.json").read_text())
        (paths[1] / "adapter_config.json").write_text(json.dumps({**config, "lora_alpha": 2}))
    merge(paths, tmp_path / "out", weights=[0.25, 0.75], **more)
    assert stored_in(tmp_path / "out").tolist() == [4.0]


def test_other_whole_tensors_are_merged_against_the_base(with_bias, tmp_path):
    tensors = {"x.weight": torch.zeros(2, 2), "x.bias": torch.tensor([10.0])}
    base = write_state_dict(tmp_path / "wide", tensors, lineage={}).path
    paths = with_bias([11.0], [14.0])
    merge_adapters(paths, tmp_path / "out", weights=[1.0, 0.5], rank=2, base=base)
    assert stored_in(tmp_path / "out").tolist() == [13.0]  # 10 + 1 · 1 + ½ · 4
    spec = MergeSpec(method="task_arithmetic", base=base, experts=paths, params={"scale": 0.5})
    merge_checkpoints(spec, tmp_path / "whole.safetensors")
    merge_adapters(paths, tmp_path / "half", weights=[0.5, 0.5], rank=2, base=base)
    expected, state = (
        read_state_dict(tmp_path / "whole.safetensors"),
        read_state_dict(tmp_path / "half", base=base),
    )
    for name, tensor in expected.items():
        torch.testing.assert_close(state[name], tensor)


def test_an_adapter_without_a_whole_tensor_leaves_the_base_s(with_bias, tmp_path):
    tensors = {"x.weight": torch.zeros(2, 2), "x.bias": torch.tensor([10.0])}
    base = write_state_dict(tmp_path / "wide", tensors, lineage={}).path
    paths = with_bias(None, [14.0])
    merge_adapters(paths, tmp_path / "out", weights=[0.5, 0.5], rank=2, base=base)
    assert stored_in(tmp_path / "out").tolist() == [12.0]


@pytest.mark.parametrize(
    ("values", "weights", "message"),
    [
        (([1.0], [2.0]), [1.0, 1.0], r"weights sum to 1, not 2\. Give the `base`"),
        (([1.0], None), [0.5, 0.5], "only if every adapter has it"),
        (([1.0], [1.0, 2.0]), [0.5, 0.5], r"with the shapes \[\(1,\), \(2,\)\]"),
        (([1], [2]), [0.5, 0.5], r"'x\.bias' \(torch\.int64\) is stored whole and is not the same"),
    ],
)
def test_whole_tensors_that_cannot_be_merged(values, weights, message, with_bias, tmp_path):
    with pytest.raises(CheckpointMismatchError, match=message):
        merge_adapters(with_bias(*values), tmp_path / "out", weights=weights, rank=2)
    assert not (tmp_path / "out").exists()


def test_a_base_without_a_whole_tensor(with_bias, base, tmp_path):
    with pytest.raises(
        CheckpointMismatchError, match=r"'x\.bias' is stored whole, but base .* does not have it"
    ):
        merge_adapters(with_bias([1.0], [2.0]), tmp_path / "out", weights=[1.0, 1.0], rank=2, base=base)


def test_whole_tensors_that_are_not_finite(with_bias, tmp_path):
    with pytest.raises(CheckpointError, match=r"'x\.bias' in adapter .*2 has values that are NaN"):
        merge_adapters(with_bias([1.0], [float("inf")]), tmp_path / "out", weights=[0.5, 0.5], rank=2)


@pytest.mark.parametrize(
    ("names", "merged"), [(("org/base", "org/base"), "org/base"), (("org/base", "/home/me/base"), None)]
)
def test_the_base_is_named_where_the_adapters_agree(names, merged, two, tmp_path):
    for path, name, more in zip(
        two, names, ({"modules_to_save": ["head"]}, {"bias": "lora_only"}), strict=True
    ):
        config = json.loads((path / "adapter_config.json").read_text())
        config |= {"base_model_name_or_path": name, **more}
        (path / "adapter_config.json").write_text(json.dumps(config))
    merge_adapters(two, tmp_path / "out", weights=[0.5, 0.5], rank=2)
    told = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert told["base_model_name_or_path"] == merged
    assert (told["modules_to_save"], told["bias"]) == (["head"], "lora_only")


def test_modules_to_save_of_a_model_are_what_peft_makes(tiny_vit, make_adapter, tmp_path):
    base = tiny_vit.save(tiny_vit.make(0), tmp_path / "base")
    paths, merged = [tmp_path / "1", tmp_path / "2"], []
    for i, path in enumerate(paths):
        options = {"r": 2, "target_modules": ["q_proj"], "modules_to_save": ["classifier"]}
        merged.append(make_adapter(tiny_vit.load(base), path, seed=i, **options).state_dict())
    merge_adapters(paths, tmp_path / "out", weights=[0.25, 0.75], rank=4)
    from peft import PeftModel

    loaded = PeftModel.from_pretrained(tiny_vit.load(base), tmp_path / "out").merge_and_unload().eval()
    for name, tensor in loaded.state_dict().items():
        torch.testing.assert_close(tensor, 0.25 * merged[0][name] + 0.75 * merged[1][name])


@pytest.mark.parametrize(
    ("weights", "rank", "message"),
    [
        ([1.0], 1, "2 adapters and 1 weights"),
        ([1.0, float("nan")], 1, "not all finite"),
        ([1.0, 1.0], 0, "must be at least 1"),
    ],
)
def test_requests_that_make_no_sense(weights, rank, message, two, tmp_path):
    with pytest.raises(SpecError, match=message):
        merge_adapters(two, tmp_path / "out", weights=weights, rank=rank)


def test_adapters_of_different_bases(two, tmp_path):
    wide = write_adapter(tmp_path / "w", factors([[1.0, 0.0, 0.0]], [[1.0], [0.0]]))
    with pytest.raises(CheckpointMismatchError, match=r"'x\.weight' has another shape"):
        merge_adapters([two[0], wide], tmp_path / "out", weights=[1.0, 1.0], rank=1)
    turned = write_adapter(tmp_path / "t", factors([[1.0, 0.0]], [[1.0], [0.0]]), fan_in_fan_out=True)
    with pytest.raises(CheckpointMismatchError, match="differ in `fan_in_fan_out`"):
        merge_adapters([two[0], turned], tmp_path / "out", weights=[1.0, 1.0], rank=1)


def test_nothing_is_overwritten(two, tmp_path):
    with pytest.raises(CheckpointError, match="exists already"):
        merge_adapters(two, two[0], weights=[1.0, 1.0], rank=1)


def test_factors_that_are_not_finite(two, tmp_path):
    bad = write_adapter(tmp_path / "bad", factors([[float("nan"), 0.0]], [[1.0], [0.0]]))
    with pytest.raises(CheckpointError, match=r"Factors of 'x' in adapter .*bad have values"):
        merge_adapters([two[0], bad], tmp_path / "out", weights=[1.0, 1.0], rank=1)


def test_the_merged_adapter_says_what_it_is(two, base, tmp_path):
    merge_adapters(two, tmp_path / "out", weights=[1.0, 0.5], rank=1)
    with open_checkpoint(tmp_path / "out" / "adapter_model.safetensors") as reader:
        assert reader.lineage["weights"] == [1.0, 0.5]
        assert reader.lineage["space"] == "products"
