import subprocess
import sys
from pathlib import Path

import pytest

from flows.config import load_study
from merge_lib.errors import SpecError


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
        study.read_text()
        .replace("scenario: class-incremental", "scenario: class-incremetal")
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


def test_experts_cannot_be_trained_from_merges_that_wait_for_the_last_task(study):
    asked = "methods.ties-half.search={trials: 3, params: {scale: {low: 0.5, high: 2}}}"
    leader = ("regimes=[merged]", "merged_from=ties-half")
    assert "Give its search `when: every` or `when: first`" in refusal(study, asked, *leader)
    found = load_study(study, [asked.replace("{trials", "{when: first, trials"), *leader])
    assert found.methods[1].search.when == "first"
