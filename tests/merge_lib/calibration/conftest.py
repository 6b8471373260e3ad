from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor, nn

from merge_lib.probe import Batch


class Tiny(nn.Module):
    """Every kind of layer that can be observed, on images of 6 × 6 pixels and two channels."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3, stride=2, padding=1)
        self.grouped = nn.Conv2d(4, 4, 1, groups=2)
        self.batch = nn.BatchNorm2d(4)
        self.group = nn.GroupNorm(2, 4)
        self.norm = nn.LayerNorm(4)
        self.rms = nn.RMSNorm(4, eps=1e-6)
        self.head = nn.Linear(4, 3)
        self.unused = nn.Linear(4, 2)
        self.temperature = nn.Parameter(torch.tensor(1.5))

    def forward(self, images: Tensor) -> Tensor:
        maps = self.group(self.batch(torch.tanh(self.grouped(self.conv(images)))))
        tokens = self.rms(self.norm(maps.flatten(2).transpose(1, 2)))
        return self.temperature * self.head(tokens).mean(1)


@dataclass
class TinyProbe:
    calls: list[str] = field(default_factory=list)

    def module(self, state):
        module = Tiny()
        module.load_state_dict(state)
        return module.eval()

    def batches(self, task, *, split, count, seed, size) -> Iterator[Batch]:
        assert split == "train"
        available = {"a": 7, "empty": 0}[task]
        generator = torch.Generator().manual_seed(3)
        images = torch.randn(available, 2, 6, 6, generator=generator)
        order = torch.randperm(available, generator=torch.Generator().manual_seed(seed))[:count]
        for places in order.split(size):
            if len(places):
                yield Batch(images[places], places % 3)

    def logits(self, module, batch, task):
        self.calls.append(task)
        return module(batch.inputs)


@pytest.fixture
def probe() -> TinyProbe:
    return TinyProbe()


@pytest.fixture
def state() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    module = Tiny()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
        module.batch.running_mean.copy_(torch.randn(4, generator=generator))
        module.batch.running_var.copy_(torch.rand(4, generator=generator) + 0.5)
    return module.state_dict()
