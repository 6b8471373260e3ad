"""Folding through state files."""

import json
import shutil

import pytest
import torch

from merge_lib import MergeSpec, merge_checkpoints, registry
from merge_lib.checkpoints import read_state_dict, write_state_dict
from merge_lib.errors import (
    CheckpointCorruptError,
    CheckpointError,
    CheckpointMismatchError,
    MethodInputError,
    SpecError,
)
from merge_lib.sequence import fold_experts, preview_fold, read_merge
from merge_lib.states import StateFile

CONTINUAL = [info.name for info in registry.methods() if info.kind == "continual"]
PARAMS = [(name, {}) for name in CONTINUAL] + [
    ("condu", {"drift": False, "task": 1}),
    ("condu", {"rescaler": "official", "task": 0}),
    ("continual_ties", {"memory": "sums"}),
]


@pytest.fixture
def models(make_models, on_disk):
    return on_disk(make_models(4, dtype=torch.float32))


def spec(method, base, experts, **fields):
    return MergeSpec(method=method, base=base, experts=tuple(experts), **fields)


@pytest.mark.parametrize(("method", "params"), PARAMS)
def test_one_by_one_through_files_gives_the_bytes_of_all_at_once(method, params, models, tmp_path):
    base, experts = models
    fields = {"params": params, "exclude": ("a.*",), "seed": 3}
    merge_checkpoints(spec(method, base, experts, **fields), tmp_path / "all.safetensors")
    earlier = None
    for place, expert in enumerate(experts):
        state = tmp_path / f"machine{place}" / "state.safetensors"
        out = tmp_path / "out.safetensors" if place == 3 else None
        report = fold_experts(spec(method, base, [expert], **fields), state, earlier=earlier, out=out)
        earlier = state
    assert (tmp_path / "out.safetensors").read_bytes() == (tmp_path / "all.safetensors").read_bytes()
    assert len(report.experts) == 4
    with StateFile(state) as file:
        file.check_whole()
        assert (file.state_bytes, file.digest) == (report.state_bytes, report.digest)
    assert report.state_bytes_per_expert == report.state_bytes / 4


@pytest.mark.parametrize("method", ["ema", "running_average"])
@pytest.mark.parametrize("dtype", [None, "float32"])
def test_without_a_base(method, dtype, make_models, on_disk, tmp_path):
    _, experts = on_disk(make_models(3, dtype=torch.bfloat16))
    merge_checkpoints(spec(method, None, experts, dtype=dtype), tmp_path / "all.safetensors")
    state, out = tmp_path / "state.safetensors", tmp_path / "out.safetensors"
    fold_experts(spec(method, None, experts[:2], dtype=dtype), state)
    fold_experts(spec(method, None, experts[2:], dtype=dtype), state, earlier=state, out=out)
    assert out.read_bytes() == (tmp_path / "all.safetensors").read_bytes()


@pytest.mark.parametrize(("method", "params"), PARAMS)
def test_several_at_a_time_give_the_same_state(method, params, models, tmp_path):
    base, experts = models
    one, two = tmp_path / "one.safetensors", tmp_path / "two.safetensors"
    fold_experts(spec(method, base, experts, params=params), one)
    fold_experts(spec(method, base, experts[:3], params=params), two)
    fold_experts(spec(method, base, experts[3:], params=params), two, earlier=two)
    assert one.read_bytes() == two.read_bytes()


@pytest.mark.parametrize(("method", "task"), [("condu", -1), ("condu", 2), ("opcm", None)])
def test_a_merge_is_read_from_the_state_alone(method, task, models, tmp_path):
    base, experts = models
    params = {} if task is None else {"task": task}
    merge_checkpoints(spec(method, base, experts, params=params), tmp_path / "all.safetensors")
    fold_experts(spec(method, base, experts), tmp_path / "state.safetensors")
    read_merge(tmp_path / "state.safetensors", base, tmp_path / "out.safetensors", **params)
    assert (tmp_path / "out.safetensors").read_bytes() == (tmp_path / "all.safetensors").read_bytes()


