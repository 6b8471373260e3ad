"""Command line of the data stages: `python -m merge_lib.workloads.vision.prepare glyphs|task NAME`.

Settings come from `params.yaml`, whose sections `glyphs`, `split` and `tasks` the stages in `dvc.yaml` name.
"""

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from ruamel.yaml import YAML, YAMLError

from merge_lib.errors import DataError, MergeError, SpecError, suggest
from merge_lib.workloads.vision.data import Snapshot, make_task, read_raw, write_snapshot

Share = Annotated[float, Field(gt=0.0, lt=1.0)]


class GlyphParams(BaseModel):
    """Section `glyphs`: the pre-training set."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    count: Annotated[int, Field(ge=124)]
    size: Annotated[int, Field(ge=4)]
    seed: int
    validation: Share


class SplitParams(BaseModel):
    """Section `split`: how the images of each class are divided; the rest is for training."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    seed: int
    validation: Share
    test: Share


class TaskParams(BaseModel):
    """One entry of section `tasks`: where the images come from and which classes it brings."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    raw: Path
    classes: Annotated[tuple[str, ...], Field(min_length=1)]
    size: Annotated[int, Field(ge=4)] = 8  # side of the images, where the raw data is a folder


class Params(BaseModel):
    """What the data stages read from `params.yaml`; other sections are for others."""

    model_config = ConfigDict(frozen=True)

    glyphs: GlyphParams
    split: SplitParams
    tasks: dict[str, TaskParams]


def read_params(path: Path) -> Params:
    """The validated settings.

    Raises:
        SpecError: the file is missing, is no YAML, or holds wrong settings (all are listed).
    """
    try:
        return Params.model_validate(YAML(typ="safe").load(path.read_text(encoding="utf-8")))
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


def prepare_task(params: Params, name: str) -> Snapshot:
    """The snapshot of the task that section `tasks` describes under that name."""
    if name not in params.tasks:
        msg = f"Section `tasks` of the parameters has no task '{name}'; {suggest(name, params.tasks)}."
        raise SpecError(msg)
    task = params.tasks[name]
    if not task.raw.exists():
        msg = f"Raw data '{task.raw}' of task '{name}' does not exist. Restore it or correct its `raw`."
        raise DataError(msg)
    return make_task(read_raw(task.raw, size=task.size), name, task.classes, **params.split.model_dump())


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
    stages.add_parser("task", help="split the raw images of one task").add_argument(
        "name", help="key in `tasks`"
    )
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        params = read_params(options.params)
        if options.stage == "glyphs":
            write_snapshot(prepare_glyphs(params), options.data / "pretraining" / "glyphs.safetensors")
        else:
            snapshot = prepare_task(params, options.name)
            write_snapshot(snapshot, options.data / "tasks" / f"{options.name}.safetensors")
    except (MergeError, OSError) as exc:
        sys.stderr.write(f"error: {exc}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
