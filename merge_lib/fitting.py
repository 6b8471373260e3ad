"""Learning from data, before a merge, what a method takes as `fitted`."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from merge_lib import registry
from merge_lib.arithmetic import accepted
from merge_lib.errors import MethodInputError
from merge_lib.ops.cores import one_core
from merge_lib.probe import Probe
from merge_lib.types import StateDict

Progress = Callable[[int, int], None]


def fit(
    method: str,
    probe: Probe,
    tasks: Sequence[str],
    base: StateDict,
    experts: Sequence[StateDict],
    *,
    seed: int = 0,
    params: Mapping[str, Any] | None = None,
    progress: Progress = lambda _done, _all: None,
) -> dict[str, Tensor]:
    """What a method learns from data for a merge of these experts.

    Args:
        method: a registered name, of a method that takes `fitted`.
        probe: the workload; its model is kept in memory, with all experts.
        tasks: the task of each expert.
        base: state dict, as all experts'.
        experts: in the order of the tasks.
        seed: of what is drawn.
        params: the method's parameters; those not given keep their defaults.
        progress: told how many steps of how many are done.

    Returns:
        Tensors by tensor name, for `merge(…, learned=Learned(fitted=…))`.

    Raises:
        MethodInputError: numbers of tasks and experts differ, or what was learned is not finite.
    """
    info = registry.get(method)
    function = info.implementation.fit
    if function is None or len(tasks) != len(experts) or not experts:
        raise MethodInputError(
            f"Method '{method}' was asked to learn from {len(tasks)} tasks for {len(experts)} experts"
            f"{'' if function else ', but learns nothing'}. Give one task for each expert, and a method with `fit`."
        )
    checked = accepted(function, info.check_params(params or {}))
    with one_core():
        fitted = function(probe, tasks, base, experts, **checked, seed=seed, progress=progress)
    spoilt = sorted(name for name, tensor in fitted.items() if not torch.isfinite(tensor.float()).all())
    if spoilt:
        raise MethodInputError(
            f"What '{method}' learned for '{spoilt[0]}' and {len(spoilt) - 1} other tensors is not finite. "
            "Lower its learning rate, or give it fewer steps."
        )
    return fitted
