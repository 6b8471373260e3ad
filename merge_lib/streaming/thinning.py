"""How task vectors are thinned, in the terms of the kernel `task_vectors`."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from merge_lib.kernels import calls as layout
from merge_lib.kernels.calls import EXPERT_WORDS, HEAD_WORDS, NOT_FINITE
from merge_lib.ops.keys import DRAWS, draw_key
from merge_lib.streaming.calls import Call, MaskStore, RowMasks
from merge_lib.streaming.planning import Work
from merge_lib.streaming.rounding import rounded
from merge_lib.streaming.scanning import Scan, piece_size
from merge_lib.streaming.selecting import Found, Wanted, find_cuts, find_largest

_EVERYWHERE = 1 << 62  # an offset behind every entry


@dataclass(frozen=True)
class Thinned:
    """Settings of the kernel.

    Attributes:
        words: as `merge_lib.kernels.calls` lays them out, without what is combined.
        divisors: of each task vector before it is thinned; 0 for none.
        factors: of each one after that; 0 for none.
        masks: rows that are masked first.
        store: where the masks are kept for the merge.
    """

    words: np.ndarray
    divisors: tuple[float, ...]
    factors: tuple[float, ...]
    masks: RowMasks | None = None
    store: MaskStore | None = None

    @classmethod
    def nothing(cls, work: Work) -> "Thinned":
        """Everything is kept."""
        return _thinned(work, layout.ALL, [[0] * EXPERT_WORDS for _ in _experts(work)])


def _experts(work: Work) -> range:
    return range(len(work.inputs) - 1)


def _places(work: Work) -> tuple[int, ...]:
    return tuple(range(len(work.inputs)))


def _thinned(work: Work, thin: int, rows: Sequence[Sequence[int]], masks: RowMasks | None = None) -> Thinned:
    head = [0] * HEAD_WORDS
    head[layout.THIN] = thin
    none = (0.0,) * len(_experts(work))
    return Thinned(np.array([*head, *(word for row in rows for word in row)], np.int64), none, none, masks)


def _row(
    low: int = 0, low_cut: int = _EVERYWHERE, later: int = 0, high: int = NOT_FINITE, high_cut: int = 0
) -> list[int]:
    """A band: by default everything."""
    return [low, low_cut, later, high, high_cut, 0, 0, 0]


def _own_ties(work: Work, scan: Scan, _seed: int, thresholds: Sequence[int] | None) -> Thinned:
    """Entries that reach their expert's threshold, of the model or of the tensor."""
    if work.params["trim"] == "tensor" and work.params["density"] < 1 and work.count:
        kept = max(1, min(work.count, int(work.params["density"] * work.count + 0.5)))
        wanted = [Wanted(k, kept) for k in _experts(work)]
        thresholds = [one.bits for one in find_largest(scan, _places(work), layout.MAGNITUDE, wanted)]
    return _thinned(work, layout.BAND, [_row(bits) for bits in thresholds or [0] * len(_experts(work))])


def _own_dare(work: Work, _scan: Scan, seed: int, _thresholds: object) -> Thinned:
    density = work.params["density"]
    count = len(_experts(work))
    return replace(_drawn(work, seed, [density] * count), divisors=(density,) * count)


def _drawn(work: Work, seed: int, densities: Sequence[float]) -> Thinned:
    """Entries that are kept by chance."""
    rows = []
    for k, density in enumerate(densities):
        key, stream = draw_key(seed, k, work.name)
        rows.append([0, 0, 0, 0, 0, key, stream, round(density * DRAWS)])
    return _thinned(work, layout.DRAWN, rows)


def _dare(work: Work, scan: Scan, seed: int, _thresholds: object) -> Thinned:
    densities = [min(density, 1.0) for density in work.params["density"]]
    return _rescaled(work, scan, _drawn(work, seed, densities))


def _della(work: Work, scan: Scan, seed: int, _thresholds: object) -> Thinned:
    """Masks by rank and chance; rows are the last dimension."""
    length = work.shape[-1] if work.shape else 1
    numbers, keys = [], []
    for k, (density, epsilon) in enumerate(zip(work.params["density"], work.params["epsilon"], strict=True)):
        numbers += [2.0, 0.0] if density >= 1 else [density, epsilon]  # a probability of 2 keeps everything
        keys += draw_key(seed, k, work.name)
    masks = RowMasks(max(length, 1), np.array(numbers, np.float64), tuple(keys))
    empty = [[0] * EXPERT_WORDS for _ in _experts(work)]
    return _rescaled(work, scan, _thinned(work, layout.MASKED, empty, masks))


def _ties(work: Work, scan: Scan, _seed: int, _thresholds: object) -> Thinned:
    """mergekit's: so many of the largest, of equal ones the first."""
    kept = {
        k: max(1, int(density * work.count))
        for k, density in enumerate(work.params["density"])
        if density < 1 and work.count
    }
    wanted = [Wanted(k, rank) for k, rank in kept.items()]
    found = _largest(work, scan, layout.MAGNITUDE, wanted)
    equal = [one.rank - hit.above for one, hit in zip(wanted, found, strict=True)]
    cuts = _cuts(work, scan, layout.MAGNITUDE, wanted, found, equal)
    rows = [_row() for _ in _experts(work)]
    for one, hit, cut in zip(wanted, found, cuts, strict=True):
        rows[one.expert] = _row(hit.bits, cut)
    return _rescaled(work, scan, _thinned(work, layout.BAND, rows))


