"""Searches: what may be searched, which settings are tried, and that the same search tries the same."""

import pytest
from hypothesis import given
from hypothesis import strategies as some
from pydantic import ValidationError

from merge_lib import registry
from merge_lib.errors import MethodInputError
from merge_lib.search import (
    START,
    Range,
    Search,
    best_of,
    check_search,
    own_setting,
    run_search,
    settled_scales,
)

RANGES = {"density": {"low": 0.05, "high": 0.5, "log": True}, "trim": ["model", "tensor"]}


def search(**fields):
    return check_search(registry.get("ties"), {"trials": 14, "params": RANGES, **fields})


def peak(settings):
    """Best at density 0.2 with trim by tensor."""
    return [1.0 - abs(setting["density"] - 0.2) + 0.1 * (setting["trim"] == "tensor") for setting in settings]


def recorded(batches):
    def evaluate(settings):
        batches.append(list(settings))
        return peak(settings)

    return evaluate


def test_the_same_search_tries_the_same_settings_and_finds_a_better_one():
    asked = search(trials=40)
    first, again = ([], [])
    trials = run_search(asked, asked.spans(0), recorded(first))
    assert run_search(asked, asked.spans(0), recorded(again)) == trials
    assert first == again
    best = best_of(trials).setting
    assert best["trim"] == "tensor"
    assert abs(best["density"] - 0.2) < 0.02
    other = search(trials=40, seed=1)
    assert run_search(other, other.spans(0), peak) != trials


def test_a_longer_search_begins_like_a_shorter_one():
    short, long = search(trials=12), search(trials=16)
    assert run_search(long, long.spans(0), peak)[:12] == run_search(short, short.spans(0), peak)


def test_trials_that_depend_on_no_other_come_in_one_batch():
    batches = []
    run_search(search(), search().spans(0), recorded(batches))
    assert [len(batch) for batch in batches] == [START, 1, 1, 1, 1]
    batches = []
    asked = search(sampler="random")
    run_search(asked, asked.spans(0), recorded(batches))
    assert [len(batch) for batch in batches] == [14]


def test_it_begins_with_the_setting_that_the_entry_has_anyway():
    asked = search()
    own = own_setting(asked.spans(0), {"density": 0.2, "scale": 1.0, "trim": "model"}, None)
    assert own == {"density": 0.2, "trim": "model"}
    assert run_search(asked, asked.spans(0), peak, first=own)[0].setting == own
    assert own_setting(asked.spans(0), {"density": 0.6, "trim": "model"}, None) is None


def test_of_equal_trials_the_first_is_taken():
    trials = run_search(search(), search().spans(0), lambda settings: [0.5] * len(settings))
    assert best_of(trials) is trials[0]


def test_an_objective_that_is_not_finite_is_refused():
    with pytest.raises(MethodInputError, match=r"objective of .* is nan; it must be finite"):
        run_search(search(), search().spans(0), lambda settings: [float("nan")] * len(settings))


@given(
    low=some.floats(0.01, 0.4),
    width=some.floats(0.01, 0.5),
    log=some.booleans(),
    seed=some.integers(0, 2**63 - 1),
)
def test_every_setting_lies_in_its_ranges(low, width, log, seed):
    given_ranges = {
        "density": {"low": low, "high": low + width, "log": log},
        "rank": {"low": 1, "high": 4},
        "restore_norm": [False, True],
    }
    spans = {
        name: Range(**span) if isinstance(span, dict) else tuple(span) for name, span in given_ranges.items()
    }
    asked = Search(trials=12, seed=seed, params=spans)
    trials = run_search(
        asked, spans, lambda settings: [s["density"] for s in settings], integers=frozenset({"rank"})
    )
    for trial in trials:
        assert low <= trial.setting["density"] <= low + width
        assert trial.setting["rank"] in (1, 2, 3, 4)
        assert isinstance(trial.setting["rank"], int)
        assert trial.setting["restore_norm"] in (False, True)


