"""Merging state dicts in memory, through the same code as merging files."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from merge_lib import registry
from merge_lib.engine import Job, run_jobs
from merge_lib.equalising import Equalise, check_equalised
from merge_lib.errors import MethodInputError
from merge_lib.layer_scales import LayerScales
from merge_lib.learned import NOTHING_LEARNED, Learned, check_learned
from merge_lib.spec import check_base_is_there
from merge_lib.types import StateDict


@dataclass(frozen=True)
class NamedTensors:
    """A state dict as a source of tensors."""

    label: str
    tensors: StateDict

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the tensors, sorted."""
        return tuple(sorted(self.tensors))

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor."""
        return tuple(self.tensors[name].shape)

    def dtype(self, name: str) -> torch.dtype:
        """Element type of a tensor."""
        return self.tensors[name].dtype

    def tensor(self, name: str) -> Tensor:
        """The tensor itself, which nobody writes to."""
        return self.tensors[name].detach()


def merge(  # noqa: PLR0913 -- what a recipe has, and state dicts
    method: str,
    experts: Sequence[StateDict],
    base: StateDict | None = None,
    *,
    seed: int = 0,
    exclude: Sequence[str] = (),
    dtype: torch.dtype | None = None,
    learned: Learned = NOTHING_LEARNED,
    layer_scales: LayerScales | None = None,
    equalise: Equalise | None = None,
    **params: Any,
) -> dict[str, Tensor]:
    """Merge state dicts; the same mathematics and bytes as `merge_checkpoints` on files.

    Args:
        method: a registered name.
        experts: one state dict each, in order.
        base: what they were fine-tuned from; needed by methods on task vectors.
        seed: of randomised methods.
        exclude: names or patterns of tensors to leave as in the base.
        dtype: of floating tensors in the result; None: as in the base, without one as in the first expert.
        learned: what data said before the merge, for methods that need it.
        layer_scales: factors on the merged task vector by depth.
        equalise: "norms" brings all task vectors to their mean norm over the whole model before the merge.
        params: the method's parameters; those not given keep their defaults.

    Returns:
        The merged state dict, by sorted name, in memory of its own.

    Raises:
        UnknownMethodError: no method has that name.
        SpecError: a parameter is wrong, the base is missing, or the method has no task vectors to equalise.
        CheckpointMismatchError: names, shapes or dtypes differ.
        MethodInputError: there is no expert, or one is not finite.
    """
    info = registry.get(method)
    checked = info.check_params(params)
    if equalise is not None:
        check_equalised(method)
    if base is None:
        check_base_is_there(method, exclude=tuple(exclude), is_scaled=layer_scales is not None)
    check_learned(info, learned)
    if not experts:
        raise MethodInputError(
            f"Method '{method}' was given no expert. A merge needs at least one. Give `experts`."
        )
    sources = tuple(NamedTensors(f"expert {index}", tensors) for index, tensors in enumerate(experts))
    job = Job(
        info,
        checked,
        seed,
        tuple(range(len(sources))),
        tuple(exclude),
        dtype,
        learned,
        layer_scales,
        equalise,
    )
    base_source = None if base is None else NamedTensors("base", base)
    return {name: tensor for _, name, tensor in run_jobs([job], base_source, sources)}
