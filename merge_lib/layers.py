"""What names and shapes say of a model's tensors: what they do, and how deep they are.

There is no list of architectures. The words are those that Hugging Face's and torchvision's models use.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Shape = tuple[int, ...]
Role = Literal["linear", "convolution", "embedding", "scale", "shift", "other"]

_EMBEDDING = re.compile(r"embed|^wte$|^wpe$|^shared$|position|token|relative_attention_bias")
_PACKED = re.compile(r"(^|[._])(in_proj|qkv|c_attn|query_key_value|kv)(_proj)?([._]|$)")
_SCALES = ("weight", "gamma", "scale", "g")
_SHIFTS = ("bias", "beta", "b")


@dataclass(frozen=True)
class Layer:
    """One tensor of a model, without its values.

    Attributes:
        role: "linear" for a matrix [out, in] that multiplies activations; "convolution" for [out, in/groups,
            *kernel]; "embedding" for tables, positions and learned tokens; "scale" and "shift" for vectors that
            multiply and add; "other" for the rest.
        block: which of the repeated blocks around it, counted from the input; None outside of them.
        blocks: how many blocks there are in its stack; 0 outside.
        parts: how many matrices are packed along an axis, as in a fused query, key and value.
        parts_axis: along which; 1 for a matrix that is stored [in, out], as those of GPT-2 are.
    """

    name: str
    shape: Shape
    role: Role = "other"
    block: int | None = None
    blocks: int = 0
    parts: int = 1
    parts_axis: int = 0

    @property
    def depth(self) -> float | None:
        """0 in the first block, 1 in the last; None outside of blocks."""
        if self.block is None:
            return None
        return self.block / (self.blocks - 1) if self.blocks > 1 else 0.0

    @property
    def place(self) -> str:
        """The name of its block, such as `vision.layers.3`; empty outside of blocks."""
        if self.block is None:
            return ""
        stack, block = _place(self.name)
        return f"{stack}.{block}" if stack else str(block)


def describe_layers(shapes: Mapping[str, Shape]) -> dict[str, Layer]:
    """What is known of every tensor of a model.

    Args:
        shapes: of all tensors, by name.

    Returns:
        A Layer for each, in the same order.
    """
    stacks: dict[str, int] = {}
    for name in shapes:
        stack, block = _place(name)
        if block is not None:
            stacks[stack] = max(stacks.get(stack, 0), block + 1)
    return {name: _describe(name, shapes, stacks) for name in shapes}


def _describe(name: str, shapes: Mapping[str, Shape], stacks: Mapping[str, int]) -> Layer:
    stack, block = _place(name)
    role = _role(name, shapes[name])
    return Layer(name, shapes[name], role, block, stacks.get(stack, 0), *_packed(name, shapes, role))


def _place(name: str) -> tuple[str, int | None]:
    """The stack of blocks that a tensor is in, and its block: the first number in the name."""
    words = name.split(".")
    for position, word in enumerate(words[:-1]):
        if word.isdecimal():
            return ".".join(words[:position]), int(word)
    return "", None


def _role(name: str, shape: Shape) -> Role:
    *modules, own = name.split(".")
    nearest = modules[-1] if modules and own in (*_SCALES, *_SHIFTS) else own
    if len(shape) >= 2:
        if _EMBEDDING.search(nearest) and not (len(shape) > 3 or "patch" in nearest):
            return "embedding"
        return "linear" if len(shape) == 2 else "convolution" if own == "weight" else "other"
    if len(shape) == 1 and own.removeprefix("in_proj_") in _SHIFTS:
        return "shift"
    return "scale" if len(shape) == 1 and own in _SCALES else "other"


def _packed(name: str, shapes: Mapping[str, Shape], role: Role) -> tuple[int, int]:
    """How many matrices are packed in a tensor, and along which axis; 1 where its shape does not bear it."""
    shape = shapes[name]
    found = _PACKED.search(name)
    if found is None or role not in ("linear", "shift") or 0 in shape:
        return 1, 0
    if role == "linear":
        return _packed_matrices(found.group(2), shape)
    matrix = shapes.get(name.removesuffix("bias") + "weight", ())
    if len(matrix) == 2:
        return _packed_matrices(found.group(2), matrix)[0], 0
    parts = 2 if found.group(2) == "kv" else 3
    return (parts if shape[0] % parts == 0 else 1), 0


def _packed_matrices(word: str, shape: Shape) -> tuple[int, int]:
    """Key and value in two halves; query, key and value only where all are square, as a query may be the wider one."""
    first, second = shape
    if word == "kv":
        return (1 if first % 2 else 2), 0
    if word == "c_attn" and second == 2 * first:  # key and value of GPT-2's cross-attention
        return 2, 1
    if first == 3 * second:
        return 3, 0
    return (3, 1) if second == 3 * first else (1, 0)
