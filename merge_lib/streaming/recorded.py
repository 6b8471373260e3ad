"""Our own recipes as they are kept beside what was made of them."""

import json
from typing import Any

from merge_lib.spec import MergeSpec, told_beside


def recorded(spec: MergeSpec) -> dict[str, Any]:
    """The recipe without paths."""
    recipe = {
        "method": spec.method,
        "params": spec.params,
        "seed": spec.seed,
        "exclude": list(spec.exclude),
        **told_beside(spec),
    }
    return recipe if spec.dtype is None else {**recipe, "dtype": spec.dtype}


def recipe_lines(spec: MergeSpec) -> list[str]:
    """The recipe as YAML, which JSON values are."""
    lines = [f"method: {spec.method}", f"params: {json.dumps(spec.params, sort_keys=True)}"]
    if spec.base is not None:
        lines.append(f"base: {json.dumps(spec.base.name)}")
    lines.append(f"experts: {json.dumps([path.name for path in spec.experts])}")
    lines.append(f"seed: {spec.seed}")
    if spec.exclude:
        lines.append(f"exclude: {json.dumps(list(spec.exclude))}")
    if spec.dtype is not None:
        lines.append(f"dtype: {spec.dtype}")
    lines += [f"{key}: {json.dumps(value)}" for key, value in told_beside(spec).items()]
    return lines
