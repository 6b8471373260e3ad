"""One core for torch while a merge runs: products and decompositions round differently on several."""

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock

import torch

_lock = Lock()
_running = 0
_before = 1


@contextmanager
def one_core() -> Iterator[None]:
    """Torch uses one thread of its own from the first to the last of overlapping merges of this process."""
    global _running, _before  # noqa: PLW0603 -- the setting is the process's, too
    with _lock:
        if _running == 0:
            _before = torch.get_num_threads()
            torch.set_num_threads(1)
        _running += 1
    try:
        yield
    finally:
        with _lock:
            _running -= 1
            if _running == 0:
                torch.set_num_threads(_before)
