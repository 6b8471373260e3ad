"""`mergeline judge`: a language model judged by tasks of lm-eval."""

import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows.commands.options import AsJson, Levels, OfModel, OfRun, OfStudy
from flows.console import err, out, print_json
from merge_lib.errors import SpecError

if TYPE_CHECKING:
    from merge_lib.workloads.pretrained.judging import Judgement

_HELP = """Judge a language model by tasks of lm-eval (EleutherAI's lm-evaluation-harness), through its own library.

A model folder is judged as it is. Of a study's checkpoint, say which model it is of: by the study, by a run of it
(the scores are then recorded beside that run, in its folder and in MLflow), or by the model.

  mergeline judge merged --tasks arc_easy,hellaswag --limit 200

  mergeline judge .mergeline/store/merge/…/model.safetensors --run latest --tasks mine --include my-tasks
"""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("judge", help=_HELP, short_help="Judge a language model by tasks of lm-eval.")(judge)


def judge(  # noqa: PLR0913, PLR0917 -- one for each option of the command
    source: Annotated[
        Path, typer.Argument(metavar="FOLDER|CHECKPOINT", help="A model folder, or a study's checkpoint.")
    ],
    tasks: Annotated[str, typer.Option(help="Names, with commas between them.", show_default=False)],
    include: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="With YAML files of tasks of yours.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Examples of each task. Default: all.")] = None,
    shots: Annotated[
        int | None, typer.Option(min=0, help="Solved examples in each prompt. Default: as each task says.")
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="Requests at once.")] = 8,
    study: OfStudy = None,
    run: OfRun = None,
    model: OfModel = None,
    levels: Levels = None,
    as_json: AsJson = False,
) -> None:
    """Judge, show the scores and record them beside a run that is named."""
    from flows.starting_model import TOKENIZED, starting_model
    from merge_lib.workloads.pretrained.config import TuningConfig
    from merge_lib.workloads.pretrained.judge_tasks import check_tasks
    from merge_lib.workloads.pretrained.locating import locate

    names = [name.strip() for name in tasks.split(",") if name.strip()]
    if not names:
        raise SpecError("--tasks names no task. Name one or more, with commas between them.")
    check_tasks(names, include)
    started = time.time()
    if source.is_dir() and study is run is model is levels is None:
        located, tuning, checkpoint = locate(str(source), Path.cwd(), parts=TOKENIZED), TuningConfig(), None
    else:
        located, tuning = starting_model(study, run, model, TOKENIZED, levels=levels or ())
        checkpoint = source
    from merge_lib.workloads.pretrained.judging import judge as judge_model
    from merge_lib.workloads.pretrained.loading import load_tokenizer
    from merge_lib.workloads.pretrained.rebuilding import rebuild

    with err.status("judging"):
        found = judge_model(
            rebuild(located, tuning, checkpoint),
            load_tokenizer(located),
            names,
            include=include,
            limit=limit,
            shots=shots,
            batch_size=batch,
        )
    if as_json:
        print_json([asdict(one) for one in found])
    else:
        _show(found)
    if run is not None:
        _record(run, source, found, started)


def _show(found: "list[Judgement]") -> None:
    from rich.table import Table

    table = Table("task", "metric", "filter", "score", "± error", "examples", "shots")
    for one in found:
        error = "" if one.error is None else f"{one.error:.4f}"
        better = "" if one.is_higher_better else " (lower is better)"
        row = (one.task, one.metric + better, one.variant, f"{one.value:.4f}", error)
        table.add_row(*row, str(one.examples), str(one.shots))
    out.print(table)


def _record(run: str, checkpoint: Path, found: "list[Judgement]", started: float) -> None:
    from tasks.judging import record_judgements
    from tasks.project import Project

    told = record_judgements(Project.find(), run, checkpoint, found, started_s=started)
    err.print(f"Recorded beside run {told.run_id}: {told.path}", markup=False, soft_wrap=True)
    if told.refused is not None:
        err.print(f"{told.refused} The record waits; `mergeline sync` delivers it.", markup=False)
