"""DELLA: drop small entries more often than large ones."""

import torch
from jaxtyping import Float
from torch import Tensor

from merge_lib.errors import MethodInputError
from merge_lib.ops.chance import TensorGenerator
from merge_lib.ops.shares import shares
from merge_lib.ops.signs import disjoint_mean, elect_signs
from merge_lib.ops.sparsify import as_rows, draw, keep_probabilities
from merge_lib.registry import merge_method
from merge_lib.trail import NO_TRAIL, Trail
from merge_lib.types import Density, ProperFraction, Scale
from merge_lib.working_set import WorkingSet


@merge_method(
    name="della",
    title="DELLA-Merging",
    paper="https://arxiv.org/abs/2406.11617",
    needs_base=True,
    order_free=False,
    works_on="row",
    working_set=WorkingSet(stacks=4.4, tensors=4.5),
)
def della(
    task_vectors: Float[Tensor, " n *shape"],
    *,
    generator: TensorGenerator,
    trail: Trail = NO_TRAIL,
    density: Density = 0.7,
    window: ProperFraction = 0.14,
    scale: Scale = 1.1,
) -> Float[Tensor, " *shape"]:
    """The scaled mean of task vectors thinned at random by magnitude, whose sign was elected.

    q_i = d − w/2 + w · r_i / (len − 1), with r_i the place of |τ_i| in its row, smallest first;
    τ̃ = m ⊙ τ / q, m ~ Bernoulli(q);  γ = sign(Σ_t τ̃_t);  τ* = λ · mean of {τ̃_t : sign(τ̃_t) = γ}.
    The density is d, the window w, λ the scale.

    Scope: per row: what makes one output, the first axis against all others; a vector is one row.
    Variant: the paper's; each entry is divided by its own probability, so that E[τ̃] = τ. mergekit's della
        rescales to the L1 norm before the drop.
    Differs from the paper: probabilities reach both ends of the window, as in the authors' code. A row of one
        entry has the probability d. Of equal magnitudes the first counts as smaller; where entries cancel, plus is
        elected.
    Reference: Deep et al., "DELLA-Merging", 2024, arXiv:2406.11617.

    Args:
        task_vectors: [n, *shape], floating; one row per expert, in spec order.
        generator: the tensor's own draws.
        trail: notes the share of entries kept.
        density: share of entries kept in each task vector, on average, in (0, 1].
        window: difference between the largest and the smallest probability to be kept, in [0, 1).
        scale: factor on the merged task vector.

    Returns:
        [*shape], dtype of task_vectors.

    Raises:
        MethodInputError: some probability would not be in (0, 1].
    """
    _check_window(density, window)
    rows = [_thinned(row, generator, expert, density, window) for expert, row in enumerate(task_vectors)]
    thinned = torch.stack(rows)
    trail.note("share kept", lambda: shares(thinned != 0))
    signs = elect_signs(thinned)
    trail.note("share against the elected sign", lambda: shares(thinned * signs < 0))
    return scale * disjoint_mean(thinned, signs)


def _check_window(density: float, window: float) -> None:
    if density - window / 2 <= 0 or density + window / 2 > 1:
        raise MethodInputError(
            f"`density` is {density} and `window` is {window}, so entries would be kept with probabilities from "
            f"{density - window / 2:g} to {density + window / 2:g}. Both must be in (0, 1]. Make the window narrower."
        )


def _thinned(
    task_vector: Float[Tensor, " *shape"],
    generator: TensorGenerator,
    expert: int,
    density: float,
    window: float,
) -> Float[Tensor, " *shape"]:
    rows = as_rows(task_vector)
    probabilities = keep_probabilities(rows, density, window / 2)
    kept = draw(probabilities, generator, expert)
    return (rows / probabilities.to(rows.dtype) * kept).reshape(task_vector.shape)
