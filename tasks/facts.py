"""What a merge needs beside checkpoints, told of a study's entry."""

from merge_lib import registry
from merge_lib.results import RowFacts
from merge_lib.types import Data
from tasks.decoding import is_decoded
from tasks.jobs import MergeEntry
from tasks.learning import calibration_of

_BY_DEMAND: tuple[Data, ...] = ("none", "unlabelled", "labelled", "test inputs")


def facts_of(entry: MergeEntry) -> RowFacts:
    """The data that merging is shown, the task identity that its models need, and whether it was tuned."""
    needs = [_method_data(entry)]
    if entry.search is not None:
        needs.append("labelled")  # the accuracy on the validation split
    return RowFacts(
        data=max(needs, key=_BY_DEMAND.index),
        needs_task=is_decoded(entry),
        is_tuned=entry.search is not None,
        looks_ahead=entry.search is not None and entry.search["when"] == "last",
        folds=registry.get(entry.method).kind == "continual" and entry.layer_scales is None,
    )


def _method_data(entry: MergeEntry) -> Data:
    """As the method declares it, for the split that the entry names: only that of the test gives test inputs."""
    info = registry.get(entry.method)
    if info.observation is not None:
        return "test inputs" if calibration_of(entry)["split"] == "test" else info.data
    if info.data == "test inputs" and entry.params.get("split", "test") != "test":
        return "unlabelled"
    return info.data
