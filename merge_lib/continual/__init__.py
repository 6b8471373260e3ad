"""Methods that fold experts in as they arrive; importing the package declares them."""

from merge_lib.continual import (
    ema,
    magmax,
    running_average,
)

__all__ = [
    "ema",
    "magmax",
    "running_average",
]
