"""Inputs at the edge of what makes sense: every method gives a finite result, or says why not."""

import pytest
import torch

from merge_lib import registry

NAMES = registry.names()


def models(rows, dtype=torch.float64):
    """Experts of two tensors on a base of ones; one row of six numbers each."""
    base = {"a.weight": torch.ones(2, 3, dtype=dtype), "b.bias": torch.ones(2, dtype=dtype)}
    experts = [
        {"a.weight": base["a.weight"] + row.reshape(2, 3), "b.bias": base["b.bias"] + row[:2]}
        for row in rows.to(dtype)
    ]
    return base, experts


def finite(merged):
    return all(torch.isfinite(tensor).all() for tensor in merged.values())


def random_rows(count):
    return torch.randn(count, 6, generator=torch.Generator().manual_seed(5), dtype=torch.float64)


@pytest.mark.parametrize("name", NAMES)
def test_two_hundred_experts(name, merge_with_data):
    base, experts = models(random_rows(200))
    assert finite(merge_with_data(name, experts, base))


@pytest.mark.parametrize("name", NAMES)
def test_identical_and_opposite_experts(name, merge_with_data):
    row = random_rows(1)
    for rows in (row.repeat(3, 1), torch.cat([row, -row])):
        base, experts = models(rows)
        assert finite(merge_with_data(name, experts, base))


@pytest.mark.parametrize("name", NAMES)
def test_one_expert_that_changed_nothing(name, merge_with_data):
    rows = random_rows(3)
    rows[1] = 0
    base, experts = models(rows)
    assert finite(merge_with_data(name, experts, base))


@pytest.mark.parametrize("name", [name for name in NAMES if registry.get(name).receives == "task_vectors"])
def test_a_frozen_layer_stays_as_it_is(name, merge_with_data):
    base, experts = models(random_rows(3))
    for expert in experts:
        expert["b.bias"] = base["b.bias"].clone()
    merged = merge_with_data(name, experts, base)
    assert torch.equal(merged["b.bias"], base["b.bias"])


@pytest.mark.parametrize("name", NAMES)
def test_tiny_changes_in_half_precision(name, merge_with_data):
    base, experts = models(random_rows(3) * 1e-3, torch.float16)
    assert finite(merge_with_data(name, experts, base))


@pytest.mark.parametrize("name", [info.name for info in registry.methods() if info.decodes])
def test_every_task_can_be_decoded(name, merge_with_data):
    base, experts = models(random_rows(3))
    shared = merge_with_data(name, experts, base)
    decoded = [merge_with_data(name, experts, base, task=task) for task in range(3)]
    assert all(finite(one) for one in decoded)
    weights = [merged["a.weight"] for merged in (*decoded, shared)]
    assert not all(torch.equal(weights[0], other) for other in weights[1:])
