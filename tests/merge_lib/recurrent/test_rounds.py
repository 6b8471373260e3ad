import pytest
import torch

from merge_lib.checkpoints import CheckpointReader, read_state_dict, write_state_dict
from merge_lib.errors import CheckpointCorruptError, MethodInputError
from merge_lib.recurrent import (
    CODE,
    PAPER,
    Cells,
    Recurrence,
    RoundCount,
    begin_task,
    flatten_rounds,
    fuse,
    observe,
    restore_rounds,
)

SMALL = Recurrence(inner_steps=2, outer_steps=1)


def tensors(generator):
    return {
        "lora_A": torch.randn(2, 3, generator=generator, dtype=torch.float64),
        "lora_B": torch.randn(4, generator=generator, dtype=torch.float64),
    }


def steps(count, seed=0):
    """Parameters and gradients of so many steps."""
    generator = torch.Generator().manual_seed(seed)
    return [(tensors(generator), tensors(generator)) for _ in range(count)]


def run(rounds, made, recurrence):
    """All steps, fused wherever a round ends; what was fused."""
    fused = []
    for parameters, gradients in made:
        rounds = observe(rounds, parameters, gradients, recurrence)
        if rounds.phase(recurrence) == "fusion":
            fused.append(fuse(rounds, parameters, recurrence))
            rounds = fused[-1].rounds
    return rounds, fused


def test_the_presets():
    assert (CODE.inner_steps, CODE.outer_steps, CODE.quantile, CODE.decay) == (8, 4, 0.8, 0.85)
    assert CODE.cells == Cells((0.4, 0.6), (1.0, 0.0), (0.0, 1.0), (0.5, 0.5))
    assert (PAPER.decay, PAPER.score, PAPER.cells.redundant) == (0.55, "mean", (0.0, 0.0))
    own = {"shared": [1, 0], "new": [1, 0], "historical": [0, 1], "redundant": [0, 0]}
    assert Recurrence(weights=own).cells.shared == (1.0, 0.0)
    assert Recurrence(weights="soft").cells is None
    for one in (CODE, PAPER, Recurrence(weights=own)):
        assert Recurrence.model_validate_json(one.model_dump_json()) == one
    with pytest.raises(ValueError, match="misspelt"):
        Recurrence(weights={**own, "misspelt": [0, 0]})


def test_how_many_fusions_a_task_has():
    assert CODE.count_rounds(1250) == RoundCount(fusions=156, leftover=2, outer_steps=624)
    assert CODE.count_rounds(150).fusions == 18
    assert CODE.count_rounds(7) == RoundCount(0, 7, 0)


def test_the_learners_take_turns_and_leftovers_stay_unfused():
    order, rounds = [], begin_task(steps(1)[0][0])
    for parameters, gradients in steps(8):
        order.append(rounds.phase(SMALL))
        rounds = observe(rounds, parameters, gradients, SMALL)
        if rounds.phase(SMALL) == "fusion":
            rounds = fuse(rounds, parameters, SMALL).rounds
    assert order == ["inner", "inner", "outer"] * 2 + ["inner", "inner"]
    assert (rounds.fusions, rounds.inner_done, rounds.outer_done) == (2, 2, 0)


def test_statistics_have_the_length_of_a_round_and_only_the_outer_ones_stay():
    made = steps(12)
    rounds = begin_task(made[0][0])
    for parameters, gradients in made:
        rounds = observe(rounds, parameters, gradients, CODE)
    assert (rounds.inner.updates, rounds.outer.updates) == (8, 4)
    after = fuse(rounds, made[-1][0], CODE).rounds
    assert (after.inner.updates, after.outer.updates, after.fusions) == (0, 4, 1)
    assert float(after.inner.mean["lora_A"].abs().sum()) == 0.0
    assert torch.equal(after.outer.mean["lora_A"], rounds.outer.mean["lora_A"])
    second, _ = run(after, steps(12, seed=1), CODE)
    assert (second.fusions, second.outer.steps) == (2, 8)


def test_a_round_by_hand():
    # two entries, one inner and one outer step: inner gradients speak for the first, outer for the second
    recurrence = Recurrence(inner_steps=1, outer_steps=1, quantile=0.5)
    rounds = begin_task({"a": torch.tensor([0.0, 0.0])})
    rounds = observe(rounds, {"a": torch.tensor([1.0, 1.0])}, {"a": torch.tensor([5.0, 1.0])}, recurrence)
    now = {"a": torch.tensor([11.0, 11.0])}
    rounds = observe(rounds, now, {"a": torch.tensor([1.0, 5.0])}, recurrence)
    fused = fuse(rounds, now, recurrence)
    assert fused.parameters["a"].tolist() == [1.0, 10.0]
    assert torch.equal(fused.rounds.anchor["a"], fused.parameters["a"])
    assert (fused.report.cells.new, fused.report.cells.historical) == (1, 1)
    norms = (fused.report.inner_norm, fused.report.outer_norm, fused.report.fused_norm)
    assert norms == pytest.approx((2**0.5, 200**0.5, 101**0.5))
    # S = 0.15·0.1275·I² with I = 5 and 1, the median halfway between
    assert fused.report.inner_threshold == pytest.approx(0.15 * 0.1275 * 13)


