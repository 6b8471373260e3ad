import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from merge_lib.checkpoints import write_state_dict
from merge_lib.diagnostics import write_table
from merge_lib.errors import CheckpointMismatchError, MethodInputError, SpecError
from merge_lib.landscape import conflict_table, summarise_conflicts
from merge_lib.landscape.conflicts import MEASURES, OUTSIDE, SCHEMA, tally
from merge_lib.maps import MODEL

TASKS = ("red", "blue")


def of_pair(rows: torch.Tensor, *, is_matrix: bool = False) -> dict[str, float]:
    found = tally(rows, is_matrix=is_matrix).measures()
    return {name: float(values[0, 1]) for name, values in found.items()}


def test_two_task_vectors_by_hand():
    rows = torch.tensor([[3.0, 4, 0, 1], [-1.0, 2, 2, 0]])
    found = of_pair(rows)
    assert found["cosine"] == pytest.approx(5 / math.sqrt(26 * 9))
    assert found["sign conflict"] == 0.5  # of two entries that are not zero in either, one
    assert math.isnan(found["overlap"])


def test_overlap_of_directions():
    eye = torch.eye(4, dtype=torch.float64)
    first = eye[:, :1] @ torch.tensor([[1.0, 2, 3]], dtype=torch.float64)
    same = eye[:, :1] @ torch.tensor([[-3.0, 0, 1]], dtype=torch.float64)
    other = eye[:, 1:2] @ torch.tensor([[3.0, 0, -1]], dtype=torch.float64)
    assert of_pair(torch.stack([first, same]), is_matrix=True)["overlap"] == pytest.approx(1)
    assert of_pair(torch.stack([first, other]), is_matrix=True)["overlap"] == pytest.approx(0, abs=1e-12)
    both = first + other  # one of its two directions lies in the other's
    found = of_pair(torch.stack([first, both]), is_matrix=True)
    assert found["chance overlap"] == pytest.approx(2 / 4)
    left = torch.linalg.svd(both)[0][:, :2]
    assert found["overlap"] == pytest.approx(float((eye[:, :1].T @ left).square().sum()))


def test_weak_directions_do_not_count():
    strong, weak = torch.diag(torch.tensor([10.0, 1.0])), torch.diag(torch.tensor([1.0, 10.0]))
    found = of_pair(torch.stack([strong, weak]), is_matrix=True)
    assert found["overlap"] == pytest.approx(0, abs=1e-12)  # 99 % of the energy is in one direction of each
    assert found["chance overlap"] == 0.5


@given(st.integers(0, 10_000), st.integers(2, 4), st.integers(1, 30))
def test_measures_agree_with_slow_sums(seed, count, size):
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(count, size, generator=generator).round().double()
    found = tally(rows, is_matrix=False).measures()
    for a in range(count):
        for b in range(count):
            pairs = list(zip(rows[a].tolist(), rows[b].tolist(), strict=True))
            both = [x * y for x, y in pairs if x * y != 0]
            conflict = sum(product < 0 for product in both) / len(both) if both else math.nan
            norms = math.hypot(*(x for x, _ in pairs)) * math.hypot(*(y for _, y in pairs))
            cosine = sum(x * y for x, y in pairs) / norms if norms else math.nan
            assert float(found["sign conflict"][a, b]) == pytest.approx(conflict, nan_ok=True)
            assert float(found["cosine"][a, b]) == pytest.approx(cosine, nan_ok=True, abs=1e-12)


def test_what_is_zero_has_no_measure():
    found = of_pair(torch.tensor([[1.0, 2.0], [0.0, 0.0]]).reshape(2, 2, 1), is_matrix=True)
    assert all(math.isnan(value) for value in found.values())
    assert all(math.isnan(value) for value in of_pair(torch.zeros(2, 0)).values())


