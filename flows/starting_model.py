"""The pretrained model that a study begins with, and how the study trains it."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from merge_lib.errors import SpecError
from tasks.project import Project

if TYPE_CHECKING:
    from merge_lib.workloads.pretrained.config import TuningConfig
    from merge_lib.workloads.pretrained.locating import Located, Part

MODEL, TOKENIZED = ("model",), ("model", "tokenizer")


def starting_model(
    study: Path | None, run: str | None, model: str | None, parts: Sequence["Part"] = MODEL
) -> tuple["Located", "TuningConfig"]:
    """What the checkpoints of a study are of: named by the study, by one of its runs, or by the model itself.

    Raises:
        SpecError: not exactly one of the three is given, or the study's workload has no model of transformers.
        CheckpointError: the model is not here.
    """
    if sum(given is not None for given in (study, run, model)) != 1:
        raise SpecError(
            "Which model the checkpoint is of must be said once: --study STUDY.yaml, --run RUN (`latest` is the "
            "newest), or --model FOLDER or name on the hub."
        )
    from merge_lib.workloads.pretrained.config import TuningConfig
    from merge_lib.workloads.pretrained.locating import locate

    if model is not None:
        return locate(model, Path.cwd(), parts=parts), TuningConfig()
    project = Project.find()
    settings = _settings(project, study, run)
    source, tuning = getattr(settings, "model", None), getattr(settings, "tuning", None)
    if not isinstance(source, str) or not isinstance(tuning, TuningConfig):
        raise SpecError(
            f"Workload '{settings.name}' does not begin with a model of transformers, so there is no folder that its "
            "checkpoints could become. Name a study of such a workload, or the model itself with --model."
        )
    return locate(source, project.root, parts=parts), tuning


def _settings(project: Project, study: Path | None, run: str | None) -> Any:
    """The `workload:` block."""
    from flows.config import load_study, restore_study
    from tasks.runs import load_run

    if study is not None:
        return load_study(study).workload
    return restore_study(project.root, load_run(project, run or "latest").config).workload
