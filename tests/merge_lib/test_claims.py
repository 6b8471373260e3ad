"""The claims of the forgetting study, on paths whose truth is known."""

import numpy as np
import pytest

from merge_lib.claims import MergePath, judge
from merge_lib.errors import MetricInputError

POSITIONS = tuple(place / 10 for place in range(11))
SEEDS = range(5)


def path(protocol, regime, seed, at, *, noise=0.003) -> MergePath:
    """Accuracy `at(cue, position)`, with a small shift for each seed, cue and position."""
    cues = ("colour",) if protocol == "shared" else ("colour", "noise")
    draw = np.random.default_rng([seed, len(cues), len(regime)])
    accuracy = {
        cue: tuple(at(cue, p) + noise * float(draw.standard_normal()) for p in POSITIONS) for cue in cues
    }
    ends = {"colour": 0.0, "noise": 1.0}
    return MergePath(protocol, regime, seed, POSITIONS, accuracy, {cue: ends[cue] for cue in cues})


def falling(depth):
    """One at the cue's own end, `depth` less in the middle and at the other end."""
    return lambda cue, p: 0.98 - depth * min(1.0, 2 * (p if cue == "colour" else 1 - p))


def study(shared, parallel, sequential) -> list[MergePath]:
    regimes = ("parallel", "sequential")
    kept = [path("shared", regime, seed, shared) for regime in regimes for seed in SEEDS]
    lost = [path("unshared", "parallel", seed, parallel) for seed in SEEDS]
    return [*kept, *lost, *(path("unshared", "sequential", seed, sequential) for seed in SEEDS)]


def verdicts(paths) -> dict[str, str]:
    return {claim.name: claim.verdict for claim in judge(paths)}


def test_the_paper_s_findings_are_confirmed_where_they_hold():
    regime_gain = 0.05
    paths = study(lambda _cue, _p: 0.98, falling(0.4), falling(0.2))
    paths = [
        path("shared", p.regime, p.seed, lambda _c, _p, g=regime_gain * (p.regime == "sequential"): 0.9 + g)
        if p.protocol == "shared"
        else p
        for p in paths
    ]
    assert verdicts(paths) == {
        "shared-kept": "confirmed",
        "unshared-lost": "confirmed",
        "incremental-better": "confirmed",
    }


def test_they_are_refuted_where_the_opposite_holds():
    dip = lambda _cue, p: 0.98 - 0.3 * (0 < p < 1)  # noqa: E731 - a curve
    found = verdicts(study(dip, lambda _cue, _p: 0.9, lambda _cue, _p: 0.8))
    assert found == {"shared-kept": "refuted", "unshared-lost": "refuted", "incremental-better": "refuted"}


def test_what_the_seeds_do_not_show_is_undecided():
    paths = study(lambda _cue, _p: 0.98, falling(0.4), falling(0.4))
    assert verdicts(paths)["incremental-better"] == "undecided"
    assert verdicts([p for p in paths if p.seed == 0]) == dict.fromkeys(
        ("shared-kept", "unshared-lost", "incremental-better"), "undecided"
    )


def test_one_check_that_fails_refutes_a_claim():
    paths = study(
        lambda _cue, _p: 0.98, falling(0.4), lambda cue, p: falling(0.4)(cue, p) if cue == "noise" else 0.98
    )
    claim = next(claim for claim in judge(paths) if claim.name == "unshared-lost")
    assert claim.verdict == "refuted"
    by_check = {check.said.partition(":")[0]: check.verdict for check in claim.checks}
    assert by_check == {
        "colour, parallel": "confirmed",
        "noise, parallel": "confirmed",
        "colour, sequential": "refuted",
        "noise, sequential": "confirmed",
    }


def test_differences_are_told_without_the_margin_and_p_is_corrected_over_all_checks():
    claims = judge(study(lambda _cue, _p: 0.98, falling(0.4), falling(0.2)))
    lost = {check.said: check for claim in claims if claim.name == "unshared-lost" for check in claim.checks}
    assert lost["colour, parallel: at α = 0 against α = 0.5"].difference == pytest.approx(0.4, abs=0.01)
    checks = [check for claim in claims for check in claim.checks]
    smallest = min(checks, key=lambda check: check.test.p_value)
    assert smallest.p_holm == pytest.approx(len(checks) * smallest.test.p_value)


def test_a_difference_without_spread_is_decided_by_its_sign():
    exact = [path("shared", "parallel", seed, lambda _cue, _p: 0.5, noise=0.0) for seed in SEEDS]
    (claim,) = judge(exact)
    assert (claim.verdict, claim.checks[0].p_holm) == ("confirmed", None)


def test_missing_paths_leave_claims_out():
    assert judge([]) == []
    only = [path("unshared", "parallel", seed, falling(0.3)) for seed in SEEDS]
    assert [claim.name for claim in judge(only)] == ["unshared-lost"]


def test_wrong_paths_are_refused():
    whole = path("shared", "parallel", 0, lambda _cue, _p: 0.9)
    with pytest.raises(MetricInputError, match=r"lacks \[0.5\]"):
        judge([MergePath("shared", "parallel", 0, (0.0, 1.0), {"colour": (1.0, 1.0)}, {"colour": 0.0})])
    with pytest.raises(MetricInputError, match="11 positions on colour"):
        judge([MergePath("shared", "parallel", 0, POSITIONS, {"colour": (1.0,)}, {"colour": 0.0})])
    other = path("shared", "sequential", 1, lambda _cue, _p: 0.9)
    with pytest.raises(MetricInputError, match="seeds"):
        judge([whole, other])
