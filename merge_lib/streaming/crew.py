"""Threads that share a room: each takes the next piece as soon as what it needs fits."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from threading import Condition, Event, Lock
from typing import Any, TypeVar

import torch

from merge_lib.streaming.cutting import Part
from merge_lib.streaming.hashing import Turns
from merge_lib.streaming.scanning import run_all

T = TypeVar("T")


@dataclass
class Crew:
    """Threads of one merge, each with one core of torch's.

    Attributes:
        pool: has as many threads.
        room_bytes: that the pieces under way may need together; a piece alone always goes in.
        stop: set when one thread fails.
    """

    threads: int
    pool: ThreadPoolExecutor
    stop: Event
    room_bytes: int | None = None
    _used: int = 0
    _order: Lock = field(default_factory=Lock)
    _changed: Condition = field(default_factory=Condition)

    def each(
        self, parts: Iterable[Part], act: Callable[[int, int, Part], None], threads: int | None = None
    ) -> None:
        """Act on every part.

        Args:
            parts: are taken in order.
            act: is given the place of the thread, the place of the part, and the part.
            threads: fewer than there are.
        """
        taken = enumerate(parts)

        def drain(thread: int) -> None:
            torch.set_num_threads(1)  # is the thread's own, too
            while (item := self._next(taken)) is not None:
                try:
                    act(thread, *item)
                finally:
                    self._leave(item[1])

        count = threads or self.threads
        run_all([lambda place=place: drain(place) for place in range(count)], self.pool, self.stop)

    def in_order(
        self, parts: Iterable[Part], act: Callable[[Part], T], keep: Callable[[Part, T], Any]
    ) -> None:
        """Act side by side, and keep what comes of it in the order of the parts."""
        turns = Turns()

        def do(_: int, place: int, part: Part) -> None:
            found = act(part)
            turns.take(place, lambda: keep(part, found), self.stop)

        self.each(parts, do)

    def _next(self, parts: Iterator[tuple[int, Part]]) -> tuple[int, Part] | None:
        """The next part, once there is room for it; threads take and wait one after another."""
        with self._order:
            item = None if self.stop.is_set() else next(parts, None)
            if item is None:
                return None
            with self._changed:
                while not self._fits(item[1]) and not self.stop.is_set():
                    self._changed.wait(0.1)
                self._used += item[1].need_bytes
            return item

    def _fits(self, part: Part) -> bool:
        return self.room_bytes is None or not self._used or self._used + part.need_bytes <= self.room_bytes

    def _leave(self, part: Part) -> None:
        with self._changed:
            self._used -= part.need_bytes
            self._changed.notify_all()
