"""A kernel with all that it is told beside the bytes, and the buffers of one thread."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from merge_lib.files.layout import DTYPE_BYTES
from merge_lib.kernels import calls as layout
from merge_lib.kernels.loading import load
from merge_lib.streaming.planning import Work

_NOTHING = np.zeros(1, np.int64)


@dataclass
class MaskStore:
    """The masks of a whole tensor as bits, made in one pass and used in the next.

    Attributes:
        array: bytes, [pieces, tiles of a piece, experts, EIGHTH], as `merge_lib.kernels.calls` lays out BITS.
        piece: elements of a piece, in both passes.
        is_filled: the first pass is over.
    """

    array: np.ndarray
    piece: int
    is_filled: bool = False

    @classmethod
    def of(cls, experts: int, count: int, piece: int) -> "MaskStore":
        """Room for a tensor of so many elements."""
        tiles = -(-piece // layout.TILE)
        return cls(np.empty((-(-count // piece), tiles, experts, layout.EIGHTH), np.uint8), piece)

    def address(self, first: int) -> int:
        """Where the bits of the piece are that begins with an element."""
        return address_of(self.array) + first // self.piece * self.array.strides[0]

    def bytes_of(self, first: int, count: int) -> np.ndarray:
        """A piece's masks as ones and zeros, [experts, count]."""
        places = np.arange(8, dtype=np.uint8)[:, None]
        bits = self.array[first // self.piece][:, :, None, :] >> places & 1
        tiles, experts = bits.shape[:2]
        whole = bits.reshape(tiles, experts, layout.TILE).transpose(1, 0, 2).reshape(experts, -1)
        return np.ascontiguousarray(whole[:, :count])


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
        store: where masks, of whatever kind, are kept between passes; None where they are made in each.
    """

    kernel: str
    places: tuple[int, ...]
    numbers: np.ndarray = field(default_factory=lambda: np.zeros(1, np.float32))
    words: np.ndarray = field(default_factory=lambda: _NOTHING)
    masks: RowMasks | None = None
    store: MaskStore | None = None


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
        self._tables: dict[tuple, tuple[np.ndarray, np.ndarray]] = {}
        self.hold(chunk)
        self._scratch = np.zeros((inputs + layout.SPARE_ROWS) * layout.PITCH + 16, np.float32)
        self._masks = np.empty(0, np.uint8)
        self._sizes = np.empty(0, np.uint8)
        self._block = np.zeros(layout.SIZE, np.int64)
        self._block_address = address_of(self._block)
        self._scratch_address = address_of(self._scratch) + -address_of(self._scratch) % 64
        self._bad = 0

    def hold(self, count: int) -> None:
        """Make room for pieces of so many elements."""
        if count > self._held:
            inputs, outputs = self._shape
            self._held = count
            self.rows = [self._allocate(count * 4) for _ in range(inputs)]
            self.outs = [self._allocate(count * 4) for _ in range(outputs)]
            self.views = [memoryview(row) for row in self.rows]
            self.out_views = [memoryview(out) for out in self.outs]
            self.out_addresses = [address_of(out) for out in self.outs]
            self._tables = {}

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
        if self.call(call, work, first, count, self.out_addresses[place], layout.CODE_OF[work.dtype]):
            return None
        return self.out_views[place][: count * DTYPE_BYTES[work.dtype]]

    def make_masks(self, call: Call, work: Work, first: int, count: int) -> tuple[np.ndarray, bool]:
        """The masks of the piece that lies in `rows`, [experts, count]; whether something is not finite."""
        if call.store is not None and call.store.is_filled:
            return call.store.bytes_of(first, count), False
        masks = self._masks_of(call, count)
        return masks, self._make_masks(call, work, first, masks)

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
        if call.masks is not None or call.store is not None:
            words = words.copy()
            is_bad = self._settle_masks(call, work, first, count, words)
        self._run(
            call.kernel, addresses, codes, len(call.places) - 1, first, count, address_of(call.numbers),
            address_of(words), out, out_code, layout.CODE_OF[work.arithmetic],
        )  # fmt: skip
        return bool(self._bad) or is_bad

    def _settle_masks(self, call: Call, work: Work, first: int, count: int, words: np.ndarray) -> bool:
        """Say in the words where masks are, or will be kept; whether something is not finite."""
        if call.store is not None:
            words[layout.BITS] = call.store.address(first)
            if call.store.is_filled:
                words[layout.THIN] = layout.RECALLED
                return False
        if call.masks is None:
            return False
        masks, is_bad = self.make_masks(call, work, first, count)
        words[layout.MASKS] = address_of(masks)
        return is_bad

    def _run(self, kernel: str, *values: int) -> None:
        """Fill the block in the order of its places, and call."""
        inputs, codes, experts, first, count, numbers, words, out, out_code, rounding = values
        self._block[:] = (
            inputs, codes, experts, first, count, numbers, words, out, out_code, self._scratch_address, rounding,
        )  # fmt: skip
        self._bad = load(kernel)(self._block_address)

    def _inputs(self, places: tuple[int, ...], work: Work) -> tuple[int, int]:
        """Addresses of the table of the inputs' rows and of that of their element types."""
        dtypes = tuple(
            work.inputs[place].dtype if place >= 0 else ""  # type: ignore[union-attr]
            for place in places
        )
        key = places, dtypes
        if key not in self._tables:
            rows = [address_of(self.rows[place]) if place >= 0 else 0 for place in places]
            codes = [layout.CODE_OF.get(dtype, layout.NO_BASE) for dtype in dtypes]
            self._tables[key] = np.array(rows, np.int64), np.array(codes, np.int64)
        rows, codes = self._tables[key]
        return address_of(rows), address_of(codes)

    def _masks_of(self, call: Call, count: int) -> np.ndarray:
        """Where a piece's masks will be, [experts, count]."""
        experts = len(call.places) - 1
        if len(self._masks) < experts * count:
            self._masks = np.empty(experts * count, np.uint8)
        return self._masks[: experts * count].reshape(experts, count)

    def _make_masks(self, call: Call, work: Work, first: int, out: np.ndarray) -> bool:
        masks, (experts, count) = call.masks, out.shape
        if len(self._sizes) < 4 * (3 * count + 2 * layout.TILE):
            self._sizes = np.empty(4 * (3 * count + 2 * layout.TILE), np.uint8)
        words = np.array([masks.length, address_of(self._sizes), *masks.keys], np.int64)  # type: ignore[union-attr]
        self._run(
            "ranks.masks", *self._inputs(call.places, work), experts, first, count, address_of(masks.numbers),  # type: ignore[union-attr]
            address_of(words), address_of(out), 0, layout.CODE_OF[work.arithmetic],
        )  # fmt: skip
        return bool(self._bad)


def address_of(array: np.ndarray) -> int:
    """Where an array's bytes are; it must outlive the use."""
    return array.__array_interface__["data"][0]
