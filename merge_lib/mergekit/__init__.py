"""mergekit's recipes, read as they are and merged with mergekit's mathematics; see docs/mergekit.md.

Reading and planning a recipe imports no torch.
"""

from merge_lib.mergekit.plan import plan_recipe
from merge_lib.mergekit.recipe import parse_recipe, read_recipe
from merge_lib.mergekit.run import merge_mergekit
from merge_lib.mergekit.schema import Recipe

__all__ = ["Recipe", "merge_mergekit", "parse_recipe", "plan_recipe", "read_recipe"]
