"""What methods on spheres share: where the centre is, and sums of experts by weights."""

from collections.abc import Callable
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from merge_lib.errors import MethodInputError
from merge_lib.ops.gram import cosines, inner_products
from merge_lib.ops.sums import per_row, sum_rows
from merge_lib.trail import NO_TRAIL, Trail

Centre = Literal["zero", "base"]


def centred(
    experts: Float[Tensor, " n *shape"], base: Float[Tensor, " *shape"] | None, centre: Centre
) -> Float[Tensor, " n *shape"]:
    """The experts as seen from the centre: themselves, or their task vectors.

    Raises:
        MethodInputError: the base is to be the centre, but there is none.
    """
    if centre == "zero":
        return experts
    if base is None:
        raise MethodInputError(
            "`centre` is 'base', but no base is given. Give the `base`, or take the centre 'zero'."
        )
    return experts - base


def placed(
    point: Float[Tensor, " *shape"], base: Float[Tensor, " *shape"] | None, centre: Centre
) -> Float[Tensor, " *shape"]:
    """The inverse of `centred`, for one."""
    return point if centre == "zero" or base is None else base + point


def on_sphere(
    rows: Float[Tensor, " n *shape"],
    direction: Callable[[np.ndarray], np.ndarray | None],
    *,
    zeros_count: bool,
    trail: Trail = NO_TRAIL,
) -> Float[Tensor, " *shape"]:
    """The point in a mean direction at the mean length; the plain mean where directions cancel.

    Args:
        rows: seen from the centre of the sphere.
        direction: weights of unit vectors, from the cosines between them.
        zeros_count: zero rows, which have no direction, have a length.
        trail: told the weight of each row.

    Returns:
        [*shape], dtype of rows.
    """
    products = inner_products(rows)
    lengths = products.diagonal().clamp(min=0).sqrt().numpy()
    present = np.flatnonzero(lengths > 0)
    if not present.size:
        return torch.zeros_like(rows[0])
    found = direction(cosines(products).numpy()[np.ix_(present, present)])
    weights = np.zeros(len(rows))
    if found is None:
        weights[present] = 1 / len(rows if zeros_count else present)
    else:
        weights[present] = found * lengths.sum() / len(rows if zeros_count else present) / lengths[present]
    trail.note("weight", lambda: torch.from_numpy(weights))
    return sum_rows(rows * per_row(torch.from_numpy(weights).to(rows.dtype), rows))
