"""The exact diagonal of the Fisher information, example by example."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import grad, vmap
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from merge_lib.ops.functional_models import Weighted
from merge_lib.probe import Batch, Probe


def add_fisher(
    module: nn.Module,
    probe: Probe,
    task: str,
    batches: Sequence[Batch],
    progress: Callable[[int, int], None],
) -> Iterator[tuple[str, Tensor, int]]:
    """The diagonal of the Fisher information of every parameter.

    F = 𝔼_x Σ_y p(y|x) (∂ log p(y|x) / ∂θ)², over the examples and all answers y that the task allows; no label is
    looked at.

    Variant: exact, a gradient for each example and answer; not the square of a batch's gradient.
    Reference: Matena & Raffel, "Merging Models with Fisher-Weighted Averaging", NeurIPS 2022, arXiv:2111.09832,
        equation 3.

    Yields:
        (parameter name, F in float32 with the parameter's shape, number of examples).
    """
    parameters = {name: parameter.detach() for name, parameter in module.named_parameters()}
    totals = {
        name: torch.zeros_like(parameter, dtype=torch.float64) for name, parameter in parameters.items()
    }
    count = 0
    for done, batch in enumerate(batches, 1):
        for name, squares in _squared_gradients(module, probe, task, batch, parameters).items():
            totals[name] += squares
        count += len(batch.labels)
        progress(done, len(batches))
    for name, total in totals.items():
        yield name, (total / count).float(), count


class _PlainAttention(TorchFunctionMode):
    """Attention as products and a softmax: the fused one has no rule for a batch of gradients.

    It holds for the calling thread. `torch.nn.attention.sdpa_kernel` would change the whole process, so that what other
    threads train meanwhile is rounded in another way.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Torch's own call, but for attention."""
        if func is not functional.scaled_dot_product_attention:
            return func(*args, **(kwargs or {}))
        return torch.ops.aten._scaled_dot_product_attention_math(*args, **(kwargs or {}))[0]


def _squared_gradients(
    module: nn.Module,
    probe: Probe,
    task: str,
    batch: Batch,
    parameters: dict[str, Tensor],
) -> dict[str, Tensor]:
    """Σ over the batch's examples and all answers of p·(∂ log p)², by parameter."""

    def log_probability(weights: dict[str, Tensor], inputs: object, answer: Tensor) -> tuple[Tensor, Tensor]:
        one = Batch(_map(inputs, lambda tensor: tensor.unsqueeze(0)), batch.labels[:1])
        found = probe.logits(Weighted(module, weights), one, task)[0].log_softmax(-1)
        chosen = found.gather(0, answer.reshape(1))[0]
        return chosen, chosen.detach()

    with torch.no_grad():
        answers = probe.logits(module, batch, task).shape[1]
    each = vmap(grad(log_probability, has_aux=True), in_dims=(None, 0, None))
    sums: dict[str, Tensor] = {}
    for answer in range(answers):
        with _PlainAttention():
            gradients, chosen = each(parameters, batch.inputs, torch.tensor(answer))
        weights = chosen.exp()
        for name, gradient in gradients.items():
            rows = gradient.square().flatten(1) if gradient.ndim > 1 else gradient.square()[:, None]
            found = (weights[:, None] * rows).double().sum(0).reshape(parameters[name].shape)
            sums[name] = sums[name] + found if name in sums else found
    return sums


def _map(inputs: object, change: Callable[[Tensor], Tensor]) -> object:
    """The same nest of tensors, each changed."""
    if isinstance(inputs, Tensor):
        return change(inputs)
    if isinstance(inputs, dict):
        return {key: _map(value, change) for key, value in inputs.items()}
    if isinstance(inputs, (list, tuple)):
        return type(inputs)(_map(value, change) for value in inputs)
    return inputs
