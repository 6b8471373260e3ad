"""Joining what two learners changed: weights for each entry, by whom it is important to."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from merge_lib.recurrent.recurrence import Cells
from merge_lib.recurrent.tensors import widened
from merge_lib.types import StateDict


@dataclass(frozen=True)
class CellCounts:
    """How many entries are of each kind; see `Cells`."""

    shared: int
    new: int
    historical: int
    redundant: int


@dataclass(frozen=True)
class Weights:
    """w_in and w_out of every entry, by tensor name."""

    inner: StateDict
    outer: StateDict


def count_cells(inner: StateDict, outer: StateDict) -> CellCounts:
    """How many entries are of each kind.

    Args:
        inner: masks of what is important to the inner learner, by tensor name.
        outer: to the outer learner.
    """
    kinds = [_kinds(inner[name], outer[name]).reshape(-1) for name in inner]
    redundant, historical, new, shared = torch.bincount(torch.cat(kinds), minlength=4).tolist()
    return CellCounts(shared, new, historical, redundant)


def cell_weights(inner: StateDict, outer: StateDict, cells: Cells) -> Weights:
    """The weights that a table of cells gives.

    Args:
        inner: masks of what is important to the inner learner, by tensor name.
        outer: to the outer learner.
        cells: the table.
    """
    rows = [cells.redundant, cells.historical, cells.new, cells.shared]
    kinds = {name: _kinds(inner[name], outer[name]) for name in inner}
    columns = [torch.tensor(column, dtype=torch.float64) for column in zip(*rows, strict=True)]
    first, second = (
        {name: column.to(kind.device)[kind] for name, kind in kinds.items()} for column in columns
    )
    return Weights(first, second)


def soft_weights(inner: StateDict, outer: StateDict, temperature: float = 1.0) -> Weights:
    """Weights without masks: w_in = softmax over the two learners of their scores, w_out = 1 − w_in.

    Scores are brought to [0, 1] by their least and greatest over the whole adapter, for each learner by itself;
    where all of a learner's are equal, they are 0.

    Variant: the authors' ablation "+Adaptive".

    Args:
        inner: scores of the inner learner, by tensor name.
        outer: of the outer learner.
        temperature: what the scores are divided by, positive.
    """
    own, other = _to_unit(inner), _to_unit(outer)
    share = {name: torch.sigmoid((own[name] - other[name]) / temperature) for name in own}
    return Weights(share, {name: 1 - value for name, value in share.items()})


def joined(anchor: StateDict, after_inner: StateDict, now: StateDict, weights: Weights) -> dict[str, Tensor]:
    """φ + w_in ⊙ τ_in + w_out ⊙ τ_out, by tensor name.

    τ_in is what the inner learner changed (`after_inner` − `anchor`), τ_out what the outer one did
    (`now` − `after_inner`). In float64, and rounded once to the dtype of `now`.

    Args:
        anchor: φ, the parameters at the beginning of the round.
        after_inner: after the inner learner's last step.
        now: after the outer learner's last step.
        weights: w_in and w_out.
    """
    return {
        name: _joined(
            anchor[name].double(),
            after_inner[name].double(),
            now[name],
            weights.inner[name],
            weights.outer[name],
        )
        for name in anchor
    }


def _joined(
    anchor: Float[Tensor, " *shape"],
    after_inner: Float[Tensor, " *shape"],
    now: Float[Tensor, " *shape"],
    inner: Float[Tensor, " *shape"],
    outer: Float[Tensor, " *shape"],
) -> Float[Tensor, " *shape"]:
    change = inner.double() * (after_inner - anchor) + outer.double() * (now.detach().double() - after_inner)
    return (anchor + change).to(now.dtype)


def _kinds(inner: Bool[Tensor, " *shape"], outer: Bool[Tensor, " *shape"]) -> Tensor:
    """0 redundant, 1 historical, 2 new, 3 shared."""
    return 2 * inner.long() + outer.long()


def _to_unit(scores: StateDict) -> dict[str, Tensor]:
    filled = [tensor for tensor in scores.values() if tensor.numel()]
    least = min((float(tensor.min()) for tensor in filled), default=0.0)
    span = max((float(tensor.max()) for tensor in filled), default=0.0) - least
    return {
        name: (widened(tensor) - least) / span if span else torch.zeros_like(widened(tensor))
        for name, tensor in scores.items()
    }
