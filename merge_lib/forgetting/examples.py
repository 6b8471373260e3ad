"""Examples that merges forgot, as people see them: which are shown, and which are forgotten most often."""

import base64
import io
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from merge_lib.errors import DataError
from merge_lib.probe import Batch, Picturing, Probe, Showing, Split, Telling
from merge_lib.results import ForgottenExample

SHOWN = 8  # of each task
_LARGEST = 64  # pixels of a side; larger pictures are made smaller
_LONGEST = 400  # letters of a text; longer ones are cut
_DIGITS = 6  # of a probability that count in an order


@dataclass(frozen=True)
class Shown:
    """One example as a PNG, as text, or neither."""

    picture: bytes | None = None
    text: str | None = None


def choose(is_forgotten: np.ndarray, sure: np.ndarray, places: np.ndarray, count: int) -> list[int]:
    """Rows of the forgotten examples that the expert was surest of; of equally sure ones the first in their split."""
    rows = np.flatnonzero(is_forgotten).tolist()
    return sorted(rows, key=lambda row: (-round(float(sure[row]), _DIGITS), places[row]))[:count]


def show(
    probe: Probe, task: str, rows: Sequence[int], *, split: Split, seed: int, size: int, count: int
) -> dict[int, Shown]:
    """The examples in these rows of the probe's order; none where the probe cannot show them."""
    if not isinstance(probe, Showing) or not rows:
        return {}
    wanted, found, start = sorted(rows), {}, 0
    for batch in probe.batches(task, split=split, count=count, seed=seed, size=size):
        end = start + len(batch.labels)
        found |= {row: _shown(probe, batch, row - start) for row in wanted if start <= row < end}
        start = end
        if end > wanted[-1]:
            break
    return found


def _shown(probe: Showing, batch: Batch, row: int) -> Shown:
    picture = png(probe.picture(batch.inputs, row)) if isinstance(probe, Picturing) else None
    text = _cut(probe.text(batch.inputs, row)) if isinstance(probe, Telling) else None
    return Shown(picture, text)


def png(picture: np.ndarray) -> bytes:
    """A picture of at most 64 pixels a side as PNG.

    Raises:
        DataError: it is not uint8, [h, w] or [h, w, 3].
    """
    from PIL import Image

    if picture.dtype != np.uint8 or picture.ndim not in (2, 3) or picture.shape[2:] not in ((), (3,)):
        raise DataError(
            f"A picture is {picture.dtype} of shape {picture.shape}, but must be uint8, [h, w] or [h, w, 3]. "
            "Correct `picture` of the workload's probe."
        )
    image = Image.fromarray(np.ascontiguousarray(picture))
    if max(image.size) > _LARGEST:
        image.thumbnail((_LARGEST, _LARGEST), Image.Resampling.BOX)
    file = io.BytesIO()
    image.save(file, "PNG", optimize=True)
    return file.getvalue()


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"


@dataclass
class _Case:
    """One example over several merges."""

    task: str
    example: int
    truth: str
    answers: Counter = field(default_factory=Counter)
    sure: float = 0.0  # summed over the merges
    shown: Shown = Shown()

    @property
    def order(self) -> tuple:
        """What was forgotten by most merges comes first, then what experts were surest of."""
        return -self.answers.total(), -round(self.sure / self.answers.total(), _DIGITS), self.example


def often_forgotten(tables: Iterable[pa.Table], count: int = SHOWN) -> list[ForgottenExample]:
    """The examples that most merges forgot, for each task in the tables' order.

    Where some of a task's examples can be shown, only those are named.

    Args:
        tables: the answers of one merge each, on the same tasks.
        count: how many of each task at most.
    """
    cases: dict[str, dict[int, _Case]] = {}
    merges = 0
    for table in tables:
        merges += 1
        for task in dict.fromkeys(table.column("task").to_pylist()):
            cases.setdefault(task, {})
        _count(table, cases)
    found = []
    for known in cases.values():
        some = list(known.values())
        can_be_shown = [case for case in some if case.shown != Shown()]
        ordered = sorted(can_be_shown or some, key=lambda case: case.order)
        found += [_named(case, merges) for case in ordered[:count]]
    return found


def _count(table: pa.Table, cases: Mapping[str, dict[int, _Case]]) -> None:
    """Add what one merge forgot."""
    is_forgotten = [change == "forgotten" for change in table.column("change").to_pylist()]
    for line in table.filter(pa.array(is_forgotten)).to_pylist():
        known = cases[line["task"]]
        case = known.setdefault(line["example"], _Case(line["task"], line["example"], line["truth"]))
        case.answers[line["merge"]] += 1
        case.sure += line["sure"]
        if line["picture"] is not None or line["text"] is not None:
            case.shown = Shown(line["picture"], line["text"])


def _named(case: _Case, merges: int) -> ForgottenExample:
    answer = min(case.answers, key=lambda word: (-case.answers[word], word))
    picture = base64.b64encode(case.shown.picture or b"").decode()
    return ForgottenExample(
        case.task,
        case.example,
        case.truth,
        answer,
        case.answers.total(),
        merges,
        picture,
        case.shown.text or "",
    )