@pytest.fixture
def models(tmp_path):
    """Two blocks with one matrix each, a head outside, and a count that is not floating."""

    def write(name: str, first, second, head):
        tensors = {
            "layers.0.weight": torch.tensor(first, dtype=torch.float64),
            "layers.1.weight": torch.tensor(second, dtype=torch.float64),
            "head": torch.tensor(head, dtype=torch.float64),
            "steps": torch.tensor(3),
        }
        return write_state_dict(tmp_path / f"{name}.safetensors", tensors, lineage={}).path

    base = write("base", [[0.0, 0], [0, 0]], [[0.0, 0], [0, 0]], [1.0])
    red = write("red", [[1.0, 2], [0, 0]], [[1.0, 1], [0, 0]], [3.0])
    blue = write("blue", [[0.0, 0], [2, 1]], [[2.0, -1], [0, 0]], [0.0])
    return base, [red, blue]


def test_tensors_blocks_and_the_whole_model(models, tmp_path):
    base, experts = models
    told = []
    table = conflict_table(base, experts, TASKS, progress=told.append)
    assert table.schema.equals(SCHEMA)
    assert sum(told) == 3 * (32 + 32 + 8 + 8)
    values = {(line["part"], line["quantity"]): line["value"] for line in table.to_pylist()}
    assert values["layers.0.weight", "cosine"] == 0
    assert values["layers.0.weight", "overlap"] == pytest.approx(0, abs=1e-12)
    assert ("layers.0.weight", "sign conflict") not in values  # no entry is set in both
    assert values["layers.1.weight", "sign conflict"] == 0.5
    assert values["layers.1", "overlap"] == pytest.approx(1)
    assert values[OUTSIDE, "cosine"] == -1
    # put end to end: 0 + (2 − 1) + 2 · (−1) over the norms, and 2 of 3 entries in conflict
    assert values[MODEL, "cosine"] == pytest.approx(-1 / math.sqrt((5 + 2 + 4) * (5 + 5 + 1)))
    assert values[MODEL, "sign conflict"] == pytest.approx(2 / 3)
    weights = math.sqrt(5 * 5), math.sqrt(2 * 5)
    assert values[MODEL, "overlap"] == pytest.approx(weights[1] / sum(weights))
    maps = summarise_conflicts(table, TASKS, "conflicts/key")
    assert list(maps.blocks) == ["layers.0", "layers.1", OUTSIDE, MODEL]
    assert maps.blocks["layers.0"]["sign conflict"] == [None]
    assert maps.mean("sign conflict") == pytest.approx(2 / 3)
    assert set(maps.blocks[MODEL]) == set(MEASURES)
    assert write_table(table, tmp_path / "deep" / "conflicts.csv").read_text().count("\n") == 1 + len(table)


def test_a_pair_of_equal_experts_agrees_everywhere(models):
    base, (red, _) = models
    maps = summarise_conflicts(conflict_table(base, [red, red], TASKS), TASKS)
    assert [maps.mean(measure) for measure in ("cosine", "sign conflict", "overlap")] == pytest.approx(
        [1, 0, 1]
    )


def test_what_cannot_be_compared(models, tmp_path):
    base, experts = models
    with pytest.raises(
        SpecError, match="at least two experts, each with its task; got 1 experts and 1 tasks"
    ):
        conflict_table(base, experts[:1], TASKS[:1])
    with pytest.raises(SpecError, match="got 2 experts and 1 tasks"):
        conflict_table(base, experts, TASKS[:1])
    spoilt = {"head": torch.tensor([math.nan], dtype=torch.float64)}
    other = write_state_dict(tmp_path / "other.safetensors", spoilt, lineage={}).path
    with pytest.raises(CheckpointMismatchError, match=r"'layers\.0\.weight' is missing"):
        conflict_table(base, [experts[0], other], TASKS)
    with pytest.raises(MethodInputError, match=r"Tensor 'head' in .* NaN or infinite"):
        conflict_table(other, [other, other], TASKS)
