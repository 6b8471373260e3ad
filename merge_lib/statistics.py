"""What can be said about rows measured over the same few seeds: intervals, paired tests, and who is best.

Nothing here decides by the mean alone: the row with the best mean is called best only if a paired test tells
it apart from every other row. Where a test cannot be computed (one seed, or the same difference for every
seed) the answer is "not distinguishable", with the reason.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from merge_lib.errors import MetricInputError

ONE_SEED = "one seed has no spread"
NO_DIFFERENCE = "both rows are equal for every seed"
CONSTANT_DIFFERENCE = "the difference is the same for every seed, so t is undefined"


@dataclass(frozen=True)
class Interval:
    """A mean over seeds and the interval in which its true value is expected to lie."""

    mean: float
    low: float | None  # None where one seed leaves it undefined
    high: float | None
    n: int
    method: str

    @property
    def half_width(self) -> float | None:
        """Half the length of the interval."""
        return None if self.high is None else self.high - self.mean


@dataclass(frozen=True)
class PairedTest:
    """How two rows differ over the same seeds."""

    difference: Interval  # first minus second
    p_value: float | None  # two-sided; None where t is undefined
    effect_size: float | None  # Cohen's d_z: mean difference over its standard deviation
    method: str
    reason: str | None  # why p_value is None


@dataclass(frozen=True)
class VersusBest:
    """One row against the row with the best mean."""

    test: PairedTest
    p_holm: float | None  # corrected over all rows that were compared with the best
    distinguishable: bool


@dataclass(frozen=True)
class BestRow:
    """The row with the best mean, and which rows a test cannot tell from it."""

    name: str
    versus: dict[str, VersusBest]  # every other row
    method: str

    @property
    def ties(self) -> tuple[str, ...]:
        """The rows that are not distinguishable from the best."""
        return tuple(name for name, other in self.versus.items() if not other.distinguishable)

    @property
    def is_alone(self) -> bool:
        """Whether there are other rows and a test tells the best from each of them."""
        return bool(self.versus) and not self.ties


def mean_interval(values: Sequence[float], *, level: float = 0.95) -> Interval:
    """The mean of one number a seed, with its two-sided Student t interval.

    mean ± t_{n-1, (1+level)/2} s / sqrt(n), s with n - 1 in its denominator.

    Args:
        values: one number for each seed.
        level: coverage of the interval, in (0, 1).

    Returns:
        The interval; its ends are None for one seed, and equal the mean if all values are equal.

    Raises:
        MetricInputError: there is no value, or one is not finite.
    """
    numbers = _finite(values)
    count, mean = len(numbers), math.fsum(numbers) / len(numbers)
    if count == 1:
        return Interval(mean, None, None, 1, "one seed: no interval")
    from scipy.special import stdtrit

    quantile = float(stdtrit(count - 1, (1 + level) / 2))
    half = quantile * _spread(numbers) / math.sqrt(count)
    return Interval(mean, mean - half, mean + half, count, f"Student t, {level:.0%}, n = {count}")


def paired_test(first: Sequence[float], second: Sequence[float], *, level: float = 0.95) -> PairedTest:
    """Two-sided paired t-test of two rows over the same seeds, in the same order.

    t = mean(d) / (s_d / sqrt(n)), d = first - second, n - 1 degrees of freedom.

    Args:
        first: one number for each seed.
        second: one number for each seed, in the order of `first`.
        level: coverage of the interval of the difference.

    Returns:
        The difference with its interval, p, and effect size. Rows that are equal for every seed have p = 1;
        for one seed, or a difference that is the same (not 0) for every seed, p is None with a reason.

    Raises:
        MetricInputError: the rows differ in length, are empty, or hold a number that is not finite.
    """
    if len(first) != len(second):
        raise MetricInputError(
            f"A paired test compares two rows over the same seeds; got {len(first)} and {len(second)} "
            "values, expected as many; pass the seeds that both rows have, in one order."
        )
    differences = [a - b for a, b in zip(_finite(first), _finite(second), strict=True)]
    interval = mean_interval(differences, level=level)
    method = f"paired t-test, n = {len(differences)}"
    spread = _spread(differences)
    if len(differences) == 1:
        return PairedTest(interval, None, None, method, ONE_SEED)
    if spread == 0 and abs(interval.mean) <= _rounding(first):
        return PairedTest(interval, 1.0, 0.0, method, NO_DIFFERENCE)
    if spread == 0:
        return PairedTest(interval, None, None, method, CONSTANT_DIFFERENCE)
    from scipy.special import stdtr

    effect = interval.mean / spread
    statistic = effect * math.sqrt(len(differences))
    p_value = 2 * float(stdtr(len(differences) - 1, -abs(statistic)))
    return PairedTest(interval, min(p_value, 1.0), effect, method, None)


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Holm's correction of a family of p-values, in the order given.

    Sorted ascending, p_(i) becomes max_{j<=i} min(1, (m - j) p_(j)), j from 0, m the size of the family.

    Variant: a test that could not be computed (None) stays None but counts in m, the cautious choice.
    Reference: Holm, "A Simple Sequentially Rejective Multiple Test Procedure", Scand. J. Statistics 6, 1979.
    """
    known = sorted((p, place) for place, p in enumerate(p_values) if p is not None)
    corrected: list[float | None] = [None] * len(p_values)
    running = 0.0
    for rank, (p, place) in enumerate(known):
        running = max(running, min(1.0, (len(p_values) - rank) * p))
        corrected[place] = running
    return corrected


