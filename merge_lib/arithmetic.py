"""One merge, tensor by tensor: the code that merging in memory and merging files share.

Floating tensors are merged in float32, or in float64 where any of them is float64, and cast once at the end.
Other tensors must be equal in all experts and are copied.
"""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache, cached_property
from math import prod
from typing import Any, NoReturn

import torch
from torch import Tensor

from merge_lib.compatibility import TensorSource
from merge_lib.errors import CheckpointMismatchError, MergeError, MethodInputError
from merge_lib.layers import Layer
from merge_lib.learned import NOTHING_LEARNED, Learned, Observed
from merge_lib.ops.chance import TensorGenerator
from merge_lib.ops.lengths import Lengths
from merge_lib.registry import MethodInfo
from merge_lib.trail import NO_TRAIL, Trail


@dataclass(frozen=True)
class Inputs:
    """One tensor of the base and of all experts, as stored, or a piece of it.

    Attributes:
        layer: the whole tensor.
        dtype: of the arithmetic.
        lengths: of the experts' task vectors, where they are to be of one length.
        first: the element of the whole with which the piece begins.
    """

    layer: Layer
    base: Tensor | None
    experts: tuple[Tensor, ...]
    dtype: torch.dtype
    lengths: Lengths | None = None
    first: int = 0

    @property
    def count(self) -> int:
        """How many experts there are."""
        return len(self.experts)

    def part_of(self, tensor: Tensor, before: int = 0) -> Tensor:
        """What lies beside this piece of a tensor whose last axes are the whole's; other tensors stay as they are.

        Args:
            tensor: to be cut.
            before: how many axes it has before those of the whole.
        """
        stack, shape = tuple(tensor.shape[:before]), tuple(tensor.shape[before:])
        if shape != self.layer.shape or shape == self.shape:
            return tensor
        flat = tensor.reshape(*stack, prod(shape))
        return flat[..., self.first : self.first + prod(self.shape)].reshape(*stack, *self.shape)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the piece."""
        return tuple(self.experts[0].shape)

    @cached_property
    def stacked(self) -> Tensor:
        """[n, *shape], one row per expert."""
        return torch.stack([expert.to(self.dtype) for expert in self.experts])

    @cached_property
    def wide_base(self) -> Tensor | None:
        """The base in the arithmetic's dtype."""
        return None if self.base is None else self.base.to(self.dtype)

    @cached_property
    def task_vectors(self) -> Tensor:
        """[n, *shape], expert − base; of one length over the model, where that is asked for."""
        vectors = torch.empty(self.count, *self.shape, dtype=self.dtype)
        for row, expert in zip(vectors, self.experts, strict=True):
            torch.sub(expert.to(self.dtype), self.wide_base, out=row)
        return vectors if self.lengths is None else self.lengths.equalised(vectors)


