"""Digests that are taken while pieces pass, in the order of the pieces."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from threading import Condition, Event

import xxhash

from merge_lib.streaming.planning import Work


@dataclass
class Turns:
    """Pieces are hashed in their order, whichever thread has made them."""

    next: int = 0
    changed: Condition = field(default_factory=Condition)

    def take(self, index: int, act: Callable[[], None], stop: Event) -> None:
        """Act once all pieces before have had their turn."""
        with self.changed:
            while self.next != index and not stop.is_set():
                self.changed.wait(0.1)
        act()
        with self.changed:
            self.next += 1
            self.changed.notify_all()


class Hashes:
    """The digests of a tensor's inputs and of the results made of it, taken piece by piece."""

    def __init__(self, work: Work, outputs: int, known: Sequence[str | None]) -> None:
        self._found = list(known)
        self._inputs = {
            place: xxhash.xxh3_128()
            for place, header in enumerate(work.inputs)
            if header is not None and known[place] is None
        }
        self._outputs = [xxhash.xxh3_128() for _ in range(outputs)]

    @property
    def wanted(self) -> set[int]:
        """The inputs that must be read to be hashed."""
        return set(self._inputs)

    def add_input(self, place: int, view: memoryview) -> None:
        """Add the next piece of one input."""
        if place in self._inputs:
            self._inputs[place].update(view)

    def update_output(self, place: int, view: memoryview) -> None:
        """Add the next piece of one result."""
        self._outputs[place].update(view)

    def tell_input(self, place: int, digest: str | None) -> None:
        """Take a digest that was found elsewhere."""
        self._inputs.pop(place, None)
        self._found[place] = digest

    def update(self, inputs: Sequence[memoryview | None], outputs: Mapping[int, memoryview]) -> None:
        """Add the next piece."""
        for place, hashed in self._inputs.items():
            hashed.update(inputs[place])  # type: ignore[arg-type]
        for place, view in outputs.items():
            self._outputs[place].update(view)

    def inputs_are_done(self) -> None:
        """All their pieces were added."""
        for place, hashed in self._inputs.items():
            self._found[place] = hashed.hexdigest()
        self._inputs = {}

    def outputs(self) -> list[str]:
        """Of each result."""
        return [hashed.hexdigest() for hashed in self._outputs]

    def inputs(self) -> list[str | None]:
        """Of each input; None where there is none."""
        return self._found
