"""What other frameworks compute under the names of `standard`, each under a name of its own.

The letters are those of `standard`: R[t, k], both from 0, L = T - 1, b the base, E the experts.
"""

import numpy as np

from merge_lib.metrics.matrix import (
    AccuracyMatrix,
    AccuracyVector,
    as_matrix,
    as_vector,
    mean_or_none,
    metric,
)
from merge_lib.metrics.standard import (
    CHAUDHRY,
    NEEDS_BASE,
    NEEDS_EXPERTS,
    TWO_TASKS,
    backward_transfer,
    forward_transfer,
)

GEM_CODE = "github.com/facebookresearch/GradientEpisodicMemory, metrics/metrics.py"
CONTINUUM = "github.com/Continvvm/continuum, continuum/metrics"
AVALANCHE = "github.com/ContinualAI/avalanche, evaluation/metrics/forgetting_bwt.py"
DIAZ = "Díaz-Rodríguez et al., Don't forget, there is more than forgetting, 2018, arXiv:1810.13166"
MTIL = "Zheng et al., ZSCL, ICCV 2023, arXiv:2303.06628"


@metric("Average accuracy (Continuum)", "mean over k ≤ t of R[t,k]", source=f"{DIAZ}; {CONTINUUM}")
def average_accuracy_continuum(accuracy: AccuracyMatrix) -> float | None:
    """Mean of the lower triangle with its diagonal.

    A = sum_{k<=t} R[t,k] / (T(T+1)/2).

    Variant: every entry counts the same; `average_incremental_accuracy` lets every stage count the same.
    Reference: Díaz-Rodríguez et al., 2018, arXiv:1810.13166; Continuum's `accuracy_A`.
    """
    matrix = as_matrix(accuracy)
    return mean_or_none(matrix[np.tril_indices(len(matrix))])


@metric(
    "Backward transfer (GEM's code)",
    "1/T times the sum over k < L of (R[L,k] − R[k,k])",
    source=GEM_CODE,
    undefined_when=TWO_TASKS,
)
def backward_transfer_gem_code(accuracy: AccuracyMatrix) -> float | None:
    """Backward transfer divided by T, the last term being 0.

    BWT (T-1)/T.

    Variant: GEM's published code and FusionBench; smaller than the paper's by (T-1)/T.
    Reference: github.com/facebookresearch/GradientEpisodicMemory, metrics/metrics.py.
    """
    return _over_all_tasks(backward_transfer(accuracy), len(as_matrix(accuracy)))


@metric(
    "Backward transfer (Continuum)",
    "mean over k < t of (R[t,k] − R[k,k])",
    source=CONTINUUM,
    undefined_when=TWO_TASKS,
)
def backward_transfer_continuum(accuracy: AccuracyMatrix) -> float | None:
    """Backward transfer averaged over all later stages, not the last alone.

    2/(T(T-1)) sum_{k<t} (R[t,k] - R[k,k]).

    Variant: Continuum, after Díaz-Rodríguez et al.
    Reference: github.com/Continvvm/continuum, continuum/metrics; arXiv:1810.13166.
    """
    matrix = as_matrix(accuracy)
    return mean_or_none((matrix - matrix.diagonal())[np.tril_indices(len(matrix), -1)])


@metric(
    "Positive backward transfer",
    "max(BWT, 0)",
    source=DIAZ,
    undefined_when=TWO_TASKS,
)
def backward_transfer_positive(accuracy: AccuracyMatrix) -> float | None:
    """What earlier tasks gained, 0 if they lost.

    BWT+ = max(BWT, 0).

    Variant: on the paper form of backward transfer (Continuum applies it to its own).
    Reference: Díaz-Rodríguez et al., 2018, arXiv:1810.13166.
    """
    transfer = backward_transfer(accuracy)
    return None if transfer is None else max(transfer, 0.0)


@metric("Remembering", "1 − |min(BWT, 0)|", source=DIAZ, undefined_when=TWO_TASKS)
def remembering(accuracy: AccuracyMatrix) -> float | None:
    """One less what earlier tasks lost.

    REM = 1 - |min(BWT, 0)|.

    Variant: on the paper form of backward transfer (Continuum applies it to its own).
    Reference: Díaz-Rodríguez et al., 2018, arXiv:1810.13166.
    """
    transfer = backward_transfer(accuracy)
    return None if transfer is None else 1.0 - abs(min(transfer, 0.0))


@metric(
    "Forward transfer (GEM's code)",
    "1/T times the sum over k ≥ 1 of (R[k−1,k] − b[k])",
    source=GEM_CODE,
    undefined_when=NEEDS_BASE,
)
def forward_transfer_gem_code(accuracy: AccuracyMatrix, before: AccuracyVector) -> float | None:
    """Forward transfer divided by T, the first term being 0.

    FWT (T-1)/T.

    Variant: GEM's published code; smaller than the paper's by (T-1)/T.
    Reference: github.com/facebookresearch/GradientEpisodicMemory, metrics/metrics.py.
    """
    return _over_all_tasks(forward_transfer(accuracy, before), len(as_matrix(accuracy)))


