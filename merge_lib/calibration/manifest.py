"""What a folder of observations says of itself, in a file that is written last; reading it needs no torch."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from merge_lib.errors import CheckpointCorruptError, SpecError
from merge_lib.registry import Observation

MANIFEST = "observations.json"


@dataclass(frozen=True)
class Manifest:
    """What a folder of observations holds.

    Attributes:
        kind: "features", "gram" or "fisher".
        task: whose inputs were shown.
        data: hash of the data that they come from.
        model: digest of the weights that saw them.
        examples: how many; `split` and `seed` say which.
        counts: rows, or examples, behind each tensor's value, by name.
        norm: of fisher, the 2-norm over all tensors.
    """

    kind: Observation
    task: str
    data: str
    model: str
    split: str
    examples: int
    seed: int
    counts: dict[str, int]
    norm: float | None = None

    @property
    def told(self) -> dict[str, Any]:
        """What a merge's record says of the data that it used."""
        fields = ("kind", "task", "data", "model", "split", "examples", "seed")
        return {name: getattr(self, name) for name in fields}

    def check_kind(self, kind: str, folder: Path) -> None:
        """Refuse observations of another kind.

        Raises:
            SpecError: they are not of that kind.
        """
        if self.kind != kind:
            raise SpecError(
                f"{folder} holds observations of kind '{self.kind}', but the method needs '{kind}'. "
                "Give one folder of that kind for each expert."
            )


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a folder.

    Raises:
        CheckpointCorruptError: the folder is missing, unfinished or not of this format.
    """
    try:
        return Manifest(**json.loads((folder / MANIFEST).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as exc:
        raise CheckpointCorruptError(
            f"{folder} has no readable {MANIFEST}, which is written last. Collect the observations again."
        ) from exc
