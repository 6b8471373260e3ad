"""Which directions of a layer several tasks use: leading singular subspaces, their principal angles, and chance.

A tensor with two axes or more is read as a matrix [m, n], first axis against all others. The leading triplets of τ_t
are the fewest that hold 90 % of ‖τ_t‖², at most a quarter of min(m, n) and 64, at least one; that is its rank r_t, and
its left and right singular vectors span subspaces with projectors P_t. Of P tasks whose task vector is not zero, the
mean projector M = Σ_t P_t / P has eigenvalues in [0, 1]: 1 for a direction in all the subspaces, 1/P for one of a
single task; for two tasks they are (1 ± cos θ_i) / 2 with the principal angles θ_i. The directions that the tasks share
are the eigenvectors of M above a cut-off, for the left and for the right side by itself.

The cut-off is what chance reaches. Random subspaces of dimension a·m in m dimensions have a mean projector whose
spectrum ends at e = (√(a (P−1)) + √(1−a))² / P, for two tasks at cos θ = 2 √(a (1−a)); from a = (P−1)/P on they
must meet, e is 1, and nothing can be said to be shared. With a the mean of r_t / m the cut-off is
e + (1−e) m^(−2/3): the last term is the order of the scatter of the largest eigenvalue in small matrices.

References: Björck & Golub, "Numerical methods for computing angles between linear subspaces", Math. Comp. 1973
(principal angles); Kesten, "Symmetric random walks on groups", Trans. AMS 1959, and Voiculescu, Dykema & Nica, "Free
random variables", 1992 (the spectrum of sums of free projections).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from merge_lib.ops.sketch import sketched_svd
from merge_lib.ops.subspace import Factors, thin_svd

ENERGY = 0.9  # of a task vector that its leading triplets hold
LARGEST_RANK = 64
_EXACT = 1024  # up to this many rows or columns the triplets are exact, beyond they are sketched
_NULL = 1e-7  # of the largest singular value; what is below may be rounding


@dataclass(frozen=True)
class Leading:
    """The leading singular vectors of one matrix: `left` [m, r] and `right` [n, r]; r is 0 for a zero matrix."""

    left: Tensor
    right: Tensor

    @property
    def rank(self) -> int:
        """How many there are."""
        return self.left.shape[1]


@dataclass(frozen=True)
class Shared:
    """The subspaces that the tasks share: orthonormal columns `left` [m, k] and `right` [n, l]."""

    left: Tensor
    right: Tensor

    def part(self, matrix: Float[Tensor, "m n"]) -> Float[Tensor, "m n"]:
        """What of a matrix lies in both."""
        return self.left @ (self.left.mT @ matrix @ self.right) @ self.right.mT


@dataclass(frozen=True)
class Subspaces:
    """What follows from the task vectors of one matrix alone, so that several merges can use it."""

    leads: tuple[Leading, ...]
    shared: Shared


def subspaces(task_vectors: Float[Tensor, " n *shape"]) -> Subspaces | None:
    """Leading and shared directions of one tensor; None of a vector, or where there are no entries."""
    if task_vectors.ndim < 3 or not task_vectors.numel():
        return None
    leads = leading(task_vectors.double().flatten(2))
    return Subspaces(tuple(leads), shared_subspaces(leads))


def leading(matrices: Float[Tensor, "t m n"]) -> list[Leading]:
    """The leading singular vectors of each matrix, by the rank rule."""
    size = min(matrices.shape[1:])
    most = max(1, min(size // 4, LARGEST_RANK))
    factors = _triplets(matrices, most)
    energies = matrices.square().sum((1, 2))
    held = factors.values.square().cumsum(1)  # [t, most]
    found = []
    for place, energy in enumerate(energies.tolist()):
        short = int((held[place] < ENERGY * energy).sum())
        rank = min(short + 1, most) if energy > 0 else 0
        found.append(Leading(factors.left[place, :, :rank].clone(), factors.right[place, :rank].mT.clone()))
    return found


def shared_subspaces(leads: Sequence[Leading]) -> Shared:
    """The left and right directions that more of the tasks use than chance would explain."""
    return Shared(_shared([one.left for one in leads]), _shared([one.right for one in leads]))


def chance_level(tasks: int, share: float, size: int) -> float:
    """The cut-off for eigenvalues of the mean projector of subspaces with `share` of `size` dimensions."""
    if share >= (tasks - 1) / tasks:
        return 1.0
    edge = (math.sqrt(share * (tasks - 1)) + math.sqrt(1 - share)) ** 2 / tasks
    return edge + (1 - edge) * size ** (-2 / 3)


def leading_of_merge(changes: Float[Tensor, "k m n"], rank: int) -> list[Leading]:
    """As many singular vectors of each merge as it has, `rank` at most."""
    factors = _triplets(changes, rank)
    counts = (factors.values > _NULL * factors.values[:, :1]).sum(1).tolist()
    return [
        Leading(factors.left[place, :, :count], factors.right[place, :count].mT)
        for place, count in enumerate(counts)
    ]


def overlaps(bases: Sequence[Tensor]) -> list[float]:
    """Of each subspace with the others on average, ‖U_tᵀ U_s‖² / min(r_t, r_s); NaN where there are none."""
    found = []
    for place, basis in enumerate(bases):
        others = [other for at, other in enumerate(bases) if at != place and other.shape[1]]
        values = [
            common(basis, other) / min(basis.shape[1], other.shape[1]) for other in others if basis.shape[1]
        ]
        found.append(sum(values) / len(values) if values else math.nan)
    return found


def common(one: Float[Tensor, "m r"], other: Float[Tensor, "m s"]) -> float:
    """‖Uᵀ V‖²: the sum of the squared cosines of the principal angles."""
    return float((one.mT @ other).square().sum())


def _triplets(matrices: Tensor, rank: int) -> Factors:
    """The first triplets of each; in float64 through Gram matrices."""
    if min(matrices.shape[1:]) <= _EXACT:
        return thin_svd(matrices, rank, by_gram=True)
    each = [sketched_svd(matrix, rank) for matrix in matrices]
    return Factors(
        *(torch.stack([getattr(one, side)[..., :rank] for one in each]) for side in ("left", "values")),
        torch.stack([one.right[:rank] for one in each]),
    )


def _shared(bases: Sequence[Tensor]) -> Tensor:
    """[size, k], orthonormal."""
    present = [basis for basis in bases if basis.shape[1]]
    size, count = len(bases[0]), len(present)
    share = sum(basis.shape[1] for basis in present) / max(count * size, 1)
    level = chance_level(count, share, size) if count > 1 else 1.0
    if level >= 1:
        return bases[0][:, :0]
    factors = thin_svd(torch.cat(present, dim=1), by_gram=True)
    return factors.left[:, factors.values.square() / count > level]
