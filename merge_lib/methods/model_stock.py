"""Model Stock: as close to the mean of the experts as their angle says."""

from typing import Literal

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from merge_lib.ops.gram import cosines, inner_products, inner_products_by_row
from merge_lib.ops.sparsify import as_rows
from merge_lib.ops.sums import mean_rows
from merge_lib.registry import merge_method
from merge_lib.trail import NO_TRAIL, Trail
from merge_lib.working_set import WorkingSet

Average = Literal["cosine", "angle"]


@merge_method(
    name="model_stock",
    title="Model Stock",
    paper="https://arxiv.org/abs/2403.19522",
    needs_base=True,
    order_free=True,
    works_on="tensor",
    working_set=WorkingSet(stacks=3.1, tensors=1.5),
)
def model_stock(
    task_vectors: Float[Tensor, " n *shape"],
    *,
    trail: Trail = NO_TRAIL,
    rows: bool = False,
    average: Average = "cosine",
) -> Float[Tensor, " *shape"]:
    """The mean task vector, shortened by the angle between the task vectors.

    t = n c / (1 + (n − 1) c), with c the mean cosine over pairs;  τ* = t · mean_i τ_i.

    Scope: per tensor, or per row with `rows`: what makes one output, the first axis against all others.
    Variant: c is the mean of the cosines; with average "angle" the cosine of the mean angle. A pair with a zero
        vector has the cosine 0.
    Differs from the paper: t is kept within [0, 1]; for c < 0 the formula leaves the segment between base and
        mean, or divides by 0. An expert alone comes back. The paper, which is about experts of one task,
        also averages during training.
    Reference: Jang et al., "Model Stock", ECCV 2024, arXiv:2403.19522.

    Args:
        task_vectors: [n, *shape], floating; one row per expert, in spec order.
        trail: notes the mean cosine and t; with `rows` the means over rows.
        rows: an angle for each row instead of one for the tensor.
        average: what is averaged over the pairs.

    Returns:
        [*shape], dtype of task_vectors.
    """
    mean = mean_rows(task_vectors)
    if len(task_vectors) == 1 or mean.numel() == 0:
        return mean
    if rows:
        matrices = torch.stack([as_rows(vector) for vector in task_vectors])
        cosine = _mean_cosine(inner_products_by_row(matrices), average)[:, None]
    else:
        cosine = _mean_cosine(inner_products(task_vectors)[None], average)[:, None]
    share = _share(cosine, len(task_vectors))
    trail.note("cosine", cosine.mean)
    trail.note("share of the mean", share.mean)
    flat = as_rows(mean) if rows else mean.reshape(1, mean.numel())
    return (share.to(mean.dtype) * flat).reshape(mean.shape)


def _mean_cosine(products: Float64[Tensor, " rows n n"], average: Average) -> Float64[Tensor, " rows"]:
    """Over all pairs of different experts."""
    upper = torch.triu_indices(products.shape[-1], products.shape[-1], offset=1)
    pairs = cosines(products)[:, upper[0], upper[1]]
    return pairs.mean(dim=1) if average == "cosine" else torch.cos(torch.acos(pairs).mean(dim=1))


def _share(cosine: Float64[Tensor, " rows 1"], count: int) -> Float64[Tensor, " rows 1"]:
    """How far from the base to the mean; 0 where the angle is right or wider."""
    positive = cosine.clamp(0, 1)
    return count * positive / (1 + (count - 1) * positive)
