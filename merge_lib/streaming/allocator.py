"""How the C library keeps memory that was freed."""

import ctypes
import gc
import sys
from contextlib import suppress

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of mallopt
LARGE = 8 << 20  # bytes; the arrays of a piece are smaller, and are used again and again
KEPT = 16 << 20  # freed bytes at the end of a thread's memory that stay there


def give_back_freed_memory(large: int = LARGE, kept: int = KEPT) -> None:
    """From here on large blocks go back to the system as soon as they are freed.

    glibc otherwise keeps blocks of up to 32 MiB for later, in places that later ones need not fit into, so that the
    resident size is more than what is in use. Elsewhere than on Linux with glibc nothing changes.

    Args:
        large: blocks of so many bytes and more.
        kept: of smaller ones, how much that is free may stay at the end of each thread's memory.
    """
    if not sys.platform.startswith("linux"):
        return
    try:
        library = ctypes.CDLL(None)
        library.mallopt(_M_MMAP_THRESHOLD, large)
        library.mallopt(_M_TRIM_THRESHOLD, kept)
    except (OSError, AttributeError):  # another C library
        return


def trim_freed_memory() -> None:
    """Give back now what was freed earlier and kept, wherever it lies between blocks that are in use."""
    gc.collect()
    if sys.platform.startswith("linux"):
        with suppress(OSError, AttributeError):  # another C library
            ctypes.CDLL(None).malloc_trim(0)
