"""A folder of observations: one file a tensor, and a manifest, which is written last."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import quote

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from merge_lib.durability import sync_folder
from merge_lib.errors import CheckpointCorruptError, SpecError
from merge_lib.learned import Observed
from merge_lib.registry import Observation

MANIFEST = "observations.json"
_VALUE = "value"


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


class ObservationFolder:
    """One expert's observations, read tensor by tensor.

    Raises:
        CheckpointCorruptError: the folder is missing, unfinished or not of this format.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            fields = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
            self.manifest = Manifest(**fields)
        except (OSError, ValueError, TypeError) as exc:
            raise CheckpointCorruptError(
                f"{folder} has no readable {MANIFEST}, which is written last. Collect the observations again."
            ) from exc

    def value(self, name: str) -> Tensor | None:
        """The observation of one tensor; None if there is none."""
        if name not in self.manifest.counts:
            return None
        try:
            with safe_open(self.folder / file_of(name), framework="pt") as file:
                return file.get_tensor(_VALUE)
        except Exception as exc:  # safetensors raises its own kinds
            raise CheckpointCorruptError(
                f"The observations of '{name}' in {self.folder} cannot be read: {exc}. Collect them again."
            ) from exc


@dataclass(frozen=True)
class Observations:
    """Those of all experts, in spec order: what a merge is given."""

    folders: tuple[ObservationFolder, ...]

    @classmethod
    def open(cls, kind: Observation, folders: Sequence[Path]) -> "Observations":
        """Folders of one kind.

        Raises:
            CheckpointCorruptError: a folder cannot be read.
            SpecError: a folder holds another kind.
        """
        opened = tuple(ObservationFolder(folder) for folder in folders)
        wrong = [one for one in opened if one.manifest.kind != kind]
        if wrong:
            raise SpecError(
                f"{wrong[0].folder} holds observations of kind '{wrong[0].manifest.kind}', but the method needs "
                f"'{kind}'. Give one folder of that kind for each expert."
            )
        return cls(opened)

    def observed(self, name: str) -> Observed | None:
        """Of one tensor; None unless every expert has it."""
        values = [folder.value(name) for folder in self.folders]
        if not values or any(value is None for value in values):
            return None
        counts = tuple(folder.manifest.counts[name] for folder in self.folders)
        norms = [folder.manifest.norm for folder in self.folders]
        told = () if None in norms else tuple(norms)
        return Observed(tuple(values), counts, told)  # type: ignore[arg-type]


def file_of(name: str) -> str:
    """The file of a tensor's observation; no name leaves the folder."""
    return f"{quote(name, safe='')}.safetensors"


def write_value(folder: Path, name: str, value: Tensor) -> None:
    """Write one observation beside its place and rename it."""
    place = folder / file_of(name)
    draft = place.with_name(f".{place.name}.partial")
    save_file({_VALUE: value.contiguous()}, draft)
    draft.replace(place)


def finish(folder: Path, manifest: Manifest) -> None:
    """Write the manifest, which says that the folder is whole."""
    draft = folder / f".{MANIFEST}.partial"
    draft.write_text(json.dumps(asdict(manifest), indent=1, sort_keys=True) + "\n", encoding="utf-8")
    draft.replace(folder / MANIFEST)
    sync_folder(folder)
