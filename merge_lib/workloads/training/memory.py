"""What to do when a step does not fit into memory."""

import torch

ON_CPU = "DefaultCPUAllocator"  # how torch's own allocator of the CPU begins its message


def is_out_of_memory(failure: BaseException) -> bool:
    """Whether it says that the device, or the machine, has too little memory."""
    return isinstance(failure, torch.OutOfMemoryError | MemoryError) or ON_CPU in str(failure)


def give_back(device: torch.device) -> None:
    """Let the device have what torch keeps for later."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
