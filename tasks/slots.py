"""How much is computed at once in this process, and with how many threads each.

Prefect's threads also wait for one another's results; only what holds a slot computes.
"""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import psutil

from tasks.progress import check_stop

MOST_BY_DEFAULT = 4


class _Slots:
    """The slots of this process."""

    def __init__(self) -> None:
        self.count = 0
        self.free = threading.Semaphore(0)
        self.torch_threads = 1

    def configure(self, parallel: int | None, threads: int) -> None:
        """Set the number of slots and of torch's threads in each; called before the work starts."""
        self.count = parallel or min(available_cores(), MOST_BY_DEFAULT)
        self.free = threading.Semaphore(self.count)
        self.torch_threads = threads


_slots = _Slots()
configure = _slots.configure


@contextmanager
def compute_slot() -> Iterator[None]:
    """Wait for a slot, hold it; a stop that was requested meanwhile is raised."""
    import torch

    if _slots.count == 0:
        configure(None, 1)
    with _slots.free:
        check_stop()
        if torch.get_num_threads() != _slots.torch_threads:
            torch.set_num_threads(_slots.torch_threads)
        yield


@contextmanager
def sole_worker(key: str) -> Iterator[None]:
    """Only one thread of this process works on a key at a time; the next one finds the work finished."""
    with _guard:
        lock, holders = _locks.get(key, (threading.Lock(), 0))
        _locks[key] = (lock, holders + 1)
    try:
        with lock:
            yield
    finally:
        with _guard:
            lock, holders = _locks.pop(key)
            if holders > 1:
                _locks[key] = (lock, holders - 1)


_guard = threading.Lock()
_locks: dict[str, tuple[threading.Lock, int]] = {}


def memory_share() -> int:
    """Bytes of results that what holds a slot may have in memory: of half of what is free, each slot's part."""
    return psutil.virtual_memory().available // (2 * max(_slots.count, 1))


def available_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
