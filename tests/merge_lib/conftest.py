from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import merge_lib
from merge_lib import registry
from merge_lib.calibration.fitted import write_fitted
from merge_lib.calibration.manifest import Manifest
from merge_lib.calibration.store import finish, write_value
from merge_lib.checkpoints import write_state_dict
from merge_lib.layers import Layer, describe_layers
from merge_lib.learned import Learned, Observed

StateDicts = tuple[dict[str, Tensor], list[dict[str, Tensor]]]


def make_state_dict(generator: torch.Generator, dtype: torch.dtype) -> dict[str, Tensor]:
    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)

    return {
        "z.weight": normal(6, 5),
        "a.bias": normal(7),
        "conv": normal(3, 2, 2, 2),
        "temperature": normal(),
        "empty": normal(0, 4),
        "steps": torch.tensor([3, 1, 4]),
        "flags": torch.tensor([True, False]),
    }


@pytest.fixture
def make_models() -> Callable[..., StateDicts]:
    """A base and experts near it, with every odd kind of tensor."""

    def make(count: int = 3, *, seed: int = 0, dtype: torch.dtype = torch.float64) -> StateDicts:
        generator = torch.Generator().manual_seed(seed)
        base = make_state_dict(generator, dtype)
        experts = []
        for _ in range(count):
            noise = make_state_dict(generator, dtype)
            experts.append(
                {
                    name: tensor + 0.5 * noise[name] if tensor.is_floating_point() else tensor.clone()
                    for name, tensor in base.items()
                }
            )
        return base, experts

    return make


@pytest.fixture
def on_disk(tmp_path: Path) -> Callable[[StateDicts], tuple[Path, tuple[Path, ...]]]:
    """The same as files."""

    def write(models: StateDicts) -> tuple[Path, tuple[Path, ...]]:
        base, experts = models
        paths = [
            tmp_path / "base.safetensors",
            *(tmp_path / f"expert{i}.safetensors" for i in range(len(experts))),
        ]
        for path, tensors in zip(paths, [base, *experts], strict=True):
            write_state_dict(path, tensors, lineage={"kind": "test"})
        return paths[0], tuple(paths[1:])

    return write


ROWS = 9  # of made-up features


@dataclass(frozen=True)
class MadeUpObservations:
    """Random observations, the same for a tensor and expert whatever the others are."""

    kind: str
    layers: Mapping[str, Layer]
    experts: Sequence[int]

    def observed(self, name: str) -> Observed | None:
        layer = self.layers[name]
        shape = self.shape(layer)
        if shape is None:
            return None
        values = tuple(self.value(name, shape, expert) for expert in self.experts)
        norms = tuple(1.0 + expert for expert in self.experts) if self.kind == "fisher" else ()
        return Observed(values, (ROWS,) * len(values), norms)

    def shape(self, layer: Layer) -> tuple[int, ...] | None:
        if self.kind == "fisher":
            return layer.shape
        if layer.role == "scale":
            return (ROWS, layer.shape[0])
        if layer.role in ("linear", "convolution") and 0 not in layer.shape:
            return (ROWS, int(torch.Size(layer.shape[1:]).numel()))
        return None

    def value(self, name: str, shape: tuple[int, ...], expert: int) -> Tensor:
        generator = torch.Generator().manual_seed(sum(name.encode()) * 31 + expert)
        rows = torch.randn(shape, generator=generator, dtype=torch.float64)
        if self.kind == "features":
            return rows
        if self.kind == "fisher":
            return rows**2
        return (rows**2).mean(0) if self.layers[name].role == "scale" else rows.T @ rows / ROWS


def learned_for(
    method: str, base: Mapping[str, Tensor], count: int, params: Mapping[str, Any], order: Sequence[int] = ()
) -> Learned:
    """What a method needs beside weights, made up; `order` says which expert is which."""
    info = registry.get(method)
    layers = describe_layers({name: tuple(tensor.shape) for name, tensor in base.items()})
    observations = info.observation and MadeUpObservations(info.observation, layers, order or range(count))
    fitted = FITTED[method](base, order or range(count)) if method in FITTED else {}
    return Learned(observations or None, fitted)


def _scales(base: Mapping[str, Tensor], order: Sequence[int]) -> dict[str, Tensor]:
    values = torch.tensor([1.0 / (2 + expert) for expert in order], dtype=torch.float64)
    return {name: values for name, tensor in base.items() if tensor.is_floating_point()}


def _masks(base: Mapping[str, Tensor], order: Sequence[int]) -> dict[str, Tensor]:
    return {
        name: torch.stack(
            [torch.arange(tensor.numel()).reshape(tensor.shape) % (2 + one) == 0 for one in order]
        )
        for name, tensor in base.items()
        if tensor.is_floating_point()
    }


def _shares(base: Mapping[str, Tensor], order: Sequence[int]) -> dict[str, Tensor]:
    scales = _scales(base, order)
    return {name: values / values.sum() for name, values in scales.items()}


# what `fit` would give, for methods that take it
FITTED: dict[str, Callable[..., dict[str, Tensor]]] = {
    "adamerging": _scales,
    "greedy_soup": _shares,
    "localize_and_stitch_trained": _masks,
}


def merge_with_data(
    method: str,
    experts: Sequence[Mapping[str, Tensor]],
    base: Mapping[str, Tensor],
    *,
    order: Sequence[int] = (),
    **params: Any,
) -> dict[str, Tensor]:
    """`merge_lib.merge`, with made-up data for methods that need it."""
    learned = learned_for(method, base, len(experts), params, order)
    return merge_lib.merge(method, experts, base, learned=learned, **params)


@pytest.fixture(name="merge_with_data")
def _merge_with_data() -> Callable[..., dict[str, Tensor]]:
    return merge_with_data


@pytest.fixture(name="learned_for")
def _learned_for() -> Callable[..., Learned]:
    return learned_for


@pytest.fixture
def data_files(tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """What a method needs beside weights, made up, as files: the keywords of a spec."""

    def write(method: str, base: Mapping[str, Tensor], count: int) -> dict[str, Any]:
        info = registry.get(method)
        learned = learned_for(method, base, count, {})
        found: dict[str, Any] = {}
        if info.is_fitted:
            found["fitted"] = tmp_path / "fitted.safetensors"
            write_fitted(found["fitted"], {name: one.clone() for name, one in learned.fitted.items()}, {})
        if learned.observations is not None:
            folders = [tmp_path / f"{method} {expert}" for expert in range(count)]
            for expert, folder in enumerate(folders):
                _write_observations(folder, info.observation, base, learned.observations, expert)
            found["observations"] = tuple(folders)
        return found

    return write


def _write_observations(
    folder: Path, kind: str | None, base: Mapping[str, Tensor], source: Any, expert: int
) -> None:
    folder.mkdir()
    seen = {name: source.observed(name) for name, tensor in base.items() if tensor.is_floating_point()}
    seen = {name: one for name, one in seen.items() if one is not None}
    for name, one in seen.items():
        write_value(folder, name, one.values[expert])
    norm = 1.0 + expert if kind == "fisher" else None
    counts = dict.fromkeys(seen, ROWS)
    finish(folder, Manifest(kind, "task", "data", "model", "train", ROWS, 0, counts, norm))  # type: ignore[arg-type]
