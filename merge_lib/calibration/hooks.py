"""What flows into a model's layers, as rows: the inputs of matrices and kernels, the normalised inputs of scales."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

Take = Callable[[str, Float[Tensor, "rows width"]], None]
Rows = Callable[[Any, Tensor], Tensor]  # (module, its input) to rows


@dataclass(frozen=True)
class Observable:
    """Rows that can be observed.

    Attributes:
        width: of a row.
        is_scale: whether the parameter multiplies them entry by entry, rather than as a matrix.
    """

    width: int
    is_scale: bool

    @property
    def gram_bytes(self) -> int:
        """Of the sum of their products in float64; of a scale only the squares."""
        return 8 * self.width * (1 if self.is_scale else self.width)


def observable(module: nn.Module) -> dict[str, Observable]:
    """What can be observed, by the name of the parameter that multiplies the rows."""
    found = {}
    for path, child in module.named_modules():
        weight = _weight(child)
        if weight is not None and _rows_of(child) is not None:
            name = f"{path}.weight" if path else "weight"
            is_scale = weight.ndim == 1
            found[name] = Observable(weight.shape[0] if is_scale else weight[0].numel(), is_scale)
    return found


@contextmanager
def listening(
    module: nn.Module, names: Iterable[str], take: Take, is_token: Tensor | None = None
) -> Iterator[None]:
    """Hand the rows of the named parameters to `take` during a forward pass.

    Args:
        module: the model.
        names: of `observable`.
        take: given a name and rows.
        is_token: [b, s], False where a position of the batch is padding, whose rows are left out.
    """
    handles = []
    for name in names:
        path = name.rpartition(".")[0]
        child = module.get_submodule(path)
        handles.append(child.register_forward_pre_hook(_hook(name, _rows_of(child), take, is_token)))  # type: ignore[arg-type]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _hook(name: str, rows_of: Rows, take: Take, is_token: Tensor | None) -> Any:
    def hook(module: nn.Module, args: tuple[Any, ...]) -> None:
        rows = rows_of(module, args[0].detach())
        if is_token is not None and rows.ndim == 3 and rows.shape[:2] == is_token.shape:
            rows = rows[is_token]
        take(name, rows.reshape(-1, rows.shape[-1]))

    return hook


def _weight(module: nn.Module) -> Tensor | None:
    weight = module._parameters.get("weight")
    return weight if isinstance(weight, Tensor) else None


def _rows_of(module: nn.Module) -> Rows | None:
    """How a module's input becomes rows; None where its weight multiplies nothing that is known."""
    if isinstance(module, nn.Linear):
        return lambda _, x: x
    if isinstance(module, nn.Conv2d):
        return _patches if _is_unfolded(module) else None
    weight = _weight(module)
    return _normalised(module) if weight is not None and weight.ndim == 1 else None


def _is_unfolded(module: nn.Conv2d) -> bool:
    """Whether its patches are those of `unfold`: one group, a margin of zeros."""
    return module.groups == 1 and module.padding_mode == "zeros" and not isinstance(module.padding, str)


def _normalised(module: nn.Module) -> Rows | None:
    """How a normalisation's input becomes rows; None for modules of other kinds."""
    if isinstance(module, nn.LayerNorm):
        return _layer_normalised
    if isinstance(module, nn.GroupNorm):
        return _group_normalised
    if isinstance(module, nn.modules.batchnorm._BatchNorm):
        return _batch_normalised
    return _mean_square_normalised if type(module).__name__.endswith("RMSNorm") or _is_t5(module) else None


def _is_t5(module: nn.Module) -> bool:
    return type(module).__name__ == "T5LayerNorm"


def _patches(module: nn.Conv2d, x: Tensor) -> Tensor:
    """[b, patches, in·kh·kw], in the order of the kernel's own axes."""
    options = {"dilation": module.dilation, "padding": module.padding, "stride": module.stride}
    return functional.unfold(x, module.kernel_size, **options).transpose(1, 2)  # type: ignore[arg-type]


def _layer_normalised(module: nn.LayerNorm, x: Tensor) -> Tensor:
    return functional.layer_norm(x, module.normalized_shape, None, None, module.eps)


def _group_normalised(module: nn.GroupNorm, x: Tensor) -> Tensor:
    return functional.group_norm(x, module.num_groups, None, None, module.eps).movedim(1, -1)


def _batch_normalised(module: Any, x: Tensor) -> Tensor:
    """By the running statistics; by the batch's own where the module keeps none."""
    mean, var = module.running_mean, module.running_var
    return functional.batch_norm(x, mean, var, None, None, mean is None, 0.0, module.eps).movedim(1, -1)


def _mean_square_normalised(module: Any, x: Tensor) -> Tensor:
    given = (getattr(module, name, None) for name in ("variance_epsilon", "eps"))
    eps = next((one for one in given if one is not None), torch.finfo(x.dtype).eps)  # torch's own default
    wide = x.float()
    return wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)