def _breadcrumbs(work: Work, scan: Scan, _seed: int, _thresholds: object) -> Thinned:
    """Without the largest and the smallest; of equal ones the first are the smaller."""
    rows = [_row() for _ in _experts(work)]
    lows, highs = [], []
    for k, (density, gamma) in enumerate(zip(work.params["density"], work.params["gamma"], strict=True)):
        if density >= 1 or not work.count:
            continue
        largest, smallest = extremes(work.count, density, gamma)
        if smallest:
            lows.append(Wanted(k, work.count - smallest + 1))
        if largest:
            highs.append(Wanted(k, largest + 1))
        if largest == work.count:
            rows[k] = _row(high=0)  # nothing is kept
            highs.pop()
    wanted = [*lows, *highs]
    found = _largest(work, scan, layout.MAGNITUDE, wanted)
    # of those that equal the limit so many are on its lower side
    equal = [hit.above + hit.equal - one.rank + 1 for one, hit in zip(wanted, found, strict=True)]
    cuts = _cuts(work, scan, layout.MAGNITUDE, wanted, found, equal)
    for i, (one, hit, cut) in enumerate(zip(wanted, found, cuts, strict=True)):
        row = rows[one.expert]
        if i < len(lows):
            row[layout.LOW], row[layout.LOW_CUT], row[layout.LOW_KEEPS_LATER] = hit.bits, cut, 1
        else:
            row[layout.HIGH], row[layout.HIGH_CUT] = hit.bits, cut
    return _rescaled(work, scan, _thinned(work, layout.BAND, rows))


def extremes(entries: int, density: float, gamma: float) -> tuple[int, int]:
    """How many of the largest and of the smallest magnitudes are dropped."""
    largest = int(gamma * entries)
    smallest = entries - int(density * entries) - largest
    return (largest + smallest, 0) if smallest < 0 else (largest, smallest)


def _sce(work: Work, scan: Scan, _seed: int, _thresholds: object) -> Thinned:
    """The entries of largest variance among those that vary."""
    share = work.params["select_topk"]
    if share >= 1 or not work.count:
        return Thinned.nothing(work)
    wanted = [Wanted(0, share=share)]
    found = find_largest(scan, _places(work), layout.VARIANCE, wanted)
    (cut,) = _cuts(work, scan, layout.VARIANCE, wanted, found, [found[0].rank - found[0].above])
    rows = [_row(found[0].bits, cut), *(_row() for _ in _experts(work)[1:])]
    return _thinned(work, layout.VARIED, rows)


def _largest(work: Work, scan: Scan, kind: int, wanted: Sequence[Wanted]) -> list[Found]:
    return find_largest(scan, _places(work), kind, wanted) if wanted else []


def _cuts(
    work: Work, scan: Scan, kind: int, wanted: Sequence[Wanted], found: Sequence[Found], equal: Sequence[int]
) -> list[int]:
    """For each limit the offset after so many that equal it; passes only where an offset decides."""
    cuts = [_EVERYWHERE if n >= hit.equal else 0 for hit, n in zip(found, equal, strict=True)]
    open_ = [i for i, n in enumerate(equal) if 0 < n < found[i].equal]
    if open_:
        sought = [(wanted[i].expert, found[i].bits, equal[i]) for i in open_]
        for i, cut in zip(open_, find_cuts(scan, _places(work), kind, sought), strict=True):
            cuts[i] = cut
    return cuts


def _rescaled(work: Work, scan: Scan, thinned: Thinned) -> Thinned:
    """With factors that restore the L1 norms, where the recipe rescales."""
    if not work.params["rescale"] or not work.count:
        return thinned
    call = Call("task_vectors.magnitudes", _places(work), words=thinned.words, masks=thinned.masks)
    store = _store(work, scan, call)
    call = replace(call, store=store)
    sums = [rounded(one, work.arithmetic) for one in scan.sums(call, 2 * len(_experts(work)))]
    if store is not None:
        store.is_filled = True
    factors = [
        rounded(before / after, work.arithmetic) if after else 0.0
        for before, after in zip(sums[::2], sums[1::2], strict=True)
    ]
    return replace(thinned, factors=tuple(factors), store=store)


def _store(work: Work, scan: Scan, call: Call) -> MaskStore | None:
    """Room for masks of which each is dear to make, where they may be kept."""
    if call.words[layout.THIN] not in (layout.DRAWN, layout.MASKED):
        return None
    experts = len(_experts(work))
    if experts * work.count > 8 * scan.mask_bytes:
        return None
    return MaskStore.of(experts, work.count, piece_size(call, scan.spaces[0].chunk))


THINNERS: dict[str, Callable[[Work, Scan, int, Sequence[int] | None], Thinned]] = {
    "dare": _own_dare,
    "ties": _own_ties,
    "mergekit.breadcrumbs": _breadcrumbs,
    "mergekit.breadcrumbs_ties": _breadcrumbs,
    "mergekit.dare_linear": _dare,
    "mergekit.dare_ties": _dare,
    "mergekit.della": _della,
    "mergekit.della_linear": _della,
    "mergekit.sce": _sce,
    "mergekit.ties": _ties,
}
