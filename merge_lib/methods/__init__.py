"""Methods that merge all experts at once; importing the package declares them."""

from merge_lib.methods import (
    average,
    dare,
    linear,
    slerp,
    task_arithmetic,
    ties,
)

__all__ = [
    "average",
    "dare",
    "linear",
    "slerp",
    "task_arithmetic",
    "ties",
]