def test_gradients_of_zero_select_nothing():
    made = [(parameters, {name: torch.zeros_like(g) for name, g in gradients.items()})
            for parameters, gradients in steps(3)]  # fmt: skip
    start = steps(1, seed=9)[0][0]
    _, (halved,) = run(begin_task(start), made, SMALL)
    _, (frozen,) = run(begin_task(start), made, Recurrence(inner_steps=2, outer_steps=1, weights="paper"))
    for name in start:
        torch.testing.assert_close(halved.parameters[name], (start[name] + made[-1][0][name]) / 2)
        assert torch.equal(frozen.parameters[name], start[name])
    assert halved.report.cells.redundant == 10


def test_a_bad_gradient_is_a_step_without_a_word():
    parameters, gradients = steps(1)[0]
    bad = {**gradients, "lora_B": torch.full((4,), float("nan"), dtype=torch.float64)}
    rounds = observe(begin_task(parameters), parameters, bad, SMALL)
    assert (rounds.inner_done, rounds.inner.updates, rounds.inner.skipped) == (1, 0, 1)


def test_states_do_not_follow_the_model():
    weight = torch.nn.Parameter(torch.ones(3))
    rounds = begin_task({"w": weight})
    with torch.no_grad():
        weight += 1.0
    assert rounds.anchor["w"].tolist() == [1.0, 1.0, 1.0]
    ones = {"w": torch.ones(3)}
    for _ in range(2):
        rounds = observe(rounds, {"w": weight}, ones, SMALL)
    with torch.no_grad():
        weight += 1.0
    assert rounds.after_inner["w"].tolist() == [2.0, 2.0, 2.0]
    rounds = observe(rounds, {"w": weight}, ones, SMALL)
    fused = fuse(rounds, {"w": weight}, SMALL)
    fused.parameters["w"].zero_()
    assert fused.rounds.anchor["w"].tolist() != [0.0, 0.0, 0.0]


def test_the_dtype_of_the_parameters_comes_back():
    rounds = begin_task({"w": torch.ones(3, dtype=torch.bfloat16)})
    made = [({"w": torch.full((3,), 2.0, dtype=torch.bfloat16)}, {"w": torch.ones(3)})] * 3
    _, (fused,) = run(rounds, made, SMALL)
    assert fused.parameters["w"].dtype == torch.bfloat16


@pytest.mark.parametrize("stop", range(1, 8))
def test_going_on_from_a_file_gives_the_same_bytes(stop, tmp_path):
    made = steps(8)
    start = steps(1, seed=5)[0][0]
    _, undisturbed = run(begin_task(start), made, SMALL)
    rounds, first = run(begin_task(start), made[:stop], SMALL)
    values, held = flatten_rounds(rounds)
    write_state_dict(tmp_path / "rounds.safetensors", held, lineage={"rounds": values})
    with CheckpointReader(tmp_path / "rounds.safetensors") as reader:
        restored = restore_rounds(reader.lineage["rounds"], read_state_dict(tmp_path / "rounds.safetensors"))
    _, second = run(restored, made[stop:], SMALL)
    for one, other in zip(undisturbed, [*first, *second], strict=True):
        assert all(torch.equal(one.parameters[name], other.parameters[name]) for name in start)


def test_saved_rounds_that_are_not_whole_are_refused():
    values, held = flatten_rounds(begin_task(steps(1)[0][0]))
    del held["inner.mean:lora_A"], values["fusions"]
    with pytest.raises(CheckpointCorruptError, match=r"'lora_A' of `inner.mean`, the value `fusions`"):
        restore_rounds(values, held)


def test_steps_out_of_turn_are_refused():
    made = steps(3)
    with pytest.raises(MethodInputError, match=r"has 0 of 2 inner and 0 of 1 outer steps"):
        fuse(begin_task(made[0][0]), made[0][0], SMALL)
    rounds = begin_task(made[0][0])
    for parameters, gradients in made:
        rounds = observe(rounds, parameters, gradients, SMALL)
    with pytest.raises(MethodInputError, match="Fuse it before the next step"):
        observe(rounds, *made[0], SMALL)