def compare_with_best(
    rows: Mapping[str, Sequence[float]], *, higher_is_better: bool, alpha: float = 0.05
) -> BestRow:
    """The row with the best mean, and a Holm-corrected paired test of every other row against it.

    The best row is picked from the same seeds on which it is tested, which favours it slightly.

    Args:
        rows: by name, one number for each seed; all rows in the same order of seeds.
        higher_is_better: which way is better.
        alpha: rows with a corrected p at most this are told apart from the best.

    Returns:
        The best row (the first named, among equal means) and the comparison of each other row with it.

    Raises:
        MetricInputError: there are no rows, or two differ in their number of seeds.
    """
    if not rows:
        raise MetricInputError(
            "The best of a table is picked from its rows; got none, expected at least one; "
            "leave the comparison out where nothing was measured."
        )
    sign = 1.0 if higher_is_better else -1.0
    best = max(rows, key=lambda name: sign * math.fsum(_finite(rows[name])) / len(rows[name]))
    tests = {name: paired_test(rows[best], values) for name, values in rows.items() if name != best}
    corrected = holm([test.p_value for test in tests.values()])
    versus = {
        name: VersusBest(test, p, p is not None and p <= alpha)
        for (name, test), p in zip(tests.items(), corrected, strict=True)
    }
    count = len(rows[best])
    return BestRow(
        best, versus, f"paired t-test over {count} seeds, Holm over {len(tests)} tests, α = {alpha:g}"
    )


def _finite(values: Sequence[float]) -> list[float]:
    numbers = [float(value) for value in values]
    bad = [place for place, value in enumerate(numbers) if not math.isfinite(value)]
    if bad or not numbers:
        got = f"{numbers[bad[0]]} at place {bad[0]}" if bad else "no value"
        raise MetricInputError(
            f"A statistic over seeds needs one finite number for each seed; got {got}, expected at least one "
            "number; leave out a row whose metric is undefined."
        )
    return numbers


def _spread(numbers: Sequence[float]) -> float:
    """Standard deviation with n - 1; exactly 0 where the values differ by rounding only."""
    if len(numbers) < 2 or max(numbers) - min(numbers) <= _rounding(numbers):
        return 0.0
    mean = math.fsum(numbers) / len(numbers)
    return math.sqrt(math.fsum((value - mean) ** 2 for value in numbers) / (len(numbers) - 1))


def _rounding(numbers: Sequence[float]) -> float:
    return 1e-12 * max(1.0, *(abs(value) for value in numbers))
