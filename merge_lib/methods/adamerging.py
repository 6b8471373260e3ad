"""AdaMerging: scales that make the merged model sure of its answers."""

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from merge_lib.ops.functional_models import TaskVectors, Weighted
from merge_lib.ops.quantile import Thresholds, tensor_threshold
from merge_lib.ops.sparsify import keep_large
from merge_lib.ops.sums import per_row, sum_rows
from merge_lib.ops.trimming import TRIMMING
from merge_lib.probe import Batch, Probe, drawn
from merge_lib.registry import merge_method
from merge_lib.trail import NO_TRAIL, Trail
from merge_lib.types import Count, Density, LearningRate, Scale, StateDict
from merge_lib.working_set import WorkingSet


def fit(
    probe: Probe,
    tasks: Sequence[str],
    base: StateDict,
    experts: Sequence[StateDict],
    *,
    seed: int,
    progress: Callable[[int, int], None],
    scales: Literal["by layer", "by task"] = "by layer",
    density: Density = 1.0,
    start: Scale = 0.3,
    steps: Count = 500,
    learning_rate: LearningRate = 1e-3,
    batch_size: Count = 16,
    split: Literal["test", "validation", "train"] = "test",
) -> dict[str, Tensor]:
    """A scale for each tensor and task, or each task, by gradient descent on the entropy of the answers.

    Args:
        probe: the workload.
        tasks: the task of each expert.
        base: state dict.
        experts: state dicts.
        seed: of the batches.
        progress: told the steps.
        scales: a scale for each tensor and task, or one for each task.
        density: share of the model's entries kept in each task vector; 0.2 is AdaMerging++.
        start: all scales before the first step.
        steps: of Adam; each sees a batch of every task.
        learning_rate: of Adam.
        batch_size: examples of a task a step.
        split: whose inputs are shown, without their labels; the paper's are those of the test.

    Returns:
        [n] for each parameter, in [0, 1].
    """
    model = TaskVectors.of(probe.module(base), base, experts)
    if density < 1:
        model = TaskVectors(model.module, trimmed(model.vectors, density))
    names = list(model.vectors)
    rows = len(names) if scales == "by layer" else 1
    values = torch.full((rows, len(tasks)), start, requires_grad=True)
    adam = torch.optim.Adam([values], lr=learning_rate)
    count = steps * batch_size
    shown = [drawn(probe, task, split=split, count=count, seed=seed, size=batch_size) for task in tasks]
    place = {name: position if rows > 1 else 0 for position, name in enumerate(names)}
    for step in range(steps):
        batches = [batches[step % len(batches)] for batches in shown]
        current = values.detach()
        _, gradients = model.gradients(
            lambda name, at=current: torch.tensordot(at[place[name]], model.vectors[name], 1),
            lambda weighted, of=batches: entropy(probe, weighted, of, tasks),
        )
        slope = torch.zeros_like(values)
        for name, gradient in gradients.items():
            slope[place[name]] += (model.vectors[name] * gradient).reshape(len(tasks), -1).sum(1)
        values.grad = slope
        adam.step()
        values.data.clamp_(0.0, 1.0)
        progress(step + 1, steps)
    found = values.detach()
    return {name: found[place[name]].clone() for name in names}


def entropy(probe: Probe, model: Weighted, batches: Sequence[Batch], tasks: Sequence[str]) -> Tensor:
    """The mean entropy of the model's answers on a batch of each task, summed over the tasks."""
    total = torch.zeros(())
    for batch, task in zip(batches, tasks, strict=True):
        logs = probe.logits(model, batch, task).log_softmax(1)
        total = total - (logs.exp() * logs).sum(1).mean()
    return total


def trimmed(vectors: dict[str, Tensor], density: float) -> dict[str, Tensor]:
    """Task vectors of which each expert's largest share over all tensors is kept."""
    flat = torch.cat([vector.reshape(len(vector), -1) for vector in vectors.values()], dim=1)
    cuts = torch.tensor([tensor_threshold(row, density) for row in flat])
    return {name: keep_large(vector, cuts) for name, vector in vectors.items()}


@merge_method(
    name="adamerging",
    title="AdaMerging",
    paper="https://arxiv.org/abs/2310.02575",
    needs_base=True,
    order_free=True,
    scope="model",
    data="test inputs",
    statistics=TRIMMING,
    fit=fit,
    working_set=WorkingSet(stacks=2.5, tensors=1.0),
)
def adamerging(
    task_vectors: Float[Tensor, " n *shape"],
    statistics: Thresholds,
    fitted: Float[Tensor, " n"] | None,
    *,
    trail: Trail = NO_TRAIL,
    start: Scale = 0.3,
) -> Float[Tensor, " *shape"]:
    """The sum of the task vectors, each with a scale that made the merged model's answers surer.

    θ*_l = θ_{0,l} + Σ_t λ_{t,l}·τ_{t,l}, where λ minimises Σ_t 𝔼_{x of task t} H(softmax f(x; θ*)) by Adam.

    Scope: whole model; scales are learned first, on a model in memory, then tensors are merged one by one.
    Variant: layer-wise (a scale for each tensor and task) or task-wise; with `density` below 1 it is
        AdaMerging++, on trimmed task vectors. Transductive: with the paper's `split`, "test", it looks at
        the inputs that it is judged by, and reports say so.
    Differs from the paper: a tensor that is not a parameter of the model keeps the scale `start`. The trimmed
        task vectors of AdaMerging++ are not made to agree in sign. Scales are kept in [0, 1], as by the authors' code.
    Reference: Yang et al., "AdaMerging", ICLR 2024, arXiv:2310.02575, equations 4 to 6.

    Args:
        task_vectors: [n, *shape], floating; one row per expert, in spec order.
        statistics: each expert's threshold over the whole model.
        fitted: [n], the scales; None for tensors that are not parameters.
        trail: notes the scales.
        start: the scale of tensors that are not parameters, and of all before the first step.

    Returns:
        [*shape], dtype of task_vectors.
    """
    scales = torch.full((len(task_vectors),), start) if fitted is None else fitted
    scales = scales.to(task_vectors.dtype)
    trail.note("scale", lambda: scales)
    kept = keep_large(task_vectors, statistics.values)
    return sum_rows(kept * per_row(scales, kept))
