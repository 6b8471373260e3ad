"""Cache keys: what a piece of work depends on, as one digest.

A key covers the kind of work, the digests of its inputs, its parameters, the libraries that compute, and the
source of the code that matters: the modules reached by imports from the named one, without comments and docstrings.
"""

import ast
import hashlib
import importlib.util
import json
import threading
from collections.abc import Mapping
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

COMPUTING_LIBRARIES = ("torch", "numpy")


def cache_key(
    kind: str,
    *,
    inputs: Mapping[str, str],
    params: Mapping[str, Any],
    code: tuple[str, ...],
    compilers: tuple[str, ...] = (),
) -> str:
    """A 32-digit hexadecimal key that changes exactly when the result could.

    Args:
        kind: what is done: pretrain, train, merge, evaluate.
        inputs: name to content digest.
        params: JSON-serialisable parameters.
        code: the modules whose source matters, with all that they import of this project.
        compilers: packages that turn that source into what is run, where it is not Python itself.
    """
    content = {
        "kind": kind,
        "inputs": dict(inputs),
        "params": dict(params),
        "code": code_digest(*code),
        "libraries": {name: _version(name) for name in (*COMPUTING_LIBRARIES, *compilers)},
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:32]


@cache
def _version(package: str) -> str:
    """Read once a process: that takes milliseconds, and a study has hundreds of keys."""
    return version(package)


def code_digest(*modules: str) -> str:
    """Digest of the modules' source and of every module of `merge_lib` that they import, directly or not."""
    with _one_parser:  # CPython 3.11 cannot build two syntax trees at once in two threads
        return _code_digest(*modules)


_one_parser = threading.Lock()


@cache
def _code_digest(*modules: str) -> str:
    reached: dict[str, str] = {}
    waiting = list(modules)
    while waiting:
        name = waiting.pop()
        if name in reached:
            continue
        reached[name], imported = _read(name)
        waiting.extend(imported)
    return hashlib.sha256(json.dumps(reached, sort_keys=True).encode()).hexdigest()[:32]


@cache
def _read(module: str) -> tuple[str, list[str]]:
    """Digest of one module's source, and the modules of `merge_lib` that it imports; read once a process."""
    tree = _parsed(module)
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest(), _imported(tree)


def forget_sources() -> None:
    """Read every module again when it is next asked for: its file may have changed."""
    _code_digest.cache_clear()
    _read.cache_clear()


def _parsed(module: str) -> ast.Module:
    source = _source(module)
    if source is None:
        raise ModuleNotFoundError(f"no source for module '{module}'")
    tree = ast.parse(source.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
            and ast.get_docstring(node) is not None
        ):
            node.body = node.body[1:] or [ast.Pass()]
    return tree


@cache
def _source(module: str) -> Path | None:
    """The module's file, found without importing it."""
    package, _, rest = module.partition(".")
    spec = importlib.util.find_spec(package)
    for folder in (spec.submodule_search_locations if spec else None) or ():
        place = Path(folder, *rest.split(".")) if rest else Path(folder)
        candidates = (place.with_suffix(".py"), place / "__init__.py") if rest else (place / "__init__.py",)
        for path in candidates:
            if path.is_file():
                return path
    return None


def _imported(tree: ast.Module) -> list[str]:
    names: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names.extend(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names.append(node.module)
            names.extend(f"{node.module}.{alias.name}" for alias in node.names)
    return [name for name in names if name.startswith("merge_lib.") and _source(name) is not None]
