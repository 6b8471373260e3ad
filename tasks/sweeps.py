"""A sweep: the studies at all combinations of a file's axes, and how far they came."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from merge_lib.errors import SpecError, suggest
from tasks.project import Project
from tasks.runs import note_begun

RECORD = "sweep.json"


@dataclass(frozen=True)
class SweepCell:
    """One combination of levels."""

    levels: dict[str, str]  # axis name -> name of the level
    config: dict[str, Any]  # the study, validated
    run_id: str | None = None  # None: not begun


@dataclass(frozen=True)
class Sweep:
    """All combinations, as `sweep.json` keeps them."""

    sweep_id: str
    study: str
    command: str
    started_at: str  # ISO 8601, UTC
    cells: tuple[SweepCell, ...]
    elapsed_s: float = 0.0  # of the flow runs that came to an end
    status: str = "running"  # running, finished

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Self:
        """From plain JSON values."""
        return cls(**{**fields, "cells": tuple(SweepCell(**cell) for cell in fields["cells"])})

    def begun(self, place: int, run_id: str) -> Self:
        """The sweep with the run of one cell known."""
        cells = [replace(cell, run_id=run_id) if at == place else cell for at, cell in enumerate(self.cells)]
        return replace(self, cells=tuple(cells))


def start_sweep(
    project: Project, study: str, cells: Sequence[tuple[Mapping[str, str], dict[str, Any]]], command: str
) -> Sweep:
    """Make the folder of a new sweep; `cells` are levels with the validated study at each."""
    now = datetime.now(UTC)
    stem = f"{study}-sweep-{now:%Y%m%d-%H%M%S}"
    names = (stem, *(f"{stem}-{n}" for n in range(2, 100)))
    sweep_id = next(name for name in names if not sweep_folder(project, name).exists())
    combined = tuple(SweepCell(dict(levels), config) for levels, config in cells)
    sweep = Sweep(sweep_id, study, command, now.isoformat(timespec="seconds"), combined)
    save_sweep(project, sweep)
    note_begun(sweep_id)
    return sweep


def save_sweep(project: Project, sweep: Sweep) -> Sweep:
    """Write `sweep.json` anew."""
    folder = sweep_folder(project, sweep.sweep_id)
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f"{RECORD}.partial"
    partial.write_text(json.dumps(asdict(sweep), indent=1, sort_keys=True), encoding="utf-8")
    partial.replace(folder / RECORD)
    return sweep


def load_sweep(project: Project, sweep_id: str) -> Sweep:
    """The sweep of that name.

    Raises:
        SpecError: there is none, or its record cannot be read.
    """
    known = list_sweeps(project)
    if sweep_id not in known:
        hint = f"{suggest(sweep_id, known)}." if known else "There is none yet."
        raise SpecError(f"There is no sweep '{sweep_id}'; {hint}")
    try:
        text = (sweep_folder(project, sweep_id) / RECORD).read_text(encoding="utf-8")
        return Sweep.from_dict(json.loads(text))
    except (OSError, ValueError, TypeError, KeyError) as broken:
        raise SpecError(
            f"The record of sweep '{sweep_id}' cannot be read ({broken}). Run its study again; "
            "what was finished is kept."
        ) from broken


def list_sweeps(project: Project) -> list[str]:
    """Names of all sweeps, the oldest first."""
    return sorted(path.parent.name for path in project.runs.glob(f"*/{RECORD}"))


def sweep_folder(project: Project, sweep_id: str) -> Path:
    """Where a sweep's record and report lie, beside the folders of its runs."""
    return project.runs / sweep_id
