import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from merge_lib.diagnostics.measures import measures, tally
from merge_lib.forgetting.directions import OF_THE_TENSOR, QUANTITIES, compare, parts
from merge_lib.forgetting.subspaces import subspaces

WALSH = np.array([[1.0]])
for _ in range(6):
    WALSH = np.block([[WALSH, WALSH], [WALSH, -WALSH]])  # 64 orthogonal rows of ±1


def of(task_vectors, merged):
    rows, changes = (
        torch.as_tensor(np.asarray(some), dtype=torch.float64) for some in (task_vectors, merged)
    )
    return compare(rows, changes.reshape(-1, *rows.shape[1:]), subspaces(rows))


def reference(rows, merged):
    """Quantities of matrices [t, m, n] by the docstrings, with loops and whole decompositions."""
    tasks, m, n = rows.shape
    norms = [np.linalg.norm(row) for row in rows]
    present = [t for t in range(tasks) if norms[t] > 0]
    lefts, rights = {}, {}
    for t in present:
        left, values, right = np.linalg.svd(rows[t], full_matrices=False)
        most, rank = max(1, min(min(m, n) // 4, 64)), 1
        while rank < most and (values[:rank] ** 2).sum() < 0.9 * norms[t] ** 2:
            rank += 1
        lefts[t], rights[t] = left[:, :rank], right[:rank].T
    common_left, common_right = shared_basis(lefts, m), shared_basis(rights, n)
    inside = [common_left @ common_left.T @ row @ common_right @ common_right.T for row in rows]
    shared = [part + more for part, more in zip(inside, summands(rows - np.array(inside)), strict=True)]
    found = {name: [] for name in QUANTITIES if name not in OF_THE_TENSOR}
    for t in range(tasks):
        change = merged[t if len(merged) > 1 else 0]
        others = rows.sum(0) - rows[t]
        found["norm"].append(norms[t])
        found["rank"].append(float(lefts[t].shape[1]) if t in lefts else 0.0)
        found["cosine with others"].append(cosine(rows[t], others))
        for name, whole in (("shared", shared[t]), ("specific", rows[t] - shared[t])):
            part = whole if (rows[t] * whole).sum() > 1e-12 * norms[t] ** 2 else np.zeros_like(whole)
            energy = (rows[t] * part).sum()
            if name == "shared":
                found["shared share"].append(over(energy, norms[t] ** 2))
            found[f"{name} kept"].append(over((change * part).sum(), energy))
            found[f"{name} cosine"].append(cosine(part, change))
            for sign, against in (("opposed", change), ("outvoted", rows.sum(0))):
                lost = (part[part * against < 0] ** 2).sum()
                found[f"{name} {sign}"].append(over(lost, (part**2).sum()))
        for side, bases, axis in (("left", lefts, 0), ("right", rights, 1)):
            pairs = [
                (bases[t].T @ bases[s], min(bases[t].shape[1], bases[s].shape[1]))
                for s in present
                if s != t and t in bases
            ]
            values = [(product**2).sum() / least for product, least in pairs]
            found[f"{side} overlap"].append(np.mean(values) if values else math.nan)
            held = math.nan
            if t in bases and np.linalg.norm(change):
                decomposed = np.linalg.svd(change, full_matrices=False)
                basis = decomposed[0] if axis == 0 else decomposed[2].T
                rank = bases[t].shape[1]
                held = ((bases[t].T @ basis[:, :rank]) ** 2).sum() / rank
            found[f"merged {side} overlap"].append(held)
    found["merged norm"] = [np.linalg.norm(change) for change in merged]
    found["shared left rank"] = [float(common_left.shape[1])]
    found["shared right rank"] = [float(common_right.shape[1])]
    return found


def shared_basis(bases, size):
    count = len(bases)
    share = sum(basis.shape[1] for basis in bases.values()) / (max(count, 1) * size)
    if count < 2 or share >= (count - 1) / count:
        return np.zeros((size, 0))
    mean = sum(basis @ basis.T for basis in bases.values()) / count
    edge = (math.sqrt(share * (count - 1)) + math.sqrt(1 - share)) ** 2 / count
    values, vectors = np.linalg.eigh(mean)
    return vectors[:, values > edge + (1 - edge) * size ** (-2 / 3)]


def summands(rests):
    """‖R_t‖ c' for those that agree."""
    found = np.zeros_like(rests)
    norms = [np.linalg.norm(rest) for rest in rests]
    present = [t for t in range(len(rests)) if norms[t] > 1e-6]
    agree = []
    for t in present:
        others = [s for s in present if s != t]
        if not others:
            return found
        mean = sum((rests[s] * rests[t]).sum() / (norms[s] * norms[t]) for s in others) / len(others)
        spread = sum((rests[s] ** 2 * rests[t] ** 2).sum() / (norms[s] * norms[t]) ** 2 for s in others)
        if mean > min(3 * math.sqrt(spread) / len(others), 1 - 1e-12):
            agree.append(t)
    if len(agree) < 2:
        return found
    units = {t: rests[t] / norms[t] for t in agree}
    pairs = [(units[s] * units[t]).sum() for s in agree for t in agree if s != t]
    mean = sum(units.values()) / len(units)
    for t in agree:
        found[t] = norms[t] * max(np.mean(pairs), 0) / (mean**2).sum() * mean
    return found


def cosine(one, other):
    return over((one * other).sum(), np.linalg.norm(one) * np.linalg.norm(other))


def over(part, whole):
    return part / whole if whole > 0 else math.nan


def planted(seed, tasks, m, n, common):
    """Experts with a direction of rank one, a dense summand and something of their own."""
    random = np.random.default_rng(seed)
    direction = np.outer(random.normal(size=m), random.normal(size=n))
    dense = random.normal(size=(m, n))
    own = random.normal(size=(tasks, m, n))
    return common * (2 * direction + dense) + own


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("tasks", "m", "n"), [(1, 12, 8), (2, 16, 24), (3, 24, 24), (5, 20, 12), (4, 3, 5)])
@pytest.mark.parametrize("common", [0.0, 0.3, 1.5])
def test_all_quantities_are_those_of_the_definition(seed, tasks, m, n, common):
    rows = planted(seed, tasks, m, n, common)
    merged = np.random.default_rng(99).normal(size=(1, m, n)) * 0.2 + rows.mean(0)
    expected = reference(rows, merged)
    found = of(rows, merged)
    assert found.keys() == expected.keys() == QUANTITIES.keys()
    for name, values in expected.items():
        assert found[name] == pytest.approx(values, rel=1e-6, abs=1e-7, nan_ok=True), name


def test_a_model_for_each_task_is_compared_with_its_own_expert():
    rows = planted(0, 3, 16, 12, 1.0)
    merged = rows * np.array([1.0, 0.5, 0.0])[:, None, None]
    found, expected = of(rows, merged), reference(rows, merged)
    for name, values in expected.items():
        assert found[name] == pytest.approx(values, rel=1e-6, abs=1e-7, nan_ok=True), name
    for part in ("shared", "specific"):
        assert found[f"{part} kept"] == pytest.approx([1.0, 0.5, 0.0])
    assert len(found["merged norm"]) == 3


@pytest.mark.parametrize("tasks", [2, 3, 6])
def test_the_mean_keeps_what_is_shared_and_one_part_of_the_rest(tasks):
    rows = np.stack([WALSH[1] + WALSH[2 + t] for t in range(tasks)])  # c and u_t of equal length
    found = of(rows, rows.mean(0))
    assert found["shared share"] == pytest.approx([0.5] * tasks)
    assert found["shared kept"] == pytest.approx([1.0] * tasks)
    assert found["specific kept"] == pytest.approx([1 / tasks] * tasks)
    own = of(rows, rows)  # a model for each task: the expert itself
    assert own["shared kept"] == pytest.approx([1.0] * tasks)
    assert own["specific kept"] == pytest.approx([1.0] * tasks)


def test_what_has_nothing_in_common_is_all_specific():
    rows = WALSH[1:4]
    found = of(rows, rows.sum(0) * 0.3)
    assert found["shared share"] == [0, 0, 0]
    assert all(math.isnan(value) for value in found["shared kept"])
    assert found["specific kept"] == pytest.approx([0.3] * 3)
    assert found["cosine with others"] == pytest.approx([0] * 3, abs=1e-12)


def test_a_task_apart_takes_no_part_in_what_the_others_share():
    rows = np.stack([WALSH[1], WALSH[1], WALSH[2]])
    found = of(rows, rows.mean(0))
    assert found["shared share"] == pytest.approx([1, 1, 0])
    assert found["shared kept"][:2] == pytest.approx([2 / 3] * 2)
    assert found["specific kept"][2] == pytest.approx(1 / 3)


def test_one_direction_that_two_tasks_use_with_opposite_signs_is_shared_and_lost():
    random = np.random.default_rng(0)
    left, right = random.normal(size=32), random.normal(size=32)
    own = random.normal(size=(2, 32, 32)) * 0.05
    rows = np.stack([np.outer(left, right) + own[0], -np.outer(left, right) + own[1]])
    found = of(rows, rows.mean(0))
    assert found["shared left rank"] == found["shared right rank"] == [1]
    assert min(found["shared share"]) > 0.95
    assert found["shared kept"] == pytest.approx([0, 0], abs=0.01)
    assert max(found["cosine with others"]) < -0.95


@pytest.mark.parametrize("shape", [(), (5,), (7, 9), (16, 16), (8, 4, 3, 3), (1, 6), (2, 2)])
def test_ends(shape):
    vector = np.random.default_rng(1).normal(size=shape)
    zero = np.zeros(shape)
    alone = of([vector], vector)
    assert alone["shared share"] == [0]
    assert alone["specific kept"] == pytest.approx([1])
    assert math.isnan(alone["cosine with others"][0])
    beside_zero = of([vector, zero], vector / 2)
    assert beside_zero["shared share"][0] == 0
    assert math.isnan(beside_zero["shared share"][1])
    assert beside_zero["specific kept"][0] == pytest.approx(0.5)
    assert math.isnan(beside_zero["specific kept"][1])
    for second in (1.0, 2.5):  # identical, and parallel
        rows = np.stack([vector, vector * second])
        same = of(rows, rows.mean(0))
        assert same["shared share"] == pytest.approx([1, 1])
        assert same["shared kept"] == pytest.approx([(1 + second) / 2, (1 + second) / 2 / second])
        assert all(math.isnan(value) for value in same["specific kept"])
    opposite = of([vector, -vector], zero)
    assert opposite["cosine with others"] == pytest.approx([-1, -1])
    kept = [*opposite["shared kept"], *opposite["specific kept"]]
    assert {value for value in kept if not math.isnan(value)} == {0}
    assert all(math.isnan(value) for value in opposite["specific cosine"])
    nothing = of([zero, zero], zero)
    assert all(math.isnan(value) for value in nothing["shared share"] + nothing["specific kept"])


def test_a_tensor_without_entries():
    found = compare(torch.zeros(2, 0, 3), torch.zeros(1, 0, 3), None)
    assert found["norm"] == [0, 0]
    assert all(math.isnan(value) for value in found["shared share"])


def test_float32_gives_the_same_up_to_its_rounding():
    rows = planted(3, 3, 16, 16, 1.0)
    wide = of(rows, rows.mean(0))
    narrow_rows = torch.tensor(rows, dtype=torch.float32)
    narrow = compare(narrow_rows, narrow_rows.mean(0, keepdim=True), subspaces(narrow_rows))
    for name, values in wide.items():
        assert narrow[name] == pytest.approx(values, rel=1e-4, abs=1e-4, nan_ok=True), name


@given(st.integers(0, 10**6), st.integers(1, 4), st.sampled_from([(6,), (9, 7), (16, 16)]), st.floats(0, 2))
def test_the_parts_add_up_to_what_an_audit_says(seed, tasks, shape, common):
    random = np.random.default_rng(seed)
    rows = torch.tensor(random.normal(size=(tasks, *shape)) + common * random.normal(size=shape))
    merged = torch.tensor(random.normal(size=(1, *shape)))
    known = subspaces(rows)
    found, audited = compare(rows, merged, known), measures(tally(rows, merged))
    matrices = rows if known else rows.reshape(tasks, 1, -1)
    shared, specific = parts(matrices, known and known.shared)
    torch.testing.assert_close(shared + specific, matrices)
    for t in range(tasks):
        share = found["shared share"][t]
        kept = [
            0.0 if math.isnan(found[name][t]) else found[name][t] for name in ("shared kept", "specific kept")
        ]
        assert -1e-9 <= share <= 1 + 1e-9
        assert share * kept[0] + (1 - share) * kept[1] == pytest.approx(audited["energy kept"][t], abs=1e-8)


def test_order_does_not_matter():
    rows = planted(5, 4, 16, 12, 0.5)
    forward, backward = of(rows, rows.mean(0)), of(rows[::-1].copy(), rows.mean(0))
    for name, values in forward.items():
        turned = values if name in OF_THE_TENSOR else values[::-1]
        assert backward[name] == pytest.approx(turned, rel=1e-7, abs=1e-9, nan_ok=True), name


def test_inputs_are_not_written_to():
    rows = torch.tensor(planted(1, 2, 8, 8, 1.0))
    before = rows.clone()
    compare(rows, rows[:1], subspaces(rows))
    assert torch.equal(rows, before)