@metric(
    "Forward transfer (Continuum)",
    "mean over k ≥ 1 of R[k−1,k]",
    source=CONTINUUM,
    undefined_when=TWO_TASKS,
)
def forward_transfer_continuum(accuracy: AccuracyMatrix) -> float | None:
    """Accuracy on each task one stage before it is learned.

    1/(T-1) sum_{k>=1} R[k-1,k].

    Variant: Continuum; the base's accuracy is not subtracted.
    Reference: github.com/Continvvm/continuum, continuum/metrics.
    """
    return mean_or_none(as_matrix(accuracy).diagonal(1))


@metric(
    "Forward transfer against the experts",
    "mean over k of (R[k,k] − E[k])",
    source="the language-model line, e.g. AIMMerging",
    undefined_when=NEEDS_EXPERTS,
)
def fwt_vs_expert(accuracy: AccuracyMatrix, experts: AccuracyVector) -> float | None:
    """How far a task, when it arrives, is above its expert alone.

    1/T sum_k (R[k,k] - E[k]).

    Variant: what AIMMerging reports as forward transfer; the negative of `plasticity_gap`.
    Reference: AIMMerging, as used for continual learning of language models.
    """
    matrix = as_matrix(accuracy)
    return mean_or_none(matrix.diagonal() - as_vector(experts, len(matrix), "experts"))


@metric(
    "Forgetting (from the first stage)",
    "mean over k < L of (max over t < L of R[t,k] − R[L,k])",
    source=f"{CHAUDHRY}, as some texts read it",
    undefined_when=TWO_TASKS,
    higher_is_better=False,
)
def forgetting_from_start(accuracy: AccuracyMatrix) -> float | None:
    """How far the last model is below the best of all earlier stages, also those before the task was learned.

    1/(T-1) sum_{k<L} (max_{t<L} R[t,k] - R[L,k]).

    Variant: the maximum begins at stage 0; needs the whole matrix.
    Reference: Chaudhry et al., "Riemannian Walk", ECCV 2018, arXiv:1801.10112, as some texts read it.
    """
    matrix = as_matrix(accuracy)
    if len(matrix) == 1:
        return None
    return mean_or_none(matrix[:-1, :-1].max(axis=0) - matrix[-1, :-1])


@metric(
    "Forgetting (Avalanche)",
    "mean over k < L of (R[k,k] − R[L,k])",
    source=AVALANCHE,
    undefined_when=TWO_TASKS,
    higher_is_better=False,
)
def forgetting_avalanche(accuracy: AccuracyMatrix) -> float | None:
    """How far the last model is below the stage that brought the task.

    1/(T-1) sum_{k<L} (R[k,k] - R[L,k]).

    Variant: first minus last, so the negative of backward transfer; the paper's is best minus last.
    Reference: github.com/ContinualAI/avalanche, evaluation/metrics/forgetting_bwt.py.
    """
    matrix = as_matrix(accuracy)
    return mean_or_none(matrix.diagonal()[:-1] - matrix[-1, :-1])


@metric(
    "MTIL transfer",
    "mean over k ≥ 1 of (mean over t < k of R[t,k])",
    source=MTIL,
    undefined_when=TWO_TASKS,
)
def mtil_transfer(accuracy: AccuracyMatrix) -> float | None:
    """Mean accuracy on tasks that have not been learned yet.

    1/(T-1) sum_{k>=1} (1/k sum_{t<k} R[t,k]).

    Variant: of the multi-domain benchmark of ZSCL; the base's own row is not part of R.
    Reference: Zheng et al., "Preventing Zero-Shot Transfer Degradation", ICCV 2023, arXiv:2303.06628.
    """
    matrix = as_matrix(accuracy)
    return mean_or_none(np.array([matrix[:k, k].mean() for k in range(1, len(matrix))]))


@metric("MTIL average", "mean over t and k of R[t,k]", source=MTIL)
def mtil_average(accuracy: AccuracyMatrix) -> float | None:
    """Mean of the whole accuracy matrix.

    1/T^2 sum_t sum_k R[t,k].

    Variant: of the multi-domain benchmark of ZSCL; the base's own row is not part of R.
    Reference: Zheng et al., "Preventing Zero-Shot Transfer Degradation", ICCV 2023, arXiv:2303.06628.
    """
    return mean_or_none(as_matrix(accuracy))


@metric("MTIL last", "mean over k of R[L,k]", source=MTIL)
def mtil_last(accuracy: AccuracyMatrix) -> float | None:
    """Mean accuracy of the last model over all tasks.

    1/T sum_k R[L,k].

    Variant: the same number as `average_accuracy`, under the name of the multi-domain benchmark.
    Reference: Zheng et al., "Preventing Zero-Shot Transfer Degradation", ICCV 2023, arXiv:2303.06628.
    """
    return mean_or_none(as_matrix(accuracy)[-1])


def _over_all_tasks(mean_of_others: float | None, size: int) -> float | None:
    return None if mean_of_others is None else mean_of_others * (size - 1) / size
