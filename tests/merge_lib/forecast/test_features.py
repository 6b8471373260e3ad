"""Features of a merge, worked by hand and by their laws."""

import math

import pytest
import torch

from merge_lib.forecast.features import BY_PART, NAMES, WHOLE_ONLY, feature_rows
from merge_lib.forecast.regions import PARTS
from merge_lib.forecast.sums import merge_sums, pair_sums


def features(vectors, merged, base, part="output"):
    pairs, merges = {part: pair_sums(vectors, base)}, {part: merge_sums(vectors, merged, base)}
    return feature_rows(pairs, merges)


def of_model(row):
    return {name.removesuffix(" (model)"): value for name, value in row.items() if name.endswith(" (model)")}


def test_one_matrix_of_one_row_by_hand():
    base = torch.tensor([[3.0, 4.0]])
    vectors = torch.tensor([[[1.0, 0.0]], [[0.0, 2.0]]])
    first, second = map(of_model, features(vectors, torch.tensor([[[0.5, 1.0]]]), base))
    ln = math.log
    expected = {
        "experts": (2, 2),
        "length": (0.2, 0.4),
        "length ratio": (ln(1 / 1.5), ln(2 / 1.5)),
        "cosine": (0, 0),
        "largest cosine": (0, 0),
        "carried": (0, 0),
        "carries": (0, 0),
        "specific": (1, 1),
        "sign conflict": (0, 0),
        "input overlap": (0, 0),
        "output overlap": (1, 1),
        "row overlap": (1, 1),
        "row focus": (0, 0),
        "along neurons": (0.36, 0.64),
        "neuron conflict": (0.64, 0),  # across (0.6, 0.8) they point opposite ways, 0.8 and 1.2 long
        "pair barrier": (ln(1.25), ln(1.25)),
        "kept": (0.5, 0.5),
        "kept lead": (0, 0),
        "merge cosine": (0.5 / math.sqrt(1.25), 1 / math.sqrt(1.25)),
        "reach": (ln(1 + math.sqrt(1.25) / 1.5),) * 2,
        "residual": (ln(2), ln(1.0625)),
        "distance": (math.sqrt(1.25) / 5,) * 2,
        "relative distance": (ln(2), ln(2)),  # it is the mean
        "perturbation": (math.sqrt(1.25) / 5,) * 2,
        "opposed": (0, 0),
        "specific kept": (0.5, 0.5),
        "later push": (ln(2), 0),
        "earlier shift": (0, ln(1.25)),
        "outside": (0, 0),
        "own kept": (0.5, 0.5),
        "own kept lead": (0, 0),
        "row kept": (0.5, 0.5),
        "disturbance": (ln(1.25), ln(1.25)),
        "foreign push": (0, 0),
        "signal": (1 / 4, 1 / 3),
        "push": (1 / 8, 1 / 6),
        "barrier": (ln(1.25), ln(1.25)),
    }
    assert set(expected) == set(WHOLE_ONLY) | set(BY_PART) == set(first)
    for name, values in expected.items():
        assert (first[name], second[name]) == pytest.approx(values, abs=1e-7), name


@pytest.fixture
def tensors():
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(6, 5, generator=generator, dtype=torch.float64)
    vectors = 0.1 * torch.randn(3, 6, 5, generator=generator, dtype=torch.float64)
    return vectors, base


def test_the_expert_itself_loses_nothing(tensors):
    vectors, base = tensors
    rows = features(vectors, vectors, base)  # each task's own model
    for row in map(of_model, rows):
        for name in ("kept", "own kept", "row kept", "specific kept", "merge cosine"):
            assert row[name] == pytest.approx(1), name
        for name in (
            "distance",
            "disturbance",
            "barrier",
            "residual",
            "opposed",
            "perturbation",
            "later push",
            "push",
        ):
            assert row[name] == pytest.approx(0, abs=1e-6), name


def test_the_distance_is_taken_apart_whole(tensors):
    vectors, base = tensors
    merged = vectors[:2].sum(0, keepdim=True) + 0.05
    for place, row in enumerate(map(of_model, features(vectors, merged, base))):
        length = row["specific"] * float(vectors[place].norm())
        parts = [
            row["specific kept"] - 1,
            *(math.expm1(row[n]) for n in ("later push", "earlier shift", "outside")),
        ]
        apart = math.sqrt(sum(part**2 for part in parts)) * length
        assert apart == pytest.approx(row["distance"] * float(base.norm()))


def test_experts_in_sequence_carry_one_another(tensors):
    _, base = tensors
    apart = torch.linalg.qr(
        torch.randn(30, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    ).Q
    along = apart.T.reshape(3, 6, 5).cumsum(0)
    rows = list(map(of_model, features(along, along.mean(0, keepdim=True), base)))
    assert [row["carried"] for row in rows] == pytest.approx([1, 1, 0])
    assert [row["carries"] for row in rows] == pytest.approx([0, 1, 1])
    assert [row["specific kept"] for row in rows] == pytest.approx([1, 2 / 3, 1 / 3])


def test_scaling_everything_changes_nothing(tensors):
    vectors, base = tensors
    merged = vectors.mean(0, keepdim=True)
    before, after = (features(k * vectors, k * merged, k * base) for k in (1.0, 8.0))
    for one, other in zip(before, after, strict=True):
        assert one == pytest.approx(other)


def test_sums_of_tensors_are_those_of_the_tensors_put_end_to_end(tensors):
    vectors, base = tensors
    merged = vectors.sum(0, keepdim=True)
    halves = [slice(0, 3), slice(3, 6)]
    pairs = [pair_sums(vectors[:, half], base[half]) for half in halves]
    merges = [merge_sums(vectors[:, half], merged[:, half], base[half]) for half in halves]
    split = feature_rows({"early": pairs[0], "output": pairs[1]}, {"early": merges[0], "output": merges[1]})
    whole = features(vectors, merged, base)
    for name in (
        "length",
        "kept",
        "distance",
        "barrier",
        "cosine",
        "sign conflict",
        "later push",
        "along neurons",
    ):
        key = f"{name} (model)"
        assert split[1][key] == pytest.approx(whole[1][key]), name


def test_a_part_without_tensors_takes_the_models_value(tensors):
    vectors, base = tensors
    (row, *_) = features(vectors, vectors.mean(0, keepdim=True), base)
    for part in PARTS:
        for name in BY_PART:
            assert row[f"{name} ({part})"] == row[f"{name} (model)"]
    assert tuple(row) == NAMES


@pytest.mark.parametrize("shape", [(4,), (3, 2), (2, 3, 2, 2), (), (1, 1)])
def test_experts_that_did_not_move_and_single_ones_give_finite_features(shape):
    for count in (1, 2):
        vectors = torch.zeros(count, *shape)
        for merged in (vectors[:1], vectors[:1] + 1):
            for row in features(vectors, merged, torch.ones(shape)):
                assert all(math.isfinite(value) for value in row.values())


def test_pieces_change_no_sum(tensors, monkeypatch):
    vectors, base = tensors
    merged = vectors.mean(0, keepdim=True)
    whole = features(vectors, merged, base)
    monkeypatch.setattr("merge_lib.forecast.sums._AT_ONCE", 9)
    monkeypatch.setattr("merge_lib.forecast.sums._BLOCK", 20)
    for one, other in zip(features(vectors, merged, base), whole, strict=True):
        assert one == pytest.approx(other)
