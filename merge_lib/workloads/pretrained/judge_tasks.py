"""Names of lm-eval's tasks, found in its YAML files without importing it: its own index parses thousands of them."""

import os
import re
from collections.abc import Collection, Iterator, Sequence
from difflib import get_close_matches
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from merge_lib.errors import SpecError

NEAR = 3  # names told where one is not known
INSTALL = "Install Mergeline with it: pip install 'mergeline[models,lm-eval]'."
_KEY = rb"^[ \t-]*[\"']?(?:%s)[\"']?[ \t]*:[ \t]*([^\r\n]*)((?:\r?\n[ \t]*-[^\r\n]*)*)"  # value, list
_NAMING = re.compile(_KEY % b"task|group|tag", re.MULTILINE)
_INCLUDING = re.compile(_KEY % b"include", re.MULTILINE)
_WORD = re.compile(rb"[^\s\"'\[\],{}#&*!|>-][^\s\"'\[\],{}#]*")


def check_tasks(tasks: Sequence[str], include: Path | None) -> None:
    """Refuse names that no YAML file has, in a second or two and before any model is loaded.

    Args:
        tasks: names of tasks, groups or tags.
        include: a folder with YAML files of further tasks.

    Raises:
        SpecError: the harness is not installed, `include` is no folder, or names are unknown; all are listed, with
            their nearest ones.
    """
    if include is not None and not include.is_dir():
        raise SpecError(f"--include '{include}' is no folder. Name the folder with the tasks' YAML files.")
    own = frozenset() if include is None else names_in(include)
    if not set(tasks) <= own:
        check_known(tasks, own | _names_of_harness())


def check_known(tasks: Sequence[str], known: Collection[str]) -> None:
    """Refuse names that are not among those known.

    Raises:
        SpecError: lists them, with their nearest ones.
    """
    if unknown := [task for task in tasks if task not in known]:
        hints = [f"'{task}'{_near(task, sorted(known))}" for task in unknown]
        raise SpecError(
            f"The harness does not know the tasks {', '.join(hints)}. `lm-eval ls tasks` lists its own; tasks of "
            "yours lie in the folder that --include names."
        )


def names_in(folder: Path) -> frozenset[str]:
    """Every word that stands for a task, a group or a tag in the YAML files below a folder, and in what they include.

    It has no fewer names than lm-eval finds there, and may have more.
    """
    found: set[bytes] = set()
    waiting, read = list(folder.rglob("*.yaml")), set[Path]()
    while waiting:
        path = waiting.pop()
        if path in read or not path.is_file():
            continue
        read.add(path)
        text = path.read_bytes()
        found.update(_words(_NAMING, text))
        waiting += (_beside(path, other) for other in _words(_INCLUDING, text) if other)
    return frozenset(word.decode(errors="replace") for word in found)


def _beside(path: Path, other: bytes) -> Path:
    """The file that another one includes."""
    return Path(os.path.normpath(path.parent / os.fsdecode(other)))


def _words(key: re.Pattern[bytes], text: bytes) -> Iterator[bytes]:
    """The whole values, which may have spaces in them, and the parts of lists."""
    for value, below in key.findall(text):
        for line in (value, *below.splitlines()):
            yield line.partition(b" #")[0].strip(b" \t-\"'")
        for line in (value if value.startswith(b"[") else b"", *below.splitlines()):
            yield from _WORD.findall(line)


@cache
def _names_of_harness() -> frozenset[str]:
    found = find_spec("lm_eval")
    if found is None or not found.submodule_search_locations:
        raise SpecError(f"Judging needs the package lm-eval, which is not installed. {INSTALL}")
    return names_in(Path(found.submodule_search_locations[0]) / "tasks")


def _near(task: str, known: Sequence[str]) -> str:
    near = get_close_matches(task, known, n=NEAR, cutoff=0.6)
    return f" (near: {', '.join(near)})" if near else ""
