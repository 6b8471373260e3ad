"""One merge is answered in several ways: what is measured, and what is done again."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from merge_lib import workloads
from merge_lib.checkpoints import read_state_dict
from merge_lib.errors import SpecError
from merge_lib.plugins import load_plugins
from merge_lib.routing import RoutingSettings, route
from merge_lib.sequence import read_merge
from tasks import progress
from tasks.facts import facts_of, merged_as
from tasks.jobs import Finished, MergeEntry, MergeJob, Setting
from tasks.merging import merge_missing
from tasks.routing import routing_workload
from tasks.training import open_workload

TASKS = ("north", "west", "south")
load_plugins(Path(__file__).parents[1], ["corners.py"])


def entry_of(label: str, method: str = "condu", **routing) -> MergeEntry:
    settings = RoutingSettings(**routing).model_dump(mode="json")
    return MergeEntry(label, method, {"task": -1}, routing=settings)


PLAIN = MergeEntry("condu", "condu", {"task": -1})
VOTE = entry_of("vote", voters=2)
NEAR = entry_of("near", weights="similarity", include_base=False, images={"examples": 10})
UNTOLD = entry_of("untold", known_tasks=False)
BASE = entry_of("base", unseen="base")
SHARED = entry_of("emr", "emr", unseen="shared")
ENTRIES = (PLAIN, VOTE, NEAR, UNTOLD, BASE, SHARED)


@pytest.fixture
def setting(tmp_path) -> Setting:
    return Setting(str(tmp_path), workloads.parse({"name": "corners"}).model_dump(mode="json"), TASKS, {})


@pytest.fixture
def models(setting, tmp_path):
    """A base and three experts, finished."""
    workload, done = open_workload(setting), []
    base = tmp_path / "base.safetensors"
    made = [workload.pretrain(base, seed=0, lineage={})]
    for task in TASKS:
        out = tmp_path / f"{task}.safetensors"
        made.append(workload.fine_tune(base, [task], out, seed=0, lineage={}))
    for one in made:
        path, name = str(one.path), one.path.stem
        done.append(Finished("train", name, path, one.digest, one.size_bytes, 1.0, reused=False))
    return done[0], done[1:]


def merge(setting, models, count: int, entries=ENTRIES, *, is_kept: bool = True):
    base, experts = models
    job = MergeJob(entries, "parallel", count - 1, 0, f"parallel {count}/3", is_kept)
    worked: Counter = Counter()
    is_work = lambda step: step.share_done == 1.0 and not step.reused  # noqa: E731
    stop_listening = progress.listen(lambda step: worked.update([step.kind] * is_work(step)))
    try:
        made = merge_missing(setting, job, base, experts[:count])
    finally:
        stop_listening()
    return {entry.label: done for entry, done in zip(entries, made, strict=True)}, worked


def accuracies(made: Finished) -> tuple[float, ...]:
    return made.scores.accuracy


@pytest.mark.parametrize("count", [1, 3])
def test_tasks_seen_are_answered_by_their_own_models_and_the_others_as_the_entry_says(
    setting, models, count, tmp_path
):
    made, worked = merge(setting, models, count)
    assert (worked["merge"], worked["route"]) == (2, 5)
    workload, base = open_workload(setting), read_state_dict(Path(models[0].path))
    own = accuracies(made["condu"])[:count]
    assert all(accuracies(made[label])[:count] == own for label in ("vote", "near", "base"))
    unseen = TASKS[count:]
    assert accuracies(made["base"])[count:] == tuple(workload.evaluate(base, unseen).values())
    for entry in (VOTE, NEAR, UNTOLD):
        expected = voted(setting, models, count, entry, tmp_path)
        measured = dict(zip(TASKS, accuracies(made[entry.label]), strict=True))
        assert {task: measured[task] for task in expected.accuracy} == expected.accuracy
        assert made[entry.label].routed.chosen == expected.chosen
    assert len({done.digest for done in made.values()}) == len(made)


def voted(setting, models, count, entry, tmp_path):
    """What the library says, of models read out of the state."""
    (record,) = [one for one in setting.store.of_kind("fold") if len(one.inputs) == count + 1]
    state = setting.store.folder("fold", record.key) / "state.safetensors"
    base = Path(models[0].path)

    def model(task: int):
        return read_state_dict(read_merge(state, base, tmp_path / "decoded.safetensors", task=task).path)

    decoded = [lambda task=task: model(task) for task in range(count)]
    settings = RoutingSettings.model_validate(entry.routing)
    return route(open_workload(setting), read_state_dict(base), decoded, TASKS[:count], TASKS, settings)


def test_what_is_kept_is_told_part_by_part(setting, models):
    floats, mask, prototypes = 2 * 12 * 12 * 4, 36, 2 * 12 * 4
    for count in (1, 2, 3):
        made, _ = merge(setting, models, count)
        kept = {"unified": floats, "masks": count * mask, "rescalers": count * 4}
        assert made["vote"].routed.kept == {**kept, "prototypes": count * prototypes}
        assert made["emr"].routed.kept == made["base"].routed.kept == kept
        assert made["vote"].size_bytes == sum(made["vote"].routed.kept.values())
        assert made["condu"].routed is None
    assert made["vote"].state_bytes == floats + 3 * mask


def test_finished_routes_are_found_and_a_new_one_needs_no_merge(setting, models):
    first, _ = merge(setting, models, 2)
    again, worked = merge(setting, models, 2)
    assert not worked
    assert all(done.reused for done in again.values())
    assert [accuracies(done) for done in again.values()] == [accuracies(done) for done in first.values()]
    assert [done.routed for done in again.values()] == [done.routed for done in first.values()]
    other = replace(VOTE, routing={**VOTE.routing, "voters": 1})
    for expert in models[1]:
        Path(expert.path).unlink()  # the state is enough
    made, worked = merge(setting, models, 2, (other, NEAR))
    assert worked == Counter(route=1)
    assert made["near"].digest == first["near"].digest
    assert made["vote"].digest != first["vote"].digest


@pytest.mark.parametrize("is_kept", [True, False])
def test_a_route_alone_leaves_the_same_scores(setting, models, is_kept):
    made, worked = merge(setting, models, 2, (VOTE, MergeEntry("average", "average", {})), is_kept=is_kept)
    assert (made["vote"].path, made["average"].path is None) == (None, not is_kept)
    assert worked["route"] == 1
    whole, _ = merge(setting, models, 2)
    assert accuracies(whole["vote"]) == accuracies(made["vote"])
    assert whole["vote"].digest == made["vote"].digest


def test_entries_that_are_merged_alike_are_known():
    other = replace(VOTE, params={"task": -1, "drift": False})
    assert merged_as([PLAIN, VOTE, SHARED, other, NEAR]) == [PLAIN, PLAIN, SHARED, other, PLAIN]


def test_what_a_row_needs_follows_from_its_routing():
    needs = {entry.label: (facts_of(entry).needs_task, facts_of(entry).data) for entry in ENTRIES}
    assert needs == {
        "condu": (True, "none"),
        "vote": (True, "labelled"),
        "near": (True, "labelled"),
        "untold": (False, "labelled"),
        "base": (True, "none"),
        "emr": (True, "none"),
    }
    assert [entry.label for entry in ENTRIES if facts_of(entry).chooses] == ["untold"]
    texts = entry_of("texts", images={"examples": 0})
    assert facts_of(texts).data == "none"


def test_a_workload_without_features_is_refused(setting, monkeypatch):
    class Plain:
        """Can be evaluated, and no more."""

    monkeypatch.setattr("tasks.routing.open_workload", lambda _: Plain())
    with pytest.raises(SpecError, match="Workload 'corners' lacks `encoder`, `labels` or `own_classes`"):
        routing_workload(setting)
