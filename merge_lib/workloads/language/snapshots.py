"""Snapshots of tasks of text: prompts and answers, divided into splits, no text in two of them.

A snapshot is a file `data/tasks/<name>.jsonl`: a first line that describes the task, then a line for each example, all
JSON with sorted keys, so that the same task gives the same bytes.
"""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from operator import itemgetter
from pathlib import Path
from typing import NamedTuple, get_args

from merge_lib.errors import DataError
from merge_lib.probe import Split

INPUT = "{input}"
SPLITS: tuple[Split, ...] = get_args(Split)


class Example(NamedTuple):
    """What is asked, and the right answer."""

    input: str
    target: str


@dataclass(frozen=True)
class Wording:
    """How a task asks.

    Attributes:
        instruction: what is to be done; may be empty.
        template: the prompt, with `{input}` in the place of an example's input, and `{instruction}` of the instruction.
    """

    instruction: str = ""
    template: str = "{instruction}\n{input}\n"

    def around(self) -> tuple[str, str]:
        """What of a prompt lies before and behind an example's input."""
        before, found, behind = self.template.partition(INPUT)
        if not found or INPUT in behind:
            msg = f"Template {self.template!r} must hold {INPUT} once. Correct `template` in params.yaml."
            raise DataError(msg)
        return self._told(before), self._told(behind)

    def prompt(self, text: str) -> str:
        """The whole prompt of an example."""
        before, behind = self.around()
        return f"{before}{text}{behind}"

    def _told(self, part: str) -> str:
        return part.replace("{instruction}", self.instruction)


@dataclass(frozen=True)
class TextSnapshot:
    """The examples of one task, split once and for all.

    Attributes:
        labels: all answers there are, in the order of their numbers; None: answers are open.
        splits: examples by split.
        origin: how it was made: seed, shares, source.
    """

    name: str
    wording: Wording
    labels: tuple[str, ...] | None
    splits: Mapping[Split, tuple[Example, ...]]
    origin: Mapping[str, object]


def write_snapshot(snapshot: TextSnapshot, path: Path) -> None:
    """Write atomically; the same snapshot gives the same bytes."""
    about = {
        "name": snapshot.name,
        **asdict(snapshot.wording),
        "labels": None if snapshot.labels is None else list(snapshot.labels),
        "origin": dict(snapshot.origin),
    }
    lines = [about]
    for split, examples in snapshot.splits.items():
        lines += [{"split": split, **example._asdict()} for example in examples]
    content = "".join(json.dumps(line, sort_keys=True, ensure_ascii=False) + "\n" for line in lines)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        partial.write_text(content, encoding="utf-8")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def read_snapshot(path: Path) -> TextSnapshot:
    """Read what `write_snapshot` wrote.

    Raises:
        DataError: the file is missing, truncated or no snapshot.
    """
    if not path.is_file():
        msg = (
            f"Snapshot '{path}' does not exist. Run `dvc repro` (or `mergeline run`, which does) to make it; "
            "tasks are described in params.yaml."
        )
        raise DataError(msg)
    try:
        # not splitlines: it also divides at characters that JSON leaves as they are
        about, *rows = map(json.loads, path.read_text(encoding="utf-8").rstrip("\n").split("\n"))
        splits = {split: tuple(_example(row) for row in rows if row["split"] == split) for split in SPLITS}
        labels = None if about["labels"] is None else tuple(about["labels"])
        wording = Wording(about["instruction"], about["template"])
        snapshot = TextSnapshot(about["name"], wording, labels, splits, about["origin"])
        _check_consistent(snapshot)
    except (OSError, ValueError, KeyError, TypeError) as exc:
        msg = (
            f"Snapshot '{path}' cannot be read ({type(exc).__name__}: {exc}). It is truncated or was not "
            "written by a data stage; delete it and run `dvc repro`."
        )
        raise DataError(msg) from exc
    return snapshot


def _example(row: Mapping[str, str]) -> Example:
    return Example(row["input"], row["target"])


def _check_consistent(snapshot: TextSnapshot) -> None:
    """Raise a ValueError where a split is empty or an answer is none of the labels."""
    for split, examples in snapshot.splits.items():
        if not examples:
            msg = f"the {split} split has no examples"
            raise ValueError(msg)
        if snapshot.labels is not None and (odd := {e.target for e in examples} - set(snapshot.labels)):
            msg = f"{split} has the answer {min(odd)!r}, which is not among the labels"
            raise ValueError(msg)


