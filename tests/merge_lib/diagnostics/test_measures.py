import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from merge_lib.diagnostics import measures as module
from merge_lib.diagnostics.measures import MEASURES, measures, tally

SHARES = (
    "outvoted entries",
    "outvoted energy",
    "opposed entries",
    "opposed energy",
    "density",
    "merged density",
    "overlap",
)


def of(task_vectors, merged) -> dict[str, list[float]]:
    rows = torch.tensor(task_vectors, dtype=torch.float64)
    changes = torch.tensor(merged, dtype=torch.float64)
    return measures(tally(rows, changes.reshape(-1, *rows.shape[1:])))


def test_two_experts_by_hand():
    found = of([[3.0, 4.0, 0.0, 0.0], [-1.0, 2.0, 2.0, 0.0]], [2.0, 3.0, 0.0, 0.0])
    expected = {
        "entries": [4],
        "norm": [5, 3],
        "merged norm": [math.sqrt(13)],
        "energy kept": [18 / 25, 4 / 9],
        "residual": [(13 - 18**2 / 25) / 25, (13 - 4**2 / 9) / 9],
        "cosine": [18 / (5 * math.sqrt(13)), 4 / (3 * math.sqrt(13))],
        "outvoted entries": [0, 1 / 3],  # 3 − 1 is positive: the −1 is outvoted
        "outvoted energy": [0, 1 / 9],
        "opposed entries": [0, 1 / 3],
        "opposed energy": [0, 1 / 9],
        "density": [2 / 4, 3 / 4],
        "merged density": [2 / 4],
        "overlap": [(1 + 2 + 0) / 7, (1 + 2 + 0) / 5],
    }
    assert found.keys() == expected.keys() == MEASURES.keys()
    for name, values in expected.items():
        assert found[name] == pytest.approx(values, abs=1e-15), name


def test_a_model_for_each_task_is_compared_with_its_own_expert():
    found = of([[3.0, 4.0], [-1.0, 2.0]], [[3.0, 4.0], [0.0, 1.0]])
    assert found["energy kept"] == [1.0, 2 / 5]
    assert found["merged norm"] == [5.0, 1.0]
    assert found["merged density"] == [1.0, 0.5]
    assert found["opposed entries"] == [0.0, 0.0]


def test_what_is_undefined_is_nan():
    found = of([[0.0, 0.0], [1.0, 0.0]], [0.0, 0.0])
    for name in ("energy kept", "residual", "cosine", "outvoted entries", "opposed energy", "overlap"):
        assert math.isnan(found[name][0])
    assert found["energy kept"][1] == 0
    assert math.isnan(found["cosine"][1])
    empty = measures(tally(torch.zeros(2, 0, 3), torch.zeros(1, 0, 3)))
    assert empty["entries"] == [0]
    assert all(math.isnan(value) for name in SHARES for value in empty[name])


def test_a_number_without_axes():
    found = measures(tally(torch.tensor([2.0, -1.0]), torch.tensor([0.5])))
    assert found["energy kept"] == [0.25, -0.5]
    assert found["outvoted entries"] == [0, 1]


def test_equal_and_opposite_experts():
    equal = of([[1.0, -2.0], [1.0, -2.0]], [1.0, -2.0])
    assert equal["energy kept"] == equal["overlap"] == equal["cosine"] == [1, 1]
    opposite = of([[1.0, -2.0], [-1.0, 2.0]], [0.0, 0.0])
    assert opposite["energy kept"] == opposite["outvoted entries"] == [0, 0]  # nobody wins


def test_pieces_change_nothing(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    rows, merged = (torch.randn(n, 7, 11, generator=generator) for n in (3, 1))
    whole = measures(tally(rows, merged))
    monkeypatch.setattr(module, "_AT_ONCE", 40)
    for name, values in measures(tally(rows, merged)).items():
        assert values == pytest.approx(whole[name], rel=1e-12)


numbers = st.integers(-6, 6).map(lambda value: value / 2)


@given(st.data(), st.integers(1, 4), st.integers(1, 6))
def test_measures_hold_what_they_say(data, experts, entries):
    row = st.lists(numbers, min_size=entries, max_size=entries)
    task_vectors = data.draw(st.lists(row, min_size=experts, max_size=experts))
    merged = data.draw(row)
    found = of(task_vectors, merged)
    for t, vector in enumerate(task_vectors):
        energy = sum(value**2 for value in vector)
        if not energy:
            continue
        kept = sum(a * b for a, b in zip(vector, merged, strict=True)) / energy
        assert found["energy kept"][t] == pytest.approx(kept, abs=1e-12)
        rest = sum((m - kept * v) ** 2 for m, v in zip(merged, vector, strict=True)) / energy
        assert found["residual"][t] == pytest.approx(rest, abs=1e-9)
        total = [sum(column) for column in zip(*task_vectors, strict=True)]
        present = sum(value != 0 for value in vector)
        for name, other in (("outvoted", total), ("opposed", merged)):
            lost = [value for value, sign in zip(vector, other, strict=True) if value * sign < 0]
            assert found[f"{name} entries"][t] == pytest.approx(len(lost) / present)
            assert found[f"{name} energy"][t] == pytest.approx(sum(v**2 for v in lost) / energy)
        others = [
            max((abs(row[i]) for s, row in enumerate(task_vectors) if s != t), default=0)
            for i in range(entries)
        ]
        shared = sum(min(abs(value), other) for value, other in zip(vector, others, strict=True))
        assert found["overlap"][t] == pytest.approx(shared / sum(map(abs, vector)))
    for name in SHARES:
        assert all(0 <= value <= 1 for value in found[name] if not math.isnan(value))
