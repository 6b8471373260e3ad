"""Where the merging runs: the kernels on the CPU, or torch operations on a GPU. Imports torch only for the latter."""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from merge_lib.errors import SpecError
from merge_lib.streaming.planning import MergePlan, gather

KERNELS = "cpu"
_STAND_IN = "torch:cpu"
_REMEDY = f"or merge with the device '{KERNELS}', whose kernels need no torch."


@dataclass(frozen=True)
class Device:
    """What torch merges on.

    Attributes:
        torch_name: as torch calls it.
        label: as reports call it, such as "cuda (NVIDIA H100)".
    """

    torch_name: str
    label: str


def plan_for(make: Callable[[], MergePlan], device: str) -> MergePlan:
    """A plan that runs on a device.

    Args:
        make: makes the plan.
        device: "cpu" for the kernels, "cuda" or "cuda:1" for torch on a GPU, "torch:cpu" for torch on the CPU,
            which is there to check the others.

    Raises:
        MergeError: what is wrong with the plan, that there is no such device, or that the plan cannot run on it.
    """
    if device == KERNELS:
        return make()
    calls: tuple[Callable[[], Any], ...] = (make, partial(find_device, device))
    plan, found = gather(calls)
    if plan.why_torch:
        raise SpecError(
            f"Device '{device}': {plan.why_torch}, and only merges by methods with kernels run on a device. "
            "Merge with the device 'cpu'."
        )
    return replace(plan, device=found)


def find_device(name: str) -> Device:
    """The device of that name, ready for use.

    Raises:
        SpecError: there is no such device.
    """
    if name == _STAND_IN:
        import torch  # noqa: F401 -- its memory is counted from here on

        return Device("cpu", "torch on the CPU")
    if not re.fullmatch(r"cuda(:\d+)?", name):
        raise SpecError(
            f"Device '{name}' is not known. Give cpu, cuda, or cuda:N for the GPU with that number."
        )
    return _find_gpu(name)


def _find_gpu(name: str) -> Device:
    import torch

    if torch.version.cuda is None:
        raise SpecError(
            f"Device '{name}': torch {torch.__version__} is built without CUDA. Install a build with CUDA, "
            f"{_REMEDY}"
        )
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    index = int(name.partition(":")[2] or 0)
    if index >= count:
        raise SpecError(
            f"Device '{name}': torch {torch.__version__} sees {count} GPUs, counted from 0. Look at `nvidia-smi` and "
            f"at CUDA_VISIBLE_DEVICES, {_REMEDY}"
        )
    torch.empty(1, device=name)  # starts the driver, whose memory is counted from here on
    return Device(name, f"cuda ({torch.cuda.get_device_name(index)})")
