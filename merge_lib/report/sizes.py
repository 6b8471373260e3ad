"""Bytes in print."""

from merge_lib.report.layout import UNDEFINED, Cell
from merge_lib.results import CheckpointRef


def bytes_text(size: float) -> str:
    """A size in the unit that reads best."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= factor:
            return f"{size / factor:.1f} {unit}"
    return f"{size:.0f} B"


def bytes_cell(size: int) -> Cell:
    """A size, in full on hover."""
    return Cell(bytes_text(size), f"{size} bytes")


def size_cell(ref: CheckpointRef | None) -> Cell:
    """The size of a checkpoint's file."""
    if ref is None:
        return Cell(UNDEFINED, "no checkpoint recorded")
    if ref.path is None:
        return Cell("not kept", f"{ref.size_bytes} bytes of tensors, evaluated as they were made")
    return bytes_cell(ref.size_bytes)
