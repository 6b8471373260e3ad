"""Whether `mergeline merge --memory` stays within its bound, and how its time grows with the bytes."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from flows.process_cost import ROOT, Cost, measure, mergeline
from flows.synthetic import Llama, make_checkpoints
from merge_lib import registry

METHODS = ("task_arithmetic", "ties")
PARTS = (4, 2, 1)  # of the size that is asked for: a quarter, a half, the whole
_SMALLEST_BYTES = 4_000_000  # of the merge that compiles the kernels and is not counted


@dataclass(frozen=True)
class Asked:
    """What is measured.

    Attributes:
        size_bytes: of the largest checkpoints; a quarter and a half of it are merged as well.
        experts: how many beside the base.
        distinct: how many of them are files of their own; the others are more names of these.
    """

    size_bytes: int
    experts: int
    distinct: int
    memory_bytes: int
    threads: int
    methods: Sequence[str] = METHODS


@dataclass(frozen=True)
class Merged:
    """One merge, a process of its own.

    Attributes:
        input_bytes: of all inputs, each counted once, whatever the passes.
    """

    method: str
    inputs: int
    input_bytes: int
    memory_bytes: int
    cost: Cost

    @property
    def is_held(self) -> bool:
        """It never took more than it was allowed."""
        return self.cost.rss_bytes <= self.memory_bytes

    @property
    def s_per_gb(self) -> float:
        """Seconds for each 10⁹ bytes of inputs, start-up and all passes included."""
        return self.cost.wall_s / (self.input_bytes / 1e9)

    @property
    def cpu_s_per_gb(self) -> float:
        """The same in processor time, which other work on the machine disturbs less."""
        return self.cost.cpu_s / (self.input_bytes / 1e9)


def growth(lines: Sequence[Merged], method: str) -> float:
    """How many times the processor time a byte takes in a method's largest merge as in its smallest."""
    own = sorted((line for line in lines if line.method == method), key=lambda line: line.input_bytes)
    return own[-1].cpu_s_per_gb / own[0].cpu_s_per_gb


def measure_memory(folder: Path, asked: Asked, tell: Callable[[str], None]) -> list[Merged]:
    """Merge by each method at each size, a line for each."""
    _merge_all(folder, asked, _SMALLEST_BYTES, tell)  # compiles the kernels
    lines = []
    for part in PARTS:
        lines += _merge_all(folder, asked, asked.size_bytes // part, tell)
    return lines


def _merge_all(folder: Path, asked: Asked, size_bytes: int, tell: Callable[[str], None]) -> list[Merged]:
    tell(f"{asked.experts} experts of {size_bytes / 1e6:.0f} MB, {asked.distinct} of them distinct")
    base, experts = make_models(
        folder / f"inputs-{size_bytes}", size_bytes, experts=asked.experts, distinct=asked.distinct
    )
    return [_merge(folder, asked, method, base, experts) for method in asked.methods]


def make_models(
    folder: Path, size_bytes: int, *, experts: int, distinct: int
) -> tuple[Path, tuple[Path, ...]]:
    """The files of the base and of the experts; those beyond the distinct ones are hard links to them."""
    base, models = make_checkpoints(folder, Llama.of_parameters(size_bytes // 2), min(distinct, experts))
    files = [model / "model.safetensors" for model in models]
    for place in range(len(files), experts):
        link = folder / f"link{place}.safetensors"
        if not link.exists():
            os.link(files[place % len(models)], link)
        files.append(link)
    return base / "model.safetensors", tuple(files)


def _merge(folder: Path, asked: Asked, method: str, base: Path, experts: Sequence[Path]) -> Merged:
    needs_base = registry.get(method).needs_base
    recipe, out = folder / f"{method}.yaml", folder / "merged.safetensors"
    named = [f"method: {method}", *([f"base: {base}"] if needs_base else []), "experts:"]
    recipe.write_text("\n".join([*named, *(f"- {expert}" for expert in experts), ""]), encoding="utf-8")
    options = ("--memory", str(asked.memory_bytes), "--threads", str(asked.threads))
    command = mergeline("merge", str(recipe), "--out", str(out), *options)
    cost = measure(command, log=folder / "merge.log", cwd=ROOT)
    out.unlink()
    out.with_suffix(".merge_manifest.json").unlink()
    inputs = [*([base] if needs_base else []), *experts]
    read = sum(path.stat().st_size for path in inputs)
    return Merged(method, len(inputs), read, asked.memory_bytes, cost)
