"""Merging of fine-tuned checkpoints, and what a merge keeps and forgets.

The public names load on first use: `import merge_lib` alone does not import torch, which takes longer than
`mergeline --help` may take.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from merge_lib.engine import MergeReport, merge_checkpoints
    from merge_lib.memory import merge
    from merge_lib.registry import get, merge_method, methods, names
    from merge_lib.spec import MergeSpec
    from merge_lib.streaming.in_memory import merge_in_turn, merge_many_in_memory
    from merge_lib.streaming.many import merge_many

_HOMES = {
    "MergeReport": "engine",
    "MergeSpec": "spec",
    "get": "registry",
    "merge": "memory",
    "merge_checkpoints": "engine",
    "merge_in_turn": "streaming.in_memory",
    "merge_many": "streaming.many",
    "merge_many_in_memory": "streaming.in_memory",
    "merge_method": "registry",
    "methods": "registry",
    "names": "registry",
}

__all__ = [
    "MergeReport",
    "MergeSpec",
    "get",
    "merge",
    "merge_checkpoints",
    "merge_in_turn",
    "merge_many",
    "merge_many_in_memory",
    "merge_method",
    "methods",
    "names",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'merge_lib' has no attribute '{name}'")
    return getattr(import_module(f"merge_lib.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
