"""The machine and the installed packages."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from packaging.version import Version

from flows.doctor import Check, ok, problem, warning
from tasks.project import Project

PYTHONS = ((3, 11), (3, 13))
PINNED = (
    "torch",
    "prefect",
    "fastapi",
    "mlflow",
    "dvc",
    "sqlalchemy",
    "pydantic",
    "numpy",
    "pandas",
    "safetensors",
)
SETUP = "Make the environment anew: remove .venv and say `make demo`."
GB = 1e9
TMP_BYTES = 200e6
RUN_BYTES = 500e6  # of a run that cannot be planned
FREE_MEMORY_BYTES = 1.5e9

TORCH_PROBE = """
import json, torch
count = torch.cuda.device_count() if torch.cuda.is_available() else 0
devices = [(torch.cuda.get_device_name(i), torch.cuda.mem_get_info(i)) for i in range(count)]
print(json.dumps({"version": torch.__version__, "built_for": torch.version.cuda, "devices": devices}))
"""


def check_python(found: tuple[int, int]) -> Check:
    """Whether this Python is one that the packages are locked for."""
    text = ".".join(map(str, found))
    if PYTHONS[0] <= found <= PYTHONS[1]:
        return ok("Python", text)
    return problem("Python", text, "Python 3.11 to 3.13 is needed: say `make demo PYTHON=python3.11`.")


def check_packages(installed: Mapping[str, str | None], locked: Mapping[str, str]) -> list[Check]:
    """What is missing, known not to work together, or not the version that is locked."""
    missing = sorted(name for name, found in installed.items() if found is None)
    if missing:
        return [problem("packages", f"missing: {', '.join(missing)}", SETUP)]
    present = {name: found for name, found in installed.items() if found is not None}
    if broken := broken_pairs(present):
        return [problem("packages", said, SETUP) for said in broken]
    others = [
        f"{name} {present[name]} (locked: {locked[name]})"
        for name in PINNED
        if name in locked and name in present and present[name].partition("+")[0] != locked[name]
    ]
    if others:
        return [warning("packages", f"not as locked: {', '.join(others)}", SETUP)]
    names = ", ".join(f"{name} {present[name]}" for name in ("prefect", "mlflow", "dvc") if name in present)
    return [ok("packages", f"{names}; {'as locked' if locked else 'no requirements.lock to compare with'}")]


def broken_pairs(installed: Mapping[str, str]) -> list[str]:
    """Versions of which it is known that they do not work, alone or together."""
    found = {name: Version(text) for name, text in installed.items()}
    said = []

    def has(name: str, low: str, high: str) -> bool:
        return name in found and Version(low) <= found[name] < Version(high)

    if has("prefect", "3", "3.9") and has("fastapi", "0.151", "99"):
        said.append(f"with fastapi {found['fastapi']} no server of prefect {found['prefect']} starts")
    if has("fastapi", "0", "0.115") and "prefect" in found:
        said.append(f"fastapi {found['fastapi']} is too old for prefect {found['prefect']}")
    if has("pydantic", "2.11.0", "2.11.5"):
        said.append(f"pydantic {found['pydantic']} is one that prefect cannot use")
    if has("mlflow", "0", "3.5"):
        said.append(f"mlflow {found['mlflow']} has no logged models as they are used here; 3.17 is needed")
    if has("dvc", "0", "3.67"):
        said.append(f"dvc {found['dvc']} wants a pathspec that prefect does not; 3.67 is needed")
    return said


def check_torch(facts: Mapping[str, Any], visible: str | None) -> list[Check]:
    """Torch, and the GPUs that it sees."""
    checks = [ok("torch", str(facts["version"]))]
    mask = "" if visible is None else f"CUDA_VISIBLE_DEVICES={visible}"
    devices = facts["devices"]
    if devices:
        names = [f"{name} ({free / GB:.0f} of {total / GB:.0f} GB free)" for name, (free, total) in devices]
        checks.append(ok("GPU", "; ".join([*names, *([mask] if mask else [])])))
    elif visible not in (None, "", "-1"):
        advice = "Name devices that `nvidia-smi` lists, or unset CUDA_VISIBLE_DEVICES to use what there is."
        reason = "" if facts["built_for"] else ", and this torch is built without CUDA"
        checks.append(problem("GPU", f"{mask}, but torch sees no GPU{reason}", advice))
    else:
        checks.append(ok("GPU", f"none{f' ({mask})' if mask else ''}; small studies do not need one"))
    return checks


def check_memory(cores: int, available_bytes: float) -> Check:
    """Cores and memory."""
    found = f"{cores} cores, {available_bytes / GB:.1f} GB of memory free"
    if available_bytes < FREE_MEMORY_BYTES:
        return warning("computer", found, "Close something: a run and its servers take about 1.5 GB.")
    return ok("computer", found)


def check_disk(name: str, free_bytes: float, needed_bytes: float) -> Check:
    """Free space against what is going to be written."""
    found = f"{free_bytes / GB:.1f} GB free, {needed_bytes / GB:.2f} GB needed"
    if free_bytes < needed_bytes:
        advice = "Free some space; `make clean` forgets all runs and finished work of this project."
        return problem(name, found, advice)
    if free_bytes < 3 * needed_bytes:
        return warning(name, found, "Enough for the next run, not for many: free some space.")
    return ok(name, found)


def installed_versions() -> dict[str, str | None]:
    """The version of each package that matters, None for one that is missing."""
    found: dict[str, str | None] = {}
    for name in PINNED:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found


def locked_versions(lock: Path) -> dict[str, str]:
    """The pins of a requirements file."""
    if not lock.is_file():
        return {}
    lines = (line.split(";")[0].strip() for line in lock.read_text(encoding="utf-8").splitlines())
    pairs = (line.split("==") for line in lines if "==" in line and not line.startswith("#"))
    return {name.strip(): pin.strip().split()[0] for name, pin in pairs}


def look_at_torch() -> list[Check]:
    """Ask a process of its own: a driver that crashes or hangs takes only that one with it."""
    command = [sys.executable, "-c", TORCH_PROBE]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    if done.returncode != 0:
        said = (done.stderr.strip().splitlines() or [f"status {done.returncode}"])[-1]
        return [problem("torch", f"cannot be used: {said}", SETUP)]
    return check_torch(json.loads(done.stdout.splitlines()[-1]), os.environ.get("CUDA_VISIBLE_DEVICES"))


def needed_bytes(project: Project) -> float:
    """What the largest study of the project would write, from its plan."""
    from flows.axes import load_cells
    from flows.estimates import Estimates, plan_all, summarise_plan
    from merge_lib.errors import MergeError

    needed = []
    for path in sorted((project.root / "studies").glob("*.yaml")):
        try:
            steps, _ = plan_all(project, [cell.study for cell in load_cells(path)])
        except MergeError:
            continue  # `mergeline run` says what is wrong with it
        lines = summarise_plan(steps, Estimates.of_project(project, steps))
        needed.append(sum(float(line["estimated_bytes"]) for line in lines))
    return max([*needed, RUN_BYTES])
