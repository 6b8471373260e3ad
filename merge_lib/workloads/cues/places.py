"""What tasks are called and where their patches lie: pure arithmetic, without torch and numpy.

A task is called by its cue's family and number: `colour`, `noise`, `colour-2`, `noise-2`, … The name alone decides
place and patterns, so a task is the same whatever other tasks a study has.
"""

from dataclasses import dataclass
from math import floor
from typing import Literal

from merge_lib.errors import SpecError

Family = Literal["colour", "noise"]
FAMILIES: tuple[Family, ...] = ("colour", "noise")  # of patches on images
MOST = 10  # cues of a family

Place = tuple[int, int]  # row and column of a patch's first pixel


@dataclass(frozen=True)
class CueName:
    """A task's name, taken apart."""

    family: str
    number: int  # from 1
    families: tuple[str, ...] = FAMILIES  # that there are

    @classmethod
    def parse(cls, task: str, families: tuple[str, ...] = FAMILIES) -> "CueName":
        """Of `colour`, `colour-2` and so on.

        Raises:
            SpecError: it is no such name.
        """
        family, dash, digits = task.partition("-")
        number = int(digits) if digits.isdecimal() and digits.isascii() else 0
        is_number = 2 <= number <= MOST and digits == str(number) if dash else digits == ""
        if family not in families or not is_number:
            known = ", ".join(f"{name}, {name}-2 to {name}-{MOST}" for name in families)
            msg = f"Task '{task}' is no cue. A task of this workload is called by its cue: {known}."
            raise SpecError(msg)
        return cls(family, number if dash else 1, families)

    @property
    def place(self) -> int:
        """Position among the places of an image, families by turns: 0 is `colour`, 1 `noise`, 2 `colour-2`."""
        return len(self.families) * (self.number - 1) + self.families.index(self.family)


def name_at(place: int) -> str:
    """The task whose patch has that place."""
    number, family = divmod(place, len(FAMILIES))
    return FAMILIES[family] if number == 0 else f"{FAMILIES[family]}-{number + 1}"


def side_of(image_size: int, share: float) -> int:
    """The side of a patch in pixels, halves rounded up."""
    return floor(image_size * share + 0.5)


def places(image_size: int, side: int) -> list[Place]:
    """Where patches fit around the border without touching one another: first the corners, then clockwise.

    Args:
        image_size: side of the image in pixels.
        side: of a patch, at most half of the image's.

    Returns:
        First pixels of 4 (c - 1) patches, where c = image_size // side are as many as fit in a row.
    """
    last = image_size // side - 1
    at = [round(cell * (image_size - side) / last) for cell in range(last + 1)]
    corners = [(0, 0), (last, last), (0, last), (last, 0)]
    between = range(1, last)
    ring = [
        *((0, cell) for cell in between),
        *((cell, last) for cell in between),
        *((last, last - cell) for cell in between),
        *((last - cell, 0) for cell in between),
    ]
    return [(at[row], at[column]) for row, column in corners + ring]


def check_room(tasks: tuple[str, ...], image_size: int, side: int, *, spare: int) -> None:
    """Refuse tasks whose patches would lie over one another.

    Args:
        tasks: names of cues.
        image_size: side of the image in pixels.
        side: of a patch.
        spare: places that others need: 1 for a cue that all tasks share beside their own, else 0.

    Raises:
        SpecError: they do not fit; says how many do, and with which patches all would.
    """
    needed = max(CueName.parse(task).place for task in tasks) + 1 + spare
    room = len(places(image_size, side))
    if needed <= room:
        return
    fitting = next((s for s in range(side, 1, -1) if len(places(image_size, s)) >= needed), None)
    remedy = (
        f"Set `cue.share` to at most {floor(1000 * fitting / image_size) / 1000:g}"
        if fitting
        else "Enlarge the images"
    )
    most = room - spare
    msg = (
        f"Tasks up to '{name_at(needed - spare - 1)}' need {needed} places for patches, but at {image_size} × "
        f"{image_size} pixels only {room} patches of {side} pixels fit around the border without overlapping, so there "
        f"can be at most {most} tasks, up to '{name_at(most - 1)}'. {remedy}, or leave tasks out."
    )
    raise SpecError(msg)