@pytest.mark.parametrize(
    ("method", "params", "said"),
    [
        ("ties", {"density": {"low": 0.0, "high": 0.5}}, r"got 0\.0, but each value must be a number in \(0, 1\]"),
        ("ties", {"density": [0.1, 2.0]}, r"got 2\.0, but each value must be a number in \(0, 1\]"),
        ("ties", {"trim": {"low": 0, "high": 1}}, "give a list of choices, each one of 'model', 'tensor'"),
        ("ties", {"trim": ["model", "row"]}, "got 'row', but each value must be one of 'model', 'tensor'"),
        ("ties", {"trim": ["model"]}, "at least 2 items"),
        ("cat", {"restore_norm": {"low": 0, "high": 1}}, "give a list of choices, each a boolean"),
        ("cat", {"rank": {"low": 0.5, "high": 4}}, r"got 0\.5, but each value must be an integer in \[0, inf\)"),
        ("ties", {"scale": {"low": 2, "high": 1}}, "`low` must be the smaller"),
        ("ties", {"scale": {"low": -1, "high": 1, "log": True}}, "needs it above 0"),
        ("emr", {"task": {"low": 0, "high": 1}}, "`task` says whose model is given"),
    ],
)  # fmt: skip
def test_what_lies_outside_of_a_parameter_s_domain_is_refused(method, params, said):
    with pytest.raises(ValidationError, match=said):
        check_search(registry.get(method), {"trials": 3, "params": params})


def test_a_search_of_nothing_is_refused():
    with pytest.raises(ValidationError, match="needs `params` or `layer_scales`"):
        check_search(registry.get("ties"), {"trials": 3})


def test_factors_by_depth_join_those_that_are_fixed():
    slope = {"layer_scales.slope": 0.5, "scale": 1.0}
    assert settled_scales(None, {"scale": 1.0}) is None
    assert settled_scales(None, slope) == {"shallow": "auto", "slope": 0.5, "blocks": []}
    fixed = {"shallow": 0.3, "slope": 0.1, "blocks": []}
    assert settled_scales(fixed, slope) == {"shallow": 0.3, "slope": 0.5, "blocks": []}
    blocks = {"layer_scales.blocks.0": 0.2, "layer_scales.blocks.1": 0.4}
    assert settled_scales(None, blocks) == {"shallow": 1.0, "slope": 0.0, "blocks": [0.2, 0.4]}
    shallow = {"layer_scales.shallow": 0.7}
    kept = {"shallow": 0.1, "slope": 0.0, "blocks": [1.0, 2.0]}
    assert settled_scales(kept, shallow) == {"shallow": 0.7, "slope": 0.0, "blocks": [1.0, 2.0]}


def test_each_block_has_a_factor_of_its_own():
    asked = check_search(
        registry.get("average"), {"trials": 2, "layer_scales": {"blocks": {"low": 0, "high": 2}}}
    )
    spans = asked.spans(3)
    assert list(spans) == [f"layer_scales.blocks.{block}" for block in range(3)]
    assert own_setting(spans, {}, None) == dict.fromkeys(spans, 1.0)
    assert own_setting(spans, {}, {"shallow": 1.0, "blocks": [0.5, 1.0, 1.5]}) == {
        "layer_scales.blocks.0": 0.5,
        "layer_scales.blocks.1": 1.0,
        "layer_scales.blocks.2": 1.5,
    }
    with pytest.raises(MethodInputError, match="needs a model with numbered blocks"):
        asked.spans(0)


def test_without_factors_of_its_own_an_entry_has_no_slope_to_begin_with():
    asked = check_search(
        registry.get("average"), {"trials": 2, "layer_scales": {"slope": {"low": 0, "high": 2}}}
    )
    assert own_setting(asked.spans(4), {}, None) is None
    assert own_setting(asked.spans(4), {}, {"shallow": 1.0, "slope": 0.5}) == {"layer_scales.slope": 0.5}


@pytest.mark.parametrize(
    ("when", "experts"), [("last", [4, 4, 4, 4]), ("every", [1, 2, 3, 4]), ("first", [1, 2, 2, 2])]
)
def test_with_how_many_experts_a_stage_s_setting_is_found(when, experts):
    assert [search(when=when).experts_at(stage, 4) for stage in range(4)] == experts
