"""Data versions in a real DVC repository, in a git checkout and in a plain folder."""

import hashlib
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from merge_lib.errors import DataError
from tasks import progress, versioning
from tasks.project import Project
from tasks.versioning import bring_up_to_date, push, recorded_hashes, stages_done, version_of

STAGES = """\
stages:
  upper:
    cmd: tr a-z A-Z < data/raw.txt > data/upper.txt && echo ran-upper >> log
    deps: [data/raw.txt]
    outs: [data/upper.txt]
  shout:
    cmd: cp data/other.txt data/shout.txt && echo ran-shout-${mark} >> log
    deps: [data/other.txt]
    params: [mark]
    outs: [data/shout.txt]
"""


@pytest.fixture(params=["git checkout", "plain folder"])
def project(request, tmp_path) -> Project:
    root = tmp_path / "project"
    (root / "data").mkdir(parents=True)
    (root / "dvc.yaml").write_text(STAGES)
    (root / "params.yaml").write_text("mark: 1\n")
    (root / "data" / "raw.txt").write_text("abc\n")
    (root / "data" / "other.txt").write_text("x\n")
    if request.param == "git checkout":
        subprocess.run(["git", "init", "--quiet", str(root)], check=True)
    return Project(root)


def ran(project: Project) -> list[str]:
    log = project.root / "log"
    lines = log.read_text().split() if log.exists() else []
    log.unlink(missing_ok=True)
    return lines


def md5(text: str) -> str:
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()


def test_only_what_depends_on_a_change_runs_again(project):
    assert recorded_hashes(project) is None
    assert stages_done(project, ["upper"]) == {"upper": False}
    steps: list[progress.Step] = []
    stop_listening = progress.listen(steps.append)
    first = bring_up_to_date(project)
    stop_listening()
    assert {(step.kind, step.label, step.share_done) for step in steps} == {
        ("data", name, share) for name in ("upper", "shout") for share in (0.0, 1.0)
    }
    assert stages_done(project, ["upper", "shout", "unknown"]) == {"upper": True, "shout": True}
    assert first.hashes == {"upper": md5("ABC\n"), "shout": md5("x\n")}
    assert sorted(ran(project)) == ["ran-shout-1", "ran-upper"]
    assert recorded_hashes(project) == first.hashes

    (project.root / "data" / "raw.txt").write_text("abcd\n")
    assert recorded_hashes(project) is None
    second = bring_up_to_date(project)
    assert ran(project) == ["ran-upper"]
    assert second.hashes == {"upper": md5("ABCD\n"), "shout": md5("x\n")}

    (project.root / "params.yaml").write_text("mark: 2\n")
    bring_up_to_date(project)
    assert ran(project) == ["ran-shout-2"]


@pytest.mark.parametrize("project", ["plain folder"], indirect=True)
def test_two_runs_at_once_wait_for_one_another(project):
    (project.root / "dvc.yaml").write_text(STAGES.replace("cmd: tr", "cmd: sleep 3 && tr"))
    with ThreadPoolExecutor(2) as runs:
        versions = list(runs.map(lambda _: bring_up_to_date(project, ["upper"]), range(2)))
    assert [version.hashes for version in versions] == [{"upper": md5("ABC\n")}] * 2
    assert ran(project) == ["ran-upper"]


def test_an_untouched_project_is_not_asked_again(project, monkeypatch):
    bring_up_to_date(project)
    push(project)
    monkeypatch.setattr(versioning, "_start_dvc", lambda *said, **_: pytest.fail(f"DVC was started: {said}"))
    version = bring_up_to_date(project)
    assert version.is_pushed


def test_what_is_pushed_can_be_pulled_back(project):
    version = bring_up_to_date(project)
    assert not version.is_pushed
    push(project)
    stored = project.state / "dvc-remote" / "files" / "md5"
    digest = version.hashes["upper"]
    assert (stored / digest[:2] / digest[2:]).read_text() == "ABC\n"


def test_a_lost_snapshot_is_made_again(project):
    bring_up_to_date(project)
    (project.root / "data" / "upper.txt").unlink()
    assert recorded_hashes(project) is None
    bring_up_to_date(project)
    assert (project.root / "data" / "upper.txt").read_text() == "ABC\n"


def test_a_stage_that_fails_is_named(project):
    (project.root / "data" / "raw.txt").unlink()
    with pytest.raises(DataError, match=r"`dvc --wait-for-lock repro` failed .*raw\.txt.*run again"):
        bring_up_to_date(project)


def test_a_remote_out_of_reach_is_named(project, tmp_path):
    bring_up_to_date(project)
    blocked = tmp_path / "blocked"
    blocked.write_text("a file where the remote's folder should be")
    versioning._dvc(project, "remote", "modify", "local", "url", str(blocked))
    with pytest.raises(DataError, match="push` failed"):
        push(project)


def test_a_folder_without_stages_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"has no dvc\.yaml, so its data has no version"):
        bring_up_to_date(Project(Path(tmp_path)))


FOREACH = """\
stages:
  model:
    cmd: mkdir -p data/models/mini-1.5 && cp data/raw.txt data/models/mini-1.5 && echo ran-model >> log
    deps: [data/raw.txt]
    outs: [data/models/mini-1.5]
  task:
    foreach: ${tasks}
    do:
      cmd: cp data/models/mini-1.5/raw.txt "data/${key}.txt" && echo "ran-${key}" >> log
      deps: [data/models/mini-1.5]
      params: ["tasks.${key}"]
      outs: ["data/${key}.txt"]
"""


@pytest.fixture
def models(tmp_path) -> Project:
    """A model's folder, and tasks that are made of it."""
    root = tmp_path / "models"
    (root / "data").mkdir(parents=True)
    (root / "dvc.yaml").write_text(FOREACH)
    (root / "params.yaml").write_text("tasks:\n  a: {x: 1}\n  b: {x: 2}\n")
    (root / "data" / "raw.txt").write_text("abc\n")
    (root / ".dvc").mkdir()
    (root / ".dvc" / "config").write_text("[core]\n    analytics = false\n")
    return Project(root)


@pytest.mark.slow
def test_only_the_stages_of_needed_snapshots_run_and_are_pushed(models, monkeypatch):
    made = version_of(models, ["a"])
    assert sorted(ran(models)) == ["ran-a", "ran-model"]
    assert made.hashes["a"] == md5("abc\n")
    assert made.hashes["mini-1.5"].endswith(".dir")
    push(models, ["mini-1.5"])

    with monkeypatch.context() as patch:
        patch.setattr(versioning, "_start_dvc", lambda *said, **_: pytest.fail(f"DVC was started: {said}"))
        assert version_of(models, ["mini-1.5"]).is_pushed
        assert not version_of(models, ["a"]).is_pushed
        assert recorded_hashes(models, ["a"]) == made.hashes
        assert recorded_hashes(models, ["b"]) is None
        assert recorded_hashes(models, ["unknown"]) is None
        with pytest.raises(DataError, match=r"snapshots c, which no stage .* makes: a, b, mini-1\.5\. Name"):
            version_of(models, ["a", "c"])

    (models.root / "data" / "raw.txt").write_text("abcd\n")
    assert not version_of(models, ["mini-1.5"]).is_pushed
    assert ran(models) == ["ran-model"]
    assert recorded_hashes(models, ["a"]) is None
    assert bring_up_to_date(models).hashes["b"] == md5("abcd\n")
    assert sorted(ran(models)) == ["ran-a", "ran-b"]
