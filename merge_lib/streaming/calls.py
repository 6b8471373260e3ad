"""A kernel with all that it is told beside the bytes, and the buffers of one thread."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from merge_lib.files.layout import DTYPE_BYTES
from merge_lib.kernels import calls as layout
from merge_lib.kernels.loading import load
from merge_lib.streaming.planning import Work

_NOTHING = np.zeros(1, np.int64)


@dataclass(frozen=True)
class RowMasks:
    """Masks that a kernel of their own makes of whole rows before the merge of a piece.

    Attributes:
        length: elements of a row.
        numbers: density and epsilon of each expert, float64.
        keys: key and stream of each expert's draws.
    """

    length: int
    numbers: np.ndarray
    keys: tuple[int, ...]


@dataclass(frozen=True)
class Call:
    """What to do with a piece.

    Attributes:
        kernel: `module.function` below `merge_lib.kernels`.
        places: which of the work's inputs it takes: that of the base or −1, then those of the experts.
        numbers: its float32 coefficients.
        words: its int64 settings.
        masks: what must be made first; None for nothing.
    """

    kernel: str
    places: tuple[int, ...]
    numbers: np.ndarray = field(default_factory=lambda: np.zeros(1, np.float32))
    words: np.ndarray = field(default_factory=lambda: _NOTHING)
    masks: RowMasks | None = None


@dataclass(frozen=True)
class Made:
    """A piece of the inputs and what the calls made of it.

    Attributes:
        index: its place in the order of the pieces.
        first: its offset in the tensor, in elements.
        inputs: the bytes of each input; None for those that were not read.
        outs: the bytes of each result; None where something is not finite.
    """

    index: int
    first: int
    inputs: list[memoryview | None]
    outs: list[memoryview | None]


Read = Callable[[tuple[Work, int, int], "Workspace"], list[memoryview | None]]


def _plain(size: int) -> np.ndarray:
    return np.empty(size, np.uint8)


class Workspace:
    """The buffers of one thread, used again for every piece."""

    def __init__(
        self, inputs: int, chunk: int, outputs: int = 1, allocate: Callable[[int], np.ndarray] = _plain
    ) -> None:
        self.chunk = chunk
        self._allocate = allocate
        self._held = 0
        self._shape = inputs, outputs
        self.hold(chunk)
        self._scratch = np.zeros((inputs + layout.SPARE_ROWS) * layout.TILE + 16, np.float32)
        self._masks = np.empty(0, np.uint8)
        self._sizes = np.empty(0, np.uint8)
        self._block = np.zeros(layout.SIZE, np.int64)

    def hold(self, count: int) -> None:
        """Make room for pieces of so many elements."""
        if count > self._held:
            inputs, outputs = self._shape
            self._held = count
            self.rows = [self._allocate(count * 4) for _ in range(inputs)]
            self.outs = [self._allocate(count * 4) for _ in range(outputs)]
            self.views = [memoryview(row) for row in self.rows]
            self.out_views = [memoryview(out) for out in self.outs]

    def merged(
        self,
        pieces: Iterable[tuple[int, tuple[Work, int, int]]],
        read: Read,
        calls: Sequence[tuple[Call, Work]],
        size: int,
    ) -> Iterator[Made]:
        """Read pieces of up to `size` elements and merge each; its bytes hold until the next is asked for."""
        self.hold(size)
        for index, piece in pieces:
            views = read(piece, self)
            outs = [self._result(call, work, piece, place) for place, (call, work) in enumerate(calls)]
            yield Made(index, piece[1], views, outs)

    def _result(self, call: Call, work: Work, piece: tuple[Work, int, int], place: int) -> memoryview | None:
        _, first, count = piece
        out = self.outs[place].ctypes.data
        if self.call(call, work, first, count, out, layout.CODE_OF[work.dtype]):
            return None
        return self.out_views[place][: count * DTYPE_BYTES[work.dtype]]

    def make_masks(self, call: Call, work: Work, first: int, count: int) -> tuple[np.ndarray, bool]:
        """The masks of the piece that lies in `rows`, [experts, count]; whether something is not finite."""
        is_bad = self._make_masks(call, *self._inputs(call.places, work), work, first, count)
        experts = len(call.places) - 1
        return self._masks[: experts * count].reshape(experts, count), is_bad

    def call(self, call: Call, work: Work, first: int, count: int, out: int, out_code: int = 0) -> bool:
        """Run a kernel on the piece that lies in `rows`; whether something is not finite.

        Args:
            call: what to run.
            work: for the element types.
            first: the piece's offset in the tensor, in elements.
            count: its elements.
            out: the address of the result.
            out_code: its element type.
        """
        addresses, codes = self._inputs(call.places, work)
        is_bad = False
        words = call.words
        if call.masks is not None:
            is_bad = self._make_masks(call, addresses, codes, work, first, count)
            words = words.copy()
            words[layout.MASKS] = self._masks.ctypes.data
        self._fill(call, addresses, codes, work, first, count)
        self._block[layout.NUMBERS] = call.numbers.ctypes.data
        self._block[layout.WORDS] = words.ctypes.data
        self._block[layout.OUT], self._block[layout.OUT_CODE] = out, out_code
        return bool(load(call.kernel)(self._block.ctypes.data)) or is_bad

    def _inputs(self, places: Sequence[int], work: Work) -> tuple[np.ndarray, np.ndarray]:
        addresses, codes = np.zeros(len(places), np.int64), np.full(len(places), layout.NO_BASE, np.int64)
        for i, place in enumerate(places):
            if place >= 0:
                addresses[i] = self.rows[place].ctypes.data
                codes[i] = layout.CODE_OF[work.inputs[place].dtype]  # type: ignore[union-attr]
        return addresses, codes

    def _fill(
        self, call: Call, addresses: np.ndarray, codes: np.ndarray, work: Work, first: int, count: int
    ) -> None:
        block = self._block
        block[layout.INPUTS], block[layout.CODES] = addresses.ctypes.data, codes.ctypes.data
        block[layout.EXPERTS] = len(call.places) - 1
        block[layout.FIRST], block[layout.COUNT] = first, count
        block[layout.SCRATCH] = self._scratch.ctypes.data + -self._scratch.ctypes.data % 64
        block[layout.ROUNDING] = layout.CODE_OF[work.arithmetic]

    def _make_masks(
        self, call: Call, addresses: np.ndarray, codes: np.ndarray, work: Work, first: int, count: int
    ) -> bool:
        masks = call.masks
        experts = len(call.places) - 1
        if len(self._masks) < experts * count:
            self._masks = np.empty(experts * count, np.uint8)
            self._sizes = np.empty(4 * (2 * count + 2 * layout.TILE), np.uint8)
        words = np.array([masks.length, self._sizes.ctypes.data, *masks.keys], np.int64)  # type: ignore[union-attr]
        self._fill(call, addresses, codes, work, first, count)
        self._block[layout.NUMBERS] = masks.numbers.ctypes.data  # type: ignore[union-attr]
        self._block[layout.WORDS] = words.ctypes.data
        self._block[layout.OUT] = self._masks.ctypes.data
        return bool(load("ranks.masks")(self._block.ctypes.data))
