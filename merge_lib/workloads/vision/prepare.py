"""Command line of the data stages: `python -m merge_lib.workloads.vision.prepare glyphs|drawn NAME|task NAME`.

Settings come from `params.yaml`, whose sections `glyphs`, `drawn`, `split`, `tasks` and `hub` the stages in
`dvc.yaml` name.
"""

import argparse
import logging
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from ruamel.yaml import YAML, YAMLError

from merge_lib.errors import DataError, MergeError, SpecError, suggest
from merge_lib.workloads.vision.data import Snapshot, make_task, write_snapshot
from merge_lib.workloads.vision.sources import Fit, Form, read_raw

Share = Annotated[float, Field(gt=0.0, lt=1.0)]
Wanted = TypeVar("Wanted", bound=BaseModel)
Template = Annotated[str, Field(pattern=r"^[^{}]*\{\}[^{}]*$")]


class GlyphParams(BaseModel):
    """Section `glyphs`: the pre-training set."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    count: Annotated[int, Field(ge=124)]
    size: Annotated[int, Field(ge=4)]
    seed: int
    validation: Share


class DrawnParams(GlyphParams):
    """One entry of section `drawn`: a task of all 62 digits and letters, with a test split."""

    test: Share


class SplitParams(BaseModel):
    """Section `split`: how the images of each class are divided; the rest is for training."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    seed: int
    validation: Share
    test: Share


class ImageParams(BaseModel):
    """What of a source of labelled images a task takes, and how."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    classes: Annotated[tuple[str, ...], Field(min_length=1)] | None = None  # None: all that there are
    size: Annotated[int, Field(ge=4)] = 8  # side of the images, where the raw data is a folder
    colour: bool = False  # red, green and blue rather than grey
    fit: Fit = "stretch"  # "crop": the middle square, as CLIP was trained
    image: str | None = None  # column with the images, where the raw data is a data set that does not say
    label: str | None = None  # likewise
    names: dict[str, str] = {}  # how texts call classes, where their own names are not good ones
    templates: tuple[Template, ...] = ()  # of texts about an image, such as "a photo of a {}."


class TaskParams(ImageParams):
    """One entry of section `tasks`: where the images come from and which classes it brings."""

    raw: Path


class HubParams(ImageParams):
    """One entry of section `hub`: a data set that the Hugging Face hub's own tools have put on this machine."""

    dataset: str


class Params(BaseModel):
    """What the data stages read from `params.yaml`; other sections are for others."""

    model_config = ConfigDict(frozen=True)

    glyphs: GlyphParams
    drawn: dict[str, DrawnParams] = {}
    split: SplitParams
    tasks: dict[str, TaskParams]
    hub: dict[str, HubParams] = {}


def read_params(path: Path) -> Params:
    """The validated settings.

    Raises:
        SpecError: the file is missing, is no YAML, or holds wrong settings (all are listed).
    """
    return read_section(Params, path)


def read_section(wanted: type[Wanted], path: Path) -> Wanted:
    """What a kind of data stage reads of the settings.

    Raises:
        SpecError: the file is missing, is no YAML, or holds wrong settings (all are listed).
    """
    try:
        return wanted.model_validate(YAML(typ="safe").load(path.read_text(encoding="utf-8")))
    except (OSError, YAMLError) as exc:
        msg = f"Parameters '{path}' cannot be read ({exc}). Restore the file or name another with --params."
        raise SpecError(msg) from exc
    except ValidationError as exc:
        faults = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in exc.errors())
        msg = f"Parameters '{path}' are wrong: {faults}. Correct them."
        raise SpecError(msg) from exc


def prepare_glyphs(params: Params) -> Snapshot:
    """The pre-training set that section `glyphs` describes."""
    from merge_lib.workloads.vision.glyphs import make_glyphs

    return make_glyphs(**params.glyphs.model_dump())


def prepare_drawn(params: Params, name: str) -> Snapshot:
    """The task of drawn characters that section `drawn` describes under that name."""
    from merge_lib.workloads.vision.glyphs import make_glyphs

    if name not in params.drawn:
        msg = f"Section `drawn` of the parameters has no task '{name}'; {suggest(name, params.drawn)}."
        raise SpecError(msg)
    return make_glyphs(**params.drawn[name].model_dump(), name=name)


def prepare_task(params: Params, name: str) -> Snapshot:
    """The snapshot of the task that section `tasks` or `hub` describes under that name."""
    known = {**params.hub, **params.tasks}
    if name not in known:
        msg = f"Section `tasks` of the parameters has no task '{name}'; {suggest(name, known)}."
        raise SpecError(msg)
    task = known[name]
    columns = (task.image, task.label)
    raw = read_raw(_place_of(task, name), Form(task.size, task.colour, task.fit), columns=columns)
    snapshot = make_task(raw, name, task.classes or raw.classes, **params.split.model_dump())
    return replace(snapshot, names=_names(task, name, snapshot.classes), templates=task.templates)


def _names(task: ImageParams, called: str, classes: Sequence[str]) -> tuple[str, ...]:
    """How texts call each class; nothing where they call all of them as they are called."""
    if strangers := sorted(task.names.keys() - set(classes)):
        hints = "; ".join(f"'{name}': {suggest(name, classes)}" for name in strangers)
        msg = f"`names` of task '{called}' has classes that the task lacks: {hints}. Correct params.yaml."
        raise SpecError(msg)
    return tuple(task.names.get(name, name) for name in classes) if task.names else ()


def _place_of(task: TaskParams | HubParams, name: str) -> Path:
    """The file or folder of the task's raw data."""
    if isinstance(task, HubParams):
        from merge_lib.workloads.vision.hub import hub_folder

        return hub_folder(task.dataset)
    if not task.raw.exists():
        msg = f"Raw data '{task.raw}' of task '{name}' does not exist. Restore it or correct its `raw`."
        raise DataError(msg)
    return task.raw


def main(arguments: Sequence[str] | None = None) -> int:
    """Write one snapshot; 0 if that worked, else 1 and the reason on standard error."""
    parser = argparse.ArgumentParser(prog="merge_lib.workloads.vision.prepare", description=__doc__)
    parser.add_argument(
        "--params", type=Path, default=Path("params.yaml"), help="settings (default: %(default)s)"
    )
    parser.add_argument(
        "--data", type=Path, default=Path("data"), help="where to write (default: %(default)s)"
    )
    stages = parser.add_subparsers(dest="stage", required=True)
    stages.add_parser("glyphs", help="render the pre-training set")
    stages.add_parser("drawn", help="render a task").add_argument("name", help="key in `drawn`")
    stages.add_parser("task", help="split the raw images of one task").add_argument(
        "name", help="key in `tasks` or `hub`"
    )
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        params = read_params(options.params)
        if options.stage == "glyphs":
            write_snapshot(prepare_glyphs(params), options.data / "pretraining" / "glyphs.safetensors")
        else:
            prepare = prepare_drawn if options.stage == "drawn" else prepare_task
            snapshot = prepare(params, options.name)
            write_snapshot(snapshot, options.data / "tasks" / f"{options.name}.safetensors")
    except (MergeError, OSError) as exc:
        sys.stderr.write(f"error: {exc}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
