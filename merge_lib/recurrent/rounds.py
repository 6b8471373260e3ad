"""The rounds of a task: who learns next, what the learners' steps say, and the fusion at a round's end.

A training loop, which can stop after any step and go on from the state of model, optimiser and rounds:

    rounds = begin_task(trainable(model))
    done = 0
    while done < steps or rounds.phase(CODE) != "inner":
        phase = rounds.phase(CODE)
        if phase == "fusion":
            fused = fuse(rounds, trainable(model), CODE)
            write(model, fused.parameters)              # the optimiser's moments stay
            rounds = fused.rounds
            continue
        places = replay_batch(len(memory), 8, step=rounds.outer.steps)
        batch = task_batch(done) if phase == "inner" else memory[places]
        gradients = step(model, optimiser, batch)       # clipped; one optimiser for both learners
        rounds = observe(rounds, trainable(model), gradients, CODE)
        done += phase == "inner"

`trainable(model)` is a dict of the adapter's tensors; `gradients` has the same names. With several processes the
gradients must be reduced before. The learning rate's schedule counts inner steps only. The state is dropped with
the task: the next one begins with `begin_task` again.
"""

from dataclasses import dataclass, replace
from typing import Literal

from torch import Tensor

from merge_lib.errors import MethodInputError
from merge_lib.recurrent.fusion import CellCounts, Weights, cell_weights, count_cells, joined, soft_weights
from merge_lib.recurrent.importance import Importance, begin_importance, scores_of, update_importance
from merge_lib.recurrent.masks import select
from merge_lib.recurrent.recurrence import Recurrence
from merge_lib.recurrent.tensors import check_alike, copied, norm_of
from merge_lib.types import StateDict

Phase = Literal["inner", "outer", "fusion"]


@dataclass(frozen=True)
class Rounds:
    """What is known within a task, all in memory of its own.

    Attributes:
        anchor: φ_b, the parameters at the beginning of the round.
        after_inner: φ_b(Q), once the inner learner has done its steps of the round.
        inner: statistics of the inner learner, of this round.
        outer: of the outer learner, of the task so far.
        inner_done: steps of the inner learner in this round.
        outer_done: of the outer learner.
        fusions: rounds that are finished.
    """

    anchor: StateDict
    after_inner: StateDict | None
    inner: Importance
    outer: Importance
    inner_done: int = 0
    outer_done: int = 0
    fusions: int = 0

    def phase(self, recurrence: Recurrence) -> Phase:
        """Whose step is next, or that the round is to be fused."""
        if self.inner_done < recurrence.inner_steps:
            return "inner"
        return "outer" if self.outer_done < recurrence.outer_steps else "fusion"


@dataclass(frozen=True)
class FusionReport:
    """What a fusion did; masks and cells are None where weights are soft.

    Attributes:
        inner_threshold: what a score of the inner learner had to exceed.
        outer_threshold: of the outer learner.
        cells: how many entries were of each kind.
        inner_norm: Euclidean, of what the inner learner changed.
        outer_norm: of what the outer learner changed.
        fused_norm: of what the round changed in the end.
    """

    inner_threshold: float | None
    outer_threshold: float | None
    cells: CellCounts | None
    inner_norm: float
    outer_norm: float
    fused_norm: float


@dataclass(frozen=True)
class Fused:
    """The end of a round.

    Attributes:
        parameters: what the model is to have now, by name, in the dtypes that it had.
        rounds: the state at the beginning of the next round.
    """

    parameters: StateDict
    rounds: Rounds
    report: FusionReport


def begin_task(parameters: StateDict) -> Rounds:
    """Before the first step of a task that is not the first.

    Args:
        parameters: the trainable tensors, by name; copied.

    Raises:
        MethodInputError: there is none.
    """
    nothing = begin_importance(parameters)
    return Rounds(copied(parameters), None, nothing, nothing)


def observe(rounds: Rounds, parameters: StateDict, gradients: StateDict, recurrence: Recurrence) -> Rounds:
    """The state after a step of the learner whose turn it was.

    A step whose gradient is not finite counts as a step, but says nothing of importance.

    Args:
        rounds: before the step; not written to.
        parameters: after the optimiser's step, by name.
        gradients: clipped, of the same names and shapes.
        recurrence: the settings.

    Raises:
        MethodInputError: the round is to be fused first, names or shapes differ, or a parameter is not finite.
    """
    phase = rounds.phase(recurrence)
    if phase == "fusion":
        raise MethodInputError(
            f"Round {rounds.fusions} has all its {rounds.inner_done} inner and {rounds.outer_done} outer steps. "
            "Fuse it before the next step."
        )
    before = rounds.inner if phase == "inner" else rounds.outer
    after = update_importance(
        before,
        parameters,
        gradients,
        variant=recurrence.sensitivity,
        decay=recurrence.decay,
        uncertainty_decay=recurrence.uncertainty_decay,
    )
    if phase == "outer":
        return replace(rounds, outer=after, outer_done=rounds.outer_done + 1)
    moved = replace(rounds, inner=after, inner_done=rounds.inner_done + 1)
    is_last = moved.inner_done == recurrence.inner_steps
    return replace(moved, after_inner=copied(parameters)) if is_last else moved


def fuse(rounds: Rounds, parameters: StateDict, recurrence: Recurrence) -> Fused:
    """The fusion at the end of a round: φ_{b+1} = φ_b + w_in ⊙ τ_in + w_out ⊙ τ_out.

    The inner learner's statistics begin anew, the outer learner's stay.

    Args:
        rounds: after the outer learner's last step; not written to.
        parameters: of the model, as that step left them.
        recurrence: the settings.

    Raises:
        MethodInputError: the round has steps left, or names or shapes differ.
    """
    if rounds.phase(recurrence) != "fusion" or rounds.after_inner is None:
        raise MethodInputError(
            f"Round {rounds.fusions} has {rounds.inner_done} of {recurrence.inner_steps} inner and "
            f"{rounds.outer_done} of {recurrence.outer_steps} outer steps. Take the others before it is fused."
        )
    check_alike(rounds=rounds.anchor, parameters=parameters)
    weights, found = _weights(rounds, recurrence)
    fused = joined(rounds.anchor, rounds.after_inner, parameters, weights)
    report = FusionReport(
        *found,
        inner_norm=_distance(rounds.after_inner, rounds.anchor),
        outer_norm=_distance(parameters, rounds.after_inner),
        fused_norm=_distance(fused, rounds.anchor),
    )
    fresh = begin_importance(fused)
    after = Rounds(copied(fused), None, fresh, rounds.outer, fusions=rounds.fusions + 1)
    return Fused(fused, after, report)


def _weights(
    rounds: Rounds, recurrence: Recurrence
) -> tuple[Weights, tuple[float | None, float | None, CellCounts | None]]:
    """The weights of the fusion; thresholds and cells, where there are any."""
    inner, outer = (scores_of(state, recurrence.score) for state in (rounds.inner, rounds.outer))
    if recurrence.cells is None:
        return soft_weights(inner, outer, recurrence.temperature), (None, None, None)
    new, old = (select(scores, recurrence.quantile) for scores in (inner, outer))
    found = (new.threshold, old.threshold, count_cells(new.masks, old.masks))
    return cell_weights(new.masks, old.masks, recurrence.cells), found


def _distance(one: StateDict, other: StateDict) -> float:
    changes: dict[str, Tensor] = {name: one[name].detach().double() - other[name].double() for name in other}
    return norm_of(changes)
