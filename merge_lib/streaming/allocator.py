"""How the C library keeps memory that was freed."""

import ctypes
import sys

_M_MMAP_THRESHOLD = -3  # of mallopt
_AT_LEAST = 1 << 20  # bytes


def give_back_freed_memory() -> None:
    """From here on blocks of a megabyte and more go back to the system as soon as they are freed.

    glibc otherwise keeps them for later, in places that later blocks need not fit into, so that the resident size
    is more than what is in use. Elsewhere than on Linux with glibc nothing changes.
    """
    if not sys.platform.startswith("linux"):
        return
    try:
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, _AT_LEAST)
    except (OSError, AttributeError):  # another C library
        return
