"""Where in a model a tensor is: thirds of its depth, so that models of different depth share one set of features."""

import re
from typing import Literal

from merge_lib.layers import Layer

Part = Literal["early", "middle", "late", "output", "vectors"]
REGIONS: tuple[Part, ...] = ("early", "middle", "late", "output")
PARTS: tuple[Part, ...] = (*REGIONS, "vectors")

_AT_THE_INPUT = re.compile(r"embed|wte|wpe|patch|stem|position|token|shared|(^|\.)conv1?(\.|$)")


def region_of(layer: Layer) -> Part:
    """The third of its stack that the tensor's block lies in, by the middle of the block.

    Outside of blocks, what the names call embeddings, patches, stems or tokens is early; all else, such as a last
    normalisation and the head, is the output.
    """
    if layer.block is not None and layer.blocks:
        return REGIONS[int(3 * (layer.block + 0.5) / layer.blocks)]
    is_early = layer.role in ("embedding", "convolution") or _AT_THE_INPUT.search(layer.name) is not None
    return "early" if is_early else "output"


def parts_of(layer: Layer) -> tuple[Part, ...]:
    """The region of a tensor; of a vector also the part of all vectors."""
    region = region_of(layer)
    return (region, "vectors") if len(layer.shape) <= 1 else (region,)
