"""Merging adapters among themselves, without their base.

What an adapter adds to a layer is the product s · B A. `merge_adapters` merges these products exactly and finds
the best factors of a stated rank; `merge_adapter_factors` merges the factors themselves, which is something else:
the product of mean factors is not the mean of the products.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from merge_lib.checkpoints.adapter_wholes import merge_whole_tensors, merged_fields
from merge_lib.checkpoints.adapter_writing import write_adapter
from merge_lib.checkpoints.adapters import Adapter, Factors
from merge_lib.checkpoints.writer import WrittenCheckpoint
from merge_lib.errors import CheckpointError, CheckpointMismatchError, SpecError


@dataclass(frozen=True)
class AdapterMergeReport:
    """A merged adapter that lies on the disk, whole."""

    path: Path  # the folder
    digest: str
    size_bytes: int
    rank: int
    relative_error: float  # ‖merged − exact‖ / ‖exact‖ over all products, Frobenius
    errors: Mapping[str, float]  # the same for each module


def merge_adapters(
    adapters: Sequence[Path],
    out: Path,
    *,
    weights: Sequence[float],
    rank: int,
    base: Path | None = None,
) -> AdapterMergeReport:
    """Merge adapters in product space and factorise the result again.

    ΔW = Σ_i w_i s_i B_i A_i = [w_1 s_1 B_1 …] [A_1; …] = Q_B (R_B R_Aᵀ) Q_Aᵀ; the singular values of the small core
    are those of ΔW, and its first `rank` ones give the nearest product of that rank (Eckart & Young, 1936). The
    result has scale 1 and the factors B = U √S, A = √S Vᵀ. Computed in float64, stored as the first adapter is.

    Args:
        adapters: folders in peft's format, for the same base; a module that one of them lacks counts as zero.
        out: the folder to make.
        weights: one for each adapter.
        rank: of the result; the sum of the adapters' ranks makes it exact.
        base: needed only for tensors stored whole that differ, unless they are all averaged.

    Returns:
        Where it is, and how far it is from the exact sum.

    Raises:
        SpecError: weights that do not fit the adapters, or a rank below 1.
        CheckpointError: an adapter cannot be read, `out` exists, or the adapters differ in what is not factors.
    """
    _check_request(adapters, weights, rank)
    with _opened(adapters) as opened:
        tensors, errors = merge_whole_tensors(opened, weights, base), {}
        lost = total = 0.0
        for name in sorted({name for adapter in opened for name in adapter.factors}):
            like = next(adapter for adapter in opened if name in adapter.factors)
            factors = like.factors[name]
            a, b = _stacked(opened, weights, name)
            a, b, lost_here, total_here = _factorise(a, b, rank)
            lost, total = lost + lost_here, total + total_here
            errors[factors.module] = _relative(lost_here, total_here)
            tensors |= _as_stored(like, factors, a, b)
        fields = {**opened[0].config.fields, **merged_fields(opened), **_plain_scale(opened, rank)}
        written = _write(out, tensors, fields, adapters, weights, "products")
    return AdapterMergeReport(out, written.digest, written.size_bytes, rank, _relative(lost, total), errors)


def merge_adapter_factors(
    adapters: Sequence[Path], out: Path, *, weights: Sequence[float], base: Path | None = None
) -> WrittenCheckpoint:
    """Merge adapters factor by factor: A = Σ w_i A_i, B = Σ w_i B_i, which is not the merge of what they add.

    Args:
        adapters: folders in peft's format with the same modules, ranks and scales.
        out: the folder to make.
        weights: one for each adapter.
        base: as for `merge_adapters`.

    Returns:
        The file of the new adapter.

    Raises:
        SpecError: weights that do not fit the adapters.
        CheckpointError: an adapter cannot be read, `out` exists, or the adapters differ in modules, ranks or scales.
    """
    _check_request(adapters, weights, 1)
    with _opened(adapters) as opened:
        tensors = merge_whole_tensors(opened, weights, base)
        first = opened[0]
        for other in opened[1:]:
            if other.factors != first.factors:
                raise CheckpointMismatchError(
                    f"Adapters '{first.path}' and '{other.path}' differ in modules, ranks or scales, so their "
                    "factors cannot be merged one by one. Merge their products with `merge_adapters`."
                )
        for factors in first.factors.values():
            for name in (factors.a, factors.b):
                parts = zip(weights, opened, strict=True)
                merged = sum(weight * adapter.tensor(name).double() for weight, adapter in parts)
                tensors[name] = torch.as_tensor(merged).to(first.dtype(name))
        fields = {**first.config.fields, **merged_fields(opened)}
        return _write(out, tensors, fields, adapters, weights, "factors")


def _check_request(adapters: Sequence[Path], weights: Sequence[float], rank: int) -> None:
    if not adapters or len(adapters) != len(weights):
        raise SpecError(
            f"{len(adapters)} adapters and {len(weights)} weights were given. Give at least one adapter, and a "
            "weight for each."
        )
    if not torch.tensor(list(weights), dtype=torch.float64).isfinite().all():
        raise SpecError(f"The weights {list(weights)} are not all finite. Give finite numbers.")
    if rank < 1:
        raise SpecError(f"The rank is {rank}, but must be at least 1.")


@contextmanager
def _opened(paths: Sequence[Path]) -> Iterator[list[Adapter]]:
    with ExitStack() as stack:
        opened = [stack.enter_context(Adapter(Path(path))) for path in paths]
        turned = {adapter.config.is_transposed for adapter in opened}
        if len(turned) > 1:
            raise CheckpointMismatchError(
                "The adapters differ in `fan_in_fan_out`, so they are not for the same base. Merge adapters of "
                "one base only."
            )
        yield opened


def _stacked(opened: Sequence[Adapter], weights: Sequence[float], name: str) -> tuple[Tensor, Tensor]:
    """[Σ r, in] and [out, Σ r], whose product is the weighted sum of the products."""
    left, right, shapes = [], [], {}
    for weight, adapter in zip(weights, opened, strict=True):
        if name not in adapter.factors:
            continue
        factors = adapter.factors[name]
        shapes.setdefault((factors.kind, factors.a_shape[1:], factors.b_shape[0]), adapter.path)
        a, b = adapter.matrices(factors, torch.float64)
        if not (a.isfinite().all() and b.isfinite().all()):
            raise CheckpointError(
                f"Factors of '{factors.module}' in adapter {adapter.path} have values that are NaN or infinite. "
                "Only finite weights can be merged. Train that adapter again or leave it out."
            )
        right.append(a)
        left.append(weight * factors.scale * b)
    if len(shapes) > 1:
        raise CheckpointMismatchError(
            f"Tensor '{name}' has another shape in each of the adapters {', '.join(map(str, shapes.values()))}. "
            "Merge adapters of one base only."
        )
    return torch.cat(right), torch.cat(left, dim=1)


def _factorise(a: Tensor, b: Tensor, rank: int) -> tuple[Tensor, Tensor, float, float]:
    """The nearest factors [rank, in] and [out, rank]; squared norms of what is lost and of all."""
    q_b, r_b = torch.linalg.qr(b)
    q_a, r_a = torch.linalg.qr(a.T)
    u, s, vt = torch.linalg.svd(r_b @ r_a.T, full_matrices=False)
    root = s[:rank].sqrt()
    merged_b = (q_b @ u[:, :rank]) * root  # [out, ≤ rank]
    merged_a = (vt[:rank] @ q_a.T) * root[:, None]  # [≤ rank, in]
    missing = rank - len(root)  # a small module has no more singular values
    if missing > 0:
        merged_b = torch.cat([merged_b, merged_b.new_zeros(len(merged_b), missing)], dim=1)
        merged_a = torch.cat([merged_a, merged_a.new_zeros(missing, merged_a.shape[1])])
    return merged_a, merged_b, float(s[rank:].square().sum()), float(s.square().sum())


def _relative(lost: float, total: float) -> float:
    return (lost / total) ** 0.5 if total > 0 else 0.0


def _as_stored(like: Adapter, factors: Factors, a: Tensor, b: Tensor) -> dict[str, Tensor]:
    """The factors under their names, in the shapes of their kind of layer."""
    a_shape, b_shape = (len(a), *factors.a_shape[1:]), (*b.shape, *factors.b_shape[2:])
    return {
        factors.a: a.reshape(a_shape).to(like.dtype(factors.a)),
        factors.b: b.reshape(b_shape).to(like.dtype(factors.b)),
    }


def _plain_scale(opened: Sequence[Adapter], rank: int) -> dict[str, Any]:
    """One rank and scale 1 for all modules, and every module that any adapter has."""
    modules = sorted({factors.module for adapter in opened for factors in adapter.factors.values()})
    return {
        "r": rank,
        "lora_alpha": rank,
        "rank_pattern": {},
        "alpha_pattern": {},
        "use_rslora": False,
        "target_modules": modules,
        "exclude_modules": None,
        "layers_to_transform": None,
        "layers_pattern": None,
        "init_lora_weights": True,
    }


def _write(
    out: Path,
    tensors: Mapping[str, Tensor],
    fields: Mapping[str, Any],
    adapters: Sequence[Path],
    weights: Sequence[float],
    space: str,
) -> WrittenCheckpoint:
    lineage = {"kind": "adapter merge", "space": space, "weights": list(weights), "adapters": len(adapters)}
    return write_adapter(out, tensors, fields, lineage=lineage)
