"""Trainings as steps of a run: found, made, killed and gone on with."""

import signal
import subprocess
import sys

import pytest

from flows.config import load_study
from flows.stages import setting_of
from merge_lib.errors import TrainingError
from tasks import progress
from tasks.jobs import TrainingJob
from tasks.project import Project
from tasks.records import RecordStore
from tasks.training import fine_tune, pretrain
from tasks.versioning import recorded_hashes

LONGER = ("workload.pretraining.epochs=6", "workload.fine_tuning.learning_rate=1e-3")
# Pre-trains; at the given operation on the saves' files the process ends, before the operation is done.
KILLED = """
import os, signal, sys
from tests_setting import setting
from tasks.training import pretrain

at, count = int(sys.argv[1]), 0

def hook(event, arguments):
    global count
    writes = event == "os.rename" or (event == "open" and set("wx") & set(str(arguments[1])))
    if writes and "/partial/" in str(arguments[0]):
        count += 1
        if count == at:
            os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(hook)
pretrain(setting(), 0)
"""
SETTING = """
from pathlib import Path
from flows.config import load_study
from flows.stages import setting_of
from tasks.project import Project
from tasks.versioning import recorded_hashes

def setting(overrides={overrides!r}):
    project = Project(Path.cwd())
    study = load_study(project.root / "studies" / "digits.yaml", overrides)
    return setting_of(project, study, recorded_hashes(project))
"""


def setting(project, *overrides):
    study = load_study(project.root / "studies" / "digits.yaml", [*LONGER, *overrides])
    return setting_of(project, study, recorded_hashes(project))


def test_a_training_that_is_killed_goes_on_from_its_last_save(tiny_project):
    calm, killed = Project(tiny_project("calm")), Project(tiny_project("killed"))
    expected = pretrain(setting(calm), 0)
    saving = (*LONGER, "workload.pretraining.save_every=4")
    (killed.root / "tests_setting.py").write_text(SETTING.format(overrides=saving))
    # a save opens a file beside its place and renames it: the third one is half done
    command = [sys.executable, "-c", KILLED, "5"]
    ended = subprocess.run(command, cwd=killed.root, capture_output=True, text=True, check=False)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    assert len(list(killed.partial.glob("*/training.safetensors"))) == 1

    found = pretrain(setting(killed, "workload.pretraining.save_every=4"), 0)
    assert found.digest == expected.digest
    assert found.key == expected.key  # how often is saved is not what decides
    (record,) = RecordStore(killed.store).of_kind("pretrain")
    assert (record.values["resumed_at"], record.values["steps"]) == (8, 18)
    assert len(record.values["curves"]["loss"]) == 18
    assert list(killed.partial.iterdir()) == []
    assert pretrain(setting(killed), 0).reused


def test_a_training_that_diverges_is_named(tiny_project):
    project = Project(tiny_project())
    wild = ("workload.fine_tuning.learning_rate=1e30", "workload.fine_tuning.max_grad_norm=1e30")
    base = pretrain(setting(project), 0)
    job = TrainingJob(("digits-23",), 0, "parallel 2/2 · seed 0")
    message = (
        r"Training of parallel 2/2 · seed 0 on digits-23 stopped\. The (loss|gradient) is (nan|inf) at step \d+ of "
        r".*lower `learning_rate` \(now 1e\+30\)"
    )
    with pytest.raises(TrainingError, match=message):
        fine_tune(setting(project, *wild), job, base)
    assert list(RecordStore(project.store).of_kind("train")) == []
    told = []
    stop_listening = progress.listen(told.append)
    try:
        assert not fine_tune(setting(project), job, base).reused
    finally:
        stop_listening()
    assert {step.label for step in told} == {job.label}
