"""What continual methods keep between experts: taken apart, kept aside, and written to files."""

from merge_lib.states.files import StateFile, check_same_base, check_same_recipe, write_state
from merge_lib.states.manifest import DescribedExperts, History, Recipe
from merge_lib.states.spilled import SpilledStates
from merge_lib.states.values import flatten, rebuild

__all__ = [
    "DescribedExperts",
    "History",
    "Recipe",
    "SpilledStates",
    "StateFile",
    "check_same_base",
    "check_same_recipe",
    "flatten",
    "rebuild",
    "write_state",
]
