"""Our merges and FusionBench's of the same float32 files, each in a process of its own: results, time and memory."""

import json
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch

from flows.peers.environment import FUSION_BENCH, make_interpreter, own_variables
from flows.process_cost import ROOT, ProcessError
from flows.synthetic import Llama, make_checkpoints
from merge_lib.checkpoints import read_state_dict, write_state_dict
from merge_lib.errors import SpecError, suggest

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
_DRIVERS = {side: Path(__file__).with_name(f"{side}_driver.py") for side in ("fusion_bench", "own")}
_TAIL = 600


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
        raise SpecError(f"'{strange[0]}' is not compared with FusionBench: {suggest(strange[0], PARAMS)}.")
    python = make_interpreter(FUSION_BENCH)
    folder = folder.resolve()
    files = _float32(folder)
    lines = []
    for method in methods or PARAMS:
        tell(f"{method}, beside FusionBench")
        asked = {
            "method": method,
            "params": dict(PARAMS[method]),
            "base": str(files[0]),
            "experts": [str(file) for file in files[1:]],
        }
        (folder / "asked.json").write_text(json.dumps(asked), encoding="utf-8")
        costs = [
            (_run(sys.executable, "own", folder), _run(python, "fusion_bench", folder)) for _ in range(rounds)
        ]
        ours, theirs = ([cost[side] for cost in costs] for side in (0, 1))
        lines.append(
            SideBySide(
                method,
                median(cost["seconds"] for cost in ours),
                median(cost["seconds"] for cost in theirs),
                max(cost["peak_bytes"] for cost in ours),
                max(cost["peak_bytes"] for cost in theirs),
                _difference(folder, files[0]),
            )
        )
    return lines


def _float32(folder: Path) -> list[Path]:
    """The checkpoints as single files of float32, which FusionBench decomposes as they are."""
    base, experts = make_checkpoints(folder / "llama", SIZES, EXPERTS)
    files = [folder / f"model{place}.safetensors" for place in range(EXPERTS + 1)]
    for model, file in zip((base, *experts), files, strict=True):
        if not file.exists():
            wide = {
                name: tensor.float() for name, tensor in read_state_dict(model / "model.safetensors").items()
            }
            write_state_dict(file, wide, lineage={})
    return files


def _run(python: str | Path, side: str, folder: Path) -> dict[str, Any]:
    out = folder / f"{side}.safetensors"
    for path in (out, out.with_suffix(".merge_manifest.json")):
        path.unlink(missing_ok=True)
    command = [str(python), str(_DRIVERS[side]), str(folder / "asked.json"), str(out)]
    variables = own_variables()
    if side == "own":
        variables["PYTHONPATH"] = str(ROOT)
    done = subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ProcessError(f"`{' '.join(command)}` failed: {done.stderr.strip()[-_TAIL:]}")
    return json.loads(done.stdout.splitlines()[-1])


def _difference(folder: Path, base: Path) -> float:
    start = read_state_dict(base)
    ours, theirs = (read_state_dict(folder / f"{side}.safetensors") for side in ("own", "fusion_bench"))
    apart = max(float((ours[name].double() - theirs[name].double()).abs().max()) for name in start)
    moved = max(
        float((theirs[name].double() - tensor.double()).abs().max()) for name, tensor in start.items()
    )
    return apart / moved if torch.isfinite(torch.tensor(moved)) else float("inf")
