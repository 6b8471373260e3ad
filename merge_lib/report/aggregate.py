"""The rows of a study gathered over seeds: means with intervals, and which of them are best."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import get_args

import numpy as np

from merge_lib.metrics import MetricInfo, as_matrix, describe
from merge_lib.report.layout import UNDEFINED, Cell, Mark
from merge_lib.results import Regime, Row, RowFacts, StudyResults
from merge_lib.statistics import BestRow, Interval, compare_with_best, mean_interval

REGIMES = get_args(Regime)
REFERENCE_TITLES = {
    "base": "Base",
    "expert": "Each expert alone",
    "sequential": "Sequential fine-tuning, not merged",
    "latest": "Latest expert, trained from the merge before it",
    "joint": "Joint training",
}


@dataclass(frozen=True, order=True)
class Board:
    """What rows must have in common to be compared."""

    needs_task: bool = False
    chooses: bool = False
    has_seen_test: bool = False
    is_tuned: bool = False
    replays: bool = False

    @property
    def title(self) -> str:
        """In words."""
        words = ["A model for each task, which must be told" if self.needs_task else "One model"]
        words = ["A model for each task, chosen by the input"] if self.chooses else words
        words += ["has seen the test inputs"] * self.has_seen_test
        words += ["tuned on validation data"] * self.is_tuned
        words += ["keeps examples of earlier tasks"] * self.replays
        return ", ".join(words)


@dataclass(frozen=True)
class Group:
    """The rows of one label in one regime, one for each seed."""

    label: str
    kind: str
    method: str
    regime: str | None
    rows: tuple[Row, ...]  # by seed

    @property
    def name(self) -> str:
        """Label and regime in words."""
        return self.label if self.regime is None else f"{self.label} ({self.regime})"

    @property
    def title(self) -> str:
        """How the report calls the row."""
        is_usual = self.kind == "reference" and self.label == self.method
        return REFERENCE_TITLES.get(self.method, self.label) if is_usual else self.label

    @property
    def facts(self) -> RowFacts | None:
        """What the merge needs beside checkpoints, if it was recorded."""
        return self.rows[0].facts

    @property
    def board(self) -> Board:
        """With what the row may be compared."""
        facts = self.facts
        if facts is None:
            return Board()
        has_seen = facts.data == "test inputs"
        return Board(facts.needs_task, facts.chooses, has_seen, facts.is_tuned, facts.replays)

    def values(self, metric: str) -> dict[int | None, float | None]:
        """The metric by seed."""
        return {row.seed: _defined(row.metrics.get(metric)) for row in self.rows}

    def matrices(self) -> np.ndarray:
        """Accuracy matrices [n, T, T], NaN where nothing was measured."""
        return np.stack([as_matrix(row.accuracy) for row in self.rows])


@dataclass(frozen=True)
class Aggregate:
    """One metric of one group over the seeds."""

    interval: Interval | None
    reason: str | None = None  # why there is no interval at all
    mark: Mark | None = None
    remark: str | None = None  # why the mark is there, or missing

    def cell(self, factor: float = 100.0) -> Cell:
        """The aggregate as text: mean ± half the interval."""
        if self.interval is None:
            return Cell(UNDEFINED, self.reason)
        said = [self.interval.method, *([self.remark] if self.remark else [])]
        return Cell(number_text(self.interval, factor), "; ".join(said), self.mark)


def number(value: float, digits: int = 1) -> str:
    """A number with a true minus sign and no negative zero."""
    return f"{round(value, digits) + 0.0:.{digits}f}".replace("-", "−")


def number_text(interval: Interval, factor: float = 100.0) -> str:
    """Mean ± half the interval, or the mean alone where there is no interval."""
    mean = number(interval.mean * factor)
    return mean if interval.half_width is None else f"{mean} ± {number(interval.half_width * factor)}"


def gather(results: StudyResults) -> list[Group]:
    """All rows by label and regime: merges and learners by falling mean accuracy of their label, then references."""
    gathered: dict[tuple[str, str | None], list[Row]] = {}
    for row in results.rows:
        gathered.setdefault((row.label, row.regime), []).append(row)
    groups = [
        Group(label, rows[0].kind, rows[0].method, regime, tuple(sorted(rows, key=_seed_order)))
        for (label, regime), rows in gathered.items()
    ]
    ranked, references = ranked_of(groups), references_of(groups)
    level = {group.label: _level(group.label, ranked) for group in ranked}
    ranked.sort(key=lambda group: (-level[group.label], group.label, _place(group.regime)))
    places = {method: place for place, method in enumerate(REFERENCE_TITLES)}
    references.sort(key=lambda group: (places.get(group.method, len(places)), group.label))
    return ranked + references


def ranked_of(groups: Sequence[Group]) -> list[Group]:
    """What a study compares: merges and learners."""
    return [group for group in groups if group.kind != "reference"]


def learners_of(groups: Sequence[Group]) -> list[Group]:
    """The rows of models that were trained along the sequence."""
    return [group for group in groups if group.kind == "learner"]


def merges_of(groups: Sequence[Group]) -> list[Group]:
    """The merged rows."""
    return [group for group in groups if group.kind == "merge"]


def references_of(groups: Sequence[Group]) -> list[Group]:
    """The rows that compete with nothing."""
    return [group for group in groups if group.kind == "reference"]


def labels_of(groups: Sequence[Group]) -> list[str]:
    """Labels in their order, each once."""
    return list(dict.fromkeys(group.label for group in groups))


def _place(regime: str | None) -> int:
    return REGIMES.index(regime) if regime in REGIMES else len(REGIMES)


def regimes_of(groups: Sequence[Group]) -> list[str | None]:
    """The regimes in which something was merged, in a fixed order."""
    present = {group.regime for group in groups}
    return [regime for regime in (*REGIMES, None) if regime in present]


def find(groups: Sequence[Group], label: str, regime: str | None) -> Group | None:
    """The group of that label and regime."""
    return next((group for group in groups if (group.label, group.regime) == (label, regime)), None)


def aggregate(group: Group, metric: str) -> Aggregate:
    """One metric of one group over its seeds; undefined if it is so for any seed."""
    values = group.values(metric)
    missing = [seed for seed, value in values.items() if value is None]
    if missing:
        seeds = "" if len(missing) == len(values) else f" (seed {', '.join(map(str, missing))})"
        return Aggregate(None, f"undefined{seeds}: {describe()[metric].undefined_when}")
    return Aggregate(mean_interval([value for value in values.values() if value is not None]))


def compare(groups: Sequence[Group], metric: MetricInfo) -> BestRow | None:
    """The best of the groups that have the metric for the same, largest set of seeds."""
    samples: dict[str, list[float]] = {}
    defined = [group for group in groups if None not in group.values(metric.name).values()]
    most = max((group.values(metric.name).keys() for group in defined), key=len, default=None)
    for group in defined:
        values = group.values(metric.name)
        if values.keys() == most:
            samples[group.name] = [value for value in values.values() if value is not None]
    return compare_with_best(samples, higher_is_better=metric.higher_is_better) if samples else None


def boards_of(groups: Sequence[Group]) -> list[tuple[Board, list[Group]]]:
    """The groups by what they may be compared with; single models that saw the least first."""
    boards = sorted({group.board for group in groups})
    return [(board, [group for group in groups if group.board == board]) for board in boards]


def marked(groups: Sequence[Group], metric: MetricInfo) -> Mapping[str, Aggregate]:
    """The metric of every group by name, the best of each board marked where a paired test over the seeds says so."""
    found: dict[str, Aggregate] = {}
    for _, members in boards_of(groups):
        best = compare(members, metric)
        found |= {group.name: _with_mark(group, metric, best) for group in members}
    return found


def _with_mark(group: Group, metric: MetricInfo, best: BestRow | None) -> Aggregate:
    plain = aggregate(group, metric.name)
    if plain.interval is None or best is None or not best.versus:
        return plain
    if group.name == best.name:
        mark: Mark | None = "best" if best.is_alone else _tie_unless_all(best)
        said = "told apart from every other row" if best.is_alone else "not told apart from every other row"
        return Aggregate(plain.interval, None, mark, f"best mean, {said} ({best.method})")
    if group.name not in best.versus:
        return Aggregate(plain.interval, None, None, "measured on other seeds, so not compared with the best")
    versus = best.versus[group.name]
    p_text = versus.test.reason or f"corrected p = {p_value(versus.p_holm)}"
    if versus.distinguishable:
        return Aggregate(plain.interval, None, None, f"told apart from the best, {p_text}")
    remark = f"not distinguishable from the best, {p_text}"
    return Aggregate(plain.interval, None, _tie_unless_all(best), remark)


def p_value(value: float | None) -> str:
    """A p-value in print."""
    if value is None:
        return UNDEFINED
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _tie_unless_all(best: BestRow) -> Mark | None:
    return None if len(best.ties) == len(best.versus) else "tie"


def _defined(value: float | None) -> float | None:
    return None if value is None or math.isnan(value) else value


def _seed_order(row: Row) -> int:
    return -1 if row.seed is None else row.seed


def _level(label: str, groups: Sequence[Group]) -> float:
    values = [
        value
        for group in groups
        if group.label == label
        for value in group.values("average_accuracy").values()
        if value is not None
    ]
    return sum(values) / len(values) if values else float("-inf")
