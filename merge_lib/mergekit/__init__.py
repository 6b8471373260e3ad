"""mergekit's recipes, read as they are and merged with mergekit's mathematics; see docs/mergekit.md.

Reading a recipe imports no torch; `merge_mergekit` loads on first use.
"""

from typing import TYPE_CHECKING, Any

from merge_lib.mergekit.recipe import parse_recipe, read_recipe
from merge_lib.mergekit.schema import Recipe

if TYPE_CHECKING:
    from merge_lib.mergekit.run import merge_mergekit

__all__ = ["Recipe", "merge_mergekit", "parse_recipe", "read_recipe"]


def __getattr__(name: str) -> Any:
    if name != "merge_mergekit":
        raise AttributeError(f"module 'merge_lib.mergekit' has no attribute '{name}'")
    from merge_lib.mergekit.run import merge_mergekit

    return merge_mergekit
