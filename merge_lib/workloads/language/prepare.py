"""Command line of the data stages: `python -m merge_lib.workloads.language.prepare generated|task|model NAME`.

Settings come from section `language` of `params.yaml`, whose parts the stages in `dvc.yaml` name.
"""

import argparse
import logging
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from ruamel.yaml import YAML, YAMLError

from merge_lib.errors import DataError, MergeError, SpecError, suggest
from merge_lib.probe import Split
from merge_lib.types import Count
from merge_lib.workloads.hub_cache import cached_snapshot, repository_place
from merge_lib.workloads.language.generated import Kind, Strings, Words, examples_of, labels_of
from merge_lib.workloads.language.mini import MiniModelConfig, make_mini
from merge_lib.workloads.language.snapshots import (
    Shares,
    Source,
    TextSnapshot,
    Wording,
    make_snapshot,
    write_snapshot,
)
from merge_lib.workloads.language.sources import Columns, read_source

Share = Annotated[float, Field(ge=0.0, lt=1.0)]
Entry = TypeVar("Entry")


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class SplitParams(_Settings):
    """Part `split`: how the examples of each answer are divided; the rest is for training."""

    seed: int = 0
    validation: Share = 0.1
    test: Share = 0.3


class TextParams(_Settings):
    """What all tasks say: how they ask, and how many examples each split takes at most."""

    instruction: str = ""
    template: str = "{instruction}\n{input}\n"
    labels: Annotated[tuple[str, ...], Field(min_length=2)] | None = (
        None  # None: open answers, or numbers' names
    )
    most: dict[Split, Count] = {}

    @property
    def wording(self) -> Wording:
        """How they ask."""
        return Wording(self.instruction, self.template)


class GeneratedParams(TextParams):
    """An entry of part `generated`: a task that is made up."""

    kind: Kind
    template: str = "{instruction}: {input} ="
    count: Count = 1000
    seed: int = 0
    strings: Strings = Strings()
    words: Words = Words()


class SourceParams(TextParams):
    """What of a source a task takes."""

    input: str = "input"  # a column, or a text with columns in braces
    target: str = "target"  # the column with the answer
    is_open: bool = False  # answers are texts of any form, not a set of labels


class RawParams(SourceParams):
    """An entry of part `tasks`: a task from a file or a folder."""

    raw: Path


class HubParams(SourceParams):
    """An entry of part `hub`: a data set that the Hugging Face hub's own tools have put on this machine."""

    dataset: str
    folder: str = ""  # within the data set, such as one of its configurations


class Params(_Settings):
    """Section `language`."""

    split: SplitParams = SplitParams()
    generated: dict[str, GeneratedParams] = {}
    tasks: dict[str, RawParams] = {}
    hub: dict[str, HubParams] = {}
    models: dict[str, MiniModelConfig] = {}


def read_params(path: Path) -> Params:
    """The validated settings.

    Raises:
        SpecError: the file is missing, is no YAML, or holds wrong settings (all are listed).
    """
    try:
        return Params.model_validate(
            YAML(typ="safe").load(path.read_text(encoding="utf-8")).get("language", {})
        )
    except (OSError, YAMLError, AttributeError) as exc:
        msg = f"Parameters '{path}' cannot be read ({exc}). Restore the file or name another with --params."
        raise SpecError(msg) from exc
    except ValidationError as exc:
        faults = "; ".join(f"language.{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in exc.errors())
        msg = f"Parameters '{path}' are wrong: {faults}. Correct them."
        raise SpecError(msg) from exc


def prepare_generated(params: Params, name: str) -> TextSnapshot:
    """The task that part `generated` describes under that name."""
    task = _entry(params.generated, "generated", name)
    labels = _labels(task, name)
    examples = examples_of(
        task.kind,
        name,
        count=task.count,
        seed=task.seed,
        strings=task.strings,
        words=task.words,
        labels=labels,
    )
    source = Source(examples, [None] * len(examples))
    return make_snapshot(
        source, name, task.wording, labels_of(task.kind, task.strings, labels), _shares(params, task)
    )


def prepare_task(params: Params, name: str) -> TextSnapshot:
    """The task that part `tasks` or `hub` describes under that name."""
    task = _entry({**params.hub, **params.tasks}, "tasks", name)
    source = read_source(_place_of(task, name), Columns(task.input, task.target, task.labels))
    labels = None if task.is_open else task.labels or sorted({example.target for example in source.examples})
    return make_snapshot(source, name, task.wording, labels, _shares(params, task))


def _entry(known: Mapping[str, Entry], part: str, name: str) -> Entry:
    if name not in known:
        msg = f"Part `language.{part}` of the parameters has no '{name}'; {suggest(name, known)}."
        raise SpecError(msg)
    return known[name]


def _labels(task: GeneratedParams, name: str) -> tuple[str, ...]:
    """What the classes of texts are called; nothing for other kinds, which know their answers."""
    if (task.kind == "words") != (task.labels is not None):
        needs = "needs" if task.kind == "words" else "takes no"
        msg = f"Generated task '{name}' of kind {task.kind} {needs} `labels`. Correct it in params.yaml."
        raise SpecError(msg)
    return task.labels or ()


def _shares(params: Params, task: TextParams) -> Shares:
    return Shares(params.split.seed, params.split.validation, params.split.test, task.most)


def _place_of(task: RawParams | HubParams, name: str) -> Path:
    """The file or folder of the task's raw data."""
    if isinstance(task, HubParams):
        return hub_folder(task.dataset) / task.folder
    if not task.raw.exists():
        msg = f"Raw data '{task.raw}' of task '{name}' does not exist. Restore it or correct its `raw`."
        raise DataError(msg)
    return task.raw


def hub_folder(name: str) -> Path:
    """Where the hub's own tools have put a data set of that name.

    Raises:
        DataError: it is not on this machine.
    """
    if (folder := cached_snapshot("datasets", name)) is not None:
        return folder
    msg = (
        f"Data set '{name}' is not on this machine: there is nothing in '{repository_place('datasets', name)}'. With a "
        f"network, `hf download {name} --repo-type dataset` puts it there; without one, copy its files into a folder "
        "of the project and describe it under `language.tasks` in params.yaml, with the folder as `raw`."
    )
    raise DataError(msg)


def main(arguments: Sequence[str] | None = None) -> int:
    """Write one snapshot or model; 0 if that worked, else 1 and the reason on standard error."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        params = read_params(options.params)
        if options.stage == "model":
            config = _entry(params.models, "models", options.name)
            losses = make_mini(config, options.data / "models" / options.name)
            logging.info("mean loss of each epoch: %s", ", ".join(f"{loss:.3f}" for loss in losses))
        else:
            prepare = prepare_generated if options.stage == "generated" else prepare_task
            write_snapshot(prepare(params, options.name), options.data / "tasks" / f"{options.name}.jsonl")
    except (MergeError, OSError) as exc:
        sys.stderr.write(f"error: {exc}\n")
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="merge_lib.workloads.language.prepare", description=__doc__)
    parser.add_argument(
        "--params", type=Path, default=Path("params.yaml"), help="settings (default: %(default)s)"
    )
    parser.add_argument(
        "--data", type=Path, default=Path("data"), help="where to write (default: %(default)s)"
    )
    stages = parser.add_subparsers(dest="stage", required=True)
    for stage, does in (
        ("generated", "make up the texts of a task"),
        ("task", "split the texts of a task"),
        ("model", "train a small model"),
    ):
        stages.add_parser(stage, help=does).add_argument("name", help="key in that part of the parameters")
    return parser


if __name__ == "__main__":
    sys.exit(main())
