"""The headline of a report: which method in which regime does best, and how sure that is."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from merge_lib.metrics import MetricInfo, describe
from merge_lib.report.aggregate import (
    Group,
    aggregate,
    boards_of,
    compare,
    find,
    labels_of,
    merges_of,
    number,
    ranked_of,
    references_of,
)
from merge_lib.report.layout import Finding
from merge_lib.statistics import BestRow, Interval, PairedTest, holm, mean_interval, paired_test

HEADLINES = {
    "average_accuracy": "Most accurate at the end",
    "retention_mean": "Keeps most of what it learned",
    "forgetting": "Forgets least",
}
ALPHA = 0.05
ONE_SEED_BASIS = "With one seed no test is possible, so no row is told apart from another."

APART = "Only rows of the first board of the leaderboard compete here; the others know or need more."
SEEDS_SHARE = "The seeds share the base and the split of the data: intervals speak of the training alone."


@dataclass(frozen=True)
class RegimeComparison:
    """One label with sequential and with parallel experts, over the seeds that both have."""

    label: str
    test: PairedTest  # sequential minus parallel
    p_holm: float | None
    higher_is_better: bool

    @property
    def verdict(self) -> str:
        """Which regime the label does better in, if a test says so."""
        if self.p_holm is None or self.p_holm > ALPHA:
            return "not distinguishable"
        is_higher = self.test.difference.mean > 0
        return "sequential better" if is_higher == self.higher_is_better else "parallel better"


def headline(groups: Sequence[Group]) -> list[Finding]:
    """One finding for each question that the study can answer."""
    merges = merges_of(groups)
    known = describe()
    boards = boards_of(ranked_of(groups))
    contenders = boards[0][1] if boards else []
    apart = APART if len(boards) > 1 else ""
    found = [_best(contenders, known[metric], question, apart) for metric, question in HEADLINES.items()]
    return [finding for finding in [*found, _regimes(merges), _references(groups)] if finding is not None]


def compare_regimes(groups: Sequence[Group], metric: str) -> list[RegimeComparison]:
    """Sequential minus parallel experts for each label that has both, Holm-corrected over the labels."""
    merges = merges_of(groups)
    tests: dict[str, PairedTest] = {}
    for label in labels_of(merges):
        pair = [find(merges, label, regime) for regime in ("sequential", "parallel")]
        values = [group.values(metric) for group in pair if group is not None]
        if len(values) < 2:
            continue
        seeds = [
            seed for seed in values[0] if values[0][seed] is not None and values[1].get(seed) is not None
        ]
        if seeds:
            tests[label] = paired_test(*([float(side[seed] or 0.0) for seed in seeds] for side in values))
    corrected = holm([test.p_value for test in tests.values()])
    higher = describe()[metric].higher_is_better
    return [
        RegimeComparison(label, test, p, higher)
        for (label, test), p in zip(tests.items(), corrected, strict=True)
    ]


def percent_interval(interval: Interval, unit: str = "%") -> str:
    """A mean in percent (or percentage points) with its interval in words."""
    mean = f"{number(interval.mean * 100)} {unit}"
    if interval.low is None or interval.high is None:
        return f"{mean} (one seed, no interval)"
    return f"{mean} (95 % interval {number(interval.low * 100)} to {number(interval.high * 100)})"


def in_words(names: Sequence[str], most: int = 3) -> str:
    """Names as a list in a sentence; what exceeds `most` is counted."""
    if len(names) > most + 1:
        return f"{', '.join(names[:most])} and {len(names) - most} others"
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def _best(merges: Sequence[Group], metric: MetricInfo, question: str, apart: str) -> Finding | None:
    best = compare(merges, metric)
    if best is None:
        return None
    group = next(group for group in merges if group.name == best.name)
    interval = aggregate(group, metric.name).interval
    assert interval is not None
    value = f"{metric.title} {percent_interval(interval, 'points' if metric.name == 'forgetting' else '%')}"
    final = aggregate(group, "average_accuracy").interval
    if metric.name != "average_accuracy" and final is not None:
        value += f", at an average accuracy of {number(final.mean * 100)} %"
    basis = f"Rows are compared by a {best.method}. {SEEDS_SHARE}" if best.versus else ""
    if interval.n == 1:
        basis = ONE_SEED_BASIS
    basis = f"{basis} {apart}".strip()
    return Finding(question, _with_regime(group), value + ".", _certainty(best), basis)


def _with_regime(group: Group) -> str:
    return group.label if group.regime is None else f"{group.label}, {group.regime} experts"


def _certainty(best: BestRow) -> str:
    if not best.versus:
        return "The only row of its kind."
    if best.is_alone:
        return f"Told apart from all {len(best.versus)} other rows."
    if len(best.ties) == len(best.versus):
        return f"Not distinguishable from any of the {len(best.versus)} other rows."
    return f"Not distinguishable from {in_words(best.ties)}."


def _regimes(merges: Sequence[Group]) -> Finding | None:
    comparisons = compare_regimes(merges, "average_accuracy")
    if not comparisons:
        return None
    verdicts = [comparison.verdict for comparison in comparisons]
    sequential, parallel = verdicts.count("sequential better"), verdicts.count("parallel better")
    undecided = verdicts.count("not distinguishable")
    mean = sum(comparison.test.difference.mean for comparison in comparisons) / len(comparisons)
    sides = {True: "Sequential experts", False: "Parallel experts"}
    if sequential == parallel == 0:
        answer = "Not distinguishable"
    elif sequential and parallel:
        answer = "It depends on the method"
    else:
        answer = sides[sequential > 0] + (", for some methods" if undecided else "")
    return Finding(
        "Sequential or parallel experts?",
        answer,
        f"Average accuracy differs by {_signed(mean * 100)} points (sequential minus parallel), mean over "
        f"the {len(verdicts)} methods.",
        f"{_counts(sequential, parallel, undecided)}.",
        _regime_basis(comparisons),
    )


def _references(groups: Sequence[Group]) -> Finding | None:
    said = []
    for group in references_of(groups):
        interval = reference_interval(group)
        if interval is not None:
            said.append(f"{group.title.lower()} {number(interval.mean * 100)} %")
    if not said:
        return None
    return Finding(
        "For comparison",
        "What needs no merging",
        f"{'; '.join(said)}.".capitalize(),
        "Average accuracy over the tasks; each expert on its own task only.",
        "",
    )


def reference_interval(group: Group) -> Interval | None:
    """Average accuracy of a reference over its seeds; for experts, each on its own task."""
    means = [own_accuracy(group, place) for place in range(len(group.rows))]
    flat = [sum(values) / len(values) for values in means if values and not any(map(math.isnan, values))]
    return mean_interval(flat) if len(flat) == len(means) else None


def own_accuracy(group: Group, place: int) -> list[float]:
    """Accuracy of one row on each task at the end; of the experts, each on its own task."""
    rows = [[float("nan") if entry is None else entry for entry in row] for row in group.rows[place].accuracy]
    if group.method == "expert" and len(rows) > 1:
        return [row[k] if k < len(row) else float("nan") for k, row in enumerate(rows)]
    return list(rows[-1]) if rows else []


def _regime_basis(comparisons: Sequence[RegimeComparison]) -> str:
    test = comparisons[0].test
    if test.difference.n == 1:
        return ONE_SEED_BASIS
    return f"Regimes are compared by a {test.method}, Holm over {len(comparisons)} methods, α = {ALPHA:g}."


def _counts(sequential: int, parallel: int, undecided: int) -> str:
    if not sequential and not parallel:
        return f"Not distinguishable for any of the {undecided} methods"
    said = [
        f"sequential is better for {sequential} methods" if sequential else "",
        f"parallel is better for {parallel}" if parallel else "",
        f"{undecided} not distinguishable" if undecided else "",
    ]
    return ", ".join(part for part in said if part).capitalize()


def _signed(value: float) -> str:
    return f"+{number(value)}" if value > 0 else number(value)
