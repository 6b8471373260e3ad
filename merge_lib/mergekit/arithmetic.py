"""mergekit's variants in torch, tensor by tensor: the reference of the kernels."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from importlib import import_module
from typing import Any, NoReturn

import torch
import xxhash
from torch import Tensor

from merge_lib.arithmetic import is_finite, refuse_result
from merge_lib.checkpoints.digest import raw_bytes
from merge_lib.checkpoints.dtypes import DTYPES
from merge_lib.engine import DigestedCheckpoint
from merge_lib.errors import CheckpointMismatchError, MergeError, MethodInputError
from merge_lib.files.headers import TensorHeader
from merge_lib.mergekit.signatures import SIGNATURES
from merge_lib.ops.chance import TensorGenerator
from merge_lib.streaming.cutting import Part
from merge_lib.streaming.planning import MergePlan, Work
from merge_lib.streaming.torch_route import Making, bare_digest, opened

Homes = Mapping[tuple[Any, str], tuple[str, DigestedCheckpoint]]


class MergekitReference:
    """The torch functions for a plan of a mergekit recipe."""

    def make(self, making: Making) -> None:
        """Whole tensors, each on one of several threads, which have readers of their own."""
        plan, cutting, crew = making.plan, making.cutting, making.crew
        with ExitStack() as stack:
            homes = [_homes(plan, stack) for _ in range(crew.threads)]

            def act(thread: int, _place: int, part: Part) -> None:
                work = part.work
                data = raw_bytes(_merge_work(work, homes[thread], plan.seed))
                making.sink.write(work.name, 0, data)
                digests = [header and _digest(header, homes[thread]) for header in work.inputs]
                making.finish(work, xxhash.xxh3_128_hexdigest(data), digests)

            crew.each((part for work in making.left for part in cutting.parts(work)), act)

    def refuse(self, plan: MergePlan, work: Work) -> NoReturn:
        """Say which input is not finite, or that the result is not."""
        with ExitStack() as stack:
            _merge_work(work, _homes(plan, stack), plan.seed)
        refuse_result(work.name, work.method, DTYPES[work.dtype])


def _homes(plan: MergePlan, stack: ExitStack) -> Homes:
    """For each input's tensor its model, open until the stack closes."""
    readers = stack.enter_context(opened(plan.sources))
    return {
        header.key: (source.label, reader)
        for source, reader in zip(plan.sources, readers, strict=True)
        for header in source.tensors.values()
    }


def merge_tensor(work: Work, base: Tensor | None, experts: Sequence[Tensor], *, seed: int) -> Tensor:
    """The tensor of the result.

    Args:
        work: what to make; its method is one of mergekit's.
        base: [*shape], floating; None for methods without one.
        experts: [*shape] each, floating.
        seed: of randomised methods.

    Returns:
        [*shape], in the work's dtype.

    Raises:
        MethodInputError: the result is not finite.
    """
    arithmetic = DTYPES[work.arithmetic]
    rows = torch.stack([expert.to(arithmetic) for expert in experts])
    try:
        merged = apply(work, rows, None if base is None else base.to(arithmetic), seed=seed)
    except MergeError as exc:
        exc.add_note(f"in method '{work.method}', tensor '{work.name}'")
        raise
    stored = merged.to(DTYPES[work.dtype])
    if not is_finite(stored).all():
        refuse_result(work.name, work.method, stored.dtype)
    return stored


def apply(work: Work, experts: Tensor, base: Tensor | None, *, seed: int) -> Tensor:
    """Call the method's function."""
    signature = SIGNATURES[work.method.removeprefix("mergekit.")]
    module, _, name = signature.function.partition(".")
    function = getattr(import_module(f"merge_lib.mergekit.methods.{module}"), name)
    keywords: dict[str, Any] = dict(work.params)
    if signature.randomised:
        keywords["generator"] = TensorGenerator(seed, work.name)
    takes_base = signature.base != "a model"
    return function(experts, base, **keywords) if takes_base else function(experts, **keywords)


def _merge_work(work: Work, homes: Homes, seed: int) -> Tensor:
    tensors = [header and _read(header, homes) for header in work.inputs]
    if work.kind == "equal":
        return _same(work, [tensor for tensor in tensors if tensor is not None])
    return merge_tensor(work, tensors[0], tensors[1:], seed=seed)  # type: ignore[arg-type]


def _read(header: TensorHeader, homes: Homes) -> Tensor:
    label, reader = homes[header.key]
    tensor = reader.tensor(header.name)
    if tensor.is_floating_point() and not is_finite(tensor).all():
        raise MethodInputError(
            f"Tensor '{header.name}' of model '{label}' has values that are NaN or infinite. Only finite weights "
            "can be merged. Leave that model out."
        )
    return tensor


def _digest(header: TensorHeader, homes: Homes) -> str:
    return bare_digest(homes[header.key][1].known_digest(header.name))  # type: ignore[arg-type]


def _same(work: Work, tensors: Sequence[Tensor]) -> Tensor:
    if any(not torch.equal(tensor, tensors[0]) for tensor in tensors[1:]):
        raise CheckpointMismatchError(
            f"Tensor '{work.name}' ({work.dtype}) differs between the models. Only floating tensors are "
            "merged; others must be equal. Merge models that share it."
        )
    return tensors[0]
