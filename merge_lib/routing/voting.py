"""Who votes on an input, with what weight, and what a voter says."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import normalize

from merge_lib.routing.settings import Weights

LOGIT_SCALE = 100.0  # of cosines, as in the authors' code, whatever the model has learned


def elected(similarity: Float[Tensor, "n t"], voters: int) -> Bool[Tensor, "n t"]:
    """The tasks that vote on each input: the most similar ones; of equals those that were learned first.

    Args:
        similarity: [n, t].
        voters: how many; all, if there are fewer.

    Returns:
        [n, t].
    """
    order = torch.sort(similarity, dim=1, descending=True, stable=True).indices  # [n, t]
    return torch.zeros_like(similarity, dtype=torch.bool).scatter(1, order[:, :voters], value=True)


def voter_weights(
    similarity: Float[Tensor, "n t"], *, voters: int, weights: Weights, include_base: bool
) -> Float[Tensor, "n t+1"]:
    """How much each task's model, and the base as the last, counts for each input; 0: it does not vote.

    "mean": 1 / (number of voters). "similarity": q_i / Σ q over the voters, a negative q counting as 0; the base, which
    has no prototypes, counts as the voters on average. Where all q are 0, votes count alike.

    Variant: "mean" is the authors' code; a sum weighted by similarity is told of the paper, but not what weight
        the base has in it.
    Reference: ConDU, arXiv:2503.10705.

    Args:
        similarity: [n, t].
        voters: how many tasks vote.
        weights: as above.
        include_base: the base votes, too; it votes alone where no task does.

    Returns:
        [n, t+1], rows of sum 1.
    """
    alike = elected(similarity, voters).to(similarity.dtype)
    votes = alike * similarity.clamp(min=0) if weights == "similarity" else alike
    votes = torch.where(votes.sum(1, keepdim=True) > 0, votes, alike)
    count = alike.sum(1, keepdim=True)  # [n, 1]
    base = torch.where(count > 0, votes.sum(1, keepdim=True) / count.clamp(min=1), torch.ones_like(count))
    every = torch.cat([votes, base * include_base], dim=1)
    return every / every.sum(1, keepdim=True)


def logits(inputs: Float[Tensor, "n d"], classes: Float[Tensor, "c d"]) -> Float[Tensor, "n c"]:
    """100 · cos: what one voter says of each class.

    Args:
        inputs: [n, d]; the voter's unit features.
        classes: [c, d]; means of the voter's own unit features of the classes' texts, brought to length 1 here.

    Returns:
        [n, c].
    """
    return LOGIT_SCALE * inputs @ normalize(classes, dim=1).T
