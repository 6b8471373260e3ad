"""What to do when a step does not fit into memory."""

import torch

SAID = ("DefaultCPUAllocator", "CUBLAS_STATUS_ALLOC_FAILED")  # by torch's allocator of the CPU, and by cuBLAS


def is_out_of_memory(failure: BaseException) -> bool:
    """Whether it says that the device, or the machine, has too little memory."""
    return isinstance(failure, torch.OutOfMemoryError | MemoryError) or any(
        words in str(failure) for words in SAID
    )


def give_back(device: torch.device) -> None:
    """Let the device have what torch keeps for later."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
