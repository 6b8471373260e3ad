"""What a folder of observations says of itself, in a file that is written last; reading it needs no torch."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from merge_lib.errors import CheckpointCorruptError, SpecError
from merge_lib.registry import Observation

MANIFEST = "observations.json"
UNFINISHED = "observations.unfinished.json"  # the same, of the tensors that are done, while some are not


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
        rows: features of a layer that are kept at most; None keeps all.
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
    rows: int | None = None

    @property
    def told(self) -> dict[str, Any]:
        """What a merge's record says of the data that it used."""
        fields = ("kind", "task", "data", "model", "split", "examples", "seed")
        return {name: getattr(self, name) for name in fields}

    def check_asked(self, asked: "Manifest", folder: Path) -> None:
        """Refuse to go on with observations of something else.

        Raises:
            SpecError: says what differs.
        """
        ours, theirs = asdict(asked), asdict(self)
        wrong = [
            f"{name} {theirs[name]!r}, not {ours[name]!r}"
            for name in ours
            if name not in ("counts", "norm") and ours[name] != theirs[name]
        ]
        if wrong:
            raise SpecError(
                f"{folder} holds other observations than those asked for: {', '.join(wrong)}. "
                "Name another folder, or delete this one."
            )

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


def read_manifest(folder: Path, name: str = MANIFEST) -> Manifest:
    """The manifest of a folder.

    Args:
        folder: of observations.
        name: MANIFEST, or UNFINISHED where they are not whole yet.

    Raises:
        CheckpointCorruptError: the folder is missing, unfinished or not of this format.
    """
    try:
        return Manifest(**json.loads((folder / name).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as exc:
        raise CheckpointCorruptError(
            f"{folder} has no readable {name} ({exc}); a whole folder has {MANIFEST}, which is written last. "
            "Delete the folder, and collect the observations again."
        ) from exc
