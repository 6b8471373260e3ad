"""Whole merges beside their experts."""

import pytest
import torch

from merge_lib import MergeSpec, merge_checkpoints, registry
from merge_lib.checkpoints import read_state_dict, write_state_dict
from merge_lib.diagnostics import audit
from merge_lib.diagnostics.summary import by_task, parts_of
from merge_lib.diagnostics.table import SCHEMA
from merge_lib.errors import SpecError
from merge_lib.forgetting import lost_by
from merge_lib.forgetting.directions import QUANTITIES
from merge_lib.forgetting.summary import blocks_of, largest_losses, tasks_of

TASKS = ["red", "blue"]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Two blocks, a head, a counter; the experts share half of what they learned in the first block."""
    folder = tmp_path_factory.mktemp("models")
    generator = torch.Generator().manual_seed(0)
    shapes = {
        "layers.0.weight": (24, 16),
        "layers.1.weight": (24, 16),
        "layers.1.bias": (24,),
        "head": (4, 24),
    }

    def drawn(scale):
        return {name: torch.randn(shape, generator=generator) * scale for name, shape in shapes.items()}

    base, common = drawn(1.0), drawn(0.3)
    paths = []
    for name in ("base", *TASKS):
        tensors = {**base, "steps": torch.tensor(7)}
        if name != "base":
            own = drawn(0.3)
            tensors |= {key: base[key] + own[key] for key in shapes}
            tensors["layers.0.weight"] = tensors["layers.0.weight"] + common["layers.0.weight"]
        paths.append(write_state_dict(folder / f"{name}.safetensors", tensors, lineage={}).path)
    return paths[0], tuple(paths[1:])


def spec_of(models, method="average", **fields):
    base, experts = models
    return MergeSpec(method=method, base=base, experts=experts, **fields)


def test_the_table_has_every_quantity_in_the_format_of_audits(models):
    table = lost_by(spec_of(models), label="mean", tasks=TASKS).table
    assert table.schema.equals(SCHEMA)
    assert set(table["quantity"].to_pylist()) == set(QUANTITIES)
    assert set(table["label"].to_pylist()) == {"mean"}
    assert "steps" not in table["tensor"].to_pylist()
    ranks = [row for row in table.to_pylist() if row["quantity"] == "shared left rank"]
    assert {row["expert"] for row in ranks} == {-1}


def test_the_mean_keeps_the_shared_half_and_half_of_the_rest(models):
    blocks = blocks_of(lost_by(spec_of(models), tasks=TASKS).table)
    assert list(blocks) == ["layers.0", "layers.1", "no block"]
    for task in TASKS:
        first = blocks["layers.0"][task]
        assert first["shared share"] == pytest.approx(0.5, abs=0.1)
        assert first["shared kept"] == pytest.approx(1, abs=0.1)
        assert first["specific kept"] == pytest.approx(0.5, abs=0.1)
        assert blocks["layers.1"][task]["shared share"] == 0
        assert "shared kept" not in blocks["layers.1"][task]


def test_both_parts_together_are_what_an_audit_says_is_kept(models):
    spec = spec_of(models, "ties")
    lost, audited = tasks_of(lost_by(spec, tasks=TASKS).table), by_task(parts_of(audit(spec, tasks=TASKS)))
    for task in TASKS:
        for quantity in ("energy kept", "norm"):
            assert lost[task][quantity] == pytest.approx(audited[task][quantity], rel=1e-5)
        assert lost[task]["shared share"] + lost[task]["specific share"] == pytest.approx(1)


def test_the_largest_losses_add_up_to_what_is_gone(models):
    table = lost_by(spec_of(models, "task_arithmetic", params={"scale": 0.3}), tasks=TASKS).table
    losses, measured = largest_losses([table], 100), tasks_of(table)
    for task in TASKS:
        gone = sum(loss.gone for loss in losses if loss.task == task)
        assert gone == pytest.approx(1 - measured[task]["energy kept"], rel=1e-5)
    assert [loss.gone for loss in losses] == sorted((loss.gone for loss in losses), reverse=True)
    twice = largest_losses([table, table], 100)
    assert [loss.gone for loss in twice] == pytest.approx([loss.gone for loss in losses])
    assert len(largest_losses([table], 1)) == 1


def test_the_merged_model_is_handed_over_whole(models, tmp_path):
    spec = spec_of(models, "ties")
    lost = lost_by(spec, tasks=TASKS, keeps_states=True)
    written = read_state_dict(merge_checkpoints(spec, tmp_path / "merged.safetensors").path)
    (state,) = lost.states
    assert state.keys() == written.keys()
    assert all(torch.equal(state[name], written[name]) for name in written)
    assert lost_by(spec, tasks=TASKS).states == []


def test_a_merge_that_lies_on_the_disk_gives_the_same(models, tmp_path):
    spec = spec_of(models, "ties")
    path = merge_checkpoints(spec, tmp_path / "merged.safetensors").path
    made, read = (lost_by(spec, place, tasks=TASKS, keeps_states=True) for place in (None, path))
    assert read.table.equals(made.table)
    assert all(torch.equal(read.states[0][name], tensor) for name, tensor in made.states[0].items())


def test_a_method_with_a_model_for_each_task_hands_over_all(models):
    lost = lost_by(spec_of(models, "emr"), tasks=TASKS, keeps_states=True)
    assert len(lost.states) == 2
    alone = lost_by(spec_of(models, "emr", params={"task": 1}), tasks=TASKS, keeps_states=True)
    assert torch.equal(lost.states[1]["head"], alone.states[0]["head"])
    kept = tasks_of(lost.table)["blue"]["specific kept"]
    assert kept == pytest.approx(tasks_of(alone.table)["blue"]["specific kept"], rel=1e-6)


def test_what_is_remembered_of_the_experts_changes_nothing(models):
    known = {}
    first = lost_by(spec_of(models), tasks=TASKS, remembered=known)
    assert known.keys() == {"layers.0.weight", "layers.1.weight", "layers.1.bias", "head"}
    again = lost_by(spec_of(models, "ties"), tasks=TASKS, remembered=known)
    assert again.table.equals(lost_by(spec_of(models, "ties"), tasks=TASKS).table)
    assert not again.table.equals(first.table)


NO_DATA = [info.name for info in registry.methods() if info.data == "none"]


@pytest.mark.parametrize("name", NO_DATA)
def test_every_method_that_needs_no_data_can_be_compared(name, models):
    lost = lost_by(spec_of(models, name), tasks=TASKS)
    assert list(tasks_of(lost.table)) == TASKS


def test_what_cannot_be_compared(models):
    with pytest.raises(SpecError, match="no base is given"):
        lost_by(MergeSpec(method="average", experts=models[1]))
    with pytest.raises(SpecError, match="1 tasks were named for 2 experts"):
        lost_by(spec_of(models), tasks=["one"])
