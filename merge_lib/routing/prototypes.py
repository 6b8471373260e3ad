"""Prototypes: what the frozen base sees of each class of a task, and how near an input is to them."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import normalize


def prototypes(
    classes: Float[Tensor, "c d"], inputs: Float[Tensor, "n d"], labels: Int[Tensor, " n"]
) -> Float[Tensor, "c d"]:
    """One unit vector for each class of a task: its text and its images, as the base sees them.

    p_k = (c̄_k + v̄_k) / ‖c̄_k + v̄_k‖, c̄_k the mean of the unit features of the class's texts, v̄_k that of its inputs;
    p_k = c̄_k / ‖c̄_k‖ for a class without an input.

    Reference: ConDU, arXiv:2503.10705; neither mean is brought to length 1 before the sum, as in the authors' code.

    Args:
        classes: [c, d]; c̄, not brought to length 1.
        inputs: [n, d]; unit features.
        labels: [n]; the class of each.

    Returns:
        [c, d], of length 1, dtype of classes.
    """
    wide = classes.double()
    sums = torch.zeros_like(wide).index_add_(0, labels, inputs.double())
    counts = torch.bincount(labels, minlength=len(classes))[:, None]  # [c, 1]
    joined = torch.where(counts > 0, wide + sums / counts.clamp(min=1), wide)
    return normalize(joined, dim=1).to(classes.dtype)


def similarities(
    inputs: Float[Tensor, "n d"], of_tasks: Sequence[Float[Tensor, "_ d"]]
) -> Float[Tensor, "n t"]:
    """q_i = max_k cos(f, p_{i,k}): how near an input is to the nearest class of each task.

    Args:
        inputs: [n, d]; unit features f.
        of_tasks: the prototypes of each of t tasks.

    Returns:
        [n, t].
    """
    nearest = [(inputs @ rows.T.to(inputs.dtype)).amax(dim=1) for rows in of_tasks]
    return torch.stack(nearest, dim=1) if nearest else inputs.new_zeros(len(inputs), 0)
