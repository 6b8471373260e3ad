import subprocess
import sys
from pathlib import Path

import pytest

from flows.config import StudyConfig, load_study
from merge_lib.errors import SpecError

STUDY = """\
study: tiny
workload:
  name: vision
  scenario: class-incremental
tasks: [digits-01, digits-23]
seeds: [0, 1]
methods:
  - average
  - {method: ties, label: ties-half, params: {density: 0.5}}
"""


@pytest.fixture
def study(tmp_path) -> Path:
    path = tmp_path / "study.yaml"
    path.write_text(STUDY)
    return path


def refusal(path: Path, *overrides: str) -> str:
    with pytest.raises(SpecError) as caught:
        load_study(path, overrides)
    return str(caught.value)


def test_defaults_are_filled_in(study):
    config = load_study(study)
    assert config.regimes == ("sequential", "parallel")
    assert [(entry.label, entry.method) for entry in config.methods] == [
        ("average", "average"),
        ("ties-half", "ties"),
    ]
    assert config.methods[1].params == {"density": 0.5, "scale": 1.0, "trim": "model"}
    with pytest.raises(ValueError, match="frozen"):
        config.seeds = (3,)


def test_every_error_is_told_at_once_with_its_line_and_the_nearest_name(study):
    study.write_text(
        STUDY.replace("scenario: class-incremental", "scenario: class-incremetal")
        .replace("density: 0.5", "densty: 0.5")
        .replace("- average", "- avrage")
        .replace("seeds: [0, 1]", "seds: [0, 1]")
    )
    said = refusal(study)
    assert said.startswith(f"5 errors in {study}; nothing was run.")
    assert f"{study}:4: workload.scenario: " in said
    assert "Did you mean 'class-incremental'?" in said
    assert f"{study}:6: seds: unknown key 'seds'. Did you mean 'seeds'?" in said
    assert "seeds: this key is missing and has no default." in said
    assert f"{study}:8: methods.0: there is no merge method 'avrage': did you mean 'average'?" in said
    assert f"{study}:9: methods.1.params.densty: unknown key 'densty'. Did you mean 'density'?" in said


def test_errors_are_told_in_the_order_of_the_lines(study):
    study.write_text("bogus: 1\nregimes: [serial]\n" + study.read_text())
    said = refusal(study, "seeds=[-1]")
    first, second, *_, last = said.splitlines()[1:]
    assert first.startswith(f"  {study}:1: bogus: unknown key 'bogus'.")
    assert second.startswith(f"  {study}:2: regimes.0: ")
    assert second.endswith("got 'serial'. Did you mean 'sequential'?")
    assert last.startswith("  --set seeds=[-1]: ")


def test_ranges_of_a_method_are_checked_before_anything_runs(study):
    said = refusal(study, "methods.ties-half.params.density=1.5")
    assert "--set methods.ties-half.params.density=1.5: methods.1.params.density: " in said
    assert "less than or equal to 1, got 1.5" in said


@pytest.mark.parametrize(
    ("override", "check"),
    [
        ("seeds=[4]", lambda config: config.seeds == (4,)),
        ("workload.fine_tuning.epochs=3", lambda config: config.workload.fine_tuning.epochs == 3),
        ("methods.0=slerp", lambda config: config.methods[0].method == "slerp"),
        ("methods.ties-half.params.density=1e-1", lambda config: config.methods[1].params["density"] == 0.1),
    ],
)
def test_overrides(study, override, check):
    assert check(load_study(study, [override]))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("seeds", "--set got 'seeds'; expected key=value"),
        ("methods.tis.params.density=1", "the list has no entry 'tis'; it has average, ties-half"),
        ("study.x=1", "'x' lies inside a single value"),
        ("seeds=[0", "'\\[0' is not a YAML value"),
    ],
)
def test_an_override_that_cannot_be_applied_is_refused(study, override, message):
    with pytest.raises(SpecError, match=message):
        load_study(study, [override])


def test_repeats_are_refused(study):
    assert "seeds: 1 stands here more than once" in refusal(study, "seeds=[1, 1]")
    assert "two rows have the label average" in refusal(study, "methods=[average, average]")


def test_regime_merged_and_its_method_go_together(study):
    assert "give both or neither" in refusal(study, "regimes=[merged]")
    assert "give both or neither" in refusal(study, "merged_from=average")
    said = refusal(study, "regimes=[parallel, merged]", "merged_from=averag")
    assert "`merged_from` is 'averag', but must be the label of one of `methods`: " in said
    config = load_study(study, ["regimes=[merged]", "merged_from=average", "methods=[average, ema]"])
    assert (config.regimes, config.merged_from) == (("merged",), "average")


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


def test_a_wrong_list_entry_is_told_once(study):
    said = refusal(study, "regimes=[serial]")
    assert said.startswith("1 error in")


def test_a_missing_file_names_the_nearest(study):
    with pytest.raises(SpecError, match=r"There is no file '.*studi\.yaml'. Did you mean '.*study\.yaml'\?"):
        load_study(study.with_name("studi.yaml"))


@pytest.mark.parametrize(
    ("text", "message"), [("a: [", "not valid YAML"), ("- a\n", "holds no keys"), ("", "holds no keys")]
)
def test_what_is_no_study_is_refused(study, text, message):
    study.write_text(text)
    with pytest.raises(SpecError, match=message):
        load_study(study)


def test_a_folder_is_refused(tmp_path):
    with pytest.raises(SpecError, match="cannot be read as text"):
        load_study(tmp_path)


def test_the_studies_that_ship_are_valid():
    paths = sorted(Path("studies").rglob("*.yaml"))
    assert paths
    # in a process of its own: the plugins that they name would stay registered in this one
    script = "import sys; from pathlib import Path; from flows.axes import load_cells\n"
    script += "for name in sys.argv[1:]: print(load_cells(Path(name))[0].study.study)"
    done = subprocess.run(
        [sys.executable, "-c", script, *map(str, paths)], capture_output=True, text=True, check=True
    )
    names = done.stdout.split()
    assert all(name.endswith(path.stem) for name, path in zip(names, paths, strict=True))


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
    study.write_text(STUDY + SEARCHES)
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


def test_experts_cannot_be_trained_from_merges_that_wait_for_the_last_task(study):
    asked = "methods.ties-half.search={trials: 3, params: {scale: {low: 0.5, high: 2}}}"
    leader = ("regimes=[merged]", "merged_from=ties-half")
    assert "Give its search `when: every` or `when: first`" in refusal(study, asked, *leader)
    found = load_study(study, [asked.replace("{trials", "{when: first, trials"), *leader])
    assert found.methods[1].search.when == "first"


def test_fixed_and_searched_factors_by_depth_may_not_exclude_each_other(study):
    asked = "methods.ties-half.search={trials: 3, layer_scales: {blocks: {low: 0.5, high: 2}}}"
    fixed = "methods.ties-half.layer_scales={slope: 0.5}"
    assert "or the other way round; leave one out" in refusal(study, asked, fixed)
