"""Bad input and bad luck, as a user meets them: a whole process, its exit status and what it says."""

import ctypes
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from merge_lib.checkpoints import write_state_dict
from tasks.project import Project
from tasks.records import RecordStore

pytestmark = pytest.mark.slow

QUICK = ("--set", "methods=[average]", "--set", "regimes=[parallel]", "--set", "references=[]")
PR_CAPBSET_DROP, CAP_DAC_OVERRIDE = 24, 1


@pytest.fixture
def environment(prefect_server) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}
    return {**kept, "PREFECT_API_URL": prefect_server, "COLUMNS": "300"}


@pytest.fixture
def project(tiny_project, migrated_store) -> Project:
    project = Project(tiny_project())
    (project.state / "mlflow.db").write_bytes(migrated_store.read_bytes())
    return project


def mergeline(
    root: Path, environment: dict[str, str], *words: str, before: Callable[[], None] | None = None
) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "flows.cli", *words]
    return subprocess.run(
        command, cwd=root, env=environment, capture_output=True, text=True, check=False, preexec_fn=before
    )


def obey_permissions() -> None:
    """Files' permissions bind this process even if it is root's."""
    ctypes.CDLL(None).prctl(PR_CAPBSET_DROP, CAP_DAC_OVERRIDE, 0, 0, 0)


def test_a_full_disk_loses_nothing_finished(project, environment):
    def small_files() -> None:  # the disk refuses what goes beyond; a checkpoint is some 100 kB
        resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, resource.RLIM_INFINITY))

    refused = mergeline(project.root, environment, "run", "studies/digits.yaml", *QUICK, before=small_files)
    assert refused.returncode == 1, refused.stderr
    assert "Traceback" not in refused.stderr
    assert "model.safetensors" in refused.stderr
    assert "Raise the file size limit or write elsewhere." in refused.stderr
    assert "mergeline run --resume digits-" in refused.stderr
    store = RecordStore(project.store)
    assert list(store.of_kind("pretrain")) == []
    assert not [path for path in project.store.rglob("*") if path.suffix == ".safetensors"]
    done = mergeline(project.root, environment, "run", "--resume", "latest")
    assert done.returncode == 0, done.stderr


def test_a_read_only_folder_is_told_before_anything_starts(project, environment):
    for folder in (project.state, project.root):
        folder.chmod(0o555)
    try:
        refused = mergeline(project.root, environment, "run", "studies/digits.yaml", before=obey_permissions)
    finally:
        for folder in (project.root, project.state):
            folder.chmod(0o755)
    assert refused.returncode in (1, 2), refused.stderr
    assert "Traceback" not in refused.stderr
    assert ".mergeline" in refused.stderr
    assert "Permission denied" in refused.stderr


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"base.safetensors"),
        (b"not a checkpoint at all", "base.safetensors"),
        (b"\x10\x00\x00\x00\x00\x00\x00\x00{}", "base.safetensors"),
    ],
)
def test_a_base_that_cannot_be_read_is_told_before_anything_starts(project, environment, content, message):
    if content is not None:
        (project.root / "base.safetensors").write_bytes(content)
    asked = ("--set", "base={checkpoint: base.safetensors}")
    refused = mergeline(project.root, environment, "run", "studies/digits.yaml", *asked)
    assert refused.returncode == 1, refused.stderr
    assert message in refused.stderr
    assert "Traceback" not in refused.stderr
    assert not project.runs.exists()


def test_a_base_of_another_model_is_told(project, environment):
    import torch

    write_state_dict(project.root / "base.safetensors", {"other.weight": torch.zeros(3)}, lineage={})
    asked = ("--set", "base={checkpoint: base.safetensors}")
    refused = mergeline(project.root, environment, "run", "studies/digits.yaml", *QUICK, *asked)
    assert refused.returncode == 1, refused.stderr
    assert "does not fit the study's model" in refused.stderr
    assert "'other.weight' is unknown" in refused.stderr


def test_data_that_no_stage_makes_is_told_before_anything_starts(project, environment):
    asked = ("studies/digits.yaml", "--set", "tasks=[digits-01, digits-32]")
    refused = mergeline(project.root, environment, "run", *asked)
    assert refused.returncode == 1, refused.stderr
    assert "which no stage of dvc.yaml makes. Did you mean digits-23?" in refused.stderr
    assert not project.runs.exists()
    planned = mergeline(project.root, environment, "plan", *asked)
    assert planned.returncode == 0, planned.stderr
    assert "It cannot run yet. The study needs the data snapshots digits-32" in planned.stdout


def test_missing_raw_data_is_named(project, environment):
    (project.root / "data" / "raw" / "digits.csv.gz").unlink()
    refused = mergeline(project.root, environment, "run", "studies/digits.yaml", *QUICK)
    assert refused.returncode == 1
    assert "digits.csv.gz" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_a_diverging_expert_is_named_and_the_others_are_kept(project, environment):
    asked = (
        "--set",
        "workload.fine_tuning.learning_rate=1e30",
        "--set",
        "workload.fine_tuning.max_grad_norm=1e30",
    )
    refused = mergeline(project.root, environment, "run", "studies/digits.yaml", *QUICK, *asked)
    assert refused.returncode == 1, refused.stderr
    assert "Traceback" not in refused.stderr
    assert "learning_rate" in refused.stderr
    assert len(list(RecordStore(project.store).of_kind("pretrain"))) == 1


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (("run",), 2, "Give either a study's YAML file or --resume RUN"),
        (("run", "studies/digit.yaml"), 2, "Did you mean 'studies/digits.yaml'?"),
        (("run", "--resume", "digits-1"), 2, "There is no run 'digits-1'"),
        (("run", "studies/digits.yaml", "--set", "methods=[tis]"), 2, "did you mean 'ties'?"),
        (("report", "latest"), 2, "There is no run 'latest'"),
        (("verify", "nothing.safetensors"), 1, "nothing.safetensors"),
    ],
)
def test_wrong_requests_are_told_without_a_traceback(project, environment, words, status, message):
    refused = mergeline(project.root, environment, *words)
    assert refused.returncode == status, refused.stderr
    assert message in refused.stderr
    assert "Traceback" not in refused.stderr


def test_a_changed_checkpoint_does_not_verify(project, environment):
    import torch

    path = project.root / "model.safetensors"
    write_state_dict(path, {"weight": torch.arange(8.0)}, lineage={"kind": "train"})
    good = mergeline(project.root, environment, "verify", "model.safetensors")
    assert good.returncode == 0, good.stderr
    assert "as recorded" in good.stdout
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))
    bad = mergeline(project.root, environment, "verify", "model.safetensors")
    assert bad.returncode == 1
    assert "It changed after it was written" in bad.stderr


def test_outside_a_project_the_way_in_is_told(tmp_path, environment):
    refused = mergeline(tmp_path, environment, "plan", "study.yaml")
    assert refused.returncode == 2
    assert "There is no file 'study.yaml'" in refused.stderr
