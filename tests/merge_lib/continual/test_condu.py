import logging

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import merge_lib
from merge_lib import registry
from merge_lib.arithmetic import Inputs, Merge
from merge_lib.continual.condu import Shared, State, condu, read, settle
from merge_lib.errors import MethodInputError
from merge_lib.folding import Folded
from merge_lib.layers import Layer
from merge_lib.ops.bits import unpack
from merge_lib.states import flatten
from merge_lib.trail import TakenTrail


def double(values):
    return torch.tensor(values, dtype=torch.float64)


def folded(task_vectors, **params):
    """Models given as {tensor: values}, or one tensor's values, folded in one after another, the base being 0."""
    info = registry.get("condu")
    merge = Merge(info, info.check_params(params), seed=0)
    state = Folded.begin(merge)
    for model in task_vectors:
        named = model if isinstance(model, dict) else {"w": model}
        state.add(
            [
                Inputs(
                    Layer(name, (len(values),)),
                    torch.zeros_like(double(values)),
                    (double(values),),
                    torch.float64,
                )
                for name, values in named.items()
            ]
        )
    return state


def masks(state, name="w"):
    unified = state.states[name].unified
    return [unpack(row, unified.shape).int().tolist() for row in state.states[name].masks]


def decoded(state, task, name="w"):
    return read(state.states[name], state.shared, task=task).tolist()


def near(values):
    return pytest.approx(values, rel=1e-12, abs=1e-12)


ONE, OTHER = [2.0, -1.0, 3.0], [1.0, -3.0, -1.0]


@pytest.mark.parametrize("drift", [True, False])
def test_one_task_comes_back(drift):
    state = folded([[1.0, -2.0, 0.0, 3.0]], drift=drift)
    assert decoded(state, -1) == decoded(state, 0) == [1.0, -2.0, 0.0, 3.0]
    assert state.shared.rescalers == (1.0,)
    if drift:
        assert masks(state) == [[1, 1, 0, 1]]


def test_two_tasks():
    state = folded([ONE, OTHER])
    assert decoded(state, -1) == [2.0, -3.0, 3.0]
    assert masks(state) == [[1, 1, 1], [1, 1, 0]]
    assert state.shared.rescalers == near((0.75, 1.0))
    assert decoded(state, 0) == near([1.5, -2.25, 2.25])
    assert decoded(state, 1) == near([2.0, -3.0, 0.0])


@pytest.mark.parametrize("drift", [True, False])
@pytest.mark.parametrize(
    ("rescaler", "expected"), [("official", (2.0, 11 / 12)), ("global_l1", (1.5, 8 / 9))]
)
def test_the_two_conventions(rescaler, expected, drift):
    models = [{"a": [2.0, 0.0], "b": [1.0]}, {"a": [1.0, -4.0], "b": [-3.0]}]
    state = folded(models, rescaler=rescaler, drift=drift)
    assert [decoded(state, -1, name) for name in "ab"] == [[2.0, -4.0], [-3.0]]
    assert state.shared.rescalers == near(expected)


@pytest.mark.parametrize("drift", [True, False])
def test_exact_opposition(drift):
    state = folded([[1.0, -1.0], [-1.0, 1.0]], drift=drift)
    assert decoded(state, -1) == [-1.0, -1.0]
    assert state.shared.rescalers == (2.0, 2.0)
    assert [decoded(state, 0), decoded(state, 1)] == [[0.0, -2.0], [-2.0, 0.0]]
    assert decoded(folded([[1.0, -1.0], [-1.0, 1.0]], zero_sum_sign="plus"), -1) == [1.0, 1.0]


def test_drift():
    """A task of zeros changes nothing but what unifying again does."""
    state = folded([ONE, OTHER, [0.0, 0.0, 0.0]])
    assert state.shared.rescalers[0] == pytest.approx(0.827586, abs=1e-6)
    assert decoded(state, 0) == pytest.approx([1.655172, -2.482759, 1.862069], abs=1e-6)
    far = folded([ONE, OTHER] + [[0.0, 0.0, 0.0]] * 60)
    assert decoded(far, 0) == pytest.approx([2.0, -3.0, 1.0], abs=1e-3)
    assert decoded(far, 1) == pytest.approx([2.0, -3.0, 0.0], abs=1e-3)
    assert far.shared.rescalers[:2] == pytest.approx((1.0, 1.0), abs=1e-3)


def test_without_drift_a_task_of_zeros_changes_nothing():
    before, after = (folded([ONE, OTHER, *more], drift=False) for more in ([], [[0.0, 0.0, 0.0]]))
    assert after.shared.rescalers == (*before.shared.rescalers, 0.0)
    assert all(decoded(before, task) == decoded(after, task) for task in (-1, 0, 1))


def test_an_empty_mask_gives_the_base_and_a_warning(caplog):
    with caplog.at_level(logging.WARNING):
        state = folded([[1.0], [-3.0]])
    assert state.shared.rescalers == (0.0, 1.0)
    assert decoded(state, 0) == [0.0]
    assert "holds nothing of task 0" in caplog.text


