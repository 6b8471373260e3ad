"""A folder of observations: one file a tensor, and a manifest."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from merge_lib import registry
from merge_lib.calibration.fitted import read_fitted
from merge_lib.calibration.manifest import MANIFEST, Manifest, read_manifest
from merge_lib.calibration.sizes import file_of
from merge_lib.durability import sync_folder
from merge_lib.errors import CheckpointCorruptError
from merge_lib.learned import Learned, Observed
from merge_lib.registry import Observation

_VALUE = "value"


class ObservationFolder:
    """One expert's observations, read tensor by tensor.

    Raises:
        CheckpointCorruptError: the folder is missing, unfinished or not of this format.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.manifest = read_manifest(folder)

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
        for one in opened:
            one.manifest.check_kind(kind, one.folder)
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


def open_learned(method: str, observations: Sequence[Path], fitted: Path | None) -> Learned:
    """What a recipe's folders and file hold.

    Raises:
        CheckpointCorruptError: one cannot be read.
        SpecError: a folder holds another kind than the method needs.
    """
    kind = registry.get(method).observation
    source = Observations.open(kind, observations) if kind else None
    return Learned(source, read_fitted(fitted) if fitted else {})


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
