"""The kernels `linear.weighted_sum`, `linear.towards_mean` and `task_vectors.merge` as torch operations.

Each does what its kernel does, operation by operation and rounded alike, on whole pieces instead of tiles. No
operation is fused with another. Coefficients are tensors, because torch multiplies by the inverse where it divides
what lies on a GPU by a Python number.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from merge_lib.checkpoints.dtypes import DTYPES
from merge_lib.kernels import calls as layout
from merge_lib.kernels.calls import EXPERT_NUMBERS, EXPERT_WORDS, HEAD_WORDS
from merge_lib.streaming.calls import Call
from merge_lib.streaming.on_device.thinning import Round, keep_band, keep_drawn, magnitude_bits, variance
from merge_lib.streaming.planning import Work

_LEAST_DIVISOR, _LEAST_ENERGY = float(np.float32(1e-8)), float(np.float32(1e-6))


class Program:
    """A call with its coefficients on a device, to be run on the pieces of a tensor."""

    def __init__(self, call: Call, work: Work, device: torch.device) -> None:
        self.call = call
        self.device = device
        self.numbers = torch.from_numpy(call.numbers).to(device)
        self.rounded = _rounding(work.arithmetic)
        self._dtype = DTYPES[work.dtype]
        self._merge = _KERNELS[call.kernel]

    @property
    def experts(self) -> int:
        """How many inputs it takes beside the base."""
        return len(self.call.places) - 1

    def run(self, inputs: Sequence[Tensor | None], first: int, masks: Tensor | None) -> tuple[Tensor, Tensor]:
        """Merge a piece.

        Args:
            inputs: of the base, or None without one, then of each expert: [count], as they are stored.
            first: the piece's offset in the tensor, in elements.
            masks: [experts, count], where the call has masks.

        Returns:
            [count] in the result's element type, and [] whether something is not finite.
        """
        present = [one for one in inputs if one is not None]
        rows = [self.rounded(one.to(torch.float32)) for one in present]
        base = rows.pop(0) if inputs[0] is not None else torch.zeros_like(rows[0])
        merged = self._merge(self, base, rows, first, masks).to(self._dtype)
        finite = torch.stack([one.abs().amax().to(torch.float32).isfinite() for one in (*present, merged)])
        return merged, ~finite.all()


def _rounding(arithmetic: str) -> Round:
    """To the element type to which every operation rounds."""
    narrow = DTYPES[arithmetic]
    if narrow == torch.float32:
        return lambda values: values
    return lambda values: values.to(narrow).to(torch.float32)


def _weighted_sum(program: Program, _base: Tensor, rows: list[Tensor], _first: int, _masks: object) -> Tensor:
    mode, picked = (int(word) for word in program.call.words)
    if mode == layout.PICK:
        return rows[picked]
    return program.rounded(_SUMS[mode](program, rows))


def _sum(program: Program, rows: list[Tensor]) -> Tensor:
    numbers = program.numbers
    total = rows[0] * numbers[1]
    for k, row in enumerate(rows[1:], 2):
        total = total + row * numbers[k]
    return total / numbers[0] if program.call.numbers[0] != 0 else total


def _fold(program: Program, rows: list[Tensor]) -> Tensor:
    total = rows[0]
    for row in rows[1:]:
        total = program.numbers[1] * total + program.numbers[2] * row
    return total


def _running(program: Program, rows: list[Tensor]) -> Tensor:
    counts = torch.arange(len(rows) + 1, dtype=torch.float32, device=program.device)
    total = rows[0]
    for k, row in enumerate(rows[1:], 1):
        total = (counts[k] * total + row) / counts[k + 1]
    return total


def _towards_mean(program: Program, base: Tensor, rows: list[Tensor], _first: int, _masks: object) -> Tensor:
    numbers, rounded = program.numbers, program.rounded
    total = rows[0]
    for row in rows[1:]:
        total = rounded(total + row)
    total = rounded(rounded(total / numbers[0]) * numbers[1])
    return rounded(total + rounded(base * numbers[2]))


def _task_vectors(
    program: Program, base: Tensor, rows: list[Tensor], first: int, masks: Tensor | None
) -> Tensor:
    rounded, words = program.rounded, program.call.words
    vectors = [rounded(row - base) for row in rows]
    shared = None
    if words[layout.THIN] == layout.VARIED:
        shared = keep_band(variance(vectors, rounded), words[HEAD_WORDS:], first)
    vectors = [
        _thinned(program, k, vector, first, masks[k] if masks is not None else shared)
        for k, vector in enumerate(vectors)
    ]
    total = _combine(program, vectors)
    if words[layout.HAS_SCALE]:
        total = rounded(total * program.numbers[0])
    return rounded(total + base)


def _thinned(program: Program, k: int, row: Tensor, first: int, mask: Tensor | None) -> Tensor:
    """A task vector without the entries that are dropped, scaled."""
    start = 1 + k * EXPERT_NUMBERS
    numbers = program.numbers[start : start + EXPERT_NUMBERS]
    own = program.call.numbers[start : start + EXPERT_NUMBERS]
    if own[layout.DIVISOR] != 0:
        row = row / numbers[layout.DIVISOR]
    kept = _kept(program, k, row, first, mask)
    if kept is not None:
        row = row * kept
    return program.rounded(row * numbers[layout.FACTOR]) if own[layout.FACTOR] != 0 else row


def _kept(program: Program, k: int, row: Tensor, first: int, mask: Tensor | None) -> Tensor | None:
    """Ones and zeros; None where everything is kept."""
    words = program.call.words
    own = words[HEAD_WORDS + k * EXPERT_WORDS : HEAD_WORDS + (k + 1) * EXPERT_WORDS]
    if words[layout.THIN] == layout.BAND:
        return keep_band(row, own, first)
    if words[layout.THIN] == layout.DRAWN:
        return keep_drawn(own, first, len(row), program.device)
    return mask


def _combine(program: Program, rows: list[Tensor]) -> Tensor:
    """The merged task vector, before its scale."""
    words, rounded = program.call.words, program.rounded
    combine = words[layout.COMBINE]
    if combine == layout.LARGEST:
        return _largest(rows)
    if words[layout.USE_WEIGHTS] and combine != layout.ELECT_PLAIN:
        rows = [rounded(row * _weight(program, k)) for k, row in enumerate(rows)]
    total = rows[0]
    for row in rows[1:]:
        total = total + row
    total = rounded(total)
    if combine == layout.ADD:
        divisor = program.numbers[1 + program.experts * EXPERT_NUMBERS]
        return rounded(total / divisor) if words[layout.NORMALIZE] else total
    return _elected(program, rows, total)


def _weight(program: Program, k: int) -> Tensor:
    return program.numbers[1 + k * EXPERT_NUMBERS + layout.WEIGHT]


def _largest(rows: list[Tensor]) -> Tensor:
    """The entry of largest magnitude, the last of equal ones."""
    total = rows[0]
    for row in rows[1:]:
        total = torch.where(magnitude_bits(row) >= magnitude_bits(total), row, total)
    return total


def _elected(program: Program, rows: list[Tensor], vote: Tensor) -> Tensor:
    """The sum over the experts that have the sign of the vote, divided where the call says so."""
    words, rounded = program.call.words, program.rounded
    combine = words[layout.COMBINE]
    sign = (vote >= 0).to(torch.float32) * 2 - 1
    total = torch.full_like(vote, -0.0)  # which added to anything leaves it, its sign too
    divisor = torch.zeros_like(vote)
    for k, row in enumerate(rows):
        agrees = (row * sign > 0).to(torch.float32)
        share = agrees if combine == layout.ELECT_COUNTED else _weight(program, k) * agrees
        thinned = rounded(row * _weight(program, k)) if combine == layout.ELECT_PLAIN else row
        total, divisor = total + thinned * agrees, divisor + share
    total = rounded(total)
    if combine == layout.ELECT_COUNTED:
        return total / rounded(divisor).clamp(min=1.0)
    return _divided(program, total, rounded(divisor)) if words[layout.NORMALIZE] else total


def _divided(program: Program, total: Tensor, divisor: Tensor) -> Tensor:
    """By the sum of the weights that agree; where it is next to nothing by 1, or by the least energy."""
    if program.call.words[layout.NORMALIZE] == 2:
        least = program.rounded(torch.full_like(divisor[:1], _LEAST_ENERGY))
        return program.rounded(total / torch.maximum(divisor, least))
    return program.rounded(total / torch.where(divisor.abs() < _LEAST_DIVISOR, 1.0, divisor))


_Merge = Callable[[Program, Tensor, list[Tensor], int, Tensor | None], Tensor]
_SUMS: dict[int, Callable[[Program, list[Tensor]], Tensor]] = {
    layout.SUM: _sum,
    layout.FOLD: _fold,
    layout.RUNNING: _running,
}
_KERNELS: dict[str, _Merge] = {
    "linear.weighted_sum": _weighted_sum,
    "linear.towards_mean": _towards_mean,
    "task_vectors.merge": _task_vectors,
}
