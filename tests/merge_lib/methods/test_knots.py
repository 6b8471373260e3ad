"""KnOTS against cases by hand, the spelled-out formula and its edges."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import merge_lib
from merge_lib import registry
from merge_lib.checkpoints import merge_adapters, read_state_dict, write_state_dict
from merge_lib.layers import Layer
from merge_lib.methods.knots import fold, knots
from merge_lib.methods.knots_dare import knots_dare
from merge_lib.ops.alignment import align
from merge_lib.ops.chance import TensorGenerator
from merge_lib.ops.quantile import close_thresholds
from merge_lib.ops.trimming import begin
from merge_lib.trail import TakenTrail


def rows(count=3, shape=(7, 5), seed=0, dtype=torch.float64):
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(
        dtype
    )


def adapters(count=3, shape=(8, 6), rank=2, seed=0):
    """Products of low rank."""
    return rows(count, (shape[0], rank), seed) @ rows(count, (rank, shape[1]), seed + 99)


def merge(task_vectors, *, density=0.2, trim="tensor", **params):
    state = begin(len(task_vectors), task_vectors.dtype, density=density, trim=trim)
    while not state.complete:
        state = close_thresholds(fold(state, task_vectors, Layer("w", tuple(task_vectors.shape[1:]))))
    return knots(task_vectors, state, density=density, trim=trim, **params)


def spelled_out(task_vectors, density, scale):
    """KnOTS-TIES, entry by entry."""
    u, s, vt = torch.linalg.svd(torch.cat(list(task_vectors), 1), full_matrices=False)
    kept = s > 1e-5
    parts = torch.stack(list((s[kept, None] * vt[kept]).chunk(len(task_vectors), 1))).tolist()
    flat = [[entry for row in part for entry in row] for part in parts]
    number = max(1, math.floor(density * len(flat[0]) + 0.5))
    trimmed = []
    for part in flat:
        least = sorted((abs(entry) for entry in part), reverse=True)[number - 1]
        trimmed.append([entry if abs(entry) >= least else 0.0 for entry in part])
    merged = []
    for entries in zip(*trimmed, strict=True):
        sign = 1 if sum(entries) >= 0 else -1
        agreeing = [entry for entry in entries if entry * sign > 0]
        merged.append(sum(agreeing) / len(agreeing) if agreeing else 0.0)
    merged = torch.tensor(merged, dtype=torch.float64).reshape(int(kept.sum()), -1)
    return scale * u[:, kept] @ merged


def test_by_hand():
    # Side by side: [[3, 0, 0, 0], [0, 0, 0, 4]]. U = [e2, e1] up to signs; the parts are (0 0; 3 0), (0 4; 0 0).
    # Nobody disagrees: each entry of the two that are kept is its own mean, halved by the scale.
    task_vectors = torch.tensor([[[3.0, 0.0], [0.0, 0.0]], [[0.0, 0.0], [0.0, 4.0]]])
    merged = merge(task_vectors, density=0.25, scale=0.5)
    torch.testing.assert_close(merged, torch.tensor([[1.5, 0.0], [0.0, 2.0]]))
    # (1, 2)ᵀ and −3 times it: one direction √5; parts 1 and −3, minus is elected, −3 alone agrees.
    column = torch.tensor([[1.0], [2.0]])
    torch.testing.assert_close(merge(torch.stack([column, -3 * column]), density=1, scale=1), -3 * column)
    torch.testing.assert_close(
        merge(torch.stack([column, -3 * column]), density=1, scale=1, combine="sum"), -2 * column
    )


@pytest.mark.parametrize("density", [0.2, 0.6, 1])
@pytest.mark.parametrize("shape", [(8, 6), (6, 8), (40, 3)])
def test_it_is_the_formula(density, shape):
    task_vectors = adapters(3, shape)
    expected = spelled_out(task_vectors, density, 0.6)
    torch.testing.assert_close(merge(task_vectors, density=density), expected)
    narrow = merge(task_vectors.float(), density=density).double()
    torch.testing.assert_close(narrow, expected, rtol=1e-4, atol=1e-4)


def test_the_parts_of_adapters_are_as_many_as_their_ranks_together():
    aligned = align(adapters(3, (20, 10), rank=2))
    assert aligned.parts.shape == (3, 6, 10)
    assert align(adapters(3, (20, 10), rank=2).float()).parts.shape == (3, 6, 10)


@given(seed=st.integers(0, 1000), count=st.integers(1, 5))
def test_a_sum_in_the_shared_basis_is_task_arithmetic(seed, count):
    task_vectors = adapters(count, (6, 4), seed=seed)
    merged = merge(task_vectors, combine="sum", density=1, scale=0.3)
    torch.testing.assert_close(merged, 0.3 * task_vectors.sum(0), rtol=1e-9, atol=1e-9)


def test_outputs_may_be_turned():
    """The basis follows a rotation of the outputs, so the parts stay the same."""
    task_vectors = adapters()
    turn = torch.linalg.qr(rows(1, (8, 8), 5)[0]).Q
    torch.testing.assert_close(merge(turn @ task_vectors), turn @ merge(task_vectors))


def test_a_convolution_is_a_matrix_of_its_filters():
    task_vectors = rows(2, (4, 3, 2, 2))
    torch.testing.assert_close(merge(task_vectors), merge(task_vectors.flatten(2)).reshape(4, 3, 2, 2))


@pytest.mark.parametrize("shape", [(), (5,), (0,), (0, 4), (4, 0)])
def test_vectors_are_merged_as_ties_does(shape):
    task_vectors = rows(3, shape)
    base = {"w": torch.zeros(shape, dtype=torch.float64)}
    params = {"density": 0.4, "scale": 0.6, "trim": "tensor"}
    expected = merge_lib.merge("ties", [{"w": row} for row in task_vectors], base, **params)["w"]
    torch.testing.assert_close(merge(task_vectors, density=0.4), expected)


def test_parts_are_trimmed_over_the_whole_model():
    base = {name: torch.zeros(2, 2).double() for name in "ab"}
    large, small = 10 * rows(2, (2, 2)), 0.01 * rows(2, (2, 2), 1)
    experts = [{"a": large[i], "b": small[i]} for i in range(2)]
    merged = merge_lib.merge("knots", experts, base, density=0.5, scale=1)
    assert not merged["b"].any()
    torch.testing.assert_close(merged["a"], merge(large, density=1, scale=1))


def test_zero_identical_and_opposite_task_vectors():
    one = adapters(1)[0]
    assert not merge(torch.zeros(3, 4, 5)).any()
    torch.testing.assert_close(merge(torch.stack([one, one]), density=1, scale=1), one)
    assert not merge(torch.stack([one, -one]), density=1, scale=1, combine="sum").any()
    more = torch.stack([one, torch.zeros_like(one)])
    torch.testing.assert_close(merge(more, density=1, scale=1), one)
    dropped = knots_dare(torch.zeros(3, 4, 5), generator=TensorGenerator(0, "w"))
    assert not dropped.any()


def test_two_hundred_experts_of_more_rank_than_outputs():
    assert torch.isfinite(merge(rows(200, (4, 3), dtype=torch.float32))).all()


def test_dare_with_everything_kept_drops_nothing():
    generator = TensorGenerator(3, "w")
    task_vectors = adapters()
    torch.testing.assert_close(
        knots_dare(task_vectors, generator=generator, density=1), merge(task_vectors, density=1, scale=0.7)
    )


def test_dare_drops_entries_of_the_parts():
    task_vectors = adapters(1)
    generator = TensorGenerator(3, "w")
    aligned = align(task_vectors)
    kept = generator.keep(0, tuple(aligned.parts[0].shape), 0.5)
    assert 0 < kept.sum() < kept.numel()
    expected = aligned.basis @ (2 * aligned.parts[0] * kept)
    torch.testing.assert_close(knots_dare(task_vectors, generator=generator, density=0.5, scale=1), expected)


def test_the_trail_says_what_was_dropped():
    trail = TakenTrail()
    column = torch.tensor([[1.0], [2.0]])
    merge(torch.stack([column, -3 * column]), density=1, trail=trail)
    assert trail.notes == {
        "basis": [1.0],
        "share kept": [1.0, 1.0],
        "share against the elected sign": [1.0, 0.0],
    }


def test_adapters_are_merged_through_their_products(tmp_path):
    """Two adapter folders beside their base; the sum in the shared basis is the exact merge of the products."""
    import json

    from safetensors.torch import save_file

    base = write_state_dict(tmp_path / "base", {"x.weight": rows(1, (6, 5))[0].float()}, lineage={}).path
    folders = []
    for i in range(2):
        folder = tmp_path / f"adapter{i}"
        folder.mkdir()
        config = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["x"]}
        (folder / "adapter_config.json").write_text(json.dumps(config))
        factors = {"lora_A": rows(1, (2, 5), i)[0], "lora_B": rows(1, (6, 2), i + 7)[0]}
        tensors = {f"base_model.model.x.{key}.weight": one.float() for key, one in factors.items()}
        save_file(tensors, folder / "adapter_model.safetensors")
        folders.append(folder)
    params = registry.get("knots").check_params({"combine": "sum", "density": 1, "scale": 0.5})
    spec = merge_lib.MergeSpec(method="knots", params=params, base=base, experts=tuple(folders))
    merged = read_state_dict(merge_lib.merge_checkpoints(spec, tmp_path / "merged").path)
    merge_adapters(folders, tmp_path / "sum", weights=[0.5, 0.5], rank=4)
    torch.testing.assert_close(
        merged["x.weight"], read_state_dict(tmp_path / "sum", base=base)["x.weight"], rtol=1e-5, atol=1e-5
    )
