import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from merge_lib.errors import MethodInputError
from merge_lib.recurrent import begin_importance, scores_of, select, update_importance
from merge_lib.recurrent.importance import sensitivity


def wide(*values):
    return torch.tensor(values, dtype=torch.float64)


def test_the_running_means_of_a_constant():
    one = {"a": wide(1.0)}
    state = begin_importance(one)
    seen = []
    for _ in range(8):
        state = update_importance(state, one, one)
        seen.append([state.mean["a"].item(), state.uncertainty["a"].item(), scores_of(state)["a"].item()])
    assert seen[0] == pytest.approx([0.15, 0.1275, 0.019125], abs=1e-12)
    assert seen[1] == pytest.approx([0.2775, 0.21675, 0.060148125], abs=1e-12)
    assert seen[2] == pytest.approx([0.385875, 0.27635625, 0.106638968], abs=1e-9)
    assert seen[7] == pytest.approx([0.727509475, 0.326988630, 0.237887327], abs=1e-9)
    assert (state.updates, state.skipped, state.steps) == (8, 0, 8)


def test_the_papers_score_is_the_mean_alone():
    one = {"a": wide(1.0)}
    state = update_importance(begin_importance(one), one, one, decay=0.55)
    assert scores_of(state, "mean")["a"].item() == pytest.approx(0.45)


def test_the_three_sensitivities_by_hand():
    parameter, gradient = wide(2.0, -1.0, 0.0), wide(0.5, 4.0, 3.0)  # θg = 1, −4, 0
    assert sensitivity(parameter, gradient).tolist() == [1.0, 4.0, 0.0]
    assert sensitivity(parameter, gradient, "square").tolist() == [1.0, 16.0, 0.0]
    assert sensitivity(parameter, gradient, "second_order").tolist() == [0.5, 12.0, 0.0]


def test_a_slow_loop_finds_the_same():
    generator = torch.Generator().manual_seed(0)
    draws = torch.randn(5, 2, 3, generator=generator, dtype=torch.float64)
    state = begin_importance({"a": draws[0, 0]})
    mean, spread = [0.0] * 3, [0.0] * 3
    for parameters, gradients in draws:
        state = update_importance(
            state, {"a": parameters}, {"a": gradients}, decay=0.6, uncertainty_decay=0.3, variant="square"
        )
        for place in range(3):
            value = (parameters[place].item() * gradients[place].item()) ** 2
            mean[place] = 0.6 * mean[place] + 0.4 * value
            spread[place] = 0.3 * spread[place] + 0.7 * abs(value - mean[place])
    assert state.mean["a"].tolist() == pytest.approx(mean)
    assert state.uncertainty["a"].tolist() == pytest.approx(spread)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_step_with_a_gradient_that_is_not_finite_says_nothing(bad):
    parameters = {"a": wide(1.0, 2.0), "b": wide(3.0)}
    before = update_importance(begin_importance(parameters), parameters, parameters)
    after = update_importance(before, parameters, {"a": wide(1.0, bad), "b": wide(1.0)})
    assert torch.equal(after.mean["b"], before.mean["b"])
    assert torch.equal(after.uncertainty["a"], before.uncertainty["a"])
    assert (after.updates, after.skipped, after.steps) == (1, 1, 2)


def test_after_the_step_an_entry_that_began_at_zero_counts():
    # LoRA's B begins at 0: with parameters from before the step its importance would be 0
    gradient = {"lora_B": wide(2.0)}
    before = update_importance(begin_importance(gradient), {"lora_B": wide(0.0)}, gradient)
    after = update_importance(begin_importance(gradient), {"lora_B": wide(-0.1)}, gradient)
    assert before.mean["lora_B"].item() == 0.0
    assert after.mean["lora_B"].item() > 0.0


def test_inputs_are_not_written_to_and_may_be_parameters():
    layer = torch.nn.Linear(2, 1)
    layer(torch.ones(1, 2)).sum().backward()
    parameters = dict(layer.named_parameters())
    state = begin_importance(parameters)
    after = update_importance(state, parameters, {name: p.grad for name, p in parameters.items()})
    assert not after.mean["weight"].requires_grad
    assert float(state.mean["weight"].abs().sum()) == 0.0


def test_half_precision_is_counted_in_float32():
    # (2e-5)² is below the least number of float16
    small = {"a": torch.tensor([2e-5], dtype=torch.float16)}
    state = update_importance(begin_importance(small), small, small)
    assert state.mean["a"].dtype == torch.float32
    assert state.mean["a"].item() > 0.0


def test_scalars_and_empty_tensors():
    odd = {"scalar": torch.tensor(2.0), "empty": torch.zeros(0, 3)}
    state = update_importance(begin_importance(odd), odd, odd)
    assert state.mean["scalar"].item() == pytest.approx(0.6)
    assert state.mean["empty"].shape == (0, 3)


@given(power=st.integers(-20, 20), seed=st.integers(0, 99))
def test_the_scale_of_the_gradients_changes_no_mask(power, seed):
    draws = torch.randn(4, 2, 30, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    factor = 2.0**power  # exact, so that ties stay ties
    one = other = begin_importance({"a": draws[0, 0]})
    for parameters, gradients in draws:
        one = update_importance(one, {"a": parameters}, {"a": gradients})
        other = update_importance(other, {"a": parameters}, {"a": factor * gradients})
    assert torch.equal(scores_of(other)["a"], factor**2 * scores_of(one)["a"])
    assert torch.equal(select(scores_of(other)).masks["a"], select(scores_of(one)).masks["a"])


def test_what_is_refused():
    with pytest.raises(MethodInputError, match="`parameters` holds no tensor"):
        begin_importance({})
    state = begin_importance({"a": wide(1.0), "b": wide(1.0)})
    with pytest.raises(MethodInputError) as caught:
        update_importance(state, {"a": wide(1.0)}, {"a": wide(1.0, 2.0), "b": wide(1.0), "c": wide(1.0)})
    assert "`parameters` lacks tensor 'b'" in str(caught.value)
    assert "Tensor 'a' has shape (2,) in `gradients`, but (1,) in `importance`" in str(caught.value)
    assert "`gradients` has tensor 'c', which `importance` lacks" in str(caught.value)
    with pytest.raises(MethodInputError, match="The importance of 'a' left the finite numbers"):
        update_importance(begin_importance({"a": wide(1.0)}), {"a": wide(float("nan"))}, {"a": wide(1.0)})
