"""The metrics of continual learning in the form of the paper that named them.

R is the accuracy matrix, R[t, k] the accuracy after stage t on task k, both from 0; L = T - 1 is the last
stage. b is the accuracy of the base, before any task was learned; E that of each expert alone; J that of
joint training.
"""

import numpy as np

from merge_lib.metrics.matrix import (
    AccuracyMatrix,
    AccuracyVector,
    as_matrix,
    as_vector,
    mean_or_none,
    metric,
    ratios,
)

GEM = "Lopez-Paz & Ranzato, Gradient Episodic Memory, NeurIPS 2017, arXiv:1706.08840, eqs. 2-4"
CHAUDHRY = "Chaudhry et al., Riemannian Walk, ECCV 2018, arXiv:1801.10112, section 3"
TWO_TASKS = "there is only one task, or an entry it needs was not measured"
NEEDS_BASE = "there is only one task, or the accuracy of the base is not known"
NEEDS_EXPERTS = "the accuracy of each expert alone is not known"
LEAST_LEARNED = 0.05  # a share of what was learned to less than this accuracy says nothing


@metric("Average accuracy", "mean over k of R[L,k]", source=GEM)
def average_accuracy(accuracy: AccuracyMatrix) -> float | None:
    """Mean accuracy of the last model over all tasks.

    ACC = 1/T sum_k R[L,k].

    Variant: the paper's; MTIL calls it Last.
    Reference: Lopez-Paz & Ranzato, "Gradient Episodic Memory", NeurIPS 2017, arXiv:1706.08840, eq. 2.
    """
    return mean_or_none(as_matrix(accuracy)[-1])


@metric("Worst task", "min over k of R[L,k]", source="the minimum in place of the mean of ACC")
def worst_task_accuracy(accuracy: AccuracyMatrix) -> float | None:
    """Accuracy of the last model on the task it does worst.

    min_k R[L,k].

    Variant: the minimum in place of the mean of `average_accuracy`.
    Reference: none; the usual worst-case companion of ACC.
    """
    last = as_matrix(accuracy)[-1]
    return None if np.isnan(last).any() else float(last.min())


@metric(
    "Average incremental accuracy",
    "mean over t of (mean over k ≤ t of R[t,k])",
    source="Rebuffi et al., iCaRL, CVPR 2017, arXiv:1611.07725, section 4",
)
def average_incremental_accuracy(accuracy: AccuracyMatrix) -> float | None:
    """Mean over the stages of the mean accuracy on the tasks seen so far.

    1/T sum_t (1/(t+1) sum_{k<=t} R[t,k]).

    Variant: every stage counts the same; `average_accuracy_continuum` lets every entry count the same.
    Reference: Rebuffi et al., "iCaRL", CVPR 2017, arXiv:1611.07725, section 4.
    """
    matrix = as_matrix(accuracy)
    return mean_or_none(np.array([matrix[t, : t + 1].mean() for t in range(len(matrix))]))


@metric(
    "Learning accuracy", "mean over k of R[k,k]", source="Riemer et al., MER, ICLR 2019, arXiv:1810.11910"
)
def learning_accuracy(accuracy: AccuracyMatrix) -> float | None:
    """Mean accuracy on each task at the stage that brought it.

    LA = 1/T sum_k R[k,k].

    Variant: over all T tasks.
    Reference: Riemer et al., "Learning to Learn without Forgetting", ICLR 2019, arXiv:1810.11910.
    """
    return mean_or_none(as_matrix(accuracy).diagonal())


@metric("Backward transfer", "mean over k < L of (R[L,k] − R[k,k])", source=GEM, undefined_when=TWO_TASKS)
def backward_transfer(accuracy: AccuracyMatrix) -> float | None:
    """How much the last model gained (or, below zero, lost) on earlier tasks since they were learned.

    BWT = 1/(T-1) sum_{k<L} (R[L,k] - R[k,k]).

    Variant: the paper's, over T-1 tasks (also mammoth, OPCM, MINGLE); GEM's code and FusionBench divide by T.
    Reference: Lopez-Paz & Ranzato, "Gradient Episodic Memory", NeurIPS 2017, arXiv:1706.08840, eq. 3.
    """
    matrix = as_matrix(accuracy)
    return mean_or_none(matrix[-1, :-1] - matrix.diagonal()[:-1])


@metric("Forward transfer", "mean over k ≥ 1 of (R[k−1,k] − b[k])", source=GEM, undefined_when=NEEDS_BASE)
def forward_transfer(accuracy: AccuracyMatrix, before: AccuracyVector) -> float | None:
    """How much earlier tasks help on a task before it is learned.

    FWT = 1/(T-1) sum_{k>=1} (R[k-1,k] - b[k]).

    Variant: the paper's, over T-1 tasks; b is the accuracy of the base, not of a random initialisation.
    Reference: Lopez-Paz & Ranzato, "Gradient Episodic Memory", NeurIPS 2017, arXiv:1706.08840, eq. 4.
    """
    matrix = as_matrix(accuracy)
    return mean_or_none(matrix.diagonal(1) - as_vector(before, len(matrix), "before")[1:])


