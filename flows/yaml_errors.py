"""Validation errors of a YAML file in the words of its reader: file, line, what was got, what is allowed."""

import io
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Self, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.error import YAMLError

from merge_lib.errors import SpecError

Location = tuple[str | int, ...]


@dataclass
class YamlDocument:
    """A parsed YAML file that remembers the line of every key."""

    path: Path
    root: CommentedMap
    overridden: dict[Location, str] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> Self:
        """Parse the file; a SpecError says where it stops being YAML."""
        try:
            root = YAML(typ="rt").load(path.read_text(encoding="utf-8"))
        except FileNotFoundError as missing:
            beside = sorted(str(p) for p in path.parent.glob("*.y*ml")) if path.parent.is_dir() else []
            near = get_close_matches(str(path), beside, n=1, cutoff=0.3)
            hint = f" Did you mean '{near[0]}'?" if near else ""
            raise SpecError(
                f"There is no file '{path}'.{hint} Give the path of a study's YAML file."
            ) from missing
        except (OSError, UnicodeDecodeError) as unreadable:
            raise SpecError(
                f"'{path}' cannot be read as text: {unreadable}. Give a study's YAML file."
            ) from unreadable
        except YAMLError as broken:
            raise SpecError(f"'{path}' is not valid YAML. {broken}") from broken
        if not isinstance(root, CommentedMap):
            raise SpecError(
                f"'{path}' holds no keys; expected a study such as `study: digits` with `tasks:`, `methods:` …"
            )
        return cls(path, root)

    @classmethod
    def of(cls, content: Mapping[str, Any], path: Path) -> Self:
        """The same of settings that are no file.

        Args:
            content: as JSON has it.
            path: what errors call it.
        """
        text = io.StringIO()
        YAML().dump(content, text)
        return cls(path, YAML(typ="rt").load(text.getvalue()))

    def plain(self) -> dict[str, Any]:
        """The content as plain dictionaries and lists."""
        return _plain(self.root)

    def override(self, assignment: str) -> None:
        """Apply one `dotted.key=value`; list entries are named by number or by their label or method."""
        key, equals, text = assignment.partition("=")
        if not equals or not key:
            raise SpecError(f"--set got '{assignment}'; expected key=value, such as seeds=[0,1]")
        try:
            value = YAML(typ="rt").load(text)  # so that a later override finds its parts
        except YAMLError as broken:
            raise SpecError(f"--set {key}: '{text}' is not a YAML value. {broken}") from broken
        self.assign(key, value, f"--set {assignment}")

    def assign(self, key: str, value: Any, said: str) -> None:
        """Put a value at a dotted key; errors there are told as of what `said` it."""
        parts = key.split(".")
        node: Any = self.root
        location: list[str | int] = []
        for part in parts[:-1]:
            step = _step(node, part, said)
            location.append(step)
            if isinstance(node, CommentedMap) and (step not in node or node[step] is None):
                node[step] = CommentedMap()
            if isinstance(node, CommentedSeq) and isinstance(node[step], str):
                word = "learner" if location[0] == "learners" else "method"
                node[step] = CommentedMap({word: node[step]})
            node = node[step]
        last = _step(node, parts[-1], said)
        node[last] = value
        self.overridden[(*location, last)] = said

    def line(self, location: Location) -> str:
        """`file:line` of the innermost part of the location that the file has."""
        for depth in range(len(location), 0, -1):
            if (said := self.overridden.get(tuple(location[:depth]))) is not None:
                return said
        node: Any = self.root
        line = 0
        for part in location:
            if isinstance(node, CommentedMap) and part in node:
                line = node.lc.key(part)[0] if part in (node.lc.data or {}) else line
            elif isinstance(node, CommentedSeq) and isinstance(part, int) and part < len(node):
                line = node.lc.item(part)[0] if part in (node.lc.data or {}) else line
            else:
                break
            node = node[part]
        return f"{self.path}:{line + 1}"


def _step(node: Any, part: str, said: str) -> str | int:
    if isinstance(node, CommentedMap):
        return part
    if isinstance(node, CommentedSeq):
        names = [
            item
            if isinstance(item, str)
            else (item.get("label") or item.get("method") or item.get("learner", ""))
            for item in node
        ]
        if part.isdigit() and int(part) < len(node):
            return int(part)
        if part in names:
            return names.index(part)
        raise SpecError(f"{said}: the list has no entry '{part}'; it has {', '.join(map(str, names))}")
    raise SpecError(f"{said}: '{part}' lies inside a single value; only mappings and lists have parts")


