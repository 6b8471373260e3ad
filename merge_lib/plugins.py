"""Methods and workloads of a user's own: Python files that a study names, loaded before anything is checked."""

import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

from merge_lib.errors import SpecError

PACKAGE = "mergeline_plugins"


def load_plugins(root: Path, files: Sequence[str]) -> list[ModuleType]:
    """Import the files as modules of `mergeline_plugins`; a file that is loaded already is not loaded again.

    Args:
        root: the folder that relative paths start from.
        files: paths of Python files; each registers what it brings when it is imported.

    Returns:
        The modules, in the order of the files.

    Raises:
        SpecError: a file is missing or cannot be imported, or two files have one name.
    """
    return [_load((root / file).resolve(), file) for file in files]


def _load(path: Path, named: str) -> ModuleType:
    name = f"{PACKAGE}.{path.stem}"
    if (loaded := sys.modules.get(name)) is not None:
        if loaded.__file__ != str(path):
            raise SpecError(
                f"Plugin '{named}' has the name of '{loaded.__file__}', which is loaded already. Rename one of them."
            )
        return loaded
    if not path.is_file():
        raise SpecError(
            f"Plugin '{named}' is not a file in '{path.parent}'. Give its path, seen from the project."
        )
    _package().append(str(path.parent))
    spec = spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise SpecError(f"Plugin '{named}' is not a Python file. Name a file that ends in .py.")
    module = module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as failure:
        del sys.modules[name]
        raise SpecError(
            f"Plugin '{named}' could not be imported: {type(failure).__name__}: {failure}. Mend the file and run again."
        ) from failure
    return module


def _package() -> list[str]:
    """The folders of the package that plugins are modules of."""
    if PACKAGE not in sys.modules:
        spec = ModuleSpec(PACKAGE, None, is_package=True)
        sys.modules[PACKAGE] = module_from_spec(spec)
    places = sys.modules[PACKAGE].__spec__
    return (
        places.submodule_search_locations if places and places.submodule_search_locations is not None else []
    )
