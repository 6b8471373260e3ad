"""RegMean: linear layers whose outputs are nearest to the experts' in the least squares."""

from collections.abc import Sequence
from functools import partial
from math import prod

import torch
from jaxtyping import Float
from torch import Tensor

from merge_lib.errors import MethodInputError
from merge_lib.layers import Layer
from merge_lib.learned import Observed
from merge_lib.ops.features import check_values
from merge_lib.ops.shares import ratio, share_of_mass
from merge_lib.ops.sums import mean_rows
from merge_lib.registry import merge_method
from merge_lib.trail import NO_TRAIL, Trail
from merge_lib.types import Fraction, Positive
from merge_lib.working_set import WorkingSet


@merge_method(
    name="regmean",
    title="RegMean",
    paper="https://arxiv.org/abs/2212.09849",
    needs_base=False,
    order_free=True,
    works_on="tensor",
    data="unlabelled",
    observation="gram",
    working_set=WorkingSet(stacks=0.0, tensors=10.0, inputs=4.2),
)
def regmean(
    experts: Float[Tensor, " n *shape"],
    layer: Layer,
    observed: Observed | None,
    *,
    off_diagonal: Fraction = 0.9,
    ridge: Positive = 1e-6,
    trail: Trail = NO_TRAIL,
) -> Float[Tensor, " *shape"]:
    """The weights whose outputs are nearest to each expert's on that expert's inputs; elsewhere the mean.

    W* = (Σ_t W_t G̃_t)(Σ_t G̃_t)⁻¹ with G̃_t = a·G_t + (1 − a)·diag(G_t) + ρ·g·I and G_t = X_tᵀX_t/n_t. a is the
    factor on what is off the diagonal, ρ the ridge, g the mean of all the Gram matrices' diagonals.

    Scope: per tensor.
    Variant: the paper's closed form for matrices, and for kernels over unfolded patches; all else, and what
        no data reached, becomes the mean of the experts.
    Differs from the paper: the Gram matrices are means, not sums, over an expert's inputs, so that experts with
        more of them do not weigh more. The ridge, the same for all experts, makes the sum invertible: on inputs
        that no data contain the result is the mean. a = 0.9 is the paper's usual choice.
    Reference: Jin et al., "Dataless Knowledge Fusion by Merging Weights of Language Models", ICLR 2023,
        arXiv:2212.09849, section 3.

    Args:
        experts: [n, *shape], floating; one row per expert, in spec order.
        layer: what the tensor does.
        observed: each expert's Gram matrix; None where no data reached the tensor.
        off_diagonal: factor on the entries of the Gram matrices off their diagonals, in [0, 1].
        ridge: what is added to the diagonals, as a share of their mean; above 0.
        trail: takes the drift of the outputs, and how far from the mean the result is.

    Returns:
        [*shape], dtype of experts.

    Raises:
        MethodInputError: the Gram matrices do not fit the tensor, or are not positive.
    """
    trail.note("reached by data", lambda: torch.tensor(float(observed is not None)))
    mean = experts[0] + mean_rows(experts - experts[0])
    if observed is None or layer.role not in ("linear", "convolution") or experts.numel() == 0:
        return mean
    inputs = prod(layer.shape[1:])
    _check_grams(observed.values, len(experts), inputs)
    level = ridge * float(sum(gram.double().diagonal().mean() for gram in observed.values)) / len(experts)
    matrices = experts.reshape(len(experts), -1, inputs)
    centre = mean.reshape(-1, inputs)
    # W* = W̄ + (Σ_t (W_t − W̄) G̃_t)(Σ_t G̃_t)⁻¹ is the same, and exact where the experts agree.
    pull = torch.zeros(centre.shape, dtype=torch.float64)
    total = torch.zeros(inputs, inputs, dtype=torch.float64)
    for matrix, gram in zip(matrices, observed.values, strict=True):
        shrunk = _shrunk(gram.double(), off_diagonal, level)
        pull += (matrix - centre).double() @ shrunk
        total += shrunk
    merged = centre + _divide(pull, total).to(centre.dtype)
    trail.note("drift left", partial(_drift, matrices, merged, observed.values))
    trail.note("distance from the mean", lambda: share_of_mass((merged - centre)[None], centre[None])[0])
    return merged.reshape(mean.shape)


def _check_grams(grams: Sequence[Tensor], experts: int, inputs: int) -> None:
    check_values(grams, experts, width=inputs)
    for place, gram in enumerate(grams):
        if gram.shape != (inputs, inputs):
            raise MethodInputError(
                f"The Gram matrix of expert {place} has the shape {tuple(gram.shape)}, but the layer has {inputs} "
                f"inputs. Expected ({inputs}, {inputs}). Collect the observations again, for this model."
            )


def _shrunk(gram: Tensor, off_diagonal: float, level: float) -> Tensor:
    """A copy whose entries off the diagonal are smaller, and those on it larger by the level."""
    shrunk = off_diagonal * gram
    shrunk.diagonal().copy_(gram.diagonal() + level)
    return shrunk


def _divide(left: Tensor, gram: Tensor) -> Tensor:
    """The product with gram⁻¹; zeros where all the Gram matrices are zero."""
    if not gram.any():
        return torch.zeros_like(left)
    triangle, failed = torch.linalg.cholesky_ex(gram)
    if failed:
        raise MethodInputError(
            "The sum of the experts' Gram matrices must be positive, but it is not, even with the ridge. "
            "Raise `ridge`, lower `off_diagonal`, or collect the observations again on more data."
        )
    return torch.cholesky_solve(left.T, triangle).T


def _drift(matrices: Tensor, merged: Tensor, grams: Sequence[Tensor]) -> Tensor:
    """‖X_t (W* − W_t)ᵀ‖² / ‖X_t W_tᵀ‖² of each expert."""
    moved = [_energy(merged - matrix, gram) for matrix, gram in zip(matrices, grams, strict=True)]
    return ratio(
        torch.stack(moved),
        torch.stack([_energy(matrix, gram) for matrix, gram in zip(matrices, grams, strict=True)]),
    )


def _energy(matrix: Tensor, gram: Tensor) -> Tensor:
    """‖X Mᵀ‖²/n, from the Gram matrix of X."""
    wide = matrix.double()
    return ((wide @ gram.double()) * wide).sum().clamp(min=0)