@dataclass(frozen=True)
class Merge:
    """A method with its parameters, ready to be applied to tensors."""

    method: MethodInfo
    params: dict[str, Any]
    seed: int
    learned: Learned = NOTHING_LEARNED
    trail: Trail = NO_TRAIL

    def begin(self, count: int, dtype: torch.dtype) -> Any:
        """The statistics before the first tensor; None where the method has none."""
        statistics = self.method.implementation.statistics
        return None if statistics is None else statistics.begin(count, dtype, **self.params)

    def fold(self, state: Any, inputs: Inputs) -> Any:
        """Add one tensor to the statistics."""
        statistics = self.method.implementation.statistics
        return statistics.fold(state, self._rows(inputs), inputs.layer)  # type: ignore[union-attr]

    def close(self, state: Any) -> Any:
        """End a pass of the statistics."""
        return self.method.implementation.statistics.close(state)  # type: ignore[union-attr]

    def apply(
        self, inputs: Inputs, statistics: Any, dtype: torch.dtype, factor: float | None = None
    ) -> Tensor:
        """The merged tensor in the result's dtype; `factor` is on its task vector."""
        with self.named(inputs):
            merged = self._merged(inputs, statistics)
        return self.finished(inputs, merged, dtype, factor)

    def finished(
        self, inputs: Inputs, merged: Tensor, dtype: torch.dtype, factor: float | None = None
    ) -> Tensor:
        """What a method gave as weights in the result's dtype."""
        if self.method.receives == "task_vectors":
            merged = inputs.wide_base + (merged if factor is None else factor * merged)
        elif factor is not None:
            merged = inputs.wide_base + factor * (merged - inputs.wide_base)
        stored = merged.to(dtype)
        if not is_finite(stored).all():
            refuse_result(inputs.layer.name, self.method.name, stored.dtype)
        return stored

    def task_vector(self, inputs: Inputs, statistics: Any) -> Tensor:
        """The merged task vector."""
        with self.named(inputs):
            merged = self._merged(inputs, statistics)
        return merged if self.method.receives == "task_vectors" else merged - inputs.wide_base

    @contextmanager
    def named(self, inputs: Inputs) -> Iterator[None]:
        """Errors of the method say where it was."""
        try:
            yield
        except MergeError as exc:
            exc.add_note(f"in method '{self.method.name}', tensor '{inputs.layer.name}'")
            raise

    def steps(self, inputs: Inputs, state: Any, shared: Any, row: int) -> Any:
        """What a continual method makes of one more expert: (merged, state), or (state, addends)."""
        given = {
            "state": state,
            "expert": self._rows(inputs)[row],
            "task_vector": self._rows(inputs)[row],
            "base": inputs.wide_base,
            "layer": inputs.layer,
            "shared": shared,
        }
        implementation = self.method.implementation
        tensors = [given[name] for name in implementation.takes]
        return implementation.step(*tensors, **self._keywords(inputs, implementation.step))  # type: ignore[misc]

    def _merged(self, inputs: Inputs, statistics: Any) -> Tensor:
        """What the method's function gives: merged weights, or a merged task vector."""
        if self.method.kind == "batch":
            return self._batch(inputs, statistics)
        shared = self.method.implementation.shared
        if shared is None:
            return self._continual(inputs)
        return statistics.read(inputs.layer.name)

    def _rows(self, inputs: Inputs) -> Tensor:
        return inputs.task_vectors if self.method.receives == "task_vectors" else inputs.stacked

    def _batch(self, inputs: Inputs, statistics: Any) -> Tensor:
        implementation = self.method.implementation
        given = {
            "experts": self._rows,
            "task_vectors": self._rows,
            "base": lambda _: inputs.wide_base,
            "layer": lambda _: inputs.layer,
            "statistics": lambda _: statistics,
            "observed": lambda _: self._observed(inputs),
            "fitted": lambda _: self._fitted(inputs),
        }
        tensors = [given[word](inputs) for word in implementation.takes]
        return implementation.merge(*tensors, **self._keywords(inputs, implementation.merge))  # type: ignore[misc]

    def _observed(self, inputs: Inputs) -> Observed | None:
        """Observations of the tensor, or of the piece where they are entry by entry."""
        source = self.learned.observations
        found = None if source is None else source.observed(inputs.layer.name)
        if found is None:
            return None
        return replace(found, values=tuple(inputs.part_of(value) for value in found.values))

    def _fitted(self, inputs: Inputs) -> Tensor | None:
        """What was learned for the tensor, or for the piece where it has a value for each entry and expert."""
        found = self.learned.fitted.get(inputs.layer.name)
        return None if found is None else inputs.part_of(found, before=1)

    def _continual(self, inputs: Inputs) -> Tensor:
        state = self.method.implementation.init(inputs.wide_base)  # type: ignore[misc]
        merged = None
        for row in range(inputs.count):
            merged, state = self.steps(inputs, state, None, row)
        return merged  # type: ignore[return-value]

    def _keywords(self, inputs: Inputs, function: Any) -> dict[str, Any]:
        """The parameters that a function takes, and what the engine fills in."""
        filled_in = self.method.implementation.filled_in
        given = accepted(function, self.params)
        if "generator" in filled_in:
            given["generator"] = TensorGenerator(self.seed, inputs.layer.name, inputs.first)
        if "trail" in filled_in:
            given["trail"] = self.trail.of(inputs.layer.name)
        return given


def accepted(function: Callable[..., Any], params: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the parameters that the function has as keywords."""
    known = _signature(function)
    return {name: value for name, value in params.items() if name in known}


@cache
def _signature(function: Callable[..., Any]) -> frozenset[str]:
    return frozenset(inspect.signature(function).parameters)


def arithmetic_dtype(sources: Sequence[TensorSource]) -> torch.dtype:
    """float64 where any tensor is, else float32."""
    wide = any(source.dtype(name) == torch.float64 for source in sources for name in source.names)
    return torch.float64 if wide else torch.float32


def is_finite(tensor: Tensor) -> Tensor:
    """Entry by entry; torch itself cannot say it of the 8-bit types."""
    return torch.isfinite(tensor.to(torch.float32) if tensor.dtype.itemsize == 1 else tensor)


def check_finite(name: str, tensor: Tensor, label: str) -> None:
    """Refuse NaN and infinity."""
    finite = is_finite(tensor)
    if not finite.all():
        bad = int((~finite).sum())
        raise MethodInputError(
            f"Tensor '{name}' in '{label}' has {bad} of {tensor.numel()} values that are NaN or infinite. "
            "Only finite weights can be merged. Train that checkpoint again or leave it out; list the tensor "
            "in `exclude` to leave it as in the base."
        )


def refuse_result(name: str, method: str, dtype: torch.dtype) -> NoReturn:
    """Say that a merge left the finite numbers."""
    raise MethodInputError(
        f"Tensor '{name}' merged by '{method}' left the finite numbers of {dtype}. "
        "Finite inputs must give a finite result. Lower the scale, or store the checkpoints in a wider dtype."
    )


def copy_equal(name: str, experts: Sequence[Tensor], labels: Sequence[str]) -> Tensor:
    """A tensor that is not floating, once it is seen to be the same in all experts."""
    for expert, label in zip(experts[1:], labels[1:], strict=True):
        if not torch.equal(expert, experts[0]):
            raise CheckpointMismatchError(
                f"Tensor '{name}' ({expert.dtype}) differs between experts '{labels[0]}' and '{label}'. "
                "Only floating tensors are merged; others must be equal in all experts. List the tensor in "
                "`exclude` to leave it as in the base."
            )
    return experts[0].clone()
