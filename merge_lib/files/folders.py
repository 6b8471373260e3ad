"""What a checkpoint's files hold: one file, or the shards of a model folder.

All that can be wrong with a folder is found from its headers and told at once.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from merge_lib.errors import CheckpointCorruptError, CheckpointError
from merge_lib.files.headers import FileHeader, FileState, TensorHeader, read_header

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
ADAPTER = "adapter_model.safetensors"  # beside a model it is not part of it
ADAPTER_CONFIG = "adapter_config.json"
PICKLES = ("*.bin", "*.pt", "*.pth")


@dataclass(frozen=True)
class Source:
    """A checkpoint: one file, or a folder with shards.

    Attributes:
        label: what messages call it.
        files: those with tensors.
        tensors: by name.
        base: what it is folded into, where it is an adapter.
        states: what the files were when their headers were read.
    """

    label: str
    path: Path
    files: tuple[Path, ...]
    tensors: Mapping[str, TensorHeader]
    base: Path | None = None
    states: Mapping[Path, FileState] = field(default_factory=dict)

    @classmethod
    def of(cls, path: Path, headers: Iterable[FileHeader]) -> Self:
        """The checkpoint of some files."""
        headers = tuple(headers)
        tensors = {name: tensor for header in headers for name, tensor in header.tensors.items()}
        files = tuple(header.path for header in headers)
        return cls(str(path), path, files, tensors, states={header.path: header.state for header in headers})

    @property
    def name(self) -> str:
        """What a manifest calls it: no part of its path but the last."""
        return self.path.name

    @property
    def is_computed(self) -> bool:
        """Whether a tensor has scales or adapters."""
        return any(header.is_computed for header in self.tensors.values())

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the tensors, sorted."""
        return tuple(sorted(self.tensors))

    def changed(self) -> tuple[Path, ...]:
        """The files that are no longer what they were when their headers were read."""
        return tuple(path for path, state in self.states.items() if not state.is_of(path))

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor."""
        return self.tensors[name].shape

    def dtype(self, name: str) -> str:
        """Element type of a tensor, as safetensors names it."""
        return self.tensors[name].dtype


def read_stored(path: Path) -> Source:
    """The tensors of a file or of a model folder as they are stored, from the headers.

    Raises:
        CheckpointError: nothing is there that could be merged.
        CheckpointCorruptError: a header lies about its file, or the index about its shards.
    """
    return Source.of(path, read_folder(path) if path.is_dir() else [read_header(path)])


def read_folder(folder: Path) -> tuple[FileHeader, ...]:
    """The headers of a model folder's shards, by name; index and shards agree.

    Raises:
        CheckpointError, CheckpointCorruptError: all that is wrong with the folder.
    """
    indexed = _index_of(folder)
    headers = _read_shards(folder, indexed)
    _check_homes(folder, headers, indexed)
    return tuple(headers.values())


def read_index(path: Path) -> dict[str, str] | None:
    """Tensor name to shard name, as an index says; None where it does not exist.

    Raises:
        CheckpointCorruptError: it cannot be read.
    """
    if not path.exists():
        return None
    try:
        return _parse_index(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, RecursionError) as exc:
        raise CheckpointCorruptError(
            f"Index {path} cannot be read: it needs a JSON table 'weight_map' from tensor to shard, but "
            f"{exc}. Write the model again, or restore it from where it came."
        ) from exc


def is_adapter(path: Path) -> bool:
    """Whether a folder is an adapter and not a model.

    Raises:
        CheckpointError: it is both.
    """
    if not (path / ADAPTER_CONFIG).exists():
        return False
    weights = [name for name in (SINGLE, INDEX) if (path / name).exists()]
    if weights:
        raise CheckpointError(
            f"Folder {path} has both an adapter ({ADAPTER_CONFIG}) and a model ({weights[0]}). One path must be one "
            "checkpoint. Move the one that is not meant into a folder of its own."
        )
    return True


def stays_inside(folder: Path, path: Path) -> bool:
    """Whether a path and what it links to lie in the folder; a hub's cache links each file to its blobs."""
    inside = folder.resolve()
    target = path.resolve()
    if target.is_relative_to(inside):
        return True
    hub = inside.parent.parent
    return inside.parent.name == "snapshots" and target.is_relative_to(hub / "blobs")


