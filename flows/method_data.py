"""Made-up data for methods that need some beside weights: observations and learned values, as files."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from merge_lib.calibration.fitted import write_fitted
from merge_lib.calibration.manifest import MANIFEST, Manifest
from merge_lib.calibration.store import finish, write_value
from merge_lib.files.layout import Shape
from merge_lib.layers import Layer, describe_layers
from merge_lib.registry import MethodInfo

ROWS = 256  # of features, for each layer and expert


def make_data(folder: Path, info: MethodInfo, shapes: Mapping[str, Shape], experts: int) -> dict[str, Any]:
    """Keywords of a spec; what is there already is kept."""
    found: dict[str, Any] = {}
    if info.is_fitted:
        found["fitted"] = folder / f"{info.name}.safetensors"
        if not found["fitted"].exists():
            write_fitted(found["fitted"], _fitted(info.name, shapes, experts), {})
    if info.observation is not None:
        folders = tuple(folder / f"{info.observation} {expert}" for expert in range(experts))
        for expert, one in enumerate(folders):
            if not (one / MANIFEST).exists():
                _write_observations(one, info.observation, shapes, expert)
        found["observations"] = folders
    return found


def _fitted(method: str, shapes: Mapping[str, Shape], experts: int) -> dict[str, Tensor]:
    """A scale for each expert, or a mask of every tenth entry."""
    if method != "localize_and_stitch_trained":
        return {name: torch.full((experts,), 1 / experts) for name in shapes}
    return {name: torch.rand(experts, *shape) < 0.1 for name, shape in shapes.items()}


def _write_observations(folder: Path, kind: str, shapes: Mapping[str, Shape], expert: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    counts = {}
    for place, (name, layer) in enumerate(describe_layers(shapes).items()):
        value = _observed(kind, layer, torch.Generator().manual_seed(1000 * expert + place))
        if value is not None:
            write_value(folder, name, value)
            counts[name] = ROWS
    norm = 1.0 if kind == "fisher" else None
    finish(folder, Manifest(kind, "made up", "none", "none", "train", ROWS, 0, counts, norm))  # type: ignore[arg-type]


def _observed(kind: str, layer: Layer, generator: torch.Generator) -> Tensor | None:
    if kind == "fisher":
        return torch.rand(layer.shape, generator=generator)
    if layer.role not in ("linear", "scale"):
        return None
    rows = torch.randn(ROWS, layer.shape[-1], generator=generator)
    if kind == "features":
        return rows
    return (rows**2).mean(0) if layer.role == "scale" else rows.T @ rows / ROWS
