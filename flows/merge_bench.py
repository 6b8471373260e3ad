"""How fast merges are, as ratios to the floor: one read of every input byte, one write of every output byte."""

import ctypes
import mmap
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from time import perf_counter

from flows.peers.recipes import mergekit_yaml
from flows.synthetic import Llama, make_checkpoints
from merge_lib import registry
from merge_lib.errors import MergeError
from merge_lib.mergekit import parse_recipe, plan_recipe
from merge_lib.spec import MergeSpec
from merge_lib.streaming.devices import KERNELS, find_device
from merge_lib.streaming.planning import MergePlan, make_plan
from merge_lib.streaming.run import MergeOptions, merge_planned

MERGEKIT = "mergekit."
_VARIANTS = (
    "passthrough", "linear", "slerp", "task_arithmetic", "model_stock", "dare_linear", "ties", "breadcrumbs", "sce",
    "della",
)  # fmt: skip
METHODS = (
    *("average", "linear", "slerp", "task_arithmetic", "magmax", "dare", "ties"),
    *(f"{MERGEKIT}{name}" for name in _VARIANTS),
)
_BLOCK = 1 << 20


@dataclass(frozen=True)
class MergeTimes:
    """One method beside the floor of the same bytes, medians over the rounds."""

    method: str
    inputs: int
    read_bytes: int
    write_bytes: int
    floor_s: float
    merge_s: float
    arithmetic: str

    @property
    def ratio(self) -> float:
        """How many floors the merge takes."""
        return self.merge_s / self.floor_s


def measure_floor(inputs: Sequence[Path], out: Path, write_bytes: int) -> float:
    """Seconds for reading the files and writing as many bytes as the result has, flushed."""
    buffer = bytearray(_BLOCK)
    started = perf_counter()
    for path in inputs:
        with path.open("rb", buffering=0) as file:
            while file.readinto(buffer):
                pass
    with out.open("wb", buffering=0) as file:
        for start in range(0, write_bytes, _BLOCK):
            file.write(memoryview(buffer)[: min(_BLOCK, write_bytes - start)])
        os.fsync(file.fileno())
    elapsed = perf_counter() - started
    out.unlink()
    return elapsed


def forget(paths: Sequence[Path]) -> None:
    """Drop the files from the page cache; only what is on the disk can be dropped, so they are flushed first.

    Raises:
        MergeError: parts of a file are still there.
    """
    for path in paths:
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        if share := cached_share(path):
            raise MergeError(
                f"{share:.0%} of {path} stayed in the page cache, so nothing cold can be measured there. "
                "Name a --folder on a disk of this machine, and close what else reads the file."
            )


def cached_share(path: Path) -> float:
    """The share of a file's pages that the page cache holds, 0 to 1; nothing is read to find out.

    Raises:
        OSError: the system does not tell.
    """
    pages = -(-path.stat().st_size // mmap.PAGESIZE)
    found = (ctypes.c_ubyte * pages)()
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY) as mapped:
        first = ctypes.c_char.from_buffer(mapped)
        status = ctypes.CDLL(None, use_errno=True).mincore(
            ctypes.c_void_p(ctypes.addressof(first)), ctypes.c_size_t(len(mapped)), found
        )
        del first  # or the map cannot be closed
        if status:
            raise OSError(ctypes.get_errno(), "mincore does not tell what is cached", str(path))
    return sum(page & 1 for page in found) / pages


def measure(
    folder: Path,
    methods: Sequence[str],
    size_bytes: int,
    experts: int,
    rounds: int,
    *,
    is_cold: bool,
    threads: int,
    device: str = "cpu",
) -> list[MergeTimes]:
    """Time each method and its floor in turn, so that both see the same machine."""
    if device != KERNELS:
        find_device(device)  # before the checkpoints are made
    llama = Llama.of_parameters(size_bytes // 2)
    base, experts_ = make_checkpoints(folder / f"inputs-{size_bytes}", llama, experts)
    makers = {method: plan_maker(method, base, experts_) for method in methods}
    plans = {method: make() for method, make in makers.items()}
    times: dict[str, list[tuple[float, float]]] = {method: [] for method in methods}
    written = sum(file.stat().st_size for file in plans[methods[0]].sources[0].files)
    arithmetic = ""
    for round_ in range(rounds + 1):  # the first compiles kernels and fills the cache, and does not count
        for method in methods:
            inputs = [file for source in plans[method].sources for file in source.files]
            if is_cold:
                forget(inputs)
            floor_s = measure_floor(inputs, folder / "floor.bytes", written)
            if is_cold:
                forget(inputs)
            options = MergeOptions(threads=threads, device=device)
            merge_s, arithmetic = _time_merge(makers[method], folder / "merged.safetensors", options)
            if round_:
                times[method].append((floor_s, merge_s))
    return [
        MergeTimes(
            method,
            len(plans[method].sources),
            len(plans[method].sources) * written,
            written,
            *(median(column) for column in zip(*times[method], strict=True)),
            arithmetic,
        )
        for method in methods
    ]


def _time_merge(make: Callable[[], MergePlan], out: Path, options: MergeOptions) -> tuple[float, str]:
    """Seconds from the headers to the flushed result, and the route that was taken."""
    started = perf_counter()
    done = merge_planned(make, out, options)
    elapsed = perf_counter() - started
    out.unlink()
    out.with_suffix(".merge_manifest.json").unlink()
    return elapsed, done.arithmetic


def plan_maker(method: str, base: Path, experts: tuple[Path, ...]) -> Callable[[], MergePlan]:
    """What plans the merge: of the library's method, or of mergekit's where its name begins so."""
    if method.startswith(MERGEKIT):
        recipe = parse_recipe(mergekit_yaml(method.removeprefix(MERGEKIT), base, experts))
        return lambda: plan_recipe(recipe, base.parent)
    chosen = experts[:2] if method in ("linear", "slerp") else experts
    needed = base if registry.get(method).needs_base else None
    return lambda: make_plan(MergeSpec(method=method, base=needed, experts=chosen))
