"""What a study may say of a method, and how it is told what is wrong."""

from pathlib import Path

import pytest

from flows.config import StudyConfig, load_study
from merge_lib.errors import SpecError


def refusal(path: Path, *overrides: str) -> str:
    with pytest.raises(SpecError) as caught:
        load_study(path, overrides)
    return str(caught.value)


def test_task_vectors_are_equalised_where_a_method_has_them(study):
    config = load_study(study, ["methods.ties-half.equalise=norms"])
    assert [entry.equalise for entry in config.methods] == [None, "norms"]
    said = refusal(study, "methods.average.equalise=norms")
    assert (
        "methods.0: `equalise` scales task vectors (expert − base), but method 'average' works on weights"
        in said
    )
    assert "methods.1.equalise: " in refusal(study, "methods.ties-half.equalise=lengths")


def test_calibration_is_of_methods_that_observe_data(study):
    said = refusal(study, "methods.ties-half.calibration={examples: 3}")
    assert "methods.1: method 'ties' observes no data; leave `calibration` out" in said
    config = load_study(study, ["methods.0={method: regmean, calibration: {examples: 3}}"])
    assert config.methods[0].calibration.examples == 3


SEARCHES = """\
  - method: ties
    label: tuned
    params: {densty: 0.2}
    search:
      trials: 0
      params:
        density: {low: 0.0, high: 1.5}
        scale: {low: 0.3, hihg: 2.0}
        sacle: {low: 1, high: 2}
      layer_scales: {slope: {low: 2, high: 1}}
"""


def test_every_error_of_a_search_is_told_at_once_with_its_line_and_the_domain(study):
    study.write_text(study.read_text() + SEARCHES)
    said = refusal(study)
    assert said.startswith(f"7 errors in {study}; nothing was run.")
    for line in (
        ":14: methods.2.search.trials: input should be greater than or equal to 1, got 0",
        ":16: methods.2.search.params.density: got 0.0 and 1.5, but each value must be a number in (0, 1]",
        ":17: methods.2.search.params.scale.high: this key is missing",
        ":17: methods.2.search.params.scale.hihg: unknown key 'hihg'. Did you mean 'high'?",
        ":18: methods.2.search.params.sacle: unknown key 'sacle'. Did you mean 'scale'?",
        ":19: methods.2.search.layer_scales.slope: `low` is 2 and `high` 1; `low` must be the smaller",
        ":12: methods.2.params.densty: unknown key 'densty'. Did you mean 'density'?",
    ):
        assert line in said


def test_what_is_searched_is_no_parameter_of_the_entry(study):
    asked = "methods.ties-half.search={trials: 3, params: {scale: {low: 0.5, high: 2}}}"
    entry = load_study(study, [asked]).methods[1]
    assert entry.params == {"density": 0.5, "trim": "model"}
    assert entry.search.params["scale"].high == 2
    whole = load_study(study, [asked])
    assert StudyConfig.model_validate(whole.model_dump(mode="json")) == whole
    twice = "methods.ties-half.search={trials: 3, params: {density: {low: 0.5, high: 1}}}"
    assert "methods.1.params: density stands in both `params` and `search.params`" in refusal(study, twice)


def test_fixed_and_searched_factors_by_depth_may_not_exclude_each_other(study):
    asked = "methods.ties-half.search={trials: 3, layer_scales: {blocks: {low: 0.5, high: 2}}}"
    fixed = "methods.ties-half.layer_scales={slope: 0.5}"
    assert "or the other way round; leave one out" in refusal(study, asked, fixed)