def test_what_cannot_be_read_from_a_state(models, tmp_path):
    base, experts = models
    state, out = tmp_path / "state.safetensors", tmp_path / "out.safetensors"
    fold_experts(spec("magmax", base, experts), state)
    with pytest.raises(SpecError, match="'magmax' gives its merge only while an expert is folded in"):
        read_merge(state, base, out)
    fold_experts(spec("condu", base, experts), state)
    with pytest.raises(SpecError, match="`rescaler` cannot be changed"):
        read_merge(state, base, out, rescaler="official")
    with pytest.raises(SpecError, match="no parameter 'tsk': did you mean 'task'"):
        read_merge(state, base, out, tsk=1)
    with pytest.raises(CheckpointMismatchError, match="keeps its base"):
        read_merge(state, experts[0], out)
    with pytest.raises(MethodInputError, match="`task` is 4, but 4 experts"):
        read_merge(state, base, out, task=4)
    assert not out.exists()


@pytest.fixture
def state(models, tmp_path):
    """MagMax after two experts."""
    base, experts = models
    path = tmp_path / "state.safetensors"
    fold_experts(spec("magmax", base, experts[:2]), path)
    return path


def test_another_sequence_is_refused_and_nothing_is_written(models, state, tmp_path):
    base, experts = models
    before, out = state.read_bytes(), tmp_path / "out.safetensors"
    other = tmp_path / "other.safetensors"
    tensors = read_state_dict(base)
    write_state_dict(other, {**tensors, "conv": tensors["conv"] + 1}, lineage={})
    cases = [
        (spec("ema", base, experts[2:3]), "`method` is 'magmax' in the state, but 'ema' was asked for"),
        (
            spec("magmax", base, experts[2:3], params={"scale": 1.0}, seed=7),
            r"`seed` is 0 .* `params.scale` is 0.5",
        ),
        (spec("magmax", base, experts[2:3], dtype="float64"), "`dtype` is None"),
        (spec("magmax", base, experts[2:3], exclude=("conv",)), "`exclude`"),
        (
            spec("magmax", other, experts[2:3]),
            r"made with the base xxh3:\w+, but the base xxh3:\w+ was given",
        ),
    ]
    for wrong, message in cases:
        with pytest.raises(CheckpointMismatchError, match=message):
            fold_experts(wrong, state, earlier=state, out=out)
        with pytest.raises(CheckpointMismatchError, match=message):
            preview_fold(wrong, state, earlier=state, out=out)
    assert state.read_bytes() == before
    assert not out.exists()


def test_a_base_that_does_not_say_what_it_is_is_found_out_when_it_is_read(models, state, tmp_path):
    _, experts = models
    base = tmp_path / "plain.safetensors"
    tensors = read_state_dict(models[0])
    from safetensors.torch import save_file

    save_file({**tensors, "conv": tensors["conv"] + 1}, base)
    before = state.read_bytes()
    with pytest.raises(CheckpointMismatchError, match="keeps its base"):
        fold_experts(spec("magmax", base, experts[2:3]), state, earlier=state)
    assert state.read_bytes() == before
    save_file(tensors, base)
    fold_experts(spec("magmax", base, experts[2:3]), state, earlier=state)


def test_experts_of_another_shape_are_refused(models, state, tmp_path):
    base, experts = models
    tensors = read_state_dict(experts[2])
    small = {name: tensors[name] for name in tensors if name != "conv"} | {"z.weight": torch.ones(2, 2)}
    write_state_dict(tmp_path / "small.safetensors", small, lineage={})
    with pytest.raises(CheckpointMismatchError, match=r"'conv' is missing in expert .*small"):
        fold_experts(spec("magmax", base, [tmp_path / "small.safetensors"]), state, earlier=state)


def test_a_tensor_that_is_not_merged_must_stay_the_same(models, state, tmp_path):
    base, experts = models
    tensors = read_state_dict(experts[2])
    write_state_dict(tmp_path / "on.safetensors", {**tensors, "steps": tensors["steps"] + 1}, lineage={})
    with pytest.raises(
        CheckpointMismatchError, match="Tensors steps differ from those of the experts in state"
    ):
        fold_experts(spec("magmax", base, [tmp_path / "on.safetensors"]), state, earlier=state)