@metric(
    "Forgetting",
    "mean over k < L of (max over k ≤ t < L of R[t,k] − R[L,k])",
    source=CHAUDHRY,
    undefined_when=TWO_TASKS,
    higher_is_better=False,
)
def forgetting(accuracy: AccuracyMatrix) -> float | None:
    """How far the last model is below the best so far, on earlier tasks.

    F = 1/(T-1) sum_{k<L} (max_{k<=t<L} R[t,k] - R[L,k]).

    Variant: best so far minus last, from the stage that brought the task, the last stage left out of the
        maximum (so below zero if the last model is the best); Avalanche's is first minus last.
    Reference: Chaudhry et al., "Riemannian Walk", ECCV 2018, arXiv:1801.10112, section 3.
    """
    matrix = as_matrix(accuracy)
    last = len(matrix) - 1
    return mean_or_none(np.array([matrix[k:last, k].max() - matrix[last, k] for k in range(last)]))


@metric(
    "Intransigence",
    "mean over k of (J[k] − R[k,k])",
    source=CHAUDHRY,
    undefined_when="the accuracy of joint training is not known",
    higher_is_better=False,
)
def intransigence(accuracy: AccuracyMatrix, joint: AccuracyVector) -> float | None:
    """How far a task, when it arrives, stays below joint training.

    I = 1/T sum_k (J[k] - R[k,k]).

    Variant: mean over the tasks of the paper's I_k. The paper's J[k] is trained on tasks 0..k; a study with
        one joint model on all tasks passes that model's accuracies, in which later tasks share the capacity.
    Reference: Chaudhry et al., "Riemannian Walk", ECCV 2018, arXiv:1801.10112, section 3.
    """
    matrix = as_matrix(accuracy)
    return mean_or_none(as_vector(joint, len(matrix), "joint") - matrix.diagonal())


@metric(
    "Retention, mean",
    "mean over k of R[L,k] / R[k,k]",
    source="share kept of what was learned",
    undefined_when="a task was learned to less than 5 %, or an entry it needs was not measured",
)
def retention_mean(accuracy: AccuracyMatrix) -> float | None:
    """Share of the accuracy at learning time that the last model still has, mean over the tasks.

    1/T sum_k R[L,k] / R[k,k].

    Variant: over all T tasks; the last one contributes 1; undefined where a task was learned to less than 5 %.
    Reference: none; the multiplicative counterpart of backward transfer.
    """
    return mean_or_none(_retention(as_matrix(accuracy)))


@metric(
    "Retention, worst task",
    "min over k of R[L,k] / R[k,k]",
    source="share kept of what was learned",
    undefined_when="a task was learned to less than 5 %, or an entry it needs was not measured",
)
def retention_worst(accuracy: AccuracyMatrix) -> float | None:
    """Share of the accuracy at learning time that the last model still has, on the task that kept least.

    min_k R[L,k] / R[k,k].

    Variant: over all T tasks, so at most 1; undefined where a task was learned to less than 5 %.
    Reference: none; the worst case of `retention_mean`.
    """
    kept = _retention(as_matrix(accuracy))
    return None if np.isnan(kept).any() else float(kept.min())


@metric(
    "Plasticity gap",
    "mean over k of (E[k] − R[k,k])",
    source="learning accuracy against the experts",
    undefined_when=NEEDS_EXPERTS,
    higher_is_better=False,
)
def plasticity_gap(accuracy: AccuracyMatrix, experts: AccuracyVector) -> float | None:
    """How far a task, when it arrives, stays below its expert alone.

    1/T sum_k (E[k] - R[k,k]).

    Variant: against the expert, where intransigence is against joint training.
    Reference: none; the negative of what AIMMerging calls forward transfer.
    """
    matrix = as_matrix(accuracy)
    return mean_or_none(as_vector(experts, len(matrix), "experts") - matrix.diagonal())


@metric(
    "Normalised accuracy",
    "mean over k of R[L,k] / E[k]",
    source="Wang et al., TALL-masks, ICML 2024, arXiv:2405.07813; also TSV-Merge, Iso-C",
    undefined_when="the accuracy of each expert alone is not known, or is 0 for one",
)
def normalised_accuracy(accuracy: AccuracyMatrix, experts: AccuracyVector) -> float | None:
    """Accuracy of the last model as a share of each expert's, mean over the tasks.

    1/T sum_k R[L,k] / E[k].

    Variant: mean of ratios, not ratio of means.
    Reference: Wang et al., "Localizing Task Information", ICML 2024, arXiv:2405.07813.
    """
    matrix = as_matrix(accuracy)
    return mean_or_none(ratios(matrix[-1], as_vector(experts, len(matrix), "experts")))


@metric(
    "Normalised improvement",
    "mean over k of (R[L,k] − b[k]) / (E[k] − b[k])",
    source="NAI: the merge's share of what each expert gained over the base",
    undefined_when="base or experts are not known, or an expert gained less than 0.01 over the base",
)
def normalised_improvement(
    accuracy: AccuracyMatrix, before: AccuracyVector, experts: AccuracyVector
) -> float | None:
    """Share of each expert's gain over the base that the last model has, mean over the tasks (NAI).

    1/T sum_k (R[L,k] - b[k]) / (E[k] - b[k]).

    Variant: mean of ratios; undefined as a whole if an expert gained less than 0.01 (or lost) on its task,
        where the ratio says nothing.
    Reference: none fixed; the improvement form of normalised accuracy.
    """
    matrix = as_matrix(accuracy)
    base = as_vector(before, len(matrix), "before")
    gained = as_vector(experts, len(matrix), "experts") - base
    if (gained < 0.01).any():
        return None
    return mean_or_none(ratios(matrix[-1] - base, gained))


def _retention(matrix: np.ndarray) -> np.ndarray:
    """R[L,k] / R[k,k]; NaN below LEAST_LEARNED, where a share of next to nothing says nothing."""
    learned = matrix.diagonal()
    return ratios(matrix[-1], np.where(learned < LEAST_LEARNED, np.nan, learned))
