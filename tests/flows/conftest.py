"""Tiny projects whose studies run in the tests' own process, and what such a run worked on."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from merge_lib.checkpoints import write_state_dict
from tasks import progress
from tasks.project import Project

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
    """The file of a small study."""
    path = tmp_path / "study.yaml"
    path.write_text(STUDY)
    return path


@pytest.fixture
def enter_project(tiny_project, prefect_server, migrated_store, monkeypatch) -> Callable[..., Project]:
    """Makes projects, with a Prefect server and an MLflow database, and enters them."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)

    def make(name: str = "project") -> Project:
        root = tiny_project(name)
        monkeypatch.chdir(root)
        (root / ".mergeline" / "mlflow.db").write_bytes(migrated_store.read_bytes())
        progress.allow_work()
        return Project(root)

    return make


@pytest.fixture
def make_recipe(tmp_path) -> Callable[..., Path]:
    """Makes a TIES recipe with a base and the experts red and blue, of two layers each."""

    def make(*shape: int, dtype: torch.dtype = torch.float32) -> Path:
        generator = torch.Generator().manual_seed(0)
        for name in ("base", "red", "blue"):
            tensors = {
                f"layers.{block}.weight": torch.randn(shape, generator=generator, dtype=dtype)
                for block in (0, 1)
            }
            write_state_dict(tmp_path / f"{name}.safetensors", tensors, lineage={})
        path = tmp_path / "recipe.yaml"
        path.write_text(
            "method: ties\nparams: {density: 0.5}\nbase: base.safetensors\n"
            "experts: [red.safetensors, blue.safetensors]\n"
        )
        return path

    return make


@pytest.fixture
def project(enter_project) -> Project:
    """One such project."""
    return enter_project()


@pytest.fixture
def run() -> Callable[..., tuple[str, Counter]]:
    """Runs `studies/digits.yaml` of the project that was entered, with overrides and what else the flow is asked.

    It gives the run's id, and how many steps of each kind took work.
    """
    from flows.study import study_flow

    def run_study(*overrides: str, stop_after_trials: int | None = None, **asked) -> tuple[str, Counter]:
        worked: Counter = Counter()

        def listener(step: progress.Step) -> None:
            if not step.reused and step.share_done == 1.0:
                worked[step.kind] += 1
            if stop_after_trials is not None and worked["trial"] >= stop_after_trials:
                progress.request_stop()

        stop_listening = progress.listen(listener)
        try:
            return study_flow(study="studies/digits.yaml", overrides=list(overrides), **asked), worked
        finally:
            stop_listening()
            progress.allow_work()

    return run_study
