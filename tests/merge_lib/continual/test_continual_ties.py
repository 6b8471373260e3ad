import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import merge_lib
from merge_lib.continual.continual_ties import continual_ties, init
from merge_lib.states import flatten

EXPERTS = [[4.0, -1.0, 2.0, 0.5], [3.0, 5.0, 0.0, -1.0], [-6.0, 1.0, 4.0, 0.25]]


def merged(experts, method="continual_ties", **params):
    base = torch.zeros(len(experts[0]), dtype=torch.float64)
    stack = [{"w": torch.tensor(expert, dtype=torch.float64)} for expert in experts]
    return merge_lib.merge(method, stack, {"w": base}, **params)["w"]


def trim(row, density):
    """Half of the entries and more, the larger ones."""
    count = max(1, round(density * len(row)))
    limit = sorted((abs(value) for value in row), reverse=True)[count - 1]
    return [value if abs(value) >= limit else 0.0 for value in row]


def ties(rows):
    """Elect, then the mean of those that agree."""
    out = []
    for column in zip(*rows, strict=True):
        sign = 1 if sum(column) >= 0 else -1
        agree = [value for value in column if value * sign > 0]
        out.append(sum(agree) / max(len(agree), 1))
    return out


def test_by_hand():
    # kept of each, half of four: (4, 0, 2, 0), (3, 5, 0, 0), (−6, 0, 4, 0)
    # after two: (3.5, 5, 2, 0), trimmed anew (3.5, 5, 0, 0); with the third: −6 outweighs 3.5, so (−6, 5, 4, 0)
    assert merged(EXPERTS[:1], density=0.5).tolist() == [4.0, 0.0, 2.0, 0.0]
    assert merged(EXPERTS[:2], density=0.5).tolist() == [3.5, 5.0, 2.0, 0.0]
    assert merged(EXPERTS, density=0.5).tolist() == [-6.0, 5.0, 4.0, 0.0]
    # from sums: 4 + 3 − 6 is positive, so the mean of 4 and 3; of 2 and 4 the mean
    assert merged(EXPERTS, density=0.5, memory="sums").tolist() == [3.5, 5.0, 3.0, 0.0]


def test_the_old_merge_is_not_added_again():
    # the same expert again and again: the stream of OPCM's baselines would grow without end
    assert merged([EXPERTS[0]] * 9, density=1, scale=0.3).tolist() == pytest.approx(
        [0.3 * value for value in EXPERTS[0]]
    )


@pytest.mark.parametrize("density", [0.25, 0.5, 1])
def test_against_a_slow_loop(density):
    generator = torch.Generator().manual_seed(3)
    rows = torch.randn(6, 8, generator=generator, dtype=torch.float64).tolist()
    kept = trim(rows[0], density)
    for row in rows[1:]:
        kept = ties([trim(kept, density), trim(row, density)])
    torch.testing.assert_close(merged([trim(rows[0], density), *rows[1:]], density=density).tolist(), kept)
    sums = ties([trim(row, density) for row in rows])
    torch.testing.assert_close(merged(rows, density=density, memory="sums").tolist(), sums)


def test_what_is_kept_does_not_grow():
    sizes = {}
    for memory in ("merged", "sums"):
        state = init(None)
        for _ in range(3):
            _, state = continual_ties(state, torch.ones(10), memory=memory)
            sizes.setdefault(memory, set()).add(flatten(state).size_bytes)
    assert sizes == {"merged": {40}, "sums": {120}}


def test_two_hundred_experts_are_counted():
    one, other = [1.0, -2.0], [-3.0, 2.0]
    assert merged([one] * 199 + [other], density=1, memory="sums").tolist() == [1.0, -2.0]


def test_zero_opposite_and_empty():
    assert merged([[0.0, 0.0], [0.0, 0.0]], density=0.5).tolist() == [0.0, 0.0]
    assert merged([[1.0, -1.0], [-1.0, 1.0]], density=1).tolist() == [1.0, 1.0]  # a sum of 0 elects plus
    for shape in ((), (0, 3)):
        tensor = torch.ones(shape)
        for memory in ("merged", "sums"):
            result = merge_lib.merge(
                "continual_ties", [{"w": tensor}] * 2, {"w": 0 * tensor}, density=0.5, memory=memory
            )
            assert torch.equal(result["w"], tensor)


ROW = st.lists(st.floats(-8, 8, width=32), min_size=4, max_size=4)


@settings(max_examples=25, deadline=None)
@given(st.lists(ROW, min_size=1, max_size=5), st.randoms(use_true_random=False))
def test_with_sums_the_order_does_not_matter(experts, random):
    turned = random.sample(experts, len(experts))
    first, second = (merged(rows, density=0.5, memory="sums") for rows in (experts, turned))
    signs = sum(torch.tensor([trim(row, 0.5) for row in experts], dtype=torch.float64))
    settled = (signs == 0) | (signs.abs() > 1e-9)  # where rounding cannot elect another sign
    torch.testing.assert_close(first[settled], second[settled])
