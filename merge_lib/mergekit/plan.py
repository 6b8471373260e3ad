"""A recipe as a plan of the merge engine: from headers alone, checked whole; imports no torch."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from merge_lib.errors import CheckpointMismatchError
from merge_lib.files.folders import Source
from merge_lib.files.headers import TensorHeader
from merge_lib.mergekit.models import check_tokenizers, open_model
from merge_lib.mergekit.recipe import base_of, models_of
from merge_lib.mergekit.resolve import Resolution, TensorJob, resolve
from merge_lib.mergekit.schema import Recipe
from merge_lib.mergekit.signatures import SIGNATURES
from merge_lib.streaming.headers import FLOATING
from merge_lib.streaming.planning import (
    DTYPE_CODES,
    ConfigChange,
    MergePlan,
    Reference,
    Work,
    gather,
    why_torch,
)

_ARITHMETIC = frozenset({"F64", "F32", "F16", "BF16"})
_DTYPE_NAMES = {code: name for name, code in DTYPE_CODES.items()}


def plan_recipe(
    recipe: Recipe, folder: Path, *, seed: int = 0, models: Mapping[str, Path] | None = None
) -> MergePlan:
    """Read all headers and check them.

    Args:
        recipe: as read.
        folder: from which the paths of its models are relative.
        seed: of methods that draw at random.
        models: where models of the recipe are, by name.

    Raises:
        MergeError: everything that is wrong, in one error.
    """
    names = models_of(recipe)
    opened = gather(partial(open_model, name, folder, models or {}) for name in names)
    sources = dict(zip(names, opened, strict=True))
    template = sources[recipe.base_model or names[0]]
    resolution = _resolve(recipe, sources, template)
    works = _works(resolution, recipe, sources)
    base = base_of(recipe)
    told = _without_paths(recipe, sources)
    return MergePlan(
        method=f"mergekit.{recipe.merge_method}",
        params={},
        seed=seed if SIGNATURES[recipe.merge_method].randomised else 0,
        recipe=told,
        recipe_lines=tuple(f"{key}: {json.dumps(value, sort_keys=True)}" for key, value in told.items()),
        base=sources[base] if base else None,
        experts=tuple(source for name, source in sources.items() if name != base),
        works=works,
        template=template,
        config=_config_change(resolution, works),
        reference=_load_reference,
        why_torch=why_torch(works, opened),
        variant="mergekit",
    )


def _resolve(recipe: Recipe, sources: Mapping[str, Source], template: Source) -> Resolution:
    shapes = {
        model: {name: header.shape for name, header in source.tensors.items()}
        for model, source in sources.items()
    }
    resolution, _ = gather(
        [partial(resolve, recipe, shapes), partial(check_tokenizers, sources.values(), template)]
    )
    return resolution  # type: ignore[return-value]


def _works(resolution: Resolution, recipe: Recipe, sources: Mapping[str, Source]) -> tuple[Work, ...]:
    works = [_work(job, recipe, sources) for job in resolution.jobs]
    problems = [*_mixed(resolution.jobs, sources), *_narrow(works)]
    if problems:
        raise CheckpointMismatchError("\n".join(problems))
    return tuple(works)


def _work(job: TensorJob, recipe: Recipe, sources: Mapping[str, Source]) -> Work:
    headers = _headers(job, sources)
    first = headers[0]
    if first.dtype not in FLOATING:  # the base is compared like the others
        return Work(job.name, "equal", first.dtype, first.shape, (None, *headers))
    arithmetic = DTYPE_CODES[recipe.dtype] if recipe.dtype else first.dtype
    out = DTYPE_CODES[recipe.out_dtype] if recipe.out_dtype else arithmetic
    experts, base = headers[: len(job.experts)], headers[-1] if job.base else None
    method = f"mergekit.{job.method.name}"
    return Work(job.name, "merge", out, first.shape, (base, *experts), method, job.params, arithmetic)


def _headers(job: TensorJob, sources: Mapping[str, Source]) -> list[TensorHeader]:
    """Of the experts, then of the base."""
    given = [*job.experts, *([job.base] if job.base else [])]
    return [sources[item.model].tensors[item.name] for item in given]


def _mixed(jobs: Sequence[TensorJob], sources: Mapping[str, Source]) -> Iterator[str]:
    """Tensors that are floating in one model and not in another, or of different kinds of integers."""
    for job in jobs:
        dtypes = {header.dtype for header in _headers(job, sources)}
        if len(dtypes) > 1 and not dtypes <= FLOATING:
            yield (
                f"Tensor '{job.name}' is made of {' and '.join(sorted(dtypes))}. Only floating tensors are "
                "merged; others must be equal in all models. Merge models that share it."
            )


def _narrow(works: Sequence[Work]) -> Iterator[str]:
    """Tensors whose element type has no arithmetic."""
    narrow = [work for work in works if work.kind == "merge" and work.arithmetic not in _ARITHMETIC]
    if narrow:
        yield (
            f"{len(narrow)} tensors, such as '{narrow[0].name}', are stored as {narrow[0].arithmetic}, in which "
            "there is no arithmetic. Give the recipe a `dtype`."
        )


def _config_change(resolution: Resolution, works: Sequence[Work]) -> ConfigChange:
    """The element type that most tensors have, and the layers."""
    counts = Counter(work.dtype for work in works if work.kind == "merge")
    dtype = max(sorted(counts), key=counts.__getitem__, default=None)
    return ConfigChange(_DTYPE_NAMES.get(dtype or ""), resolution.layers)


def _without_paths(recipe: Recipe, sources: Mapping[str, Source]) -> dict[str, Any]:
    """What the recipe's YAML says, with the last part of each model's path; equal ones are numbered."""
    names: dict[str, str] = {}
    seen: Counter[str] = Counter()
    for model, source in sources.items():
        name = f"{source.base.name}+{source.name}" if source.base else source.name
        seen[name] += 1
        names[model] = f"{name} ({seen[name]})" if seen[name] > 1 else name

    def renamed(value: Any, key: str = "") -> Any:
        if isinstance(value, dict):
            return {key: renamed(item, key) for key, item in value.items()}
        if isinstance(value, list):
            return [renamed(item) for item in value]
        return names[value] if key in ("model", "base_model") and value is not None else value

    return renamed(recipe.model_dump(mode="json", exclude_unset=True))


def _load_reference() -> Reference:
    from merge_lib.mergekit.arithmetic import MergekitReference  # imports torch

    return MergekitReference()
