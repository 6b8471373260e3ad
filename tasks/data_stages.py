"""Which stages of `dvc.yaml` make which snapshots, and what they made last; read without DVC.

Only the templates that Mergeline's own stages need are filled in: `${key}`, `${item}` and values of params.yaml. A
stage that says more is left to DVC, and then all stages count as needed.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path, PurePosixPath
from typing import Any

from ruamel.yaml import YAML

from merge_lib.errors import DataError

PARAMS = "params.yaml"
TEMPLATE = re.compile(r"\$\{\s*([^}]*?)\s*\}")


@dataclass(frozen=True)
class DataStages:
    """The data stages of a project.

    Attributes:
        makers: for each snapshot the stages that make a file or folder of that name.
        is_whole: whether every stage could be read.
        locked: what each stage that is still there read and made when it ran last, as `dvc.lock` has it.
    """

    makers: Mapping[str, tuple[str, ...]]
    is_whole: bool
    locked: Mapping[str, Mapping[str, Any]]

    @classmethod
    def of(cls, root: Path) -> "DataStages":
        """The stages of the project in that folder."""
        makers: dict[str, list[str]] = defaultdict(list)
        known: set[str] = set()
        params, is_whole = read_yaml(root / PARAMS), True
        for name, definition in read_yaml(root / "dvc.yaml").get("stages", {}).items():
            try:
                for address, paths in _stages(name, definition, params):
                    known.add(address)
                    for snapshot in sorted({word for path in paths for word in _names(path)}):
                        makers[snapshot].append(address)
            except LookupError:
                is_whole = False
        locked = read_yaml(root / "dvc.lock").get("stages", {})
        if is_whole:
            locked = {address: entry for address, entry in locked.items() if address in known}
        return cls({name: tuple(found) for name, found in makers.items()}, is_whole, locked)

    def targets(self, needed: Sequence[str] | None) -> tuple[str, ...] | None:
        """The stages that make these snapshots; None: all stages.

        Raises:
            DataError: no stage makes one of them.
        """
        if needed is None:
            return None
        missing = [name for name in needed if name not in self.makers]
        if missing and self.is_whole:
            raise _no_stage(missing, [name for name in self.makers if not _has_suffix(PurePosixPath(name))])
        return None if missing else tuple(sorted({stage for name in needed for stage in self.makers[name]}))

    def with_sources(self, targets: Iterable[str]) -> tuple[str, ...]:
        """The stages, and those whose outputs they read, as far as they ever ran."""
        by_output = {
            out["path"]: address for address, entry in self.locked.items() for out in entry.get("outs", ())
        }
        found: set[str] = set()
        waiting = list(targets)
        while waiting:
            address = waiting.pop()
            if address not in found:
                found.add(address)
                read = (dep["path"] for dep in self.locked.get(address, {}).get("deps", ()))
                waiting += [by_output[path] for path in read if path in by_output]
        return tuple(sorted(found))

    def hashes(self, addresses: Iterable[str] | None = None) -> dict[str, str]:
        """Content hash of each snapshot that these stages made; a file goes without its suffix, a folder does not."""
        chosen = self.locked if addresses is None else [one for one in addresses if one in self.locked]
        return {
            _snapshot(out["path"], out["md5"]): out["md5"]
            for address in chosen
            for out in self.locked[address].get("outs", ())
        }

    def files(self, address: str) -> tuple[str, ...]:
        """Files and folders that decide whether a stage that ran is up to date."""
        entry = self.locked[address]
        named = {one["path"] for one in (*entry.get("deps", ()), *entry.get("outs", ()))}
        return tuple(sorted({*named, *entry.get("params", ()), "dvc.yaml", PARAMS}))


def check_made(needed: Sequence[str], hashes: Mapping[str, str]) -> None:
    """Refuse when a needed snapshot was not made.

    Raises:
        DataError: says which, and what there is.
    """
    if missing := [name for name in needed if name not in hashes]:
        raise _no_stage(missing, hashes)


def read_yaml(path: Path) -> Mapping[str, Any]:
    """A file's content; empty where there is none."""
    try:
        return YAML(typ="safe").load(path.read_text(encoding="utf-8")) or {}
    except FileNotFoundError:
        return {}


def _no_stage(missing: Sequence[str], made: Iterable[str]) -> DataError:
    known = sorted(made)
    near = dict.fromkeys(name for wrong in missing for name in get_close_matches(wrong, known, n=1))
    hint = f"Did you mean {', '.join(near)}? " if near else ""
    return DataError(
        f"The study needs the data snapshots {', '.join(missing)}, which no stage of dvc.yaml makes. "
        f"{hint}It makes: {', '.join(known)}. Name one of these, or describe yours under `tasks`, "
        "`drawn` or `hub` in params.yaml (data/README.md)."
    )


def _names(path: PurePosixPath) -> tuple[str, ...]:
    """What the snapshot may be called: before it is made, it may be a file or a folder."""
    return (path.name, path.stem) if _has_suffix(path) else (path.name,)


def _has_suffix(path: PurePosixPath) -> bool:
    """Whether the name ends like a file's, and not in a version such as "-1.5"."""
    return path.suffix[1:2].isalpha()


def _snapshot(path: str, md5: str) -> str:
    """DVC marks the hash of a folder."""
    return PurePosixPath(path).name if md5.endswith(".dir") else PurePosixPath(path).stem


def _stages(
    name: str, definition: Mapping[str, Any], params: Mapping[str, Any]
) -> Iterator[tuple[str, list[PurePosixPath]]]:
    """Address and outputs of a stage, or of each of a group of stages.

    Raises:
        LookupError: it needs more than is filled in here.
    """
    if {"matrix", "wdir"} & {*definition, *definition.get("do", {})}:
        raise LookupError(name)
    if "foreach" not in definition:
        yield name, _paths(definition, params)
        return
    for key, item in _items(definition["foreach"], params).items():
        yield f"{name}@{key}", _paths(definition["do"], {**params, "key": key, "item": item})


def _items(given: Any, params: Mapping[str, Any]) -> dict[str, Any]:
    """What a group of stages goes over, by the word that stands for each in the stages' names."""
    if isinstance(given, str):
        given = _value(TEMPLATE.fullmatch(given), params)
    if isinstance(given, Mapping):
        return {str(key): item for key, item in given.items()}
    return {
        str(place if isinstance(item, Mapping | list) else item): item for place, item in enumerate(given)
    }


def _paths(definition: Mapping[str, Any], scope: Mapping[str, Any]) -> list[PurePosixPath]:
    named = (out if isinstance(out, str) else next(iter(out)) for out in definition.get("outs", ()))
    return [PurePosixPath(TEMPLATE.sub(lambda match: str(_value(match, scope)), path)) for path in named]


def _value(match: re.Match[str] | None, scope: Mapping[str, Any]) -> Any:
    if match is None:
        raise LookupError("no template")
    value: Any = scope
    for part in match.group(1).split("."):
        value = value[part] if isinstance(value, Mapping) else {}[part]
    return value
