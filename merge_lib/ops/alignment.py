"""Task vectors as coordinates in a basis that all tasks share."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from merge_lib.ops.subspace import goes_by_gram, gram_factors, svd_factors

NULL = 1e-5  # singular values up to this one are noise, as in the authors' code


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

    [τ_1 | … | τ_n] = U Σ [V_1 | … | V_n] with singular values above 1e-5; the parts are Σ V_t, [k, in]. Tensors of
    more than two axes are matrices [out, rest].

    Args:
        task_vectors: [n, *shape], floating; one row per expert.

    Returns:
        The basis and the parts; those of vectors, single numbers and empty tensors are the entries themselves.
    """
    shape = task_vectors.shape[1:]
    if len(shape) < 2 or task_vectors.numel() == 0:
        return Aligned(None, task_vectors, shape)
    matrices = task_vectors.flatten(2)
    basis = left_basis(torch.cat(list(matrices), dim=1))
    parts = basis.mT @ matrices.double()  # [n, k, in]
    return Aligned(basis, parts.to(task_vectors.dtype).contiguous(), shape)


def left_basis(side_by_side: Float[Tensor, "m n"]) -> Float[Tensor, "m k"]:
    """Left singular vectors whose value is not noise, float64."""
    if goes_by_gram(side_by_side.dtype):
        factors = gram_factors(side_by_side, min(side_by_side.shape))
    else:
        factors = svd_factors(side_by_side)
    return factors.left[:, factors.values > NULL]
