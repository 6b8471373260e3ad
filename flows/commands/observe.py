"""`mergeline observe`: what a checkpoint sees on a task's inputs, for the recipes of methods that need it."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, get_args

import typer

from flows.console import err, out, print_json, shown
from merge_lib.errors import SpecError, suggest

if TYPE_CHECKING:
    from flows.config import StudyConfig
    from merge_lib.calibration.manifest import Manifest
    from tasks.jobs import Setting

_HELP = """Collect what an expert's layers see on inputs of its task, for methods that need it.

The study says which workload, data and tasks; it is not run. The folder is what a merge recipe names in
`observations:`, one for each expert. Features and Gram matrices go on where an interrupted run stopped.

  mergeline observe expert.safetensors --study studies/digits.yaml --task digits-01 --kind gram --out observed/digits-01
"""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("observe", help=_HELP, short_help="Collect what a method needs to know of data.")(observe)


def observe(  # noqa: PLR0913, PLR0917 -- one for each option of the command
    checkpoint: Annotated[Path, typer.Argument(help="The expert: a file, or a model or adapter folder.")],
    study: Annotated[Path, typer.Option(help="Whose workload, data and tasks.", show_default=False)],
    task: Annotated[str, typer.Option(help="Whose inputs are shown.", show_default=False)],
    kind: Annotated[
        str,
        typer.Option(
            help="features, gram or fisher; `mergeline methods NAME` says which.", show_default=False
        ),
    ],
    target: Annotated[Path, typer.Option("--out", help="The folder, a new one.", show_default=False)],
    base: Annotated[Path | None, typer.Option(help="What an adapter is folded into.")] = None,
    examples: Annotated[
        int | None, typer.Option(min=1, help="Default: 4 for features, 256 for gram, 64 for fisher.")
    ] = None,
    split: Annotated[str, typer.Option(help="train, validation or test.")] = "train",
    rows: Annotated[int | None, typer.Option(min=1, help="Features of a layer kept at most.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the draw of the examples.")] = 0,
    memory: Annotated[str, typer.Option(help="Of what is summed at once, such as 512M.")] = "1G",
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Of the study. Repeatable.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> None:
    """Show the inputs and write the folder."""
    from flows.commands.merge import parse_size
    from flows.config import load_study

    config = load_study(study, overrides or ())
    _check(config, task, kind, split)
    memory_bytes = parse_size(memory)
    setting = prepared_setting(config)
    from merge_lib.calibration.collect import Calibration
    from tasks.observing import EXAMPLES, observe_checkpoint

    calibration = Calibration(
        kind,  # type: ignore[arg-type]
        examples or EXAMPLES[kind],
        seed,
        split,  # type: ignore[arg-type]
        rows,
        memory_bytes=memory_bytes,
    )
    with err.status(f"observing {kind}") as status:

        def progress(done: int, every: int) -> None:
            status.update(f"observing {kind}: {done} of {every}")

        made = observe_checkpoint(setting, calibration, checkpoint, base, task, target, progress)
    _show(made, target, as_json=as_json)


def _check(config: "StudyConfig", task: str, kind: str, split: str) -> None:
    """Refuse words that are not known, all at once."""
    from merge_lib.probe import Split
    from merge_lib.registry import Observation

    known = (
        ("--task", task, config.tasks),
        ("--kind", kind, get_args(Observation)),
        ("--split", split, get_args(Split)),
    )
    wrong = [
        f"{option} got '{given}': {suggest(given, choices)}."
        for option, given, choices in known
        if given not in choices
    ]
    if wrong:
        raise SpecError("\n".join(wrong))


def prepared_setting(config: "StudyConfig") -> "Setting":
    """The study's workload, its data brought up to date."""
    from flows.environment import prepare
    from flows.stages import setting_of
    from tasks.project import Project

    project = Project.find()
    prepare(project)
    if not config.snapshots:
        return setting_of(project, config, {})
    from tasks.versioning import version_of

    with err.status("bringing the data up to date"):
        hashes = version_of(project, config.snapshots).hashes
    return setting_of(project, config, {name: hashes[name] for name in config.snapshots})


def _show(made: "Manifest", folder: Path, *, as_json: bool) -> None:
    size_bytes = sum(path.stat().st_size for path in folder.iterdir())
    if as_json:
        print_json({**asdict(made), "path": str(folder), "size_bytes": size_bytes})
        return
    out.print(
        f"{shown(folder)}: {made.kind} of {len(made.counts)} tensors, from {made.examples} examples of {made.task} "
        f"({made.split}), {size_bytes / 1e6:.1f} MB",
        markup=False,
        soft_wrap=True,
    )
