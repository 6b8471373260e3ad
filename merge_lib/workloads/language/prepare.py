"""Command line of the data stages: `python -m merge_lib.workloads.language.prepare generated|text|hub NAME`, `model NAME`.

Settings come from section `language` of `params.yaml`, whose parts the stages in `dvc.yaml` name.
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
from merge_lib.probe import Split
from merge_lib.types import Count
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
    labels: Annotated[tuple[str, ...], Field(min_length=2)] | None = None  # None: open answers, or numbers' names
    most: dict[Split, Count] = {}

    @property
    def wording(self) -> Wording:
        """How they ask."""
        return Wording(self.instruction, self.template)


class GeneratedParams(TextParams):
    """An entry of part `generated`: a task that is made up."""

    kind: Kind
    count: Count = 1000
    seed: int = 0
    strings: dict[str, int] = {}  # letters, shortest, longest
    words: dict[str, float] = {}  # length, shared, own


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
        return Params.model_validate(YAML(typ="safe").load(path.read_text(encoding="utf-8")).get("language", {}))
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
    strings, words = Strings(**task.strings), _words(task)
    labels = task.labels or ()
    examples = examples_of(
        task.kind, name, count=task.count, seed=task.seed, strings=strings, words=words, labels=labels
    )
    source = Source(examples, [None] * len(examples))
    return make_snapshot(source, name, task.wording, labels_of(task.kind, strings, labels), _shares(params, task))


def prepare_task(params: Params, name: str) -> TextSnapshot:
    """The task that part `tasks` or `hub` describes under that name."""
    task = _entry({**params.hub, **params.tasks}, "tasks", name)
    source = read_source(_place_of(task, name), Columns(task.input, task.target, task.labels))
    labels = None if task.is_open else task.labels or sorted({example.target for example in source.examples})
    return make_snapshot(source, name, task.wording, labels, _shares(params, task))


def _entry(known: dict, part: str, name: str):  # noqa: ANN202
    if name not in known:
        msg = f"Part `language.{part}` of the parameters has no '{name}'; {suggest(name, known)}."
        raise SpecError(msg)
    return known[name]
