"""Draws that a model makes by itself (dropout), made repeatable.

Such layers draw from torch's own generators, which all threads of a process share. A step of a model that has them is
therefore made under a lock, with those generators seeded for the step and put back after it.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

_sole = threading.Lock()


def draws_at_random(model: nn.Module) -> bool:
    """Whether a layer has a dropout above 0."""
    return any(_dropout_of(module) > 0.0 for module in model.modules())


def _dropout_of(module: nn.Module) -> float:
    """The largest share that a module drops."""
    own = module.p if isinstance(module, nn.modules.dropout._DropoutNd) else 0.0
    named = (value for name, value in vars(module).items() if "dropout" in name and isinstance(value, float))
    return max(own, *named, 0.0)


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Within, torch's own generators of the CPU and of the device go on from the seed."""
    devices = [device] if device.type == "cuda" else []
    with _sole, torch.random.fork_rng(devices=devices):
        torch.random.default_generator.manual_seed(seed)
        if devices:
            torch.cuda.manual_seed(seed)
        yield
