"""`mergeline prototypes` and `mergeline answer`: images answered out of what a sequence keeps, outside a study."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flows.commands.options import AsJson, Overrides
from flows.console import err, out, print_json, shown
from merge_lib.errors import SpecError, suggest

if TYPE_CHECKING:
    from merge_lib.routing.answering import Answer
    from tasks.jobs import Setting

_PROTOTYPES = """Keep a task's prototypes, names and texts beside a state: what `mergeline answer` needs of it.

They are what the base sees of the task's classes, so they are made once, when its expert is folded in, and in the same
order. The study says which workload and data; it is not run.

  mergeline prototypes clip-greek --study studies/mini-clip-condu.yaml --base base.safetensors --to p.safetensors
"""
_ANSWER = """Answer images by the models of a sequence: base, state and prototypes are enough.

With --task that task's own model answers. Without, the tasks that an image is near to vote, and the base with them.

  mergeline answer a.png b.png --base base.safetensors --state state.safetensors --prototypes prototypes.safetensors
"""


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("prototypes", help=_PROTOTYPES, short_help="Keep a task's prototypes beside a state.")(
        prototypes
    )
    app.command("answer", help=_ANSWER, short_help="Answer images by the models of a sequence.")(answer)


def prototypes(
    task: Annotated[str, typer.Argument(help="A task of the study.")],
    study: Annotated[Path, typer.Option(help="Whose workload and data.", show_default=False)],
    base: Annotated[Path, typer.Option(help="What the experts were fine-tuned from.", show_default=False)],
    target: Annotated[
        Path, typer.Option("--to", help="The file; begun where there is none.", show_default=False)
    ],
    split: Annotated[str, typer.Option(help="train or validation.")] = "train",
    examples: Annotated[
        int | None, typer.Option(min=0, help="Images used; default: all, 0: the texts alone.")
    ] = None,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Add the task to the file."""
    from flows.commands.observe import prepared_setting
    from flows.config import load_study

    config = load_study(study, overrides or ())
    if task not in config.tasks:
        raise SpecError(f"The study has no task '{task}': {suggest(task, config.tasks)}.")
    setting = prepared_setting(config)
    with err.status(f"looking at {task}"):
        made = _keep(setting, task, base, target, {"split": split, "examples": examples})
    if as_json:
        print_json({"path": str(target), **made})
        return
    out.print(
        f"{shown(target)}: prototypes of {', '.join(made['tasks'])}, {made['size_bytes'] / 1e3:.1f} kB",
        soft_wrap=True,
    )


def _keep(setting: "Setting", task: str, base: Path, target: Path, images: dict[str, Any]) -> dict[str, Any]:
    from pydantic import ValidationError

    from merge_lib.routing import PrototypeImages
    from tasks.portraying import keep_portrait

    try:
        asked = PrototypeImages.model_validate(images)
    except ValidationError as wrong:
        raise SpecError(f"--split is '{images['split']}', expected train or validation.") from wrong
    portraits = keep_portrait(setting, task, base, target, asked)
    return {"tasks": list(portraits.names), "size_bytes": portraits.size_bytes}


def answer(  # noqa: PLR0913, PLR0917 -- likewise
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE...", help="Files of images.")],
    base: Annotated[Path, typer.Option(help="What the sequence began with.", show_default=False)],
    state: Annotated[Path, typer.Option(help="As `mergeline fold` wrote it.", show_default=False)],
    prototypes: Annotated[Path, typer.Option(help="As `mergeline prototypes` wrote it.", show_default=False)],
    task: Annotated[str | None, typer.Option(help="Whose model answers. Default: a vote.")] = None,
    classes: Annotated[
        list[str] | None,
        typer.Option("--class", metavar="TEXT", help="Texts to choose from. Default: the tasks' classes."),
    ] = None,
    voters: Annotated[int, typer.Option(min=0, help="Tasks that vote on an image.")] = 4,
    weights: Annotated[str, typer.Option(help="Of votes: mean or similarity.")] = "mean",
    with_base: Annotated[
        bool, typer.Option("--base-votes/--no-base-vote", help="The base votes, too.")
    ] = True,
    model: Annotated[
        str | None, typer.Option(help="Folder or name on the hub. Default: as the prototypes say.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Ask the models."""
    from pydantic import ValidationError

    from merge_lib.routing import RoutingSettings

    try:
        settings = RoutingSettings.model_validate(
            {"voters": voters, "weights": weights, "include_base": with_base}
        )
    except ValidationError as wrong:
        told = "; ".join(error["msg"].removeprefix("Value error, ") for error in wrong.errors())
        raise SpecError(f"--voters {voters} --weights {weights}: {told}.") from wrong
    from merge_lib.workloads.clip.answering import open_clip

    texts = {text: (text,) for text in classes or ()}
    with (
        err.status("asking the models"),
        open_clip(base, state, prototypes, root=Path.cwd(), model=model) as (answering, council),
    ):
        answers = council.answer(answering.read(images), task=task, classes=texts or None, settings=settings)
    _show(images, answers, as_json=as_json)


def _show(images: Sequence[Path], answers: Sequence["Answer"], *, as_json: bool) -> None:
    if as_json:
        print_json([{"image": str(path), **asdict(one)} for path, one in zip(images, answers, strict=True)])
        return
    for path, one in zip(images, answers, strict=True):
        said = ", ".join(f"{voter} {100 * share:.0f} %" for voter, share in one.voters.items())
        out.print(
            f"{shown(path)}: {one.name} ({100 * one.share:.0f} %), by {said}", markup=False, soft_wrap=True
        )
