from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from merge_lib.checkpoints import write_state_dict

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
