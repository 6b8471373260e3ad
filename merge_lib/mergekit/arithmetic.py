"""One tensor of a recipe: read, merge, cast."""

from collections.abc import Mapping
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from merge_lib.compatibility import TensorSource
from merge_lib.errors import CheckpointMismatchError, MergeError, MethodInputError
from merge_lib.mergekit.resolve import TensorJob
from merge_lib.mergekit.schema import Recipe
from merge_lib.ops.chance import TensorGenerator


def merge_tensor(job: TensorJob, recipe: Recipe, sources: Mapping[str, TensorSource], *, seed: int) -> Tensor:
    """The tensor of the result.

    Args:
        job: what to make it of.
        recipe: for its dtypes: arithmetic is in `dtype`, or as the first model stores the tensor.
        sources: the open models by name.
        seed: of randomised methods.

    Returns:
        The tensor in the recipe's `out_dtype`, else its `dtype`, else as stored.

    Raises:
        MethodInputError: a model or the result is not finite.
        CheckpointMismatchError: a tensor of integers differs between the models.
    """
    given = [*job.experts, *([job.base] if job.base else [])]
    tensors = [sources[item.model].tensor(item.name) for item in given]
    if not tensors[0].is_floating_point():
        return _same(job, tensors)
    for item, tensor in zip(given, tensors, strict=True):
        _check_finite(f"Tensor '{item.name}' of model '{item.model}'", tensor)
    wide = [tensor.to(work_dtype(recipe, tensors[0].dtype)) for tensor in tensors]
    experts = torch.stack(wide[: len(job.experts)])
    try:
        merged = apply(job, experts, wide[-1] if job.base else None, seed=seed)
    except MergeError as exc:
        exc.add_note(f"in method '{job.method.name}', tensor '{job.name}'")
        raise
    stored = merged.to(out_dtype(recipe, tensors[0].dtype))
    _check_finite(f"Tensor '{job.name}' merged by '{job.method.name}'", stored)
    return stored.contiguous()


def apply(job: TensorJob, experts: Tensor, base: Tensor | None, *, seed: int) -> Tensor:
    """Call the method's function."""
    module, _, name = job.method.function.partition(".")
    function = getattr(import_module(f"merge_lib.mergekit.methods.{module}"), name)
    keywords: dict[str, Any] = dict(job.params)
    if job.method.randomised:
        keywords["generator"] = TensorGenerator(seed, job.name)
    takes_base = job.method.base != "a model"
    return function(experts, base, **keywords) if takes_base else function(experts, **keywords)


def work_dtype(recipe: Recipe, stored: torch.dtype) -> torch.dtype:
    """The dtype of the arithmetic."""
    return getattr(torch, recipe.dtype) if recipe.dtype else stored


def out_dtype(recipe: Recipe, stored: torch.dtype) -> torch.dtype:
    """The dtype of a tensor of the result; tensors that are not floating keep theirs."""
    if not stored.is_floating_point:
        return stored
    return getattr(torch, recipe.out_dtype) if recipe.out_dtype else work_dtype(recipe, stored)


def _same(job: TensorJob, tensors: list[Tensor]) -> Tensor:
    if any(not torch.equal(tensor, tensors[0]) for tensor in tensors[1:]):
        raise CheckpointMismatchError(
            f"Tensor '{job.name}' ({tensors[0].dtype}) differs between the models. Only floating tensors are "
            "merged; others must be equal. Merge models that share it."
        )
    return tensors[0]


def _check_finite(what: str, tensor: Tensor) -> None:
    if not torch.isfinite(tensor.float()).all():
        raise MethodInputError(
            f"{what} has values that are NaN or infinite in {tensor.dtype}. Only finite weights can be merged. "
            "Leave that model out, or use a wider `dtype`."
        )
