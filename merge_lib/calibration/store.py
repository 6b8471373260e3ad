"""A folder of observations: one file a tensor, and a manifest."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from merge_lib import registry
from merge_lib.calibration.fitted import read_fitted
from merge_lib.calibration.manifest import MANIFEST, UNFINISHED, Manifest, read_manifest
from merge_lib.calibration.sizes import file_of
from merge_lib.durability import sync_folder
from merge_lib.errors import CheckpointCorruptError, SpecError
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
        except (OSError, SafetensorError) as exc:
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
    _tell(folder, MANIFEST, manifest)
    (folder / UNFINISHED).unlink(missing_ok=True)
    sync_folder(folder)


class Collecting:
    """A folder that is being filled, a tensor at a time; what an interrupted run has finished is kept.

    Args:
        folder: a new one, or one that was begun for the same.
        asked: what it will hold; the counts are those of the tensors that are done.

    Raises:
        SpecError: the folder holds other things.
        CheckpointCorruptError: what it says of itself cannot be read.
    """

    def __init__(self, folder: Path, asked: Manifest) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        earlier = next((name for name in (MANIFEST, UNFINISHED) if (folder / name).exists()), None)
        self.is_whole = earlier == MANIFEST
        if earlier is None:
            _check_empty(folder)
            self.manifest = asked
            _tell(folder, UNFINISHED, asked)
        else:
            self.manifest = read_manifest(folder, earlier)
            self.manifest.check_asked(asked, folder)

    def keep(self, name: str, value: Tensor, count: int) -> None:
        """Write one tensor's observations, of so many rows or examples."""
        write_value(self.folder, name, value)
        self.manifest = replace(self.manifest, counts={**self.manifest.counts, name: count})
        _tell(self.folder, UNFINISHED, self.manifest)

    def finish(self, norm: float | None) -> None:
        """Say that the folder is whole."""
        finish(self.folder, replace(self.manifest, norm=norm))


def _check_empty(folder: Path) -> None:
    found = sorted(path.name for path in folder.iterdir())
    if found:
        raise SpecError(
            f"{folder} holds '{found[0]}' and {len(found) - 1} other files or folders, but no observations. "
            "Observations need a folder of their own; name a new one."
        )


def _tell(folder: Path, name: str, manifest: Manifest) -> None:
    draft = folder / f".{name}.partial"
    draft.write_text(json.dumps(asdict(manifest), indent=1, sort_keys=True) + "\n", encoding="utf-8")
    draft.replace(folder / name)