def _plain(node: Any) -> Any:
    if isinstance(node, dict):
        return {key: _plain(value) for key, value in node.items()}
    if isinstance(node, list):
        return [_plain(value) for value in node]
    return node


def explain(failure: ValidationError, document: YamlDocument, model: type[BaseModel]) -> str:
    """All errors of a validation, one line each, in the order of the file's keys."""
    return told(error_lines(failure, document, model), document.path)


def error_lines(failure: ValidationError, document: YamlDocument, model: type[BaseModel]) -> list[str]:
    """For each error its place and a sentence; in the order of the file's lines, then what did not come from it."""
    lines = []
    for location, error, known in _flat(failure, model):
        inside = _inside(document, location)
        place = document.line(inside)
        lines.append((place, f"{place}: {_dotted(inside)}{_sentence(error, known)}"))
    return [line for _, line in sorted(lines, key=lambda told: _line_number(told[0], document.path))]


def _line_number(place: str, path: Path) -> float:
    """Of a place in that file; infinite for one of `--set`, so that those keep their order at the end."""
    number = place.removeprefix(f"{path}:")
    return int(number) if number != place and number.isdecimal() else math.inf


def told(lines: Sequence[str], path: Path) -> str:
    """The lines under their count."""
    count = f"{len(lines)} error" + ("s" if len(lines) > 1 else "")
    return f"{count} in {path}; nothing was run.\n" + "\n".join(f"  {line}" for line in lines)


def _flat(failure: ValidationError, model: type[BaseModel]) -> Iterator[tuple[Location, Any, list[str]]]:
    """Location, error and the names that are known there; errors of a nested model are unfolded."""
    errors = failure.errors()
    for error in errors:
        location = tuple(error["loc"])
        if error["type"] == "too_short" and any(_lies_below(other["loc"], location) for other in errors):
            continue  # its entries are there, but wrong; that is told already
        if error["type"] == "nested":
            inside = error["ctx"]
            for place, inner, known in _flat(inside["failure"], inside["model"]):
                yield (*location, *inside.get("prefix", ()), *place), inner, known
        else:
            yield location, error, sorted(_fields_at(model, location[:-1]))


def _lies_below(place: Location, location: Location) -> bool:
    return len(place) > len(location) and tuple(place[: len(location)]) == location


def _inside(document: YamlDocument, location: Location) -> Location:
    """The location without the names of union members, which pydantic puts in and the file does not have."""
    node: Any = document.root
    kept: list[str | int] = []
    for depth, part in enumerate(location):
        last = depth == len(location) - 1
        if (isinstance(node, dict) and part in node) or (isinstance(node, list) and isinstance(part, int)):
            kept.append(part)
            node = node[part]
        elif last and isinstance(node, dict):
            kept.append(part)
    return tuple(kept)


def _dotted(location: Location) -> str:
    return ".".join(str(part) for part in location) + ": " if location else ""


def _sentence(error: Any, known: list[str]) -> str:
    kind, got = error["type"], error.get("input")
    if kind == "extra_forbidden":
        name = str(error["loc"][-1])
        near = get_close_matches(name, known, n=1, cutoff=0.5)
        hint = f" Did you mean '{near[0]}'?" if near else ""
        return f"unknown key '{name}'.{hint} Known here: {', '.join(known) or 'none'}."
    if kind == "missing":
        return "this key is missing and has no default."
    message = error["msg"].removeprefix("Value error, ")
    hint = ""
    if kind == "literal_error" and isinstance(got, str):
        allowed = [part.strip("' ") for part in error["ctx"]["expected"].replace(" or ", ", ").split(",")]
        near = get_close_matches(got, allowed, n=1, cutoff=0.5)
        hint = f". Did you mean '{near[0]}'?" if near else ""
    shown = "" if kind in ("value_error", "model_attributes_type") else f", got {got!r}"
    return f"{message[0].lower()}{message[1:]}{shown}{hint}"


def _fields_at(model: type[BaseModel], location: Location) -> set[str]:
    """Names of the fields that the models at a location accept."""
    models: list[type[BaseModel]] = [model]
    for part in location:
        following: list[type[BaseModel]] = []
        for candidate in models:
            info = candidate.model_fields.get(str(part))
            following.extend(_models_in(info.annotation) if info else [])
        models = following or models
    return {name for candidate in models for name in candidate.model_fields}


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    elif get_origin(annotation) in (Union, UnionType, Annotated, tuple, list, dict):
        for argument in get_args(annotation):
            yield from _models_in(argument)
