"""The pretrained model that a study begins with, and how the study trains it."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from merge_lib.errors import SpecError
from merge_lib.workloads import WorkloadSettings
from tasks.project import Project

if TYPE_CHECKING:
    from merge_lib.workloads.pretrained.config import TuningConfig
    from merge_lib.workloads.pretrained.locating import Located, Part

    Start = tuple[str, TuningConfig]

MODEL, TOKENIZED = ("model",), ("model", "tokenizer")


def starting_model(
    study: Path | None,
    run: str | None,
    model: str | None,
    parts: Sequence["Part"] = MODEL,
    *,
    levels: Sequence[str] = (),
) -> tuple["Located", "TuningConfig"]:
    """What the checkpoints of a study are of: named by the study, by one of its runs, or by the model itself.

    Args:
        study: its YAML file.
        run: name of a run.
        model: a folder, or a name on the hub.
        parts: of the model's folder that are needed.
        levels: `AXIS=LEVEL` words that choose among the studies of a file with axes; needed where these differ in
            the model or in how it is trained.

    Raises:
        SpecError: not exactly one of the three is given, the levels leave more than one model, or the study's
            workload has no model of transformers.
        CheckpointError: the model is not here.
    """
    if sum(given is not None for given in (study, run, model)) != 1:
        raise SpecError(
            "Which model the checkpoint is of must be said once: --study STUDY.yaml, --run RUN (`latest` is the "
            "newest), or --model FOLDER or name on the hub."
        )
    if levels and study is None:
        raise SpecError("--level chooses among the studies of a file with axes. Give that file by --study.")
    from merge_lib.workloads.pretrained.config import TuningConfig
    from merge_lib.workloads.pretrained.locating import locate

    if model is not None:
        return locate(model, Path.cwd(), parts=parts), TuningConfig()
    project = Project.find()
    source, tuning = _of_run(project, run or "latest") if study is None else _of_study(study, levels)
    return locate(source, project.root, parts=parts), tuning


def _of_run(project: Project, run: str) -> "Start":
    from flows.config import restore_study
    from tasks.runs import load_run

    return _start(restore_study(project.root, load_run(project, run).config).workload)


def _of_study(study: Path, levels: Sequence[str]) -> "Start":
    """The one start of all its combinations of levels that are left."""
    from flows.axes import load_cells, narrowed

    titles: dict[Start, list[str]] = {}
    for cell in narrowed(load_cells(study), levels):
        titles.setdefault(_start(cell.study.workload), []).append(cell.title)
    first, *others = titles
    if others:
        told = "\n".join(f"  {_told(start)}: {'; '.join(of)}" for start, of in titles.items())
        raise SpecError(
            f"{study} has axes, and its studies begin with different models or train them differently:\n{told}\n"
            "Name a level that the checkpoint was made at by --level AXIS=LEVEL."
        )
    return first


def _start(settings: WorkloadSettings) -> "Start":
    from merge_lib.workloads.pretrained.config import TuningConfig

    source, tuning = getattr(settings, "model", None), getattr(settings, "tuning", None)
    if not isinstance(source, str) or not isinstance(tuning, TuningConfig):
        raise SpecError(
            f"Workload '{settings.name}' does not begin with a model of transformers, so there is no folder that its "
            "checkpoints could become. Name a study of such a workload, or the model itself with --model."
        )
    return source, tuning


def _told(start: "Start") -> str:
    source, tuning = start
    return f"{source}, tuning {tuning.model_dump_json(exclude_none=True)}"
