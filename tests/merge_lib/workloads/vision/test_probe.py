"""The workload as a merge sees it: its model, a task's inputs, and logits."""

import pytest
import torch

from merge_lib.checkpoints import read_state_dict
from merge_lib.errors import CheckpointCorruptError, CheckpointMismatchError
from merge_lib.probe import Probe
from merge_lib.workloads import Probing

TASK = "left-right"


@pytest.fixture
def probe(make_workload) -> Probe:
    workload = make_workload()
    assert isinstance(workload, Probing)
    return workload.probe()


def drawn(probe, **options):
    asked = {"split": "train", "count": 6, "seed": 0, "size": 4, **options}
    return list(probe.batches(TASK, **asked))


def test_examples_are_drawn_with_the_seed_and_without_repetition(probe):
    first, again, other = drawn(probe), drawn(probe), drawn(probe, seed=1)
    assert [len(batch.labels) for batch in first] == [4, 2]
    assert all(torch.equal(a.inputs, b.inputs) for a, b in zip(first, again, strict=True))
    assert any(not torch.equal(a.inputs, b.inputs) for a, b in zip(first, other, strict=True))
    every = torch.cat([batch.inputs for batch in drawn(probe, count=10**6)])
    images, _ = probe.sets[TASK, "train"]
    assert len(every) == len(images)
    assert torch.equal(every.sum(0), images.sum(0))


def test_the_model_has_memory_of_its_own(probe, base):
    state = read_state_dict(base)
    module = probe.module(state)
    assert not module.training
    with torch.no_grad():
        module.head.bias.add_(1)
    assert torch.equal(state["head.bias"], read_state_dict(base)["head.bias"])
    (batch, _) = drawn(probe)
    assert probe.logits(module, batch, TASK).shape[0] == 4


def test_weights_of_another_model_are_refused(probe, base):
    state = read_state_dict(base)
    with pytest.raises(CheckpointCorruptError, match=r"NaN or infinite values in head\.bias"):
        probe.module({**state, "head.bias": torch.full_like(state["head.bias"], torch.nan)})
    del state["head.bias"]
    with pytest.raises(CheckpointMismatchError, match=r"'head\.bias' is missing"):
        probe.module(state)
