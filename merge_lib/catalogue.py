"""The index of the package's own methods: their declarations as JSON, so that listing them needs no torch.

`python -m merge_lib.catalogue` writes it. The index holds the digest of the sources it was made from; where
it does not match them, the methods are imported instead, which is slower and never wrong.
"""

import json
import sys
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from pathlib import Path

import xxhash

from merge_lib import registry

_PACKAGE = Path(__file__).parent
INDEX = _PACKAGE / "methods" / "index.json"
_FOLDERS = ("methods", "continual")


@cache
def builtin_methods() -> dict[str, registry.MethodInfo]:
    """The methods of `merge_lib.methods` and `merge_lib.continual`, by name."""
    if INDEX.exists():
        index = json.loads(INDEX.read_text(encoding="utf-8"))
        if index["sources"] == sources_digest():
            infos = (registry.MethodInfo.from_dict(fields) for fields in index["methods"])
            return {info.name: info for info in infos}
    return import_methods()


def import_methods() -> dict[str, registry.MethodInfo]:
    """Import every method file and return what they declared."""
    packages = tuple(f"merge_lib.{folder}" for folder in _FOLDERS)
    for package in packages:
        import_module(package)
    return {name: info for name, info in registry.declared.items() if info.module.startswith(packages)}


def sources_digest() -> str:
    """Digest of every file that a declaration can depend on."""
    digest = xxhash.xxh3_128()
    for path in _sources():
        digest.update(path.name.encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


def write_index() -> None:
    """Import every method and write the index."""
    infos = sorted(import_methods().items())
    index = {"sources": sources_digest(), "methods": [info.to_dict() for _, info in infos]}
    INDEX.write_text(json.dumps(index, indent=1, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")


def table() -> str:
    """The README's table of methods; `python -m merge_lib.catalogue table` prints it."""
    head = (
        "| method | what it is | needs base | order-free | scope | data | paper |",
        "|---|---|---|---|---|---|---|",
    )
    return "\n".join([*head, *(_row(info) for _, info in sorted(import_methods().items()))])


def _row(info: registry.MethodInfo) -> str:
    summary = info.summary.removesuffix(".")
    is_word = summary[1:2].islower() or summary[1:2] == " "
    first = summary[0].lower() if is_word else summary[0]
    told = f"{info.title}: {first}{summary[1:]}"
    if info.decodes and "model for each task" not in summary:
        told += "; gives a model for each task"
    number = info.paper.rpartition("/")[2]
    paper = f"[{number if 'arxiv' in info.paper else 'source'}]({info.paper})"
    marks = ["yes" if flag else "no" for flag in (info.needs_base, info.order_free)]
    cells = (f"`{info.name}`", told + ".", *marks, info.scope, info.data.replace("none", "–"), paper)
    return f"| {' | '.join(cells)} |"


def _sources() -> Iterator[Path]:
    for name in ("looks.py", "parameters.py", "registry.py", "signatures.py", "types.py", "working_set.py"):
        yield _PACKAGE / name
    for folder in _FOLDERS:
        yield from sorted((_PACKAGE / folder).glob("*.py"))


if __name__ == "__main__":
    if sys.argv[1:] == ["table"]:
        sys.stdout.write(table() + "\n")
    else:
        write_index()
