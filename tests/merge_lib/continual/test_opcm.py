import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import merge_lib
from merge_lib.continual.opcm import Shared, State, opcm
from merge_lib.layers import Layer
from merge_lib.trail import TakenTrail

LINEAR = Layer("w.weight", (2, 2), "linear")


def draw(seed, *shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def models(count, *, seed=0, rank=None):
    """Task vectors of a linear weight and a bias, the base being 0."""
    out = []
    for index in range(count):
        weight = draw(seed * 100 + index, 6, 4)
        if rank is not None:
            weight = draw(seed * 100 + index, 6, rank) @ draw(seed * 100 + 50 + index, rank, 4)
        out.append({"h.weight": weight, "h.bias": draw(seed * 100 + 90 + index, 6)})
    return out


def merged(experts, **params):
    base = {name: torch.zeros_like(tensor) for name, tensor in experts[0].items()}
    return merge_lib.merge("opcm", experts, base, **params)


def norm(model):
    return math.sqrt(sum(float((tensor**2).sum()) for tensor in model.values()))


def reference(experts, share):
    """The formulas word by word, with full decompositions."""
    delta, factor, norms = dict(experts[0]), 1.0, [norm(experts[0])]
    for expert in experts[1:]:
        projected = dict(expert)
        left, values, right = torch.linalg.svd(delta["h.weight"], full_matrices=True)
        shares = values.cumsum(0) / values.sum()
        k = next((i for i, value in enumerate(shares.tolist()) if value > share + 1e-12), len(values))
        mixed = left.T @ expert["h.weight"] @ right.T
        for i in range(mixed.shape[0]):
            for j in range(mixed.shape[1]):
                if i == j or (i < k and j < k):
                    mixed[i, j] = 0
        projected["h.weight"] = left @ mixed @ right
        norms.append(norm(expert))
        total = {name: factor * delta[name] + projected[name] for name in delta}
        factor = norm(total) / (sum(norms) / len(norms))
        delta = {name: tensor / factor for name, tensor in total.items()}
    return delta


def test_by_hand():
    # Δ = diag(3, 1): α = 0.5 gives k = 0, so of τ only the diagonal is removed
    state = State(torch.diag(torch.tensor([3.0, 1.0])))
    task_vector = torch.tensor([[5.0, 2.0], [-1.0, 7.0]])
    state_2, sums = opcm(state, task_vector, Shared(), LINEAR, share=0.5)
    torch.testing.assert_close(state_2.total, torch.tensor([[3.0, 2.0], [-1.0, 1.0]]))
    assert sums.tolist() == pytest.approx([79.0, 15.0])
    # α = 0.75 takes the first value in, which is on the diagonal; α = 1 takes all: nothing is left of τ
    for share, expected in ((0.75, [[3.0, 2.0], [-1.0, 1.0]]), (1.0, [[3.0, 0.0], [0.0, 1.0]])):
        state_2, _ = opcm(state, task_vector, Shared(), LINEAR, share=share)
        torch.testing.assert_close(state_2.total, torch.tensor(expected))


@pytest.mark.parametrize("share", [0.0, 0.3, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("count", [1, 2, 5])
def test_against_the_formulas_word_by_word(share, count):
    experts = models(count)
    result, expected = merged(experts, share=share), reference(experts, share)
    for name in expected:
        torch.testing.assert_close(result[name], expected[name], rtol=1e-9, atol=1e-9)


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 5), st.integers(0, 5), st.sampled_from([0.0, 0.5, 1.0]))
def test_the_merge_has_the_mean_norm_of_the_task_vectors(count, seed, share):
    experts = models(count, seed=seed)
    assert norm(merged(experts, share=share)) == pytest.approx(sum(map(norm, experts)) / count)


def test_what_is_added_to_a_linear_weight_is_orthogonal_to_the_merge():
    first, second = (expert["h.weight"] for expert in models(2))
    state, _ = opcm(State(first), second, Shared(), Layer("h.weight", (6, 4), "linear"))
    assert float(((state.total - first) * first).sum()) == pytest.approx(0, abs=1e-12)


def test_an_expert_that_comes_again_adds_nothing_to_linear_weights():
    (expert,) = models(1)
    state, _ = opcm(
        State(expert["h.weight"]), expert["h.weight"], Shared(), Layer("h.weight", (6, 4), "linear")
    )
    torch.testing.assert_close(state.total, expert["h.weight"])


def test_nothing_is_removed_along_directions_without_a_merge():
    # Δ has rank 1; the other singular vectors are arbitrary, and a diagonal on them would be, too
    merged_so_far = torch.outer(torch.eye(6)[0], torch.eye(4)[0])
    task_vector = draw(1, 6, 4).float()
    state, _ = opcm(
        State(merged_so_far), task_vector, Shared(), Layer("h.weight", (6, 4), "linear"), share=1.0
    )
    expected = merged_so_far + task_vector
    expected[0, 0] -= task_vector[0, 0]
    torch.testing.assert_close(state.total, expected)


def test_the_matrices_of_a_fused_weight_are_projected_each_by_itself():
    old, new = draw(1, 6, 4), draw(2, 6, 4)
    fused, _ = opcm(State(old), new, Shared(), Layer("attn.qkv.weight", (6, 4), "linear", parts=3))
    for start in (0, 2, 4):
        piece = slice(start, start + 2)
        part, _ = opcm(State(old[piece]), new[piece], Shared(), Layer("q.weight", (2, 4), "linear"))
        torch.testing.assert_close(fused.total[piece], part.total)
    stored = Layer("attn.c_attn.weight", (4, 6), "linear", parts=3, parts_axis=1)  # [in, out]
    turned, _ = opcm(State(old.T), new.T, Shared(), stored)
    torch.testing.assert_close(turned.total, fused.total.T)


def test_the_trail_says_what_was_removed():
    trail = TakenTrail()
    opcm(
        State(torch.eye(2)), torch.tensor([[3.0, 0.0], [4.0, 0.0]]), Shared(), LINEAR, share=0.0, trail=trail
    )
    # Σ has two equal values: whatever their vectors, at most all of τ goes
    (removed,) = trail.notes["energy removed"]
    assert 0 < removed <= 1 + 1e-6


@pytest.mark.parametrize(
    "vectors",
    [
        [[1.0, -2.0], [-1.0, 2.0]],  # opposite: the sum is 0
        [[0.0, 0.0], [0.0, 0.0]],
    ],
)
def test_a_sum_of_nothing_gives_the_base(vectors):
    experts = [{"b": torch.tensor(vector)} for vector in vectors]
    assert merged(experts)["b"].tolist() == [0.0, 0.0]


def test_a_layer_frozen_at_first_takes_in_what_comes_later():
    frozen, moving = {"h.weight": torch.zeros(6, 4), "h.bias": torch.ones(6)}, models(1)[0]
    moving = {name: tensor.float() for name, tensor in moving.items()}
    result = merged([frozen, moving], share=1.0)
    factor = result["h.bias"][0] / (1 + moving["h.bias"][0])
    torch.testing.assert_close(result["h.weight"], factor * moving["h.weight"])


def test_two_hundred_experts_of_low_rank_and_odd_shapes():
    experts = models(20, rank=1) * 10
    for expert in experts:
        expert |= {"temperature": torch.tensor(1.0, dtype=torch.float64), "none.weight": torch.empty(0, 4)}
    result = merged(experts)
    assert all(torch.isfinite(tensor).all() for tensor in result.values())
    assert norm(result) == pytest.approx(sum(map(norm, experts)) / len(experts))
