"""What follows from a study's entry: how it is merged, which data that is shown, what its row needs."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from merge_lib import registry
from merge_lib.results import RowFacts
from merge_lib.routing import RoutingSettings
from merge_lib.types import Data
from merge_lib.workloads.learners import LearnerSettings
from tasks.jobs import MergeEntry

SCALE_BYTES = 4  # of a task's rescaler
SHARED = -1  # the parameter `task` of what the tasks of a method that decodes share
EXAMPLES = {"features": 4, "gram": 256, "fisher": 64}  # of a task, where a study says nothing
_BY_DEMAND: tuple[Data, ...] = ("none", "unlabelled", "labelled", "test inputs")


def is_decoded(entry: MergeEntry) -> bool:
    """Whether an entry stands for all tasks' models, rather than for a stated one."""
    return registry.get(entry.method).decodes and entry.params.get("task") == SHARED


def merged_as(entries: Sequence[MergeEntry]) -> list[MergeEntry]:
    """Of each entry the first one that is merged alike: entries may differ in nothing but label and routing."""
    first: list[MergeEntry] = []
    for entry in entries:
        alike = (one for one in first if replace(entry, label=one.label, routing=one.routing) == one)
        first.append(next(alike, entry))
    return first


def routing_of(entry: MergeEntry) -> RoutingSettings | None:
    """How inputs find the entry's models; None: each task's own, and what they share on tasks still to come."""
    return None if entry.routing is None else RoutingSettings.model_validate(entry.routing)


def is_folded(entry: MergeEntry) -> bool:
    """Whether its method takes experts one after another; what goes around a method needs all of them."""
    is_alone = entry.layer_scales is None and entry.equalise is None
    return registry.get(entry.method).kind == "continual" and is_alone


def calibration_of(entry: MergeEntry) -> dict[str, Any]:
    """What a study asks of an entry's observations, with the defaults of its method."""
    kind = registry.get(entry.method).observation
    given = {"split": "train", "rows": None, "expert_scale": 1.0, **entry.calibration}
    return {"examples": EXAMPLES.get(kind or "", 0), **given}


def facts_of(entry: MergeEntry) -> RowFacts:
    """The data that merging is shown, the task identity that its models need, and whether it was tuned."""
    routing = routing_of(entry)
    chooses = routing is not None and not routing.known_tasks
    needs = [_method_data(entry)]
    if routing is not None and routing.votes and routing.images.examples != 0:
        needs.append("labelled")  # the images of prototypes
    if entry.search is not None:
        needs.append("labelled")  # the accuracy on the validation split
    return RowFacts(
        data=max(needs, key=_BY_DEMAND.index),
        needs_task=is_decoded(entry) and not chooses,
        is_tuned=entry.search is not None,
        looks_ahead=entry.search is not None and entry.search["when"] == "last",
        folds=is_folded(entry),
        chooses=chooses,
    )


def facts_of_learner(settings: LearnerSettings) -> RowFacts:
    """What a learner is shown beside the training data of the task at hand."""
    return RowFacts(
        data="labelled" if settings.held_out else "none",
        needs_task=False,
        is_tuned=settings.held_out > 0,
        looks_ahead=False,
        folds=True,
        replays=settings.replays,
    )


def _method_data(entry: MergeEntry) -> Data:
    """As the method declares it, for the split that the entry names: only that of the test gives test inputs."""
    info = registry.get(entry.method)
    if info.observation is not None:
        return "test inputs" if calibration_of(entry)["split"] == "test" else info.data
    if info.data == "test inputs" and entry.params.get("split", "test") != "test":
        return "unlabelled"
    return info.data
