"""How each pair of experts agrees, tensor by tensor, block by block and in the whole model; from weights alone.

For task vectors τ_a and τ_b:

    cosine          ⟨τ_a, τ_b⟩ / (‖τ_a‖ ‖τ_b‖)
    sign conflict   share of the entries that are not zero in either, with τ_a,i · τ_b,i < 0
    overlap         ‖U_aᵀ U_b‖_F² / min(r_a, r_b) of a matrix [m, n], with U_t the r_t left singular vectors of τ_t that
                    hold `ENERGY` of ‖τ_t‖²: 1 where one's directions lie in the other's, 0 where they are orthogonal
    chance overlap  max(r_a, r_b) / m: what random directions would have

Of several tensors, cosine and sign conflict are those of the tensors put end to end; the overlaps are means over the
matrices, each weighted by ‖τ_a‖ ‖τ_b‖. What is undefined, as one of the task vectors is zero, has no line.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import pyarrow as pa
import torch
from jaxtyping import Float
from torch import Tensor

from merge_lib.arithmetic import check_finite
from merge_lib.checkpoints import Checkpoint, open_checkpoint
from merge_lib.compatibility import check_compatible
from merge_lib.errors import SpecError
from merge_lib.layers import Layer, describe_layers
from merge_lib.maps import MODEL, ConflictMaps
from merge_lib.ops.subspace import thin_svd

MEASURES = ("cosine", "sign conflict", "overlap", "chance overlap")
ENERGY = 0.9
OUTSIDE = "no block"
_AT_ONCE = 1 << 18  # float64 entries of all task vectors in one piece
_WORD = pa.dictionary(pa.int32(), pa.string())
SCHEMA = pa.schema(
    [
        ("level", _WORD),  # tensor, block or model
        ("part", _WORD),  # name of the tensor or block
        ("first", _WORD),  # task of the one expert
        ("second", _WORD),
        ("quantity", _WORD),  # of `MEASURES`
        ("value", pa.float64()),
    ]
)
Line = tuple[str, str, str, str, str, float]


@dataclass(frozen=True)
class Tally:
    """Sums over pairs of task vectors, all [n, n] in float64; they add up over tensors.

    Attributes:
        products: ⟨τ_a, τ_b⟩.
        present: entries that are not zero in either.
        opposed: of these, those with different signs.
        overlap: the overlap of each matrix times its weight ‖τ_a‖ ‖τ_b‖.
        chance: the chance overlap times the same weight.
        weight: sum of the weights; 0 where there is no matrix.
    """

    products: Tensor
    present: Tensor
    opposed: Tensor
    overlap: Tensor
    chance: Tensor
    weight: Tensor

    def __add__(self, other: "Tally") -> "Tally":
        """The sums over both."""
        return Tally(*(one + two for one, two in zip(vars(self).values(), vars(other).values(), strict=True)))

    def measures(self) -> dict[str, Tensor]:
        """[n, n] for each of `MEASURES`; NaN where undefined."""
        norms = self.products.diagonal().clamp(min=0).sqrt()
        lengths = norms[:, None] * norms
        return {
            "cosine": _over(self.products, lengths).clamp(-1, 1),
            "sign conflict": _over(self.opposed, self.present),
            "overlap": _over(self.overlap, self.weight),
            "chance overlap": _over(self.chance, self.weight),
        }


def tally(task_vectors: Float[Tensor, " n *shape"], *, is_matrix: bool) -> Tally:
    """All sums of one tensor, piece by piece.

    Args:
        task_vectors: one row per expert.
        is_matrix: whether directions have a meaning; a convolution is taken as [out, rest].
    """
    count = len(task_vectors)
    rows = task_vectors.reshape(count, task_vectors[0].numel())
    zeros = torch.zeros(count, count, dtype=torch.float64)
    products, present, agreed = zeros.clone(), zeros.clone(), zeros.clone()
    for piece in rows.split(max(1, _AT_ONCE // count), dim=1):
        wide = piece.double()
        signs = wide.sign()
        products += wide @ wide.T
        agreed += signs @ signs.T
        present += signs.abs() @ signs.abs().T
    if not is_matrix:
        return Tally(products, present, (present - agreed) / 2, zeros, zeros, zeros)
    norms = products.diagonal().clamp(min=0).sqrt()
    weight = norms[:, None] * norms
    overlap, chance = _overlaps(task_vectors.reshape(count, len(task_vectors[0]), -1))
    return Tally(products, present, (present - agreed) / 2, overlap * weight, chance * weight, weight)


def _overlaps(matrices: Float[Tensor, "n m k"]) -> tuple[Tensor, Tensor]:
    """Overlap and chance overlap of each pair, [n, n]; 0 where a matrix is zero."""
    sides = [_directions(matrix) for matrix in matrices]
    ranks = torch.tensor([side.shape[1] for side in sides], dtype=torch.float64)
    squares = (torch.cat(sides, dim=1).T @ torch.cat(sides, dim=1)).square()  # [Σr, Σr]
    sums = [
        [block.sum() for block in row.split(_widths(sides), dim=1)] for row in squares.split(_widths(sides))
    ]
    smaller = torch.minimum(ranks[:, None], ranks).clamp(min=1)
    overlap = torch.stack([torch.stack(row) for row in sums]) / smaller
    return overlap, torch.maximum(ranks[:, None], ranks) / matrices.shape[1]


def _directions(matrix: Float[Tensor, "m k"]) -> Float[Tensor, "m r"]:
    """The left singular vectors that hold `ENERGY` of the matrix, the fewest that do."""
    factors = thin_svd(matrix)
    energies = factors.values.square()
    if energies.sum() == 0:
        return factors.left[:, :0]
    held = energies.cumsum(0) / energies.sum()
    return factors.left[:, : int((held < ENERGY - 1e-12).sum()) + 1]


def _widths(sides: Sequence[Tensor]) -> list[int]:
    return [side.shape[1] for side in sides]


def conflict_table(
    base: Path,
    experts: Sequence[Path],
    tasks: Sequence[str],
    *,
    progress: Callable[[int], None] = lambda _bytes: None,
) -> pa.Table:
    """The measures of every pair of experts, for each tensor, each block and the whole model.

    Memory holds one tensor of each checkpoint, and the singular vectors of its task vectors.

    Args:
        base: checkpoint that the experts were trained from.
        experts: at least two.
        tasks: a name for each.
        progress: told the bytes of each tensor, of all checkpoints, when it is done.

    Raises:
        SpecError: fewer than two experts.
        CheckpointError: a checkpoint is missing or damaged, or does not match the others.
        MethodInputError: an expert is not finite.
    """
    if len(experts) < 2 or len(tasks) != len(experts):
        raise SpecError(
            f"A conflict map compares at least two experts, each with its task; got {len(experts)} experts and "
            f"{len(tasks)} tasks. Name more experts, and a task for each."
        )
    with ExitStack() as stack:
        opened = [stack.enter_context(open_checkpoint(path, base=base)) for path in experts]
        origin = stack.enter_context(open_checkpoint(base))
        check_compatible(origin, opened, ())
        return _make_table(list(_lines(origin, opened, tasks, progress)))


def summarise_conflicts(table: pa.Table, tasks: Sequence[str], record: str = "") -> ConflictMaps:
    """What a report needs: blocks and the whole model."""
    pairs = list(combinations(tasks, 2))
    blocks: dict[str, dict[str, list[float | None]]] = {}
    for line in table.to_pylist():
        if line["level"] != "tensor":
            maps = blocks.setdefault(line["part"], {name: [None] * len(pairs) for name in MEASURES})
            maps[line["quantity"]][pairs.index((line["first"], line["second"]))] = line["value"]
    return ConflictMaps(list(tasks), [list(pair) for pair in pairs], blocks, record)


def _lines(
    base: Checkpoint, experts: Sequence[Checkpoint], tasks: Sequence[str], progress: Callable[[int], None]
) -> Iterator[Line]:
    layers = describe_layers({name: tuple(base.shape(name)) for name in base.names})
    blocks: dict[str, Tally] = {}
    for name in base.names:
        layer, dtype = layers[name], base.dtype(name)
        if dtype.is_floating_point:
            sums = tally(_task_vectors(base, experts, name), is_matrix=_has_directions(layer))
            yield from _said("tensor", name, sums, tasks)
            place = layer.place or OUTSIDE
            blocks[place] = blocks[place] + sums if place in blocks else sums
        progress(math.prod(layer.shape) * dtype.itemsize * (1 + len(experts)))
    ordered = sorted(blocks, key=_depth)
    for block in ordered:
        yield from _said("block", block, blocks[block], tasks)
    first, *rest = (blocks[block] for block in ordered)
    yield from _said("model", MODEL, sum(rest, first), tasks)


def _task_vectors(base: Checkpoint, experts: Sequence[Checkpoint], name: str) -> Tensor:
    """[n, *shape] in float32, or float64."""
    dtype = torch.float64 if base.dtype(name) == torch.float64 else torch.float32
    origin = base.tensor(name).to(dtype)
    found = []
    for expert in experts:
        tensor = expert.tensor(name)
        check_finite(name, tensor, expert.label)
        found.append(tensor.to(dtype) - origin)
    return torch.stack(found)


def _has_directions(layer: Layer) -> bool:
    return layer.role in ("linear", "convolution") and min(layer.shape) > 0


def _said(level: str, part: str, sums: Tally, tasks: Sequence[str]) -> Iterator[Line]:
    for quantity, values in sums.measures().items():
        for first, second in combinations(range(len(tasks)), 2):
            yield (level, part, tasks[first], tasks[second], quantity, float(values[first, second]))


def _make_table(lines: Sequence[Line]) -> pa.Table:
    """Lines in the schema's order; undefined ones are left out."""
    columns = list(zip(*(line for line in lines if math.isfinite(line[-1])), strict=True)) or [()] * len(
        SCHEMA
    )
    arrays = [
        pa.array(values, pa.string()).dictionary_encode()
        if field.type == _WORD
        else pa.array(values, field.type)
        for values, field in zip(columns, SCHEMA, strict=True)
    ]
    return pa.Table.from_arrays(arrays, schema=SCHEMA)


def _depth(block: str) -> tuple[bool, str, int]:
    stack, _, number = block.rpartition(".")
    return (block == OUTSIDE, stack, int(number) if number.isdecimal() else 0)


def _over(part: Tensor, whole: Tensor) -> Tensor:
    """The quotient, NaN where the whole is 0."""
    return torch.where(whole > 0, part / whole, torch.nan)
