"""Pure functions of the accuracy matrix: what a sequence of models learned, kept and forgot.

`accuracy[t][k]` is the accuracy of the model after stage t on task k, shape [T, T]. An entry that was not
measured is None or NaN; a metric that needs it is None, never a guess. No function writes to its argument.
"""

from merge_lib.metrics.matrix import AccuracyMatrix, AccuracyVector, MetricInfo, as_matrix, registered
from merge_lib.metrics.retention import Retention, retention_score, retention_scores
from merge_lib.metrics.standard import (
    LEAST_LEARNED,
    average_accuracy,
    average_incremental_accuracy,
    backward_transfer,
    forgetting,
    forward_transfer,
    intransigence,
    learning_accuracy,
    normalised_accuracy,
    normalised_improvement,
    plasticity_gap,
    retention_mean,
    retention_worst,
    worst_task_accuracy,
)
from merge_lib.metrics.variants import (
    average_accuracy_continuum,
    backward_transfer_continuum,
    backward_transfer_gem_code,
    backward_transfer_positive,
    forgetting_avalanche,
    forgetting_from_start,
    forward_transfer_continuum,
    forward_transfer_gem_code,
    fwt_vs_expert,
    mtil_average,
    mtil_last,
    mtil_transfer,
    remembering,
)

__all__ = [
    "LEAST_LEARNED",
    "AccuracyMatrix",
    "AccuracyVector",
    "MetricInfo",
    "Retention",
    "average_accuracy",
    "average_accuracy_continuum",
    "average_incremental_accuracy",
    "backward_transfer",
    "backward_transfer_continuum",
    "backward_transfer_gem_code",
    "backward_transfer_positive",
    "describe",
    "forgetting",
    "forgetting_avalanche",
    "forgetting_from_start",
    "forward_transfer",
    "forward_transfer_continuum",
    "forward_transfer_gem_code",
    "fwt_vs_expert",
    "intransigence",
    "learning_accuracy",
    "mtil_average",
    "mtil_last",
    "mtil_transfer",
    "normalised_accuracy",
    "normalised_improvement",
    "plasticity_gap",
    "remembering",
    "retention_mean",
    "retention_score",
    "retention_scores",
    "retention_worst",
    "summarise",
    "worst_task_accuracy",
]


def describe() -> dict[str, MetricInfo]:
    """Every metric by name: title, one-line formula, direction, source, and when it is undefined."""
    return registered()


def summarise(
    accuracy: AccuracyMatrix,
    *,
    before: AccuracyVector | None = None,
    experts: AccuracyVector | None = None,
    joint: AccuracyVector | None = None,
) -> dict[str, float | None]:
    """Every metric of one accuracy matrix, by stable name; None where it is undefined.

    Args:
        accuracy: [T, T], entry [t][k] after stage t on task k; None or NaN where it was not measured.
        before: [T], accuracy of the base on each task, before anything was learned.
        experts: [T], accuracy of each expert alone on its own task.
        joint: [T], accuracy on each task of joint training.

    Returns:
        The same keys for every input, in the order of `describe`.

    Raises:
        MetricInputError: shapes disagree, or an entry is infinite.
    """
    matrix = as_matrix(accuracy)
    given = {"before": before, "experts": experts, "joint": joint}
    known = {name: values for name, values in given.items() if values is not None}
    return {
        name: info.function(matrix, *(known[need] for need in info.needs))
        if known.keys() >= set(info.needs)
        else None
        for name, info in registered().items()
    }
