"""Greedy soup: experts join the average as long as it gets better on held-out data."""

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from merge_lib.ops.sums import mean_rows, per_row, sum_rows
from merge_lib.probe import Batch, Probe, drawn
from merge_lib.registry import merge_method
from merge_lib.trail import NO_TRAIL, Trail
from merge_lib.types import Count, StateDict
from merge_lib.working_set import WorkingSet


def fit(
    probe: Probe,
    tasks: Sequence[str],
    base: StateDict,  # noqa: ARG001 -- the base is no ingredient
    experts: Sequence[StateDict],
    *,
    seed: int,
    progress: Callable[[int, int], None],
    examples: Count = 256,
    split: Literal["validation", "train"] = "validation",
) -> dict[str, Tensor]:
    """The weight of each expert: one over the number of those chosen, or 0.

    Args:
        probe: the workload.
        tasks: the task of each expert.
        base: not an ingredient.
        experts: state dicts.
        seed: of the examples.
        progress: told the models that were judged.
        examples: of each task, or all if there are fewer.
        split: whose labelled examples judge the soups.

    Returns:
        [n] for each floating tensor.
    """
    shown = {task: drawn(probe, task, split=split, count=examples, seed=seed, size=256) for task in tasks}
    done, of = 0, 2 * len(experts) - 1

    def judge(state: StateDict) -> float:
        nonlocal done
        done += 1
        progress(done, of)
        return _accuracy(probe, state, shown)

    alone = [judge(expert) for expert in experts]
    first, *others = sorted(range(len(experts)), key=lambda place: (-alone[place], place))
    chosen, best = [first], alone[first]
    for place in others:
        soup = _mean([experts[one] for one in sorted([*chosen, place])])
        if (found := judge(soup)) > best:
            chosen, best = [*chosen, place], found
    weights = torch.zeros(len(experts))
    weights[chosen] = 1.0 / len(chosen)
    return {name: weights.clone() for name, tensor in experts[0].items() if tensor.is_floating_point()}


@torch.no_grad()
def _accuracy(probe: Probe, state: StateDict, shown: dict[str, list[Batch]]) -> float:
    """The mean over the tasks of the share of right answers."""
    module = probe.module(state)
    shares = []
    for task, batches in shown.items():
        right = sum(
            int((probe.logits(module, batch, task).argmax(1) == batch.labels).sum()) for batch in batches
        )
        shares.append(right / sum(len(batch.labels) for batch in batches))
    return sum(shares) / len(shares)


def _mean(states: Sequence[StateDict]) -> dict[str, Tensor]:
    """Entry by entry; tensors that are not floating are the first's."""
    return {
        name: mean_rows(torch.stack([state[name].float() for state in states]))
        if tensor.is_floating_point()
        else tensor
        for name, tensor in states[0].items()
    }


@merge_method(
    name="greedy_soup",
    title="Greedy soup",
    paper="https://arxiv.org/abs/2203.05482",
    needs_base=False,
    order_free=True,
    data="labelled",
    fit=fit,
    working_set=WorkingSet(stacks=1.0, tensors=1.2),
)
def greedy_soup(
    experts: Float[Tensor, " n *shape"], fitted: Float[Tensor, " n"] | None, *, trail: Trail = NO_TRAIL
) -> Float[Tensor, " *shape"]:
    """The mean of those experts that made the mean better on held-out examples.

    Experts are sorted by their accuracy, the best first; each joins if the mean with it is strictly more accurate.

    Scope: per tensor; which experts are in is found first, on models in memory.
    Variant: the paper's greedy soup. Accuracy is the mean over the experts' tasks, as they have tasks of their own.
    Differs from the paper: its ingredients are fine-tuned on one task and judged on it. Of equally accurate
        experts the earlier is tried first.
    Reference: Wortsman et al., "Model soups", ICML 2022, arXiv:2203.05482, recipe 1.

    Args:
        experts: [n, *shape], floating; one row per expert, in spec order.
        fitted: [n], each expert's weight.
        trail: notes the weights.

    Returns:
        [*shape], dtype of experts.
    """
    weights = torch.full((len(experts),), 1.0 / len(experts)) if fitted is None else fitted
    weights = weights.to(experts.dtype)
    trail.note("weight", lambda: weights)
    return sum_rows(experts * per_row(weights, experts))
