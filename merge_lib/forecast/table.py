"""The training table: a row for each merge and task, with its features and what the task lost."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from merge_lib.errors import CheckpointCorruptError
from merge_lib.forecast.answers import INPUT_NAMES
from merge_lib.forecast.features import NAMES, Features

TOLD = ("study", "workload", "scenario", "regime", "label", "method", "task")
COUNTS = ("seed", "experts", "position")
MEASURED = ("expert accuracy", "merge accuracy", "loss")  # shares; the loss in points


@dataclass(frozen=True)
class Line:
    """One merge and task.

    Attributes:
        told: study, workload, scenario, regime, label, method, task.
        counts: seed, number of experts, the task's place among them.
        expert_accuracy: of the task's expert on the task, in [0, 1].
        merge_accuracy: of the merge on the task, in [0, 1].
        features: of weights, and of inputs where the workload shows any.
    """

    told: Mapping[str, str]
    counts: Mapping[str, int]
    expert_accuracy: float
    merge_accuracy: float
    features: Features

    @property
    def loss(self) -> float:
        """What the task loses by the merge, in points of accuracy; below 0 where the merge is better."""
        return 100 * (self.expert_accuracy - self.merge_accuracy)


@dataclass(frozen=True)
class Table:
    """Lines as columns.

    Attributes:
        studies: [rows], the name of each row's study.
        merges: [rows], what tells one merge from another.
        groups: [rows], what tells one set of experts from another.
        losses: [rows], points.
        columns: of each feature [rows]; NaN where the workload shows no inputs.
        digest: of all of it.
    """

    studies: np.ndarray
    merges: np.ndarray
    groups: np.ndarray
    losses: np.ndarray
    columns: Mapping[str, np.ndarray] = field(repr=False)
    digest: str = ""

    def matrix(self, names: Sequence[str]) -> np.ndarray:
        """[rows, features]."""
        return np.stack([self.columns[name] for name in names], axis=1)

    def only(self, kept: np.ndarray) -> "Table":
        """The rows of a mask."""
        columns = {name: values[kept] for name, values in self.columns.items()}
        rows = (one[kept] for one in (self.studies, self.merges, self.groups, self.losses))
        return Table(*rows, columns, self.digest)

    @property
    def has_inputs(self) -> np.ndarray:
        """[rows], whether the row has features of inputs."""
        return np.isfinite(self.columns[INPUT_NAMES[0]])


def to_arrow(lines: Iterable[Line]) -> pa.Table:
    """The table as it is stored; numbers in float32."""
    some = list(lines)
    columns: dict[str, pa.Array] = {
        name: pa.array([line.told[name] for line in some], pa.string()) for name in TOLD
    }
    columns |= {name: pa.array([line.counts[name] for line in some], pa.int32()) for name in COUNTS}
    measured = [(line.expert_accuracy, line.merge_accuracy, line.loss) for line in some]
    for place, name in enumerate(MEASURED):
        columns[name] = pa.array([values[place] for values in measured], pa.float32())
    for name in (*NAMES, *INPUT_NAMES):
        columns[f"feature: {name}"] = pa.array(
            [line.features.get(name, float("nan")) for line in some], pa.float32()
        )
    return pa.table(columns)


def write_lines(table: pa.Table, path: Path) -> None:
    """As parquet, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.partial")
    pq.write_table(table, partial, compression="zstd")
    partial.replace(path)


def read_lines(paths: Sequence[Path]) -> Table:
    """The tables of several studies as one.

    Raises:
        CheckpointCorruptError: a file cannot be read, or has other columns.
    """
    try:
        found = pa.concat_tables([pq.read_table(path) for path in paths])
        return _from_arrow(found)
    except (OSError, KeyError, pa.ArrowException) as exc:
        raise CheckpointCorruptError(
            f"The forecast's table in {paths[0].parent if paths else 'no folder'} cannot be read: {exc}. Remove the "
            "folder and rebuild it; finished studies are not done again."
        ) from exc


def _from_arrow(found: pa.Table) -> Table:
    words = {name: np.array(found.column(name).to_pylist(), dtype=object) for name in TOLD}
    counts = {name: found.column(name).to_numpy() for name in COUNTS}
    groups = _joined(words["study"], words["regime"], counts["seed"], counts["experts"])
    merges = _joined(groups, words["label"])
    columns = {
        name: found.column(f"feature: {name}").to_numpy().astype(np.float64)
        for name in (*NAMES, *INPUT_NAMES)
    }
    losses = found.column("loss").to_numpy().astype(np.float64)
    return Table(words["study"], merges, groups, losses, columns, _digest(merges, losses, columns))


def _joined(*parts: np.ndarray) -> np.ndarray:
    """[rows], the parts of each row as one word."""
    return np.array(["|".join(map(str, row)) for row in zip(*parts, strict=True)], dtype=object)


def _digest(merges: np.ndarray, losses: np.ndarray, columns: Mapping[str, np.ndarray]) -> str:
    """Of what is learned from: names, losses and features, in the rows' order."""
    told = sha256("\n".join(merges).encode())
    for name, values in (("loss", losses), *sorted(columns.items())):
        told.update(name.encode())
        told.update(np.ascontiguousarray(values, dtype="<f8").tobytes())
    return f"sha256:{told.hexdigest()}"