@dataclass(frozen=True)
class Source:
    """The examples of a task before they are split.

    Attributes:
        examples: all of them.
        parts: for each example the split that the source puts it in; None: the source does not say.
    """

    examples: Sequence[Example]
    parts: Sequence[Split | None]


@dataclass(frozen=True)
class Shares:
    """How the examples of each answer are divided; the rest is for training.

    Attributes:
        most: examples that a split takes at most, of all answers together; splits not named take all.
    """

    seed: int
    validation: float
    test: float
    most: Mapping[Split, int]


def make_snapshot(
    source: Source,
    name: str,
    wording: Wording,
    labels: Sequence[str] | None,
    shares: Shares,
) -> TextSnapshot:
    """The task, its duplicates removed and its examples divided.

    Each input is kept once, in the test split rather than elsewhere; one that has two answers is left out. Where the
    answers are a set of labels, each label's examples are divided by themselves. What the source itself gives as test
    or validation examples stays that.

    Raises:
        DataError: an answer is none of the labels, or a split stays empty.
    """
    wording.around()
    kept = _distinct(source)
    if labels is not None and (odd := sorted({e.target for e, _ in kept} - set(labels))):
        msg = (
            f"Task '{name}' has the answers {', '.join(map(repr, odd[:5]))}, which are not among its labels "
            f"{', '.join(map(repr, labels))}. Correct `labels` in params.yaml, or leave it out for open answers."
        )
        raise DataError(msg)
    groups: dict[str, list[tuple[Example, Split | None]]] = {}
    for example, part in kept:
        groups.setdefault("" if labels is None else example.target, []).append((example, part))
    parts: dict[Split, list[Example]] = {split: [] for split in SPLITS}
    for key in sorted(groups):
        for split, examples in _divided(groups[key], key, shares).items():
            parts[split] += examples
    splits = {
        split: _some(examples, split, shares, by_label=labels is not None)
        for split, examples in parts.items()
    }
    if empty := [split for split, examples in splits.items() if not examples]:
        msg = (
            f"Task '{name}' has {len(kept)} distinct examples, too few for the split(s) {', '.join(empty)} at "
            f"validation={shares.validation}, test={shares.test}. Add examples or change the shares."
        )
        raise DataError(msg)
    origin = {"seed": shares.seed, "validation": shares.validation, "test": shares.test}
    return TextSnapshot(name, wording, None if labels is None else tuple(labels), splits, origin)


def _distinct(source: Source) -> list[tuple[Example, Split | None]]:
    """Each input once, the source's own test examples first; an input with two answers not at all."""
    rank = {"test": 0, "validation": 1, "train": 2, None: 3}
    pairs = sorted(zip(source.examples, source.parts, strict=True), key=lambda pair: rank[pair[1]])
    answers: dict[str, set[str]] = {}
    for example, _ in pairs:
        answers.setdefault(example.input, set()).add(example.target)
    first = {example.input: (example, part) for example, part in reversed(pairs)}
    return [first[text] for text, found in answers.items() if len(found) == 1]


def _divided(
    members: Sequence[tuple[Example, Split | None]], key: str, shares: Shares
) -> dict[Split, list[Example]]:
    """The examples of one answer by split: the source's own test and validation parts, or else shares of the rest."""
    own = {split: [e for e, part in members if part == split] for split in SPLITS}
    rest = [e for e, part in members if part not in ("test", "validation")]
    order = sorted(rest, key=lambda example: _drawn(shares.seed, key, example.input))
    test = 0 if any(part == "test" for _, part in members) else round(len(rest) * shares.test)
    validation = 0 if own["validation"] else round(len(rest) * shares.validation)
    return {
        "train": order[test + validation :],
        "validation": [*own["validation"], *order[test : test + validation]],
        "test": [*own["test"], *order[:test]],
    }


def _some(
    examples: Sequence[Example], split: Split, shares: Shares, *, by_label: bool
) -> tuple[Example, ...]:
    """As many as the split takes, each label's share kept, in an order that mixes the labels."""
    groups: dict[str, list[Example]] = {}
    for example in sorted(examples, key=lambda one: _drawn(shares.seed, split, one.input)):
        groups.setdefault(example.target if by_label else "", []).append(example)
    placed = [
        ((rank + 0.5) / len(group), label, example)
        for label, group in sorted(groups.items())
        for rank, example in enumerate(group)
    ]
    return tuple(example for _, _, example in sorted(placed, key=itemgetter(0, 1))[: shares.most.get(split)])


def _drawn(*parts: object) -> bytes:
    """A place that depends on these words and numbers alone."""
    return hashlib.blake2b("\0".join(map(str, parts)).encode(), digest_size=16).digest()
