from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from merge_lib.checkpoints import write_state_dict

# around the edges of tiles (1024), of the chunks that tests use (4096) and of float16's subnormals
SIZES = {
    "a": (0, 3),
    "b": (),
    "c": (1023,),
    "d": (32, 32),
    "e": (1025,),
    "f": (4096,),
    "g": (3, 1367),
    "h": (9001,),
}


@pytest.fixture
def make_checkpoints(tmp_path: Path) -> Callable[..., tuple[Path, tuple[Path, ...]]]:
    """A base and experts as files, of one element type or one for each."""

    def make(
        count: int = 3, dtypes: tuple[torch.dtype, ...] = (torch.bfloat16,)
    ) -> tuple[Path, tuple[Path, ...]]:
        generator = torch.Generator().manual_seed(5)
        wide = {name: torch.randn(shape, generator=generator) for name, shape in SIZES.items()}
        wide["h"] *= 3e-5
        paths = []
        for place in range(count + 1):
            dtype = dtypes[place % len(dtypes)]
            tensors = {}
            for name, tensor in wide.items():
                noise = torch.randn(tensor.shape, generator=generator) * (3e-6 if name == "h" else 0.1)
                tensors[name] = (tensor + noise if place else tensor).to(dtype)
            tensors["steps"] = torch.arange(3000)
            tensors["g"][0] = 0.0
            paths.append(tmp_path / f"model{place}.safetensors")
            write_state_dict(paths[-1], tensors, lineage={})
        return paths[0], tuple(paths[1:])

    return make
