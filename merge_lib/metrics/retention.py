"""How much of what an expert gained is left in a merge: of a cue, or of a task."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from merge_lib.errors import MetricInputError

LEAST_GAIN = 0.05  # an expert that gained less says nothing about what a merge kept of its gain
ROUNDING = 1e-9  # 0.85 - 0.80 is five points, though not in binary


@dataclass(frozen=True)
class Retention:
    """A retention score, or why there is none."""

    value: float | None  # 1: the expert's gain is kept, 0: back to the base; above 1 or below 0 is possible
    reason: str = ""  # empty where there is a value


def retention_score(merged: float | None, base: float | None, expert: float | None) -> Retention:
    """Share of the expert's gain over the base that the merge has.

    R = (A(merged) - A(base)) / (A(expert) - A(base)), all with the same cue on the same images.

    Variant: the base is measured on the *stamped* images, where the patch hides part of the image; refused, rather
        than blown up, where the expert gained less than 5 points.
    Reference: none; the study of Hess et al. (arXiv:2507.23311) shows the accuracies themselves.

    Args:
        merged: accuracy of the merge, in [0, 1]; None where it was not measured.
        base: of the base that both come from.
        expert: of the expert trained with the cue.

    Raises:
        MetricInputError: an accuracy is not in [0, 1].
    """
    given = {"merge": merged, "base": base, "expert": expert}
    wrong = {name: value for name, value in given.items() if _is_measured(value) and not 0.0 <= value <= 1.0}
    if wrong:
        told = ", ".join(f"{value} for the {name}" for name, value in wrong.items())
        raise MetricInputError(f"Accuracies are shares in [0, 1], got {told}. Divide percentages by 100.")
    if missing := [name for name, value in given.items() if not _is_measured(value)]:
        return Retention(None, f"the accuracy of the {' and the '.join(missing)} was not measured")
    gained = expert - base
    if gained < LEAST_GAIN - ROUNDING:
        return Retention(
            None,
            f"the expert gained {100 * gained:.1f} points over the base, and a share of less than "
            f"{100 * LEAST_GAIN:.0f} says nothing",
        )
    return Retention((merged - base) / gained)


def retention_scores(
    merged: Sequence[float | None], base: float | None, expert: float | None
) -> list[Retention]:
    """The score of each merge along a curve, with the same base and expert."""
    return [retention_score(value, base, expert) for value in merged]


def _is_measured(value: float | None) -> bool:
    return value is not None and not math.isnan(value)
