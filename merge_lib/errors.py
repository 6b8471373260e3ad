"""The exceptions of Mergeline.

    MergeError
    ├── SpecError (ValueError)               a study, recipe or parameter is wrong
    │   └── UnknownMethodError (LookupError) no method, workload or task of that name
    ├── MethodInputError (ValueError)        tensors that a method cannot merge
    ├── MetricInputError (ValueError)        numbers that a metric or a test cannot be computed from
    ├── DataError                            a data snapshot is missing or wrong
    ├── TrainingError                        an expert diverged
    └── CheckpointError                      a checkpoint cannot be used
        ├── CheckpointMismatchError          names, shapes or dtypes differ between checkpoints
        └── CheckpointCorruptError           truncated, unreadable or changed since it was recorded

A message says which rule was broken, where, what was got, what was expected and what to do.
"""

from collections.abc import Iterable
from difflib import get_close_matches


class MergeError(Exception):
    """Anything that Mergeline refuses or fails to do."""


class SpecError(MergeError, ValueError):
    """A study, a recipe or a parameter is wrong."""


class UnknownMethodError(SpecError, LookupError):
    """No method, workload or task has that name."""


class MethodInputError(MergeError, ValueError):
    """A method was given tensors that it cannot merge."""


class MetricInputError(MergeError, ValueError):
    """A metric or a statistical test was given numbers of the wrong shape or kind."""


class DataError(MergeError):
    """A data snapshot is missing, unreadable or not what it should hold."""


class TrainingError(MergeError):
    """Training stopped because the loss left the finite numbers."""


class CheckpointError(MergeError):
    """A checkpoint cannot be used."""


class CheckpointMismatchError(CheckpointError):
    """Checkpoints that should be merged differ in names, shapes or dtypes."""


class CheckpointCorruptError(CheckpointError):
    """A checkpoint is truncated, unreadable or not what was recorded of it."""


def suggest(name: str, known: Iterable[str]) -> str:
    """The end of an error message: the nearest known name, if one is near, and all of them."""
    choices = sorted(known)
    near = get_close_matches(name, choices, n=1, cutoff=0.5)
    hint = f"did you mean '{near[0]}'? " if near else ""
    return f"{hint}known: {', '.join(choices)}"
