"""Task arithmetic and its descendants, each a way to thin task vectors before they are added."""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor

from merge_lib.mergekit.methods.combine import add, thin
from merge_lib.mergekit.methods.sparsify import drop_by_rank, drop_extremes, drop_random, keep_largest
from merge_lib.ops.chance import TensorGenerator


def task_arithmetic(
    experts: Float[Tensor, " n *shape"],
    base: Float[Tensor, " *shape"],
    *,
    weight: Sequence[float],
    normalize: bool,
    scale: float,
) -> Float[Tensor, " *shape"]:
    """The base and the weighted sum of the task vectors; see `combine.add`."""
    return add(base, experts - base, weight=weight, normalize=normalize, scale=scale, elect=False)


def ties(
    experts: Float[Tensor, " n *shape"],
    base: Float[Tensor, " *shape"],
    *,
    weight: Sequence[float],
    density: Sequence[float],
    normalize: bool,
    rescale: bool,
    scale: float,
) -> Float[Tensor, " *shape"]:
    """The base and the sum of those trimmed, weighted task vectors that agree in sign.

    Trimmed tensor by tensor (`sparsify.keep_largest`), signs and sum as in `combine.add`.
    """
    thinned = thin(experts, base, lambda row, place: keep_largest(row, density[place]), rescale=rescale)
    return add(base, thinned, weight=weight, normalize=normalize, scale=scale, elect=True)


def dare(  # noqa: PLR0913 -- as many as mergekit's YAML has
    experts: Float[Tensor, " n *shape"],
    base: Float[Tensor, " *shape"],
    *,
    weight: Sequence[float],
    density: Sequence[float],
    normalize: bool,
    rescale: bool,
    scale: float,
    elect: bool,
    generator: TensorGenerator,
) -> Float[Tensor, " *shape"]:
    """The base and the weighted sum of task vectors of which random entries were dropped.

    Variant: mergekit's `dare_linear`, with `elect` its `dare_ties`. With `rescale` the rest of a task vector
        has the L1 norm of the whole, which is 1/density only in expectation.
    Differs from mergekit: the draws are those of (seed, tensor name, place of the model), not of a global
        generator.
    """
    thinned = thin(
        experts,
        base,
        lambda row, place: drop_random(row, density[place], generator=generator, expert=place),
        rescale=rescale,
    )
    return add(base, thinned, weight=weight, normalize=normalize, scale=scale, elect=elect)


def della(  # noqa: PLR0913 -- as many as mergekit's YAML has
    experts: Float[Tensor, " n *shape"],
    base: Float[Tensor, " *shape"],
    *,
    weight: Sequence[float],
    density: Sequence[float],
    epsilon: Sequence[float],
    normalize: bool,
    rescale: bool,
    scale: float,
    elect: bool,
    generator: TensorGenerator,
) -> Float[Tensor, " *shape"]:
    """The base and the weighted sum of task vectors thinned at random, small entries more than large ones.

    Variant: mergekit's `della_linear`, with `elect` its `della`. Probabilities as in `sparsify.drop_by_rank`;
        with `rescale` the rest has the L1 norm of the whole, where the paper divides each entry by its own
        probability.
    Differs from mergekit: the draws, as in `dare`.
    """
    thinned = thin(
        experts,
        base,
        lambda row, place: drop_by_rank(
            row, density[place], epsilon[place], generator=generator, expert=place
        ),
        rescale=rescale,
        by_rows=True,
    )
    return add(base, thinned, weight=weight, normalize=normalize, scale=scale, elect=elect)


def breadcrumbs(  # noqa: PLR0913 -- as many as mergekit's YAML has
    experts: Float[Tensor, " n *shape"],
    base: Float[Tensor, " *shape"],
    *,
    weight: Sequence[float],
    density: Sequence[float],
    gamma: Sequence[float],
    normalize: bool,
    rescale: bool,
    scale: float,
    elect: bool,
) -> Float[Tensor, " *shape"]:
    """The base and the weighted sum of task vectors without their largest and smallest entries.

    Variant: mergekit's `breadcrumbs`, with `elect` its `breadcrumbs_ties`; per tensor, see
        `sparsify.drop_extremes`.
    """
    thinned = thin(
        experts, base, lambda row, place: drop_extremes(row, density[place], gamma[place]), rescale=rescale
    )
    return add(base, thinned, weight=weight, normalize=normalize, scale=scale, elect=elect)
