"""Axes of a study: settings that take several values, each combination of which is a study of its own.

`axes: {workload.shared: [0.0, 0.5, 1.0]}` names a setting and its values. `axes: {training: {short:
{workload.fine_tuning.epochs: 2}, long: {workload.fine_tuning.epochs: 10}}}` names levels and the settings of each.
"""

from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from flows.config import AXES, StudyConfig, validated
from flows.yaml_errors import YamlDocument, error_lines, explain, told
from merge_lib.errors import SpecError, suggest

SHAPE = "a list of values under the setting's dotted key, or names of levels with the settings of each"


@dataclass(frozen=True)
class Axis:
    """One thing that is varied: its name, and for each level the settings that make it."""

    name: str
    levels: Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Cell:
    """One combination of levels, and the study that it is."""

    levels: Mapping[str, str]  # axis name -> name of the level
    study: StudyConfig

    @property
    def title(self) -> str:
        """Such as `workload.shared=0.5, training=short`; empty where nothing is varied."""
        return ", ".join(f"{axis}={level}" for axis, level in self.levels.items())


def load_cells(path: Path, overrides: Sequence[str] = ()) -> list[Cell]:
    """Every combination of a study's axes, checked whole; one cell without levels if there are no axes.

    Args:
        path: the study's YAML file.
        overrides: as of `load_study`.

    Raises:
        SpecError: anything is wrong in the file or in any of its cells; each error is told once.
    """
    document, axes = _read(path, overrides)
    cells: list[Cell] = []
    errors: dict[str, None] = {}
    for chosen in product(*(axis.levels for axis in axes)):
        levels = dict(zip((axis.name for axis in axes), chosen, strict=True))
        here = _document_at(document, axes, levels)
        try:
            cells.append(Cell(levels, validated(here)))
        except ValidationError as failure:
            errors |= dict.fromkeys(error_lines(failure, here, StudyConfig))
    if errors:
        raise SpecError(told(list(errors), path))
    return cells


def load_cell(path: Path, overrides: Sequence[str], levels: Mapping[str, str]) -> StudyConfig:
    """The study at one combination of levels; a file without axes needs none.

    Raises:
        SpecError: as of `load_cells`, or the levels are not those of the file's axes.
    """
    document, axes = _read(path, overrides)
    _check_levels(path, axes, levels)
    here = _document_at(document, axes, levels)
    try:
        return validated(here)
    except ValidationError as failure:
        raise SpecError(explain(failure, here, StudyConfig)) from failure


def narrowed(cells: Sequence[Cell], chosen: Sequence[str]) -> list[Cell]:
    """The cells at the levels that `AXIS=LEVEL` words name.

    Raises:
        SpecError: a word has another form, or names what the cells do not have.
    """
    kept = list(cells)
    for word in chosen:
        axis, equals, level = word.rpartition("=")
        if not equals or not axis:
            raise SpecError(f"--level got '{word}'; expected AXIS=LEVEL, such as workload.shared=0.5")
        if axis not in cells[0].levels:
            raise SpecError(f"--level {word}: {_no_axis(axis, cells[0].levels)}")
        known = dict.fromkeys(cell.levels[axis] for cell in cells)
        if level not in known:
            raise SpecError(f"--level {word}: axis {axis} has no level '{level}'; {suggest(level, known)}.")
        kept = [cell for cell in kept if cell.levels[axis] == level]
    return kept


def _no_axis(axis: str, known: Mapping[str, str]) -> str:
    if not known:
        return "the study has no `axes`; leave --level out."
    return f"there is no axis '{axis}'; {suggest(axis, known)}."


def _read(path: Path, overrides: Sequence[str]) -> tuple[YamlDocument, tuple[Axis, ...]]:
    document = YamlDocument.read(path)
    for override in overrides:
        document.override(override)
    return document, _axes_of(document)


def _axes_of(document: YamlDocument) -> tuple[Axis, ...]:
    """The axes of the file; none if it has none."""
    stated = document.plain().get(AXES)
    place = document.line((AXES,))
    if stated is None:
        return ()
    if not isinstance(stated, dict) or not stated:
        raise SpecError(f"{place}: axes: expected for each axis {SHAPE}, got {stated!r}")
    return tuple(_axis(str(name), levels, place) for name, levels in stated.items())


def _axis(name: str, stated: Any, place: str) -> Axis:
    if isinstance(stated, list) and stated:
        levels = {str(value): {name: value} for value in stated}
        if len(levels) < len(stated):
            raise SpecError(f"{place}: axes.{name}: a value stands there twice; give each once")
        return Axis(name, levels)
    is_named = isinstance(stated, dict) and stated and all(isinstance(s, dict) for s in stated.values())
    if not is_named:
        raise SpecError(f"{place}: axes.{name}: expected {SHAPE}, got {stated!r}")
    return Axis(name, {str(level): settings for level, settings in stated.items()})


def _check_levels(path: Path, axes: Sequence[Axis], levels: Mapping[str, str]) -> None:
    known = {axis.name: axis.levels for axis in axes}
    if known.keys() != levels.keys():
        names = ", ".join(known) or "none"
        raise SpecError(
            f"{path} has the axes: {names}; a level was named of: {', '.join(levels) or 'none'}. Name a level of each."
        )
    for axis, level in levels.items():
        if level not in known[axis]:
            raise SpecError(f"{path}: axis {axis} has no level '{level}'; {suggest(level, known[axis])}.")


def _document_at(document: YamlDocument, axes: Sequence[Axis], levels: Mapping[str, str]) -> YamlDocument:
    """The file with the settings of these levels."""
    here = deepcopy(document)
    for said, key, value in _settings(axes, levels):
        here.assign(key, value, said)
    here.root["levels"] = dict(levels)
    return here


def _settings(axes: Sequence[Axis], levels: Mapping[str, str]) -> Iterator[tuple[str, str, Any]]:
    """For each setting of the levels: who says it, its key and its value."""
    for axis in axes:
        level = levels[axis.name]
        for key, value in axis.levels[level].items():
            yield f"axis {axis.name}, level {level}", key, value
