"""Settings of the workload, and what of them counts for which work."""

import subprocess
import sys

import pytest
from pydantic import ValidationError

from merge_lib import workloads
from merge_lib.errors import SpecError, UnknownMethodError
from merge_lib.workloads import CuesConfig

SETTINGS = {"name": "cues"}


def parsed(**settings):
    return workloads.parse(SETTINGS | settings)


def test_configuration_is_read_without_torch_and_numpy():
    code = (
        "import sys; from merge_lib import workloads;"
        "workloads.parse({'name': 'cues'}).check(['colour', 'noise']);"
        "print(sorted({'torch', 'numpy', 'PIL', 'pyarrow'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_settings_survive_being_written_down():
    config = parsed(shared=0.5, model={"image_size": 32}, label_noise={"noise": 0.2})
    assert workloads.parse(config.model_dump(mode="json")) == config
    assert config.model.channels == 3


def test_all_tasks_are_made_of_one_snapshot():
    config = parsed(snapshot="digits")
    assert config.task_snapshots(["colour", "noise"]) == ("digits",)
    assert config.pretraining_snapshots() == ("digits",)
    assert parsed(pretraining={"snapshot": "glyphs"}).pretraining_snapshots() == ("glyphs",)


@pytest.mark.parametrize(
    ("change", "works"),
    [
        ({"pretraining": {"epochs": 1}}, {"pretrain"}),
        ({"fine_tuning": {"epochs": 1}}, {"train"}),
        ({"strength": {"noise": 2.0}}, {"train"}),
        ({"label_noise": {"noise": 0.5}}, {"train"}),
        ({"shared": 0.5}, {"train", "evaluate"}),
        ({"cue": {"seed": 1}}, {"train", "evaluate"}),
        ({"contradicts": {"noise": "colour"}}, {"train", "evaluate"}),
        ({"probes": ["clean"]}, {"evaluate"}),
        ({"model": {"width": 32}}, {"pretrain", "train", "evaluate"}),
    ],
)
def test_a_setting_counts_where_it_changes_the_result(change, works):
    plain, changed = parsed(), parsed(**change)
    kinds = ("pretrain", "train", "evaluate")
    assert {kind for kind in kinds if plain.parameters_of(kind) != changed.parameters_of(kind)} == works


def test_longer_studies_find_the_experts_of_shorter_ones(tmp_path):
    short, longer = ["colour", "noise"], ["noise-2", "colour", "noise"]
    for kind in ("pretrain", "train"):
        assert parsed().facts_of(kind, short, tmp_path) == parsed().facts_of(kind, longer, tmp_path)
    shared = parsed(shared=0.5)
    assert shared.facts_of("train", short, tmp_path) != shared.facts_of("train", longer, tmp_path)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"shared": 1.5}, "less than or equal to 1"),
        ({"cue": {"share": 0.6}}, "less than or equal to 0.5"),
        ({"cue": {"share": 0.05}}, r"cue\.share 0\.05 of 16 pixels is a patch of 1.*needs 2"),
        ({"model": {"channels": 2}}, "Input should be 1 or 3"),
        ({"strength": {"noise": 0.0}}, "greater than 0"),
        ({"labels": {}}, "Extra inputs are not permitted"),
    ],
)
def test_wrong_settings_are_refused(settings, message):
    with pytest.raises(ValidationError, match=message):
        parsed(**settings)


def test_settings_that_do_not_fit_the_tasks_are_told_together():
    config = CuesConfig(
        name="cues",
        model={"channels": 1},
        shared=1.0,
        label_noise={"nose": 0.1},
        contradicts={"noise": "colour", "colour": "noise"},
    )
    with pytest.raises(SpecError) as caught:
        config.check(["colour", "noise"])
    for fault in (
        "`label_noise` names 'nose', which is not in the task sequence",
        "'noise' contradict 'colour', which has no cue of its own",
        "`contradicts` needs cues of the tasks' own",
        "colour cues need `model.channels: 3`",
    ):
        assert fault in str(caught.value)


@pytest.mark.parametrize("tasks", [[], ["noise", "noise"]])
def test_task_sequence_names_each_task_once(tasks):
    with pytest.raises(SpecError, match="at least one task, each once"):
        parsed().check(tasks)


def test_an_unknown_cue_is_refused_before_data_are_read(tmp_path):
    with pytest.raises(SpecError, match="Task 'sound' is no cue"):
        workloads.create(parsed(), tasks=["sound"], data=tmp_path)
    with pytest.raises(UnknownMethodError, match="no workload 'cue': did you mean 'cues'"):
        workloads.parse({"name": "cue"})
