"""Fisher information of a model with attention, which torch's fused attention cannot give for a batch of gradients."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from merge_lib.calibration.fisher import add_fisher
from merge_lib.probe import Batch


class Attending(nn.Module):
    """Two heads over five tokens of four entries each."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(4, 4) for _ in range(3))
        self.head = nn.Linear(4, 3)

    def forward(self, tokens):
        parts = (part(tokens).unflatten(-1, (2, 2)).transpose(1, 2) for part in self.parts)
        mixed = functional.scaled_dot_product_attention(*parts, scale=0.7)
        return self.head(mixed.transpose(1, 2).flatten(2).mean(1))

    @property
    def parts(self):
        return self.query, self.key, self.value


class Probe:
    def __init__(self):
        self.fused = []

    def logits(self, model, batch, task):
        self.fused.append(torch.backends.cuda.flash_sdp_enabled())
        return model(batch.inputs)


@pytest.fixture
def module():
    torch.manual_seed(0)
    return Attending().eval()


def found_by(probe, module, tokens):
    batch = Batch(tokens, torch.zeros(len(tokens), dtype=torch.int64))
    return {name: value for name, value, _ in add_fisher(module, probe, "a", [batch], lambda *_: None)}


def test_attention_is_differentiated_example_by_example(module):
    tokens = torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(1))
    found = found_by(Probe(), module, tokens)  # a warning of torch's would be an error here
    expected = {name: torch.zeros_like(p) for name, p in module.named_parameters()}
    for one in tokens:
        for answer in range(3):
            module.zero_grad()
            log_p = module(one[None])[0].log_softmax(-1)[answer]
            log_p.backward()
            for name, parameter in module.named_parameters():
                expected[name] += log_p.detach().exp() * parameter.grad**2
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value / 3, rtol=1e-4, atol=1e-9)


def test_other_threads_keep_their_attention(module):
    probe = Probe()
    found_by(probe, module, torch.zeros(2, 5, 4))
    assert probe.fused
    assert all(probe.fused)
