from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from merge_lib.checkpoints import read_state_dict, write_state_dict

# torch on the CPU does the same as on a GPU; to the byte there, and to one rounding step on a GPU
DEVICES = {"torch:cpu": 0, **({"cuda": 1} if torch.cuda.is_available() else {})}

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


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest) -> str:
    """Every device that there is."""
    return request.param


@pytest.fixture
def assert_as_on_the_cpu(device: str) -> Callable[[Path, Path], None]:
    """Compares two files: the same tensors, as near as the device must come."""

    def check(made: Path, expected: Path) -> None:
        ours, theirs = read_state_dict(made), read_state_dict(expected)
        assert ours.keys() == theirs.keys()
        for name, tensor in ours.items():
            assert tensor.dtype == theirs[name].dtype
            assert steps_apart(tensor, theirs[name]) <= DEVICES[device], name
        if DEVICES[device] == 0:
            assert made.read_bytes() == expected.read_bytes()

    return check


def steps_apart(left: torch.Tensor, right: torch.Tensor) -> int:
    """How many numbers of the element type lie between the entries that differ most, and one."""
    if not left.is_floating_point() or not left.numel():
        return 0 if torch.equal(left, right) else 1 << 32
    places = []
    for tensor in (left, right):
        bits = tensor.contiguous().view(torch.int32 if tensor.itemsize == 4 else torch.int16).long()
        lowest = -(1 << (8 * tensor.itemsize - 1))
        places.append(torch.where(bits < 0, lowest - bits, bits))
    return int((places[0] - places[1]).abs().max())


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
