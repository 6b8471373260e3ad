from dataclasses import dataclass, replace

import pytest
import torch

import merge_lib
from merge_lib import registry
from merge_lib.errors import SpecError
from merge_lib.registry import SharedState, merge_method
from merge_lib.types import Scale

FACTS = {
    "title": "T",
    "paper": "https://example.org",
    "needs_base": True,
    "order_free": True,
    "scope": "model",
}


@dataclass(frozen=True)
class State:
    total: torch.Tensor | None = None


@dataclass(frozen=True)
class Shared:
    count: int = 0
    norm: float = 0.0


def init(base):
    return State()


def settle(shared, sums):
    return replace(shared, count=shared.count + 1, norm=float(sums[0]) ** 0.5)


def read(state, shared, *, scale: Scale = 1.0):
    return scale * state.total / shared.norm


@pytest.fixture
def _normed():
    @merge_method(name="normed", init=init, shared=SharedState(Shared, settle, read), **FACTS)
    def normed(state, task_vector, shared):
        total = task_vector if state.total is None else state.total + task_vector
        return State(total), (total * total).sum().reshape(1)

    yield
    del registry.declared["normed"]


@pytest.mark.usefixtures("_normed")
def test_a_state_that_spans_the_model_is_folded_expert_by_expert(make_models):
    base, experts = make_models(3)
    names = [name for name, tensor in base.items() if tensor.is_floating_point()]
    totals = {name: sum(expert[name] - base[name] for expert in experts) for name in names}
    norm = sum(float((total * total).sum()) for total in totals.values()) ** 0.5
    merged = merge_lib.merge("normed", experts, base, scale=2.0)
    for name in names:
        torch.testing.assert_close(merged[name], base[name] + 2 * totals[name] / norm, rtol=1e-12, atol=1e-12)
    assert registry.get("normed").check_params({}) == {"scale": 1.0}


def test_scope_and_shared_state_go_together():
    def step(state, task_vector): ...

    with pytest.raises(SpecError, match="a continual one `shared`"):
        merge_method(name="bad", init=init, **FACTS)(step)
    with pytest.raises(SpecError, match="scope 'tensor'"):
        merge_method(
            name="bad", init=init, shared=SharedState(Shared, settle, read), **{**FACTS, "scope": "tensor"}
        )(step)
