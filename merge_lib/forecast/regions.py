"""Where in a model a tensor is: thirds of its depth, so that models of different depth share one set of features."""

import re
from collections.abc import Mapping
from typing import Literal

from merge_lib.layers import Layer

Region = Literal["early", "middle", "late", "output"]
REGIONS: tuple[Region, ...] = ("early", "middle", "late", "output")

_AT_THE_INPUT = re.compile(r"embed|wte|wpe|patch|stem|position|token|shared|(^|\.)conv1?(\.|$)")


def region_of(layer: Layer) -> Region:
    """The third of its stack that the tensor's block lies in, by the middle of the block.

    Outside of blocks, what the names call embeddings, patches, stems or tokens is early; all else, such as a last
    normalisation and the head, is the output.
    """
    if layer.block is not None and layer.blocks:
        third = int(3 * (layer.block + 0.5) / layer.blocks)
        return REGIONS[min(third, 2)]
    is_early = layer.role in ("embedding", "convolution") or _AT_THE_INPUT.search(layer.name) is not None
    return "early" if is_early else "output"


def regions_of(layers: Mapping[str, Layer]) -> dict[str, Region]:
    """The region of every tensor."""
    return {name: region_of(layer) for name, layer in layers.items()}
