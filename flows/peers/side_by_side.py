"""Our merges and FusionBench's of the same float32 files, each in a process of its own: results, time and memory."""

import json
import math
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from torch import Tensor

from flows.peers.environment import FUSION_BENCH, make_interpreter, own_variables
from flows.process_cost import ROOT, ProcessError
from flows.synthetic import Llama, make_checkpoints
from merge_lib.checkpoints import read_state_dict, write_state_dict
from merge_lib.errors import MergeError, SpecError, suggest
from merge_lib.types import StateDict

SIZES = Llama(width=512, layers=1, vocabulary=2048)
EXPERTS = 4
PARAMS: Mapping[str, Mapping[str, Any]] = {  # ours, where FusionBench's variant is not our default
    "average": {},
    "emr": {},
    "iso_c": {},
    "iso_cts": {},
    "magmax": {},
    "task_arithmetic": {},
    "ties": {},
    "tsv": {},
    "wudi": {"solver": "gradient"},
}
_TAIL = 600


@dataclass(frozen=True)
class Side:
    """One that merges: a driver, which is told what is asked and where the result goes, and its interpreter.

    Attributes:
        name: of its files.
        variables: of its process, beside those of this one.
    """

    name: str
    python: Path
    driver: Path
    variables: Mapping[str, str] = field(default_factory=dict)

    def merge(self, folder: Path, asked: Mapping[str, Any]) -> dict[str, Any]:
        """Merge in a process of its own: the seconds, and the bytes beyond the imports.

        Raises:
            ProcessError: it failed.
        """
        request, out = folder / f"{self.name}.json", self.result(folder)
        request.write_text(json.dumps(asked), encoding="utf-8")
        for path in (out, out.with_suffix(".merge_manifest.json")):
            path.unlink(missing_ok=True)
        command = [str(self.python), str(self.driver), str(request), str(out)]
        variables = {**own_variables(), **self.variables}
        done = subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True, check=False)
        if done.returncode:
            raise ProcessError(f"`{' '.join(command)}` failed: {done.stderr.strip()[-_TAIL:]}")
        return json.loads(done.stdout.splitlines()[-1])

    def result(self, folder: Path) -> Path:
        """Where its merge lies."""
        return folder / f"{self.name}.safetensors"


_DRIVERS = Path(__file__).parent
OURS = Side("own", Path(sys.executable), _DRIVERS / "own_driver.py", {"PYTHONPATH": str(ROOT)})


@dataclass(frozen=True)
class SideBySide:
    """One method, medians over the rounds.

    Attributes:
        our_s: from the reading to the writing, imports not counted; `their_s` likewise.
        our_bytes: the most that the process took beyond its imports.
        difference: the largest, as a share of the largest change from the base.
    """

    method: str
    our_s: float
    their_s: float
    our_bytes: int
    their_bytes: int
    difference: float

    @property
    def times_faster(self) -> float:
        """Their time in ours."""
        return self.their_s / self.our_s


def compare(
    folder: Path, methods: Sequence[str], rounds: int, tell: Callable[[str], None]
) -> list[SideBySide]:
    """Merge by both, in turn.

    Raises:
        SpecError: a method that one of them lacks.
        MergeError: FusionBench could not be installed, or a merge failed.
    """
    if strange := [name for name in methods if name not in PARAMS]:
        raise SpecError(
            "\n".join(
                f"'{name}' is not compared with FusionBench: {suggest(name, PARAMS)}." for name in strange
            )
        )
    theirs = Side("fusion_bench", make_interpreter(FUSION_BENCH), _DRIVERS / "fusion_bench_driver.py")
    folder = folder.resolve()
    files = float32_files(folder, SIZES, EXPERTS)
    lines = []
    for method in methods or PARAMS:
        tell(f"{method}, beside FusionBench")
        lines.append(compare_sides(folder, files, method, (OURS, theirs), rounds))
    return lines


def compare_sides(
    folder: Path, files: Sequence[Path], method: str, sides: tuple[Side, Side], rounds: int
) -> SideBySide:
    """One method by two sides.

    Args:
        folder: where results go.
        files: the base and the experts.
        method: of both, with our parameters for it.
        sides: ours first.
        rounds: medians are over so many.

    Raises:
        MergeError: a merge failed, or the results have other tensors.
    """
    base, *experts = map(str, files)
    asked = {"method": method, "params": dict(PARAMS[method]), "base": base, "experts": experts}
    costs = [[side.merge(folder, asked) for side in sides] for _ in range(rounds)]
    our_costs, their_costs = zip(*costs, strict=True)
    ours, theirs = (read_state_dict(side.result(folder)) for side in sides)
    return SideBySide(
        method,
        median(cost["seconds"] for cost in our_costs),
        median(cost["seconds"] for cost in their_costs),
        max(cost["peak_bytes"] for cost in our_costs),
        max(cost["peak_bytes"] for cost in their_costs),
        difference(read_state_dict(files[0]), ours, theirs),
    )


def table(lines: Sequence[SideBySide]) -> Iterator[str]:
    """A heading and a line for each method."""
    yield f"{'method':<18}{'ours s':>8}{'theirs s':>10}{'×':>7}{'ours MB':>9}{'theirs MB':>11}  apart"
    for line in lines:
        times = f"{line.method:<18}{line.our_s:>8.2f}{line.their_s:>10.2f}{line.times_faster:>7.1f}"
        yield f"{times}{line.our_bytes / 1e6:>9.0f}{line.their_bytes / 1e6:>11.0f}  {line.difference:.1e}"


def float32_files(folder: Path, llama: Llama, experts: int) -> list[Path]:
    """Base and experts as single files of float32, which FusionBench decomposes as they are."""
    base, models = make_checkpoints(folder / "llama", llama, experts)
    files = [folder / f"model{place}.safetensors" for place in range(experts + 1)]
    for model, file in zip((base, *models), files, strict=True):
        if not file.exists():
            wide = {
                name: tensor.float() for name, tensor in read_state_dict(model / "model.safetensors").items()
            }
            write_state_dict(file, wide, lineage={})
    return files


def difference(base: StateDict, ours: StateDict, theirs: StateDict) -> float:
    """The largest between two merges, as a share of the largest change of theirs from the base.

    Infinite where a merge is not finite, or where theirs is the base and ours is not.

    Raises:
        MergeError: a merge lacks tensors of the base.
    """
    for side, merged in (("Our", ours), ("Their", theirs)):
        if lacking := sorted(base.keys() - merged.keys()):
            raise MergeError(
                f"{side} merge has {len(merged)} tensors, the base {len(base)}; it lacks {', '.join(lacking[:3])}. "
                "Compare a method that keeps every tensor."
            )
    apart = max(_furthest(ours[name], theirs[name]) for name in base)
    moved = max(_furthest(theirs[name], tensor) for name, tensor in base.items())
    if not math.isfinite(apart + moved):
        return math.inf
    return apart / moved if moved else math.inf if apart else 0.0


def _furthest(one: Tensor, other: Tensor) -> float:
    """The largest difference of two entries; infinite where one is no number."""
    if not one.numel():
        return 0.0
    return float((one.double() - other.double()).abs().nan_to_num(nan=math.inf).max())
