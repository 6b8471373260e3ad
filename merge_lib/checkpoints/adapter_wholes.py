"""Tensors that adapters store whole (modules to save, biases), merged beside the factors."""

from collections.abc import Sequence
from contextlib import ExitStack
from math import fsum, isclose
from pathlib import Path

import torch
from torch import Tensor

from merge_lib.checkpoints.adapters import Adapter
from merge_lib.checkpoints.opening import open_checkpoint
from merge_lib.checkpoints.spellings import match_spellings
from merge_lib.checkpoints.view import Checkpoint
from merge_lib.errors import CheckpointError, CheckpointMismatchError

Part = tuple[float, Tensor | None]  # an adapter's weight and its tensor, if it has it


def merge_whole_tensors(
    opened: Sequence[Adapter], weights: Sequence[float], base: Path | None
) -> dict[str, Tensor]:
    """The merged tensors, by their names in the file.

    t* = t_0 + Σ_i w_i (t_i − t_0), as with the products; an adapter without the tensor leaves the base's, t_0. Without
    the base, this is Σ_i w_i t_i where the weights sum to 1 and every adapter has the tensor. Computed in float64.

    Args:
        opened: the adapters.
        weights: one for each.
        base: what they were trained on, if given.

    Raises:
        CheckpointMismatchError: tensors that differ and would need the base, or are not numbers to be averaged.
        CheckpointError: values that are not finite.
    """
    names = sorted({name for adapter in opened for name in adapter.whole})
    found: dict[str, Tensor] = {}
    problems: list[str] = []
    with ExitStack() as stack:
        before = None if base is None or not names else stack.enter_context(open_checkpoint(Path(base)))
        for name in names:
            stored = {adapter.path: _read(adapter, name) for adapter in opened if name in adapter.whole}
            parts = [(weight, stored.get(one.path)) for weight, one in zip(weights, opened, strict=True)]
            home = next(adapter.whole[name] for adapter in opened if name in adapter.whole)
            try:
                found[home] = _merge(name, parts, before)
            except CheckpointMismatchError as exc:
                problems.append(str(exc))
    if problems:
        raise CheckpointMismatchError("\n".join(problems))
    return found


def _read(adapter: Adapter, name: str) -> Tensor:
    tensor = adapter.tensor(adapter.whole[name])
    if tensor.is_floating_point() and not tensor.isfinite().all():
        raise CheckpointError(
            f"Tensor '{name}' in adapter {adapter.path} has values that are NaN or infinite. Only finite weights "
            "can be merged. Train that adapter again or leave it out."
        )
    return tensor


def _merge(name: str, parts: Sequence[Part], before: Checkpoint | None) -> Tensor:
    """One tensor, from what the adapters have and what the base has."""
    stored = [tensor for _, tensor in parts if tensor is not None]
    first, is_in_all = stored[0], len(stored) == len(parts)
    is_same = is_in_all and all(torch.equal(first, other) for other in stored)
    start = None if before is None else _of_base(name, before)
    shapes = {tuple(tensor.shape) for tensor in ([*stored, start] if start is not None else stored)}
    if len(shapes) > 1:
        raise CheckpointMismatchError(
            f"Tensor '{name}' is stored whole with the shapes {sorted(shapes)}. Merge adapters of one base only."
        )
    if is_same and (start is None or not first.is_floating_point()):
        return first
    if not first.is_floating_point():
        raise CheckpointMismatchError(
            f"Tensor '{name}' ({first.dtype}) is stored whole and is not the same in all adapters. Only floating "
            "tensors are merged. Leave one of the adapters out."
        )
    total = fsum(weight for weight, _ in parts)
    if start is None and not (is_in_all and isclose(total, 1.0, rel_tol=1e-9)):
        raise CheckpointMismatchError(
            f"Tensor '{name}' is stored whole and is not the same in all adapters. Without the base it can be merged "
            f"only if every adapter has it and the weights sum to 1, not {total:g}. Give the `base`."
        )
    return _sum(parts, start).to(first.dtype)


def _sum(parts: Sequence[Part], start: Tensor | None) -> Tensor:
    origin = torch.zeros((), dtype=torch.float64) if start is None else start.double()
    changes = [weight * (tensor.double() - origin) for weight, tensor in parts if tensor is not None]
    return origin + torch.stack(changes).sum(dim=0)


def _of_base(name: str, before: Checkpoint) -> Tensor:
    place = match_spellings([name], before.names).get(name)
    if place is None:
        raise CheckpointMismatchError(
            f"Tensor '{name}' is stored whole, but base '{before.label}' does not have it. Give the base that the "
            "adapters were trained on."
        )
    return before.tensor(place)


def merged_fields(opened: Sequence[Adapter]) -> dict[str, object]:
    """What the configuration of the result says of the base and of what is stored whole."""
    fields = [adapter.config.fields for adapter in opened]
    saved = sorted({module for one in fields for module in one.get("modules_to_save") or ()})
    biases = [one.get("bias") for one in fields]
    names = {(one.get("base_model_name_or_path"), one.get("revision")) for one in fields}
    name, revision = names.pop() if len(names) == 1 else (None, None)
    return {
        "modules_to_save": saved or None,
        "bias": next((kind for kind in ("all", "lora_only") if kind in biases), "none"),
        "base_model_name_or_path": name,
        "revision": revision,
    }
