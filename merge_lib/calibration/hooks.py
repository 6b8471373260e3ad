"""What flows into a model's layers, as rows: the inputs of matrices and kernels, the normalised inputs of scales."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

Take = Callable[[str, Float[Tensor, "rows width"]], None]
Rows = Callable[[Any, Tensor], Tensor]  # (module, its input) to rows


def observable(module: nn.Module) -> dict[str, int]:
    """Width of the rows that can be observed, by the name of the parameter that multiplies them."""
    found = {}
    for path, child in module.named_modules():
        weight = _weight(child)
        if weight is not None and _rows_of(child) is not None:
            name = f"{path}.weight" if path else "weight"
            found[name] = weight.shape[0] if weight.ndim == 1 else weight[0].numel()
    return found


@contextmanager
def listening(
    module: nn.Module, names: Iterable[str], take: Take, is_token: Callable[[], Tensor | None]
) -> Iterator[None]:
    """Hand the rows of the named parameters to `take` during forward passes; padding is left out."""
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


def _hook(name: str, rows_of: Rows, take: Take, is_token: Callable[[], Tensor | None]) -> Any:
    def hook(module: nn.Module, args: tuple[Any, ...]) -> None:
        rows = rows_of(module, args[0].detach())
        mask = is_token()
        if mask is not None and rows.ndim == 3 and rows.shape[:2] == mask.shape:
            rows = rows[mask]
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
        return _patches if module.groups == 1 and not isinstance(module.padding, str) else None
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
    mean, var = module.running_mean, module.running_var
    return functional.batch_norm(x, mean, var, None, None, False, 0.0, module.eps).movedim(1, -1)


def _mean_square_normalised(module: Any, x: Tensor) -> Tensor:
    eps = getattr(module, "variance_epsilon", None) or getattr(module, "eps", None) or 1e-6
    wide = x.float()
    return wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)
