import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import merge_lib
from merge_lib.layers import Layer
from merge_lib.methods.pcb import begin, fold, pcb
from merge_lib.ops.balance import close_competition
from merge_lib.trail import TakenTrail


def merge(tensors, **params):
    """A model with a base of zeros: [tensor][expert][entry] in, all entries out."""
    experts = [
        {f"t{i}": torch.tensor(rows[e], dtype=torch.float64) for i, rows in enumerate(tensors)}
        for e in range(len(tensors[0]))
    ]
    base = {name: torch.zeros_like(tensor) for name, tensor in experts[0].items()}
    merged = merge_lib.merge("pcb", experts, base, **params)
    return [entry for name in sorted(merged) for entry in merged[name].reshape(-1).tolist()]


def slow(values, density, scale, inter, tails):
    """The formula, entry by entry, without scaling scores down."""
    n, size = len(values), len(values[0])

    def kept(share):
        return max(1, min(size, int(share * size + 0.5)))

    clamped, places, scores = [], [], []
    for row in values:
        order = sorted(map(abs, row), reverse=True)
        low, high = order[kept(1 - tails) - 1], order[kept(tails) - 1]
        clamped.append([math.copysign(min(max(abs(x), low), high), x) if x else 0.0 for x in row])
        places.append([(abs(x) - low) / (high - low) if high > low else 0.0 for x in clamped[-1]])
        if high > low:
            places[-1] = [min(max((abs(x) - low) / (high - low), 0), 1) for x in row]
    for i, row in enumerate(values):
        signed = [
            [math.copysign(m, x) if x else 0.0 for m, x in zip(places[k], values[k], strict=True)]
            for k in range(n)
        ]
        if inter == "sum":
            agree = [math.tanh(row[j] * sum(other[j] for other in values)) for j in range(size)]
        else:
            agree = [sum(math.tanh(signed[i][j] * signed[k][j]) for k in range(n)) for j in range(size)]
        scores.append([math.exp(n * (m * m - 1)) * a for m, a in zip(places[i], agree, strict=True)])
    total, weight = [0.0] * size, [0.0] * size
    for row, own in zip(clamped, scores, strict=True):
        floor, largest = sorted(own, reverse=True)[kept(density) - 1], max(own)
        for j in range(size):
            w = (
                max((own[j] - floor) / (largest - floor), 0)
                if largest > floor
                else float(own[j] >= floor and own[j] != 0)
            )
            total[j] += w * row[j]
            weight[j] += w
    return [scale * t / w if w > 0 else 0.0 for t, w in zip(total, weight, strict=True)]


def test_one_task_by_hand():
    # places 0, ½, 1; scores e^(m²)·tanh(τ²): the largest weighs 1, the smallest of the three kept 0
    assert merge([[[1.0, 2.0, 3.0]]], density=1, scale=1) == [0.0, 2.0, 3.0]
    # of a third, one entry, all that are kept are equal: it weighs 1
    assert merge([[[1.0, 2.0, 3.0]]], density=0.3, scale=1) == [0.0, 0.0, 3.0]


def test_who_agrees_with_the_sum_wins():
    # +3 and −2: the sum is +1, so the second's score is negative there, its lowest, and it weighs 0
    merged = merge([[[3.0, 1.0, 0.5], [-2.0, 1.0, 0.5]]], density=1, scale=1)
    assert merged[0] == 3.0


@pytest.mark.parametrize("inter", ["sum", "pairs"])
@pytest.mark.parametrize(("density", "tails"), [(0.1, 0.0001), (0.3, 0.05), (1.0, 0.01)])
def test_it_is_the_loop_of_its_formula_however_the_model_is_cut(inter, density, tails):
    generator = torch.Generator().manual_seed(3)
    values = torch.randn(4, 60, generator=generator, dtype=torch.float64).tolist()
    tensors = [[row[:17] for row in values], [[] for _ in values], [row[17:] for row in values]]
    merged = merge(tensors, density=density, inter=inter, tails=tails)
    assert merged == pytest.approx(slow(values, density, 1.2, inter, tails))


@given(
    values=st.lists(st.lists(st.integers(-3, 3), min_size=5, max_size=5), min_size=1, max_size=4),
    density=st.sampled_from([0.2, 0.6, 1.0]),
    inter=st.sampled_from(["sum", "pairs"]),
)
def test_the_result_lies_between_the_task_vectors(values, density, inter):
    merged = merge([values], density=density, scale=1, inter=inter)
    for j, entry in enumerate(merged):
        column = [float(row[j]) for row in values]
        # clamping may raise a magnitude to the smallest of its task vector, which is in the column or below it
        assert min([0.0, *column]) - 1e-12 <= entry <= max([0.0, *column]) + 1e-12


def test_two_hundred_experts_stay_finite():
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(200, 20, generator=generator).tolist()
    experts = [{"w": torch.tensor(row)} for row in values]
    merged = merge_lib.merge("pcb", experts, {"w": torch.zeros(20)})["w"]
    assert torch.isfinite(merged).all()
    assert merged.any()


def test_equal_magnitudes_zero_vectors_and_opposite_experts():
    assert merge([[[2.0, -2.0, 2.0]]], scale=1) == [2.0, -2.0, 2.0]
    assert merge([[[0.0, 0.0], [0.0, 0.0]]]) == [0.0, 0.0]
    assert merge([[[0.0, 0.0], [4.0, 1.0]]], scale=1, density=0.5) == [4.0, 0.0]
    assert merge([[[1.0, 2.0], [-1.0, -2.0]]], scale=1) == pytest.approx([0.0, 0.0])


def test_what_it_notes():
    trail = TakenTrail()
    vectors = torch.tensor([[1.0, 2.0, 3.0, 4.0]]).double()
    state = begin(1, torch.float64, density=0.5, tails=0.0001, inter="sum")
    while not state.complete:
        state = close_competition(fold(state, vectors, Layer("w", (4,))))
    pcb(vectors, state, trail=trail)
    assert trail.notes == {"share kept": [0.25], "share nobody keeps": [0.75]}
