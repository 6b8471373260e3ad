"""How the torch route cuts tensors: which elements a method must see together, and how many go into a piece."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod

from merge_lib import registry
from merge_lib.files.layout import Shape
from merge_lib.registry import WorksOn
from merge_lib.streaming.planning import MergePlan, Work
from merge_lib.working_set import WorkingSet

_TILE = 1024  # elements; pieces of entries begin at multiples of them, so that sums of tiles stay the same
BEST = 1 << 19  # elements of all experts in a piece
LEAST = 1 << 14
_ITEM_BYTES = {"F64": 8}
_OBSERVED_BYTES = 4  # of an entry of observations
_SCALED_BYTES = 96  # of an entry, while the sums are taken from which layer scales follow
_MERGEKIT = WorkingSet(stacks=4, tensors=4)
_MERGEKIT_OF = {"mergekit.karcher": WorkingSet(stacks=9, tensors=4)}


@dataclass(frozen=True)
class Part:
    """Elements of a tensor that are merged together.

    Attributes:
        index: which piece of the tensor it is, from 0.
        of: how many pieces the tensor has.
        shape: as the method is given it: the tensor's own where it is whole, whole rows, or flat.
        need_bytes: that it takes of memory.
    """

    work: Work
    index: int
    of: int
    first: int
    count: int
    shape: Shape
    need_bytes: int


@dataclass(frozen=True)
class Cutting:
    """How the tensors of one merge are cut.

    Attributes:
        works_on: what the method can be given of a tensor.
        working_set: what it takes beside.
        experts: how many are merged.
        beside_bytes: of observations, which are read for a tensor as a whole.
        elements: of a piece, about.
    """

    plan: MergePlan
    elements: int

    @classmethod
    def of(cls, plan: MergePlan, elements: int | None = None) -> "Cutting":
        """With pieces of so many elements, or of the best size."""
        return cls(plan, elements or max(LEAST, BEST // max(len(plan.experts), 1) // _TILE * _TILE))

    @property
    def smaller(self) -> "Cutting | None":
        """Half the size; None where pieces are as small as they may be."""
        return Cutting(self.plan, self.elements // 2) if self.elements // 2 >= LEAST else None

    @cached_property
    def works_on(self) -> WorksOn:
        """What the method can be given of a tensor."""
        plan = self.plan
        return "tensor" if plan.variant else registry.get(plan.method).needs_of(plan.params)

    def working_set(self, work: Work) -> WorkingSet:
        """What the function takes for a tensor."""
        if self.plan.variant:
            return _MERGEKIT_OF.get(work.method, _MERGEKIT)
        return registry.get(self.plan.method).working_set

    def parts(self, work: Work) -> Iterator[Part]:
        """The pieces of a tensor; an empty one is a piece."""
        unit = self._unit(work)
        size = max(unit, self.elements // unit * unit) if unit else 1
        if work.count <= size:
            yield self._part(work, 0, 1, 0, work.count)
            return
        of = -(-work.count // size)
        for index in range(of):
            first = index * size
            yield self._part(work, index, of, first, min(size, work.count - first))

    def largest_need(self, works: Sequence[Work] | None = None) -> int:
        """The most that a piece takes."""
        return max((next(self.parts(work)).need_bytes for work in works or self.plan.works), default=0)

    def together(self, threads: int) -> int:
        """The most that so many threads take at a time."""
        needs = sorted((next(self.parts(work)).need_bytes for work in self.plan.works), reverse=True)
        if self.works_on == "tensor":
            return sum(needs[:threads])
        return threads * max(needs, default=0)

    def _unit(self, work: Work) -> int:
        """Elements that stay together."""
        if any(header is not None and header.is_computed for header in work.inputs):
            return work.count
        if work.kind != "merge" or self.works_on == "entry":
            return _TILE
        if self.works_on == "row" and len(work.shape) > 1:
            return prod(work.shape[1:])
        return work.count

    def _part(self, work: Work, index: int, of: int, first: int, count: int) -> Part:
        shape = work.shape
        if of > 1:
            is_flat = work.kind != "merge" or self.works_on == "entry"
            shape = (count,) if is_flat else (count // prod(work.shape[1:]), *work.shape[1:])
        return Part(work, index, of, first, count, shape, self._need(work, count, shape))

    def _need(self, work: Work, count: int, shape: Shape) -> int:
        """Inputs, what the method makes of them, and the result in its dtype."""
        stored = max((header.size_bytes for header in work.inputs if header is not None), default=0)
        stored = stored * count // max(work.count, 1)
        if work.kind != "merge":
            return 2 * stored
        item = _ITEM_BYTES.get(work.arithmetic, 4)
        experts = len(work.inputs) - 1
        observed = self.plan.observed_bytes.get(work.name, 0)
        rows = observed // max(1, _OBSERVED_BYTES * prod(work.shape[1:]))
        given = (experts + 1) * item * count + stored + observed
        scaled = _SCALED_BYTES * count if "layer_scales" in self.plan.recipe else 0
        finish = 3 * item * count
        return given + max(finish, scaled) + self.working_set(work).size_bytes(experts, shape, item, rows)
