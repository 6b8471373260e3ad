"""Tensors that are one tensor under several names: merged once, written once."""

from collections import defaultdict
from collections.abc import Iterable

import torch

from merge_lib.checkpoints.model_config import ModelConfig
from merge_lib.checkpoints.view import Checkpoint, View

PIECE_BYTES = 1 << 20


class Untied(View):
    """A checkpoint without the second names of its tied tensors.

    Attributes:
        tied: each hidden name, and the name that its tensor is shown under.
    """

    def __init__(self, source: Checkpoint, tied: dict[str, str]) -> None:
        super().__init__(source, frozenset(tied))
        self.tied = tied


def show_tied_once(source: Checkpoint, config: ModelConfig) -> Checkpoint:
    """The checkpoint itself, unless its model ties its embeddings and it holds them more than once.

    Candidates are matrices of vocabulary height and of equal shape and dtype; they are tied if their bytes
    are the same. Models are mostly stored without the second name, and then nothing is read.
    """
    if not config.is_tied:
        return source
    candidates: dict[tuple[torch.dtype, tuple[int, ...]], list[str]] = defaultdict(list)
    for name in source.names:
        shape = source.shape(name)
        if len(shape) == 2 and shape[0] in config.vocab_sizes:
            candidates[source.dtype(name), shape].append(name)
    tied = {}
    for names in candidates.values():
        tied |= _find_tied(source, names) if len(names) > 1 else {}
    return Untied(source, tied) if tied else source


def preferred_name(names: Iterable[str]) -> str:
    """The name to keep of those that share a tensor: what a model ties the others to.

    That is the shared or the input embedding, and never the output layer, which is the one that
    `transformers` leaves out.
    """
    return min(names, key=lambda name: ("shared" not in name, "embed" not in name, "head" in name, name))


def _find_tied(source: Checkpoint, names: list[str]) -> dict[str, str]:
    kept = preferred_name(names)
    return {name: kept for name in names if name != kept and _are_same(source, kept, name)}


def _are_same(source: Checkpoint, first: str, second: str) -> bool:
    """Whether two tensors have the same bytes, read piece by piece up to the first difference."""
    one, other = source.location(first), source.location(second)
    if one is None or other is None or one.size_bytes != other.size_bytes:
        return False
    with one.path.open("rb") as left, other.path.open("rb") as right:
        left.seek(one.offset)
        right.seek(other.offset)
        for start in range(0, one.size_bytes, PIECE_BYTES):
            size = min(PIECE_BYTES, one.size_bytes - start)
            if left.read(size) != right.read(size):
                return False
    return True
