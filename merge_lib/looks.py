"""How often a method looks at the whole model before it merges the first tensor."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Self

_DIGIT_BITS = 16  # that a pass finds of an order statistic, as in merge_lib.ops.quantile


@dataclass(frozen=True)
class Look:
    """One question to the whole model.

    Attributes:
        kind: "threshold" for order statistics, a pass for every sixteen bits of the arithmetic; "once" for one pass.
        unless: values of parameters; with any of them the question is not asked.
        instead: passes that there are then.
    """

    kind: Literal["threshold", "once"] = "once"
    unless: Mapping[str, Any] = field(default_factory=dict)
    instead: int = 0

    def passes(self, params: Mapping[str, Any], bits: int) -> int:
        """Over all tensors, with these parameters and so many bits of a number of the arithmetic."""
        if any(params.get(name) == value for name, value in self.unless.items()):
            return self.instead
        return bits // _DIGIT_BITS if self.kind == "threshold" else 1

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Self:
        """The inverse of `to_dict`."""
        return cls(**fields)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)
