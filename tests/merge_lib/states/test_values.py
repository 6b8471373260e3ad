import resource
from dataclasses import dataclass

import pytest
import torch

from merge_lib.errors import CheckpointCorruptError, CheckpointError
from merge_lib.states import SpilledStates, flatten, rebuild
from merge_lib.states.values import tensor_keys


@dataclass(frozen=True)
class State:
    one: torch.Tensor | None = None
    several: tuple = ()
    count: int = 0
    share: float = 0.5
    word: str = "word"
    is_so: bool = False


FULL = State(
    torch.tensor([[1.5, -2.0]]),
    (torch.tensor([True, False]), 3, (torch.tensor(7, dtype=torch.int16), None)),
    count=4,
    share=0.1 + 0.2,
    is_so=True,
)


def same(left, right):
    if isinstance(left, torch.Tensor):
        return left.dtype == right.dtype and torch.equal(left, right)
    if isinstance(left, tuple):
        return len(left) == len(right) and all(map(same, left, right))
    return left == right and type(left) is type(right)


@pytest.mark.parametrize("state", [FULL, State()])
def test_a_state_comes_back_from_its_parts(state):
    flat = flatten(state)
    back = rebuild(State, flat.outline, flat.tensors.__getitem__)
    assert all(same(value, vars(back)[name]) for name, value in vars(state).items())
    assert list(tensor_keys(flat.outline)) == list(flat.tensors)


def test_sizes_and_keys():
    flat = flatten(FULL)
    assert list(flat.tensors) == ["one", "several.0", "several.2.0"]
    assert flat.size_bytes == 8 + 2 + 2


def test_a_state_of_another_version_is_refused():
    with pytest.raises(CheckpointCorruptError, match=r"has the fields one, two, but the method keeps count"):
        rebuild(State, {"one": None, "two": None}, {}.__getitem__)


@pytest.mark.parametrize("in_memory_bytes", [1, 1 << 20])
def test_states_are_kept_in_memory_or_in_a_nameless_file(in_memory_bytes, tmp_path):
    states = SpilledStates(tmp_path, in_memory_bytes=in_memory_bytes)
    for name, count in (("a", 3), ("b", 0), ("c", 5)):
        states.put(name, State(torch.arange(count, dtype=torch.float64), (), count))
    assert list(states) == ["a", "b", "c"]
    for name in ("c", "a", "b", "a"):
        assert torch.equal(states[name].one, torch.arange(states[name].count, dtype=torch.float64))
    assert sum(states.describe(name).size_bytes for name in states) == 64
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("entries", [100, 100_000])  # less than a buffer of the file, and more
def test_a_disk_without_room_for_states_is_told(entries, tmp_path):
    states = SpilledStates(tmp_path, in_memory_bytes=16)
    states.put("small", State(torch.zeros(10)))  # lies in the file already
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64, before[1]))
    try:
        with pytest.raises(
            CheckpointError, match=r"States .* cannot be kept in .*: File too large\. Nothing was"
        ):
            states.put("large", State(torch.ones(entries)))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(states) == ["small"]
    assert states["small"].one.tolist() == [0.0] * 10