def _index_of(folder: Path) -> dict[str, str] | None:
    """The index of a folder, which must not have its weights twice."""
    if (folder / INDEX).exists() and (folder / SINGLE).exists():
        raise CheckpointError(
            f"Folder {folder} has both {SINGLE} and {INDEX}, so its weights are there twice. A model must have "
            "one set of weights. Remove the one that does not belong to it."
        )
    return read_index(folder / INDEX)


def _parse_index(content: Any) -> dict[str, str]:
    found = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(found, dict) or not all(isinstance(shard, str) for shard in found.values()):
        raise ValueError("there is no such table")
    return found


def _read_shards(folder: Path, indexed: dict[str, str] | None) -> dict[str, FileHeader]:
    """The headers by the names of the shards, sorted."""
    names = _present(folder) if indexed is None else tuple(sorted(set(indexed.values())))
    if not names:
        raise CheckpointError(_no_weights(folder))
    headers: dict[str, FileHeader] = {}
    problems: list[CheckpointError] = []
    for name in names:
        try:
            headers[name] = _read_shard(folder, name)
        except CheckpointError as exc:
            problems.append(exc)
    _raise_all(problems)
    return headers


def _read_shard(folder: Path, name: str) -> FileHeader:
    path = folder / name
    if Path(name).is_absolute() or not stays_inside(folder, path):
        raise CheckpointError(
            f"Shard '{name}' of {folder} leads to {path.resolve()}, outside of the folder. A model's shards "
            "must lie in its own folder. Copy the file into it and name it there."
        )
    if not path.exists():
        raise CheckpointError(
            f"Shard '{name}' of {folder} is missing, but its index names it. Fetch the file, or write the "
            "model again."
        )
    return read_header(path)


def _present(folder: Path) -> tuple[str, ...]:
    """The safetensors files of a folder without an index."""
    if (folder / SINGLE).exists() or (folder / SINGLE).is_symlink():
        return (SINGLE,)
    found = (path.name for path in folder.glob("*.safetensors") if not path.name.startswith("."))
    return tuple(sorted(name for name in found if name != ADAPTER))


def _check_homes(folder: Path, headers: Mapping[str, FileHeader], indexed: dict[str, str] | None) -> None:
    """Each tensor must be in one shard, and in the one that the index says."""
    home: dict[str, str] = {}
    problems: list[CheckpointError] = []
    for shard, header in headers.items():
        for name in sorted(header.tensors):
            if name in home:
                problems.append(
                    CheckpointCorruptError(
                        f"Tensor '{name}' of {folder} is in shard '{home[name]}' and again in '{shard}'. A "
                        "tensor must have one home. Remove the file that does not belong to the model."
                    )
                )
            home.setdefault(name, shard)
    _raise_all(problems + _disagreements(folder, home, indexed or home))


def _disagreements(folder: Path, home: dict[str, str], indexed: dict[str, str]) -> list[CheckpointError]:
    """Where index and headers differ."""
    remedy = "Index and shards must belong together. Write the model again, or restore it from where it came."
    problems: list[CheckpointError] = []
    for name in sorted(home.keys() | indexed.keys()):
        said, found = indexed.get(name), home.get(name)
        if said != found:
            where = "in no shard's header" if found is None else f"in shard '{found}'"
            claim = "does not name it" if said is None else f"puts it in '{said}'"
            problems.append(
                CheckpointCorruptError(
                    f"Tensor '{name}' of {folder} is {where}, but the index {claim}. {remedy}"
                )
            )
    return problems


def _no_weights(folder: Path) -> str:
    pickles = sorted(path.name for pattern in PICKLES for path in folder.glob(pattern))
    if pickles:
        return (
            f"Folder {folder} has its weights only as pickles ({', '.join(pickles)}), which can run code when "
            f"they are read. A checkpoint must be safetensors. Run: mergeline convert {folder} {folder}-safe"
        )
    return (
        f"Folder {folder} has no weights: neither {SINGLE} nor {INDEX} nor another .safetensors file. Check "
        "the path, or fetch the model again."
    )


def _raise_all(problems: list[CheckpointError]) -> None:
    """One error for all of them; corrupt, if any is."""
    if problems:
        is_corrupt = any(isinstance(problem, CheckpointCorruptError) for problem in problems)
        kind = CheckpointCorruptError if is_corrupt else CheckpointError
        raise kind("\n".join(map(str, problems))) from problems[0]
