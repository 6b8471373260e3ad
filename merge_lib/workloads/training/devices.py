"""Where models are trained: on a GPU if one is visible, else on the CPU."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


def training_device() -> torch.device:
    """The GPU that this process is to use, else the CPU."""
    return (
        torch.device("cuda", torch.cuda.current_device())
        if torch.cuda.is_available()
        else torch.device("cpu")
    )


def device_of(model: nn.Module) -> torch.device:
    """Where the model's parameters are; the CPU if it has none."""
    return next((parameter.device for parameter in model.parameters()), torch.device("cpu"))


@contextmanager
def on_training_device(model: nn.Module) -> Iterator[None]:
    """Within, the model is on the training device; after it, where it was."""
    home = device_of(model)
    model.to(training_device())
    try:
        yield
    finally:
        model.to(home)
