"""Localize-and-Stitch: masks that keep a task's accuracy with few entries, learned from labelled examples."""

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import cross_entropy

from merge_lib.methods.localize_and_stitch import stitch
from merge_lib.ops.functional_models import TaskVectors, Weighted
from merge_lib.ops.quantile import tensor_threshold
from merge_lib.ops.shares import shares
from merge_lib.probe import Batch, Probe, drawn
from merge_lib.registry import merge_method
from merge_lib.trail import NO_TRAIL, Trail
from merge_lib.types import Count, Density, LearningRate, Scale, StateDict
from merge_lib.working_set import WorkingSet

SURE = 5.0  # a mask's logit before the first step: σ(5) = 0.993


def fit(
    probe: Probe,
    tasks: Sequence[str],
    base: StateDict,
    experts: Sequence[StateDict],
    *,
    seed: int,
    progress: Callable[[int, int], None],
    density: Density = 0.1,
    examples: Count = 64,
    split: Literal["train", "validation"] = "train",
    steps: Count = 100,
    learning_rate: LearningRate = 0.2,
    sparsity: Scale = 1.0,
) -> dict[str, Tensor]:
    """A mask of each task vector, by gradient descent on the labelled examples of its task.

    Args:
        probe: the workload.
        tasks: the task of each expert.
        base: state dict.
        experts: state dicts.
        seed: of the examples.
        progress: told the steps.
        density: share of the model's entries in each mask before the first step, the largest ones.
        examples: labelled ones of each task.
        split: which they are of.
        steps: of Adam, each on all examples of the task.
        learning_rate: of Adam, on the masks' logits.
        sparsity: factor on the mean of σ(S), which the loss contains.

    Returns:
        [n, *shape] of booleans for each parameter.
    """
    model = TaskVectors.of(probe.module(base), base, experts)
    masks: dict[str, list[Tensor]] = {name: [] for name in model.vectors}
    for row, task in enumerate(tasks):
        batches = drawn(probe, task, split=split, count=examples, seed=seed, size=examples)
        own = TaskVectors(
            model.module, {name: vectors[row : row + 1] for name, vectors in model.vectors.items()}
        )
        logits = _first_logits(own, density)
        adam = torch.optim.Adam(list(logits.values()), lr=learning_rate)
        count = sum(tensor.numel() for tensor in logits.values())
        for step in range(steps):
            _step(probe, own, batches, task, logits, sparsity / count)
            adam.step()
            progress(row * steps + step + 1, len(tasks) * steps)
        for name, tensor in logits.items():
            masks[name].append(tensor.detach() > 0)
    return {name: torch.stack(rows) for name, rows in masks.items()}


def _first_logits(model: TaskVectors, density: float) -> dict[str, Tensor]:
    """SURE for the largest entries of the whole model, −SURE for the others."""
    flat = torch.cat([vector.flatten() for vector in model.vectors.values()])
    cut = tensor_threshold(flat, density)
    return {
        name: torch.where(vector[0].abs() >= cut, SURE, -SURE).requires_grad_()
        for name, vector in model.vectors.items()
    }


def _step(
    probe: Probe,
    model: TaskVectors,
    batches: Sequence[Batch],
    task: str,
    logits: dict[str, Tensor],
    penalty: float,
) -> None:
    """Set the gradients of the logits: ∂/∂S = σ'(S)·(τ ⊙ ∂L/∂θ + penalty)."""
    soft = {name: tensor.detach().sigmoid() for name, tensor in logits.items()}
    _, gradients = model.gradients(
        lambda name: soft[name] * model.vectors[name][0],
        lambda weighted: _loss(probe, weighted, batches, task),
    )
    for name, tensor in logits.items():
        slope = soft[name] * (1 - soft[name])
        tensor.grad = slope * (model.vectors[name][0] * gradients[name] + penalty)


def _loss(probe: Probe, model: Weighted, batches: Sequence[Batch], task: str) -> Tensor:
    """The mean cross-entropy over the examples."""
    total, count = torch.zeros(()), 0
    for batch in batches:
        found = probe.logits(model, batch, task)
        total = total + cross_entropy(found, batch.labels, reduction="sum")
        count += len(batch.labels)
    return total / count


@merge_method(
    name="localize_and_stitch_trained",
    title="Localize-and-Stitch",
    paper="https://arxiv.org/abs/2408.13656",
    needs_base=True,
    order_free=True,
    data="labelled",
    fit=fit,
    working_set=WorkingSet(stacks=2.1, tensors=3.0),
)
def localize_and_stitch_trained(
    task_vectors: Float[Tensor, " n *shape"],
    fitted: Bool[Tensor, " n *shape"] | None,
    *,
    trail: Trail = NO_TRAIL,
) -> Float[Tensor, " *shape"]:
    """The mean, entry by entry, of those task vectors whose learned mask has it.

    S_t minimises L_t(θ_0 + σ(S_t) ⊙ τ_t) + λ·mean σ(S_t);  M_t = [S_t > 0];  τ* = Σ_t M_t ⊙ τ_t / Σ_t M_t.

    Scope: per tensor; the masks are learned first, on a model in memory.
    Variant: the paper's, which minimises the masks' size. The authors' code has a term that pushes S away from 0
        instead.
    Differs from the paper: Adam on S rather than plain descent at a rate of 10⁷, so that the rate does not depend
        on the size of the task vectors; all examples in every step. Tensors that are not parameters of the model
        stay as in the base.
    Reference: He et al., "Localize-and-Stitch", TMLR 2025, arXiv:2408.13656, equation 2 and section 3.3.

    Args:
        task_vectors: [n, *shape], floating; one row per expert, in spec order.
        fitted: [n, *shape], the masks; None for tensors that are not parameters.
        trail: notes each mask's density.

    Returns:
        [*shape], dtype of task_vectors.
    """
    masks = torch.zeros_like(task_vectors, dtype=torch.bool) if fitted is None else fitted
    trail.note("share kept", lambda: shares(masks))
    return stitch(task_vectors, masks)