def test_the_last_expert_is_not_folded_in_twice_by_mistake(models, state):
    base, experts = models
    before = state.read_bytes()
    with pytest.raises(SpecError, match=r"is the last one in state .* already"):
        fold_experts(spec("magmax", base, [experts[1]]), state, earlier=state)
    assert state.read_bytes() == before
    report = fold_experts(spec("magmax", base, [experts[1]]), state, earlier=state, again=True)
    assert len(report.experts) == 3


def test_foreign_and_damaged_files_are_refused(models, state, tmp_path):
    base, experts = models
    one = spec("magmax", base, experts[2:3])

    def fold(path):
        return fold_experts(one, tmp_path / "new.safetensors", earlier=path)

    with pytest.raises(CheckpointError, match="is not a state: it says of itself that it is a 'test'"):
        fold(base)
    with pytest.raises(CheckpointError, match="does not exist"):
        fold(tmp_path / "none.safetensors")
    whole = state.read_bytes()
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(whole[:-7])
    with pytest.raises(CheckpointCorruptError, match="not a whole safetensors file"):
        fold(broken)
    broken.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(CheckpointCorruptError, match="It changed after it was written"):
        fold(broken)
    with StateFile(broken) as file, pytest.raises(CheckpointCorruptError, match="recorded xxh3"):
        file.check_whole()
    broken.write_bytes(whole.replace(b'scale\\":0.5', b'scale\\":0.6'))
    with pytest.raises(CheckpointCorruptError, match="does not fit its seal"):
        fold(broken)
    broken.write_bytes(whole.replace(b'format\\":1', b'format\\":2'))
    with pytest.raises(CheckpointError, match="has the format 2, but this version reads 1"):
        fold(broken)
    assert not (tmp_path / "new.safetensors").exists()


def test_a_state_that_lacks_a_tensor(models, state, tmp_path):
    lacking = tmp_path / "lacking.safetensors"
    tensors = {name: tensor for name, tensor in read_state_dict(state).items() if name != "strongest:conv"}
    header = json.loads(state.read_bytes()[8 : 8 + int.from_bytes(state.read_bytes()[:8], "little")])
    lineage = json.loads(header["__metadata__"]["mergeline"])
    write_state_dict(lacking, tensors, lineage={key: lineage[key] for key in lineage if key != "digest"})
    with pytest.raises(CheckpointCorruptError, match="'strongest:conv' is missing"):
        StateFile(lacking)


def test_wrong_requests(models, state, tmp_path):
    base, experts = models
    with pytest.raises(SpecError, match=r"'ties' merges all experts at once.* continual_ties"):
        fold_experts(spec("ties", base, experts), tmp_path / "s.safetensors")
    one = spec("magmax", base, experts[2:3])
    with pytest.raises(SpecError, match="is an input or another output"):
        fold_experts(one, base)
    with pytest.raises(SpecError, match="is an input or another output"):
        fold_experts(one, state, out=state)
    with pytest.raises(SpecError, match="would replace the state"):
        fold_experts(one, tmp_path / "new.safetensors", earlier=state, out=state)


def test_a_preview_reads_headers_only(models, state, tmp_path):
    base, experts = models
    preview = preview_fold(spec("magmax", base, experts[2:]), state, earlier=state)
    assert (preview.experts, preview.before, preview.tensors) == (2, 2, 5)
    data = sum(t.numel() * t.element_size() for t in read_state_dict(base).values())
    with StateFile(state) as file:
        assert preview.read_bytes == 3 * data + file.state_bytes


def test_a_state_moves_with_its_sequence(models, state, tmp_path):
    """Another machine has other paths; only digests count."""
    base, experts = models
    far = tmp_path / "far"
    far.mkdir()
    for path in (base, experts[2], state):
        shutil.copy(path, far / path.name)
    here = fold_experts(spec("magmax", base, experts[2:3]), tmp_path / "here.safetensors", earlier=state)
    there = fold_experts(
        spec("magmax", far / base.name, [far / experts[2].name]),
        far / "there.safetensors",
        earlier=far / state.name,
    )
    assert here.path.read_bytes() == there.path.read_bytes()
