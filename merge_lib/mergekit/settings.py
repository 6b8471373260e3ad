"""The value of a parameter for one tensor: a scalar, a gradient over layers, or a choice by tensor name.

A gradient is a list of numbers spread evenly over the layers of a slice, the first number at its first layer
and the last at its last, with straight lines between them. A choice is a list of `{filter, value}`: the first
whose filter is a part of the tensor's name holds; no filter, or `*`, holds for every tensor. Tensors outside
the layers stand at the beginning of every gradient.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

Scalar = float | int | bool


@dataclass(frozen=True)
class Gradient:
    """Numbers spread over the layers."""

    values: tuple[float, ...]


@dataclass(frozen=True)
class Choice:
    """Settings by part of the tensor's name, in order; None for every tensor."""

    cases: tuple[tuple[str | None, "Setting"], ...]


Setting = Scalar | Gradient | Choice


def read_setting(raw: Any) -> Setting:
    """What the YAML holds as a setting.

    Raises:
        ValueError: it is none; the message says what is one.
    """
    if isinstance(raw, bool | int | float | Gradient | Choice):
        return raw
    if isinstance(raw, list) and raw:
        if all(isinstance(item, int | float) and not isinstance(item, bool) for item in raw):
            return Gradient(tuple(float(item) for item in raw))
        if all(isinstance(item, dict) for item in raw):
            return Choice(tuple(_case(item) for item in raw))
    raise ValueError(
        f"is {raw!r}; a value is a number, true or false, a list of numbers (over the layers), or a list of "
        "{filter, value}"
    )


def write_setting(setting: Setting) -> Any:
    """The inverse of `read_setting`: what a YAML would hold."""
    if isinstance(setting, Gradient):
        return list(setting.values)
    if isinstance(setting, Choice):
        return [
            {"value": write_setting(value)} | ({} if part is None else {"filter": part})
            for part, value in setting.cases
        ]
    return setting


def evaluate(setting: Setting, name: str, position: float) -> Scalar | None:
    """The value for the tensor of that name; None where no case of a choice holds.

    Args:
        setting: as read.
        name: of the output tensor.
        position: of its layer in the slice, from 0 to 1.

    Returns:
        A number or boolean, or None.
    """
    if isinstance(setting, Gradient):
        place = position * (len(setting.values) - 1)
        low = int(place)
        high = min(low + 1, len(setting.values) - 1)
        share = place - low
        return (1 - share) * setting.values[low] + share * setting.values[high]
    if isinstance(setting, Choice):
        for part, value in setting.cases:
            if part is None or part == "*" or part in name:
                return evaluate(value, name, position)
        return None
    return setting


def scalars(setting: Setting) -> Iterator[Scalar]:
    """Every value that evaluating may give, but for those between the numbers of a gradient."""
    if isinstance(setting, Gradient):
        yield from setting.values
    elif isinstance(setting, Choice):
        for _, value in setting.cases:
            yield from scalars(value)
    else:
        yield setting


def has_gradient(setting: Setting) -> bool:
    """Whether the value depends on the layer."""
    if isinstance(setting, Choice):
        return any(has_gradient(value) for _, value in setting.cases)
    return isinstance(setting, Gradient)


def _case(raw: dict[str, Any]) -> tuple[str | None, Setting]:
    extra = sorted(set(raw) - {"filter", "value"})
    part = raw.get("filter")
    if extra or "value" not in raw or not (part is None or isinstance(part, str)):
        raise ValueError(f"has the case {raw!r}; a case has a `value` and may have a `filter`, which is text")
    return part, read_setting(raw["value"])
