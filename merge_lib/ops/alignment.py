"""Task vectors as coordinates in a basis that all tasks share."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from merge_lib.ops.sketch import low_rank_range
from merge_lib.ops.subspace import goes_by_gram, gram, thin_svd

NULL = 1e-5  # singular values up to this one are noise, as in the authors' code
_RESOLVED = 1e-7


@dataclass(frozen=True)
class Aligned:
    """τ_t = basis · parts_t, reshaped; a tensor that is no matrix is its own parts."""

    basis: Float[Tensor, "m k"] | None  # float64
    parts: Float[Tensor, " n *parts"]  # dtype of the task vectors
    shape: torch.Size

    def restore(self, part: Float[Tensor, " *part"]) -> Float[Tensor, " *shape"]:
        """The tensor that has these coordinates."""
        if self.basis is None:
            return part
        return (self.basis @ part.double()).to(part.dtype).reshape(self.shape)


def align(task_vectors: Float[Tensor, " n *shape"]) -> Aligned:
    """Coordinates in the left singular vectors of all task vectors side by side.

    [τ_1 | … | τ_n] = U Σ [V_1 | … | V_n] with singular values above 1e-5 and 1e-7 of the largest; the parts are
    Σ V_t, [k, in]. Tensors of more than two axes are matrices [out, rest].

    Args:
        task_vectors: [n, *shape], floating; one row per expert.

    Returns:
        The basis and the parts; those of vectors, single numbers and empty tensors are the entries themselves.
    """
    shape = task_vectors.shape[1:]
    if len(shape) < 2 or task_vectors.numel() == 0:
        return Aligned(None, task_vectors, shape)
    matrices = task_vectors.flatten(2)
    basis = left_basis(matrices)
    parts = torch.stack([(basis.mT @ one.double()).to(one.dtype) for one in matrices])  # [n, k, in]
    return Aligned(basis, parts, shape)


def left_basis(matrices: Float[Tensor, "t m n"]) -> Float[Tensor, "m k"]:
    """Left singular vectors, of the matrices side by side, whose value is not noise; float64.

    Where a sketch shows that all but noise lies in a few directions, as with adapters, only those are decomposed.
    """
    side_by_side = torch.cat(list(matrices), dim=1)
    span = low_rank_range(side_by_side, NULL)
    if span is None:
        return basis_of(side_by_side)
    return span @ basis_of((span.mT @ side_by_side.double()).to(side_by_side.dtype))


def basis_of(matrix: Float[Tensor, "m n"]) -> Float[Tensor, "m k"]:
    """Its left singular vectors whose value is not noise, float64."""
    if goes_by_gram(matrix.dtype) and matrix.shape[0] <= matrix.shape[1]:
        squares, vectors = torch.linalg.eigh(gram(matrix.mT))
        values, vectors = squares.clamp(min=0).sqrt().flip(-1), vectors.flip(-1)
    else:
        factors = thin_svd(matrix)
        values, vectors = factors.values, factors.left
    return vectors[:, values > null_level(values)]


def null_level(values: Float[Tensor, " k"]) -> Float[Tensor, ""]:
    """What is noise among singular values: 1e-5, or what the Gram route does not resolve."""
    return (_RESOLVED * values.amax()).clamp(min=NULL)
