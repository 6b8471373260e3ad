"""One merge by sd-mecha, which has no command line; for the interpreter of sd-mecha's own environment.

python sd_mecha_driver.py PLAN OUT: the plan is JSON with `method`, `models` (files, the base first) and `params`.
No model config is given: sd-mecha then goes by the names and shapes in the files.
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import sd_mecha
import torch


def task_arithmetic(base: Any, *experts: Any, scale: float) -> Any:
    """By its operators; in 1.1.8 `add_difference` fails where an operand is itself the result of a method."""
    merged = base
    for expert in experts:
        merged = merged + (expert - base) * scale
    return merged


def ties(base: Any, *experts: Any, scale: float, **params: Any) -> Any:
    """As its `add_difference_ties`, which fails for the same reason."""
    return base + sd_mecha.ties_sum(*(expert - base for expert in experts), **params) * scale


# every method is given the base; those that have none leave it out
METHODS: dict[str, Callable[..., Any]] = {
    "linear": lambda _, a, b, *__, **params: sd_mecha.weighted_sum(a, b, **params),
    "average": lambda _, *experts: sd_mecha.n_average(*experts),
    "slerp": lambda _, a, b, *__, **params: sd_mecha.slerp(a, b, **params),
    "task_arithmetic": task_arithmetic,
    "dare": sd_mecha.dropout,
    "ties": ties,
    "model_stock": sd_mecha.n_model_stock,
    "dare_ties": sd_mecha.add_ties_with_dare,
}

if __name__ == "__main__":
    plan = json.loads(Path(sys.argv[1]).read_text())
    models = [sd_mecha.model(path) for path in plan["models"]]
    recipe = METHODS[plan["method"]](*models, **plan["params"])
    sd_mecha.merge(recipe, output=sys.argv[2], output_dtype=torch.bfloat16)
