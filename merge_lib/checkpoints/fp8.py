"""8-bit floating weights with scales: shown as the weights that they stand for."""

from dataclasses import dataclass
from math import ceil

import torch
from torch import Tensor

from merge_lib.checkpoints.model_config import ModelConfig
from merge_lib.checkpoints.view import Checkpoint, View
from merge_lib.errors import CheckpointError
from merge_lib.files.headers import TensorHeader

FP8 = (torch.float8_e4m3fn, torch.float8_e5m2)
SUFFIXES = ("_scale_inv", "_scale")  # both are factors on the stored values, whatever the name says
BLOCK = (128, 128)  # where the model does not say
DEFAULT_DTYPE = torch.bfloat16


@dataclass(frozen=True)
class Scale:
    """The factors of one weight."""

    name: str
    shape: tuple[int, ...]  # as many dimensions as the weight
    repeats: tuple[int, ...]  # entries of the weight that share a factor, along each dimension


class Dequantised(View):
    """A checkpoint in which every 8-bit weight is multiplied by its scale; the scales are hidden.

    w = s_b · q for each entry of block b. The blocks are those of the model's configuration, 128 × 128
    without one; a scale with one entry, or one for each row, is spread as its shape says.
    """

    def __init__(self, source: Checkpoint, scales: dict[str, Scale], dtype: torch.dtype) -> None:
        super().__init__(source, frozenset(scale.name for scale in scales.values()))
        self._scales = scales
        self._dtype = dtype

    def dtype(self, name: str) -> torch.dtype:
        """Element type that a result takes by default; for weights with a scale the model's own."""
        return self._dtype if name in self._scales else super().dtype(name)

    def tensor(self, name: str) -> Tensor:
        """Read one tensor; a weight with a scale in float32."""
        stored = super().tensor(name)
        if name not in self._scales:
            return stored
        scale = self._scales[name]
        return dequantise(stored, self.source.tensor(scale.name), scale)

    def location(self, name: str) -> TensorHeader | None:
        """Where the tensor's bytes lie; None for a weight with a scale."""
        return None if name in self._scales else super().location(name)


def dequantise(weight: Tensor, factors: Tensor, scale: Scale) -> Tensor:
    """The weight in float32."""
    spread = factors.to(torch.float32).reshape(scale.shape)
    for axis, (repeat, size) in enumerate(zip(scale.repeats, weight.shape, strict=True)):
        if repeat > 1:
            spread = spread.repeat_interleave(repeat, dim=axis).narrow(axis, 0, size)
    return weight.to(torch.float32) * spread


def show_dequantised(source: Checkpoint, config: ModelConfig) -> Checkpoint:
    """The checkpoint itself, unless some of its 8-bit weights have scales.

    Raises:
        CheckpointError: scales that do not fit their weights, all of them.
    """
    known = frozenset(source.names)
    scales, problems = {}, []
    for name in source.names:
        found = next((name + suffix for suffix in SUFFIXES if name + suffix in known), None)
        if source.dtype(name) not in FP8 or found is None:
            continue
        scale = fit_scale(found, source.shape(name), source.shape(found), config.block or BLOCK)
        if scale is None:
            problems.append(
                f"Scale '{found}' of {source.label} has shape {source.shape(found)}, which fits neither the "
                f"shape {source.shape(name)} of its weight nor blocks of {config.block or BLOCK}. Set "
                "`quantization_config.weight_block_size` in config.json to the blocks it was made with."
            )
        else:
            scales[name] = scale
    if problems:
        raise CheckpointError("\n".join(problems))
    return Dequantised(source, scales, config.dtype or DEFAULT_DTYPE) if scales else source


def fit_scale(
    name: str, weight: tuple[int, ...], scale: tuple[int, ...], block: tuple[int, int]
) -> Scale | None:
    """How a scale is spread over its weight; None if it does not fit."""
    if len(scale) == 1 and weight and scale[0] == weight[0]:
        scale = (*scale, *(1 for _ in weight[1:]))  # one factor for each row
    elif scale in ((), (1,)):
        scale = (1,) * len(weight)
    if len(scale) != len(weight):
        return None
    blocks = (*(1 for _ in weight[:-2]), *block)[-len(weight) :] if weight else ()
    repeats = []
    for size, factors, width in zip(weight, scale, blocks, strict=True):
        if factors in (1, size):
            repeats.append(1)  # broadcast, or one each
        elif factors == ceil(size / width):
            repeats.append(width)
        else:
            return None
    return Scale(name, scale, tuple(repeats))
