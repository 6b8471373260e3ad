"""Sign election over task vectors, as mergekit does it."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from merge_lib.mergekit.methods.sums import sum_wide


def agreement(task_vectors: Float[Tensor, " n *shape"]) -> Bool[Tensor, " n *shape"]:
    """True where an entry has the sign of the sum over the models; a sum of 0 counts as plus, 0 as neither."""
    elected = torch.where(sum_wide(task_vectors) >= 0, 1, -1)
    return task_vectors.sign() == elected