def test_a_task_that_is_not_there():
    state = folded([ONE, OTHER])
    with pytest.raises(MethodInputError, match="`task` is 2, but 2 experts were given"):
        decoded(state, 2)


def test_the_model_of_a_task_through_the_engine():
    base = {"w": double([1.0, 1.0, 1.0])}
    experts = [{"w": base["w"] + double(ONE)}, {"w": base["w"] + double(OTHER)}]
    assert merge_lib.merge("condu", experts, base, task=0)["w"].tolist() == near([2.5, -1.25, 3.25])
    with pytest.raises(MethodInputError, match="`task` is 5"):
        merge_lib.merge("condu", experts, base, task=5)


def test_a_bit_an_entry_and_task_is_kept():
    sizes = [flatten(folded([[1.0] * 16] * count).states["w"]).size_bytes for count in (1, 2, 5)]
    assert sizes == [16 * 8 + 2 * count for count in (1, 2, 5)]
    sizes = [flatten(folded([[1.0] * 16] * count, drift=False).states["w"]).size_bytes for count in (1, 5)]
    assert sizes == [3 * 16 * 8 + (4 + 8) * count for count in (1, 5)]


def test_the_trail_says_what_each_task_keeps():
    state, trail = folded([ONE]), TakenTrail()
    condu(state.states["w"], double(OTHER), state.shared, trail=trail)
    assert trail.notes["share kept"] == near([1.0, 2 / 3])


def test_odd_shapes():
    for shape in ((), (0, 3)):
        for drift in (True, False):
            state, sums = condu(State(), torch.ones(shape), Shared(), drift=drift)
            state, sums = condu(state, torch.ones(shape), settle(Shared(), sums), drift=drift)
            assert torch.equal(read(state, settle(Shared(), sums), task=1), torch.ones(shape))


def test_two_hundred_tasks():
    vectors = torch.randn(200, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64).tolist()
    for drift in (True, False):
        state = folded(vectors, drift=drift)
        assert all(torch.isfinite(double(decoded(state, task))).all() for task in (-1, 0, 199))


def emr(vectors):
    """Unified once from the true vectors, spelt out."""
    unified = []
    for column in zip(*vectors, strict=True):
        sign = 1 if sum(column) > 0 else -1
        unified.append(sign * max([0.0, *(abs(value) for value in column if value * sign > 0)]))
    tasks = []
    for vector in vectors:
        held = [u if u * value > 0 else 0.0 for u, value in zip(unified, vector, strict=True)]
        norm = sum(map(abs, held))
        tasks.append([value * sum(map(abs, vector)) / norm if norm else 0.0 for value in held])
    return unified, tasks


VALUES = st.integers(-4, 4).map(float)
VECTORS = st.lists(st.lists(VALUES, min_size=5, max_size=5), min_size=1, max_size=5)


@settings(max_examples=30, deadline=None)
@given(VECTORS)
def test_without_drift_it_is_emr_of_all_experts(vectors):
    state = folded(vectors, drift=False)
    unified, tasks = emr(vectors)
    assert decoded(state, -1) == unified
    for task, expected in enumerate(tasks):
        assert decoded(state, task) == near(expected)


@settings(max_examples=30, deadline=None)
@given(VECTORS)
def test_with_drift_it_is_emr_of_what_is_held(vectors):
    members = [vectors[0]]
    for vector in vectors[1:]:
        members = [*emr(members)[1], vector]
    unified, tasks = emr(members)
    state = folded(vectors)
    assert decoded(state, -1) == pytest.approx(unified, abs=1e-9)
    for task, expected in enumerate(tasks):
        assert decoded(state, task) == pytest.approx(expected, abs=1e-9)


@settings(max_examples=30, deadline=None)
@given(VECTORS.filter(lambda vectors: len(vectors) > 1))
def test_masks_of_old_tasks_only_shrink_and_norms_stay(vectors):
    before, after = folded(vectors[:-1]), folded(vectors)
    for old, new in zip(masks(before), masks(after), strict=False):
        assert all(later <= earlier for earlier, later in zip(old, new, strict=True))
    for task in range(len(vectors) - 1):
        if any(masks(after)[task]):
            norms = [sum(map(abs, decoded(state, task))) for state in (before, after)]
            assert norms[1] == pytest.approx(norms[0])


@settings(max_examples=30, deadline=None)
@given(VECTORS)
def test_bounds_and_cover(vectors):
    state = folded(vectors, drift=False)
    unified = decoded(state, -1)
    tasks = [decoded(state, task) for task in range(len(vectors))]
    for j, value in enumerate(unified):
        assert abs(value) <= max(abs(vector[j]) for vector in vectors)
        assert value == 0 or any(vector[j] * value > 0 for vector in vectors)
        assert all(task[j] * value >= 0 for task in tasks)
    scaled = folded([[2 * value for value in vector] for vector in vectors], drift=False)
    assert decoded(scaled, -1) == [2 * value for value in unified]
    assert scaled.shared.rescalers == near(state.shared.rescalers)
