"""The folders of a project: where data, finished work, runs and the local servers' files lie."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from merge_lib.errors import SpecError

MARKERS = ("dvc.yaml", "studies", ".mergeline")


@dataclass(frozen=True)
class Project:
    """A project is a folder with a `dvc.yaml`; all that Mergeline makes lies in its `.mergeline`."""

    root: Path

    @classmethod
    def find(cls, start: Path | None = None) -> Self:
        """The nearest folder, from `start` (or the working directory) upwards, that is a project."""
        here = (start or Path.cwd()).resolve()
        for folder in (here, *here.parents):
            if any((folder / marker).exists() for marker in MARKERS):
                return cls(folder)
        raise SpecError(
            f"'{here}' is not a Mergeline project: neither it nor a folder above it has {', '.join(MARKERS)}. "
            "Change into the project's folder."
        )

    @property
    def state(self) -> Path:
        """Everything that is made: finished work, runs, local stores."""
        return self.root / ".mergeline"

    @property
    def store(self) -> Path:
        """Finished work, by content."""
        return self.state / "store"

    @property
    def partial(self) -> Path:
        """Saves of trainings that are under way, or were killed; one folder each."""
        return self.state / "partial"

    @property
    def runs(self) -> Path:
        """One folder a run: what was asked, what was measured, the report, what MLflow still has to be told."""
        return self.state / "runs"

    @property
    def tracking_uri(self) -> str:
        """The MLflow server named in MLFLOW_TRACKING_URI, else a SQLite file in the project."""
        return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{self.state / 'mlflow.db'}"

    def relative(self, path: Path) -> str:
        """The path as seen from the root, for records that outlive a move of the project."""
        return path.resolve().relative_to(self.root).as_posix()
