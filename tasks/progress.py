"""Where the work reports how far it is, and where it learns that it should stop."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from merge_lib.errors import MergeError


class StoppedError(MergeError):
    """The user asked to stop; what was finished is kept."""


@dataclass(frozen=True)
class Step:
    """One piece of work: a training, a merge of one stage, an evaluation."""

    kind: str
    label: str
    share_done: float  # from 0 to 1
    reused: bool = False


_listeners: list[Callable[[Step], None]] = []
_stop = threading.Event()
_at_steps = threading.Event()


def listen(listener: Callable[[Step], None]) -> Callable[[], None]:
    """Call the listener on every step; returns the call that ends it."""
    _listeners.append(listener)
    return lambda: _listeners.remove(listener)


def report(step: Step) -> None:
    """Tell the listeners; raises StoppedError when a stop was requested."""
    check_stop()
    tell(step)


def tell(step: Step) -> None:
    """Tell the listeners, also of what is still done after a stop was requested."""
    for listener in list(_listeners):
        listener(step)


def check_stop() -> None:
    """Raise StoppedError when a stop was requested."""
    if _stop.is_set():
        raise StoppedError("Stopped on request. What was finished is kept.")


def request_stop() -> bool:
    """Make the work stop at its next report; True if something is under way that ends by that."""
    _stop.set()
    return _at_steps.is_set()


def is_stopping() -> bool:
    """Whether a stop was requested."""
    return _stop.is_set()


@contextmanager
def stopping_at_steps() -> Iterator[None]:
    """What waits for steps inside is not to be broken off: it ends when they do, soon after a stop was requested.

    Raises:
        StoppedError: a stop was requested meanwhile.
    """
    _at_steps.set()
    try:
        yield
    finally:
        _at_steps.clear()
    check_stop()


def allow_work() -> None:
    """Forget an earlier request to stop."""
    _stop.clear()


def reporter(kind: str, label: str) -> Callable[[int, int], None]:
    """A callback for loops that count steps: (done, in all)."""
    return lambda done, total: report(Step(kind, label, done / max(total, 1)))
