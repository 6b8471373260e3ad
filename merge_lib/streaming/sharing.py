"""Which tensors of several merges are made from one reading of their inputs."""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from merge_lib.files.headers import TensorHeader
from merge_lib.streaming.planning import MergePlan, Work

if TYPE_CHECKING:
    from merge_lib.streaming.calls import Call

_Parts = list[tuple[int, Work]]  # the number of a merge, and what it makes


@dataclass(frozen=True)
class Places:
    """Where bytes lie: one file has one place, however its path is spelled."""

    files: Mapping[Path, str]  # only where a merge is not alone

    @classmethod
    def of(cls, merges: Sequence[Sequence[Work]]) -> "Places":
        """For all inputs of some merges; the paths of one merge are taken as they are."""
        if len(merges) == 1:
            return cls({})
        headers = (header for works in merges for work in works for header in work.inputs)
        paths = {header.path for header in headers if header is not None and header.path is not None}
        return cls({path: os.path.realpath(path) for path in paths})

    def of_tensor(self, header: TensorHeader) -> tuple[Any, int]:
        """The file, and where in it the tensor begins."""
        return self.files.get(header.path, header.path), header.offset  # type: ignore[arg-type]


@dataclass(frozen=True)
class Reading:
    """Tensors of several results that are made from one reading.

    Attributes:
        work: a tensor with the inputs of all parts.
        parts: the number of the merge, and what it makes.
    """

    work: Work
    parts: _Parts
    places: Places

    def widened(self, work: Work) -> Work:
        """A part with the inputs of all."""
        return work if work.inputs == self.work.inputs else replace(work, inputs=self.work.inputs)

    def moved(self, call: "Call", work: Work) -> "Call":
        """A call on a part's inputs as one on those of all."""
        if work.inputs == self.work.inputs:
            return call
        own = self._own(work)
        return replace(call, places=tuple(place if place < 0 else own[place] for place in call.places))

    def digests_of(self, work: Work, digests: Sequence[str | None]) -> list[str | None]:
        """Of a part's inputs, from those of all."""
        return [None if place < 0 else digests[place] for place in self._own(work)]

    def _own(self, work: Work) -> Sequence[int]:
        """Where each input of a part is among those of all; −1 where there is none."""
        if work.inputs == self.work.inputs:
            return range(len(work.inputs))
        found = {
            self.places.of_tensor(header): place
            for place, header in enumerate(self.work.inputs)
            if header is not None
        }
        return [
            -1 if header is None else found.get(self.places.of_tensor(header), -1) for header in work.inputs
        ]


def share_readings(merges: Sequence[Sequence[Work]]) -> list[Reading]:
    """Put together what is made of the same inputs, and merged tensors of one name that have an input in common.

    So one merge may leave out the base or an expert of another and still share its reading. Where merges have only
    some inputs in common, all their inputs are read side by side.

    Args:
        merges: what each of them has left to do.

    Returns:
        Every work once.
    """
    places = Places.of(merges)
    if len(merges) == 1:
        return [_reading([parts], places) for parts in _alike(merges, places)]
    found: list[list[_Parts]] = []
    near: dict[str, list[tuple[set[Any], list[_Parts]]]] = {}
    for parts in _alike(merges, places):
        work = parts[0][1]
        own = {places.of_tensor(header) for header in work.inputs if header is not None}
        others = near.setdefault(work.name, []) if work.kind == "merge" and work.count else []
        joined = next((entry for entry in others if entry[0] & own), None)
        if joined is None:
            found.append([parts])
            others.append((own, found[-1]))
        else:
            joined[0].update(own)
            joined[1].append(parts)
    return [_reading(together, places) for together in found]


def count_rows(merges: Sequence[Sequence[Work]]) -> tuple[int, int]:
    """The most inputs and the most results that a reading has."""
    if len(merges) == 1:  # equal inputs are the same objects there
        inputs = Counter(tuple(map(id, work.inputs)) for work in merges[0])
        return max(map(len, inputs), default=1), max(inputs.values(), default=1)
    readings = share_readings(merges)
    most = max((len(reading.work.inputs) for reading in readings), default=1)
    return most, max((len(reading.parts) for reading in readings), default=1)


def planned_bytes(plans: Sequence[MergePlan]) -> int:
    """Bytes that merges with kernels read together: one reading, and their further passes each by itself."""
    together = [plan.works for plan in plans]
    shared = sum(reading.work.read_bytes for reading in share_readings(together)) if plans else 0
    return shared + sum((plan.passes - 1) * sum(work.read_bytes for work in plan.works) for plan in plans)


def _alike(merges: Sequence[Sequence[Work]], places: Places) -> list[_Parts]:
    """What is made of exactly the same; empty tensors, which may lie at one place, each by itself."""
    found: dict[Any, _Parts] = {}
    for index, works in enumerate(merges):
        for work in works:
            inputs = (header and places.of_tensor(header) for header in _read_inputs(work))
            key = (work.kind, "" if work.count else work.name, *inputs)
            found.setdefault(key, []).append((index, work))
    return list(found.values())


def _read_inputs(work: Work) -> Sequence[TensorHeader | None]:
    """Without those that only a merge has a use for."""
    return {"merge": work.inputs, "copy": work.inputs[:1], "equal": work.inputs[1:]}[work.kind]


def _reading(together: Sequence[_Parts], places: Places) -> Reading:
    parts = [part for alike in together for part in alike]
    work = parts[0][1]
    if len(together) > 1:
        headers = (header for alike in together for header in alike[0][1].inputs if header is not None)
        union = {places.of_tensor(header): header for header in headers}
        work = replace(work, inputs=tuple(union.values()))
    return Reading(work, parts, places)
