"""In a study a continual method's merge after a task starts from its state after the task before."""

from pathlib import Path

import pytest
import torch

from merge_lib import MergeSpec, merge_checkpoints
from merge_lib.checkpoints import checkpoint_digest, write_state_dict
from tasks.jobs import Finished, MergeEntry, MergeJob, Setting
from tasks.merging import merge_missing

ENTRIES = (
    MergeEntry("average", "average", {}),
    MergeEntry("ema", "ema", {"weight": 0.3}),
    MergeEntry("opcm", "opcm", {}),
    MergeEntry("condu", "condu", {}),
    MergeEntry("condu of the first", "condu", {"task": 0}),
)


@pytest.fixture
def models(tmp_path):
    """A base and three experts, finished."""
    generator, done = torch.Generator().manual_seed(0), []
    for name in ("base", "expert_0", "expert_1", "expert_2"):
        path = tmp_path / f"{name}.safetensors"
        tensors = {
            "h.weight": torch.randn(5, 4, generator=generator),
            "h.bias": torch.randn(5, generator=generator),
        }
        made = write_state_dict(path, tensors, lineage={"kind": "train"})
        done.append(Finished("train", name, str(path), made.digest, made.size_bytes, 1.0, reused=False))
    return done[0], done[1:]


def setting(tmp_path):
    return Setting(str(tmp_path / "project"), {}, ("a", "b", "c"), {})


def merge(tmp_path, base, experts, entries=ENTRIES):
    job = MergeJob(entries, "parallel", len(experts) - 1, 0, "a label")
    return merge_missing(setting(tmp_path), job, base, experts)


def all_at_once(tmp_path, entry, base, experts):
    paths = tuple(Path(expert.path) for expert in experts)
    spec = MergeSpec(method=entry.method, params=entry.params, base=Path(base.path), experts=paths)
    return merge_checkpoints(spec, tmp_path / "all.safetensors").digest


def test_each_step_reads_the_new_expert_alone(models, tmp_path):
    base, experts = models
    expected = [
        [all_at_once(tmp_path, entry, base, experts[: stage + 1]) for entry in ENTRIES] for stage in range(3)
    ]
    for stage in range(3):
        entries = ENTRIES if stage == 0 else ENTRIES[1:]  # the average needs the experts that are gone
        made = merge(tmp_path, base, experts[: stage + 1], entries)
        assert [done.digest for done in made] == expected[stage][-len(entries) :]
        assert all(checkpoint_digest(Path(done.path)) == done.digest for done in made)
        Path(experts[stage].path).unlink()


def test_states_are_finished_work_and_their_bytes_are_told(models, tmp_path):
    base, experts = models
    merge(tmp_path, base, experts[:2])
    made = merge(tmp_path, base, experts)
    floats = 25 * 4
    assert [done.state_bytes for done in made] == [None, floats, floats, floats + 12, floats + 12]
    store = setting(tmp_path).store
    states = list(store.of_kind("fold"))
    assert (
        len(states) == 6
    )  # three methods, after two and after three experts; the task only says what is read
    assert {record.values["state_bytes"] for record in states} == {floats, floats + 8, floats + 12}
    for path in (base.path, *(expert.path for expert in experts)):
        Path(path).unlink()
    again = merge(tmp_path, base, experts)
    assert all(done.reused for done in again)
    assert [done.digest for done in again] == [done.digest for done in made]
    assert [done.state_bytes for done in again] == [done.state_bytes for done in made]


def test_a_state_that_is_lost_is_made_again_from_the_experts(models, tmp_path):
    base, experts = models
    merge(tmp_path, base, experts[:2])
    store = setting(tmp_path).store
    for record in list(store.of_kind("fold")):
        (store.folder("fold", record.key) / "state.safetensors").unlink()
    made = merge(tmp_path, base, experts)
    assert made[2].digest == all_at_once(tmp_path, ENTRIES[2], base, experts)


def test_a_method_that_refuses_does_not_hold_up_the_others(models, tmp_path):
    base, experts = models
    wrong = MergeEntry("wrong", "condu", {"task": 7})
    from merge_lib.errors import MergeError

    with pytest.raises(MergeError, match="wrong · a label: `task` is 7, but 3 experts"):
        merge(tmp_path, base, experts, (wrong, *ENTRIES))
    assert len(list(setting(tmp_path).store.of_kind("merge"))) == len(ENTRIES)
