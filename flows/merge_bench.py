"""How fast merges are, as ratios to the floor: one read of every input byte, one write of every output byte."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from time import perf_counter

from flows.synthetic import Llama, make_checkpoints
from merge_lib import registry
from merge_lib.spec import MergeSpec
from merge_lib.streaming.devices import KERNELS, find_device
from merge_lib.streaming.run import MergeOptions, merge_to

METHODS = ("average", "linear", "slerp", "task_arithmetic", "magmax", "dare", "ties")
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
    """Drop the files from the page cache, as far as the system allows."""
    for path in paths:
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


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
    models = make_checkpoints(folder / f"inputs-{size_bytes}", llama, experts)
    base, *all_experts = (model / "model.safetensors" for model in (models[0], *models[1]))
    specs = [_spec(method, base, tuple(all_experts)) for method in methods]
    times: dict[str, list[tuple[float, float]]] = {method: [] for method in methods}
    out = folder / "merged.safetensors"
    for round_ in range(rounds + 1):  # the first compiles kernels and fills the cache, and does not count
        for spec in specs:
            inputs = [*([spec.base] if spec.base else []), *spec.experts]
            if is_cold:
                forget(inputs)
            floor_s = measure_floor(inputs, folder / "floor.bytes", base.stat().st_size)
            if is_cold:
                forget(inputs)
            started = perf_counter()
            done = merge_to(spec, out, MergeOptions(threads=threads, device=device))
            merge_s = perf_counter() - started
            out.unlink()
            out.with_suffix(".merge_manifest.json").unlink()
            if round_:
                times[spec.method].append((floor_s, merge_s))
    size = base.stat().st_size
    return [
        MergeTimes(
            spec.method,
            (inputs := len(spec.experts) + (spec.base is not None)),
            inputs * size,
            size,
            median(floor for floor, _ in times[spec.method]),
            median(merge for _, merge in times[spec.method]),
            done.arithmetic,
        )
        for spec in specs
    ]


def _spec(method: str, base: Path, experts: tuple[Path, ...]) -> MergeSpec:
    info = registry.get(method)
    chosen = experts[:2] if method in ("linear", "slerp") else experts
    return MergeSpec(method=method, base=base if info.needs_base else None, experts=chosen)
