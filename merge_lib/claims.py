"""The three claims of the linear-merge forgetting study, judged on paths between two endpoints.

Hess, van de Ven & Tuytelaars, "Forgetting of task-specific knowledge under merging", arXiv:2507.23311: merging
(1) keeps knowledge that both endpoints share, (2) loses what only one of them has as α leaves that endpoint, and
(3) loses less between endpoints trained incrementally than in parallel. The paper states them in words; the
margins and tests are ours. Every check is a paired t-test over seeds against its margin, Holm-corrected over all
checks of all claims; a claim is confirmed if all its checks are, refuted if any is, else undecided.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from merge_lib.errors import MetricInputError
from merge_lib.statistics import CONSTANT_DIFFERENCE, PairedTest, holm, paired_test

Verdict = Literal["confirmed", "refuted", "undecided"]
Protocol = Literal["shared", "unshared"]
KEPT_MARGIN = -0.02  # kept: at most two points below the worse endpoint
LOST_MARGIN = 0.02  # lost: more than two points below the endpoint that learned it
ALPHA = 0.05
MIDDLE = 0.5


@dataclass(frozen=True)
class MergePath:
    """Accuracies along (1 − α)·θ₁ + α·θ₂ for one seed.

    Attributes:
        positions: α, ascending from 0 to 1, with 0.5 among them.
        accuracy: cue -> accuracy in [0, 1] at each position, on images that carry that cue.
        ends: cue -> the position (0 or 1) of the endpoint that was trained on it last; for a shared cue either.
    """

    protocol: Protocol
    regime: str  # "sequential" or "parallel"
    seed: int
    positions: tuple[float, ...]
    accuracy: Mapping[str, tuple[float, ...]]
    ends: Mapping[str, float]

    def at(self, cue: str, position: float) -> float:
        """The accuracy on a cue at one of the positions."""
        return self.accuracy[cue][self.positions.index(position)]

    def inside(self, cue: str) -> float:
        """The mean accuracy on a cue over all positions between the ends."""
        values = [a for p, a in zip(self.positions, self.accuracy[cue], strict=True) if 0.0 < p < 1.0]
        return sum(values) / len(values)


@dataclass(frozen=True)
class Check:
    """One test of a claim: a difference of accuracies, over the seeds, against the claim's margin."""

    said: str  # what is compared, in words
    margin: float  # the difference must lie above it
    test: PairedTest  # of the difference minus the margin
    p_holm: float | None
    verdict: Verdict

    @property
    def difference(self) -> float:
        """Mean over the seeds, in [-1, 1]."""
        return self.test.difference.mean + self.margin


@dataclass(frozen=True)
class Claim:
    """One claim, its checks, and what they say together."""

    name: str
    statement: str
    verdict: Verdict
    checks: tuple[Check, ...]


def judge(paths: Sequence[MergePath]) -> list[Claim]:
    """The three claims on these paths; a claim whose paths are not there is left out.

    Raises:
        MetricInputError: paths of one kind do not have the same seeds for both regimes, or lack α of 0, 0.5 or 1.
    """
    for path in paths:
        _check_path(path)
    families = {
        ("shared-kept", "Knowledge that both endpoints share is kept at α = 0.5"): _kept(paths),
        ("unshared-lost", "What one endpoint alone knows is lost as α leaves it"): _lost(paths),
        ("incremental-better", "Incremental endpoints merge better than parallel ones"): _better(paths),
    }
    checks = [check for family in families.values() for check in family]
    corrected = iter(holm([check.test.p_value for check in checks]))
    claims = []
    for (name, statement), family in families.items():
        judged = tuple(_judged(check, next(corrected)) for check in family)
        if judged:
            claims.append(Claim(name, statement, _together(judged), judged))
    return claims


def _kept(paths: Sequence[MergePath]) -> list[Check]:
    checks = []
    for regime, group in _by_regime(paths, "shared").items():
        for cue in group[0].accuracy:
            middle = [path.at(cue, MIDDLE) for path in group]
            worse = [min(path.at(cue, 0.0), path.at(cue, 1.0)) for path in group]
            said = f"{cue}, {regime}: at α = 0.5 against the worse endpoint"
            checks.append(_check(said, middle, worse, KEPT_MARGIN))
    return checks


def _lost(paths: Sequence[MergePath]) -> list[Check]:
    checks = []
    for regime, group in _by_regime(paths, "unshared").items():
        for cue, end in group[0].ends.items():
            known = [path.at(cue, end) for path in group]
            middle = [path.at(cue, MIDDLE) for path in group]
            said = f"{cue}, {regime}: at α = {end:g} against α = 0.5"
            checks.append(_check(said, known, middle, LOST_MARGIN))
    return checks


def _better(paths: Sequence[MergePath]) -> list[Check]:
    checks = []
    for protocol in ("unshared", "shared"):
        regimes = _by_regime(paths, protocol)
        if not {"sequential", "parallel"} <= regimes.keys():
            continue
        sequential, parallel = regimes["sequential"], regimes["parallel"]
        if [path.seed for path in sequential] != [path.seed for path in parallel]:
            raise MetricInputError(
                f"The {protocol} paths have the seeds {[p.seed for p in sequential]} for sequential and "
                f"{[p.seed for p in parallel]} for parallel endpoints; expected the same. Measure both for every seed."
            )
        for cue in sequential[0].accuracy:
            said = f"{cue}, {protocol}: incremental against parallel, mean over 0 < α < 1"
            first, second = ([path.inside(cue) for path in side] for side in (sequential, parallel))
            checks.append(_check(said, first, second, 0.0))
    return checks


def _by_regime(paths: Sequence[MergePath], protocol: str) -> dict[str, list[MergePath]]:
    """Paths of one protocol by regime, each in the order of the seeds."""
    groups: dict[str, list[MergePath]] = {}
    for path in sorted(paths, key=lambda path: (path.regime, path.seed)):
        if path.protocol == protocol:
            groups.setdefault(path.regime, []).append(path)
    return groups


def _check(said: str, first: Sequence[float], second: Sequence[float], margin: float) -> Check:
    test = paired_test(first, [value + margin for value in second])
    return Check(said, margin, test, None, "undecided")


def _judged(check: Check, p_holm: float | None) -> Check:
    """A difference without any spread is decided by its sign; all others by the corrected p."""
    beyond = check.test.difference.mean
    is_certain = check.test.reason == CONSTANT_DIFFERENCE or (p_holm is not None and p_holm <= ALPHA)
    verdict: Verdict = "undecided"
    if is_certain and beyond:
        verdict = "confirmed" if beyond > 0 else "refuted"
    return replace(check, p_holm=p_holm, verdict=verdict)


def _together(checks: Sequence[Check]) -> Verdict:
    verdicts = {check.verdict for check in checks}
    if "refuted" in verdicts:
        return "refuted"
    return "confirmed" if verdicts == {"confirmed"} else "undecided"


def _check_path(path: MergePath) -> None:
    missing = [position for position in (0.0, MIDDLE, 1.0) if position not in path.positions]
    if missing:
        raise MetricInputError(
            f"The path of seed {path.seed} ({path.regime}, {path.protocol}) has α = {list(path.positions)}; it lacks "
            f"{missing}. Measure α at 0, 0.5 and 1 at least."
        )
    if wrong := sorted(cue for cue, values in path.accuracy.items() if len(values) != len(path.positions)):
        raise MetricInputError(
            f"The path of seed {path.seed} ({path.regime}, {path.protocol}) has not one accuracy for each of its "
            f"{len(path.positions)} positions on {', '.join(wrong)}. Give one for each α."
        )
