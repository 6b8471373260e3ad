"""Finding a model's layers by the names and shapes of its tensors; no list of architectures.

A layer's tensors have a name of the form `PREFIX.N.REST`, where N is the first number in the name
(`model.layers.0.mlp.up_proj.weight`, `transformer.h.0.…`, `encoder.block.0.…`). A prefix is a stack of layers
where the numbers run from 0 without a gap. If several prefixes are, those whose layers are not all alike
(the same rests with the same shapes) are left out; if several remain, as in an encoder with a decoder, the
layers are ambiguous: a recipe with gradients or slices is then refused.

Tensors outside the layers belong to the first slice where their name says that they embed (`embed`, `wte`,
`wpe`, `cls_token`), and to the last where it says that they end a model (`norm`, `ln_f`, `head`, `embed_out`,
`classifier`, `score`, `pooler`).
"""

import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Shapes = Mapping[str, tuple[int, ...]]

_NUMBERED = re.compile(r"^((?:[^.]*[^.\d][^.]*\.)+)(\d+)\.(.+)$")
_LAST = ("embed_out", "lm_head")
_FIRST = ("embed", "wte", "wpe", "cls_token")
_END = ("norm", "ln_f", "head", "classifier", "score", "pooler")


@dataclass(frozen=True)
class LayerStack:
    """Where a model's layers are."""

    prefix: str  # with its last dot
    count: int

    def split(self, name: str) -> tuple[int, str] | None:
        """Layer and rest of a tensor's name; None outside the layers."""
        if not name.startswith(self.prefix):
            return None
        number, _, rest = name.removeprefix(self.prefix).partition(".")
        return (int(number), rest) if number.isdigit() and rest else None

    def join(self, layer: int, rest: str) -> str:
        """The inverse of `split`."""
        return f"{self.prefix}{layer}.{rest}"


def find_layers(shapes: Shapes) -> LayerStack | tuple[str, ...]:
    """The one stack of layers, or the prefixes between which the names do not decide."""
    found: dict[str, dict[int, dict[str, tuple[int, ...]]]] = defaultdict(lambda: defaultdict(dict))
    for name, shape in shapes.items():
        if match := _NUMBERED.match(name):
            found[match[1]][int(match[2])][match[3]] = shape
    stacks = {prefix: layers for prefix, layers in found.items() if set(layers) == set(range(len(layers)))}
    if len(stacks) > 1:
        stacks = {
            prefix: layers
            for prefix, layers in stacks.items()
            if all(layer == layers[0] for layer in layers.values())
        }
    if len(stacks) != 1:
        return tuple(sorted(stacks))
    prefix, layers = next(iter(stacks.items()))
    return LayerStack(prefix, len(layers))


def end_of(name: str) -> Literal["first", "last"] | None:
    """The slice to which a tensor outside the layers belongs; None where its name does not say."""
    lower = name.lower()
    if any(word in lower for word in _LAST):
        return "last"
    if any(word in lower for word in _FIRST):
        return "first"
    return "last" if any(word in lower for word in _END) else None
