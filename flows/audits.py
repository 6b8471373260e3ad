"""Audits that were asked for: of a run's merges, or of a merge recipe."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pyarrow as pa

from flows.recipe import load_recipe
from flows.yaml_errors import YamlDocument
from merge_lib.diagnostics import audit, read_table
from merge_lib.diagnostics.summary import Part, by_block, by_task, largest_losses, parts_of
from merge_lib.errors import SpecError, suggest
from merge_lib.results import Row, StudyResults
from merge_lib.spec import MergeSpec
from tasks.auditing import table_of
from tasks.project import Project


@dataclass(frozen=True)
class Selected:
    """One method in one regime, over its seeds.

    Attributes:
        tables: one for each seed.
    """

    label: str
    regime: str | None
    seeds: tuple[int | None, ...]
    tables: tuple[pa.Table, ...]

    @property
    def name(self) -> str:
        """Label and regime."""
        return self.label if self.regime is None else f"{self.label} ({self.regime})"

    def parts(self, pattern: str | None) -> list[Part]:
        """What is measured in the tensors whose name matches, of all seeds."""
        every = [part for table in self.tables for part in parts_of(table)]
        return [part for part in every if pattern is None or fnmatchcase(part.tensor, pattern)]


def audits_of_run(
    project: Project, results: StudyResults, label: str | None, regime: str | None
) -> list[Selected]:
    """The audits of a run's last merges.

    Raises:
        SpecError: the run has none, or none of that label and regime.
    """
    audited = [row for row in results.rows if row.audit is not None]
    if not audited:
        raise SpecError(
            f"Run '{results.run_id}' has no audits: its study said audit: false, or it is older than audits. "
            "Run the study again with --set audit=true; all other work of it is finished."
        )
    _check_known("label", label, [row.label for row in audited])
    _check_known("regime", regime, [row.regime for row in audited])
    rows = [row for row in audited if label in (None, row.label) and regime in (None, row.regime)]
    groups: dict[tuple[str, str | None], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.label, row.regime), []).append(row)
    return [
        Selected(*key, tuple(row.seed for row in some), tuple(_table(project, row) for row in some))
        for key, some in groups.items()
    ]


def load_auditable(path: Path) -> MergeSpec:
    """The merge of a recipe.

    Raises:
        SpecError: all that is wrong with it, or it is mergekit's.
    """
    if "merge_method" in YamlDocument.read(path).root:
        raise SpecError(
            f"{path} is a recipe of mergekit's, and only recipes of ours can be audited. Write the merge as one: "
            "method, params, base, experts."
        )
    return load_recipe(path)


def audit_of_recipe(spec: MergeSpec, progress: Callable[[int], None]) -> list[Selected]:
    """The audit of a merge that is made now, and not kept."""
    return [Selected(spec.method, None, (spec.seed,), (audit(spec, progress=progress),))]


def told(selected: Sequence[Selected], pattern: str | None, count: int) -> list[dict[str, Any]]:
    """All that is said of each, as plain values.

    Raises:
        SpecError: no tensor matches the pattern.
    """
    found = []
    for one in selected:
        parts = one.parts(pattern)
        if not parts:
            known = sorted({part.tensor for part in one.parts(None)})
            raise SpecError(f"No tensor is called '{pattern}': {suggest(pattern or '', known)}.")
        losses = [vars(loss) for loss in largest_losses(parts, count)]
        found.append(
            {
                "label": one.label,
                "regime": one.regime,
                "seeds": list(one.seeds),
                "tasks": by_task(parts),
                "blocks": by_block(parts),
                "losses": losses,
            }
        )
    return found


def whole_table(selected: Sequence[Selected]) -> pa.Table:
    """All tables as one, with columns for regime and seed."""
    return pa.concat_tables(_told_apart(selected)).unify_dictionaries()


def _told_apart(selected: Sequence[Selected]) -> Iterator[pa.Table]:
    for one in selected:
        for seed, table in zip(one.seeds, one.tables, strict=True):
            regimes = pa.array([one.regime] * len(table), pa.string())
            seeds = pa.array([seed] * len(table), pa.int64())
            yield table.append_column("regime", regimes).append_column("seed", seeds)


def _table(project: Project, row: Row) -> pa.Table:
    path = table_of(project.store, row.audit)  # type: ignore[arg-type]
    if not path.is_file():
        raise SpecError(
            f"The audit of '{row.label}' ({row.regime}, seed {row.seed}) is gone from {path.parent}. Run the study "
            "again: only what is missing is made."
        )
    return read_table(path)


def _check_known(what: str, asked: str | None, known: Sequence[str | None]) -> None:
    names = sorted({name for name in known if name is not None})
    if asked is not None and asked not in names:
        raise SpecError(f"The run has no audited {what} '{asked}': {suggest(asked, names)}.")
