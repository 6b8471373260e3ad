"""Reading a model folder as one checkpoint: every shard's header at once, tensors one at a time.

All that can be wrong with a folder is found from its headers and told at once.
"""

import json
from collections import OrderedDict
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor

from merge_lib.checkpoints.layout import TensorLocation
from merge_lib.checkpoints.reader import CheckpointReader
from merge_lib.errors import CheckpointCorruptError, CheckpointError, suggest

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
ADAPTER = "adapter_model.safetensors"  # beside a model it is not part of it
PICKLES = ("*.bin", "*.pt", "*.pth")
OPEN_FILES = 4  # of one folder at a time; tensors of one shard are mostly read together


class FolderReader:
    """One open model folder.

    Attributes:
        path: the folder.
        size_bytes: of all shards, headers included.
        names: names of the tensors, sorted over all shards.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        indexed = _index_of(path)
        self._shards, self._open = _open_shards(path, indexed), OrderedDict[str, CheckpointReader]()
        self._home = _assign(path, self._shards, indexed)
        self.names = tuple(sorted(self._home))
        self.size_bytes = sum(shard.size_bytes for shard in self._shards.values())

    @property
    def label(self) -> str:
        """What messages call this checkpoint."""
        return str(self.path)

    @property
    def shards(self) -> tuple[Path, ...]:
        """The files with tensors, by name."""
        return tuple(shard.path for shard in self._shards.values())

    @property
    def lineage(self) -> dict[str, Any]:
        """Where the checkpoint comes from, as written into its only shard; empty where nothing was."""
        return next(iter(self._shards.values())).lineage if len(self._shards) == 1 else {}

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor, from the headers."""
        return self._shard(name).shape(name)

    def dtype(self, name: str) -> torch.dtype:
        """Element type of a tensor, from the headers."""
        return self._shard(name).dtype(name)

    def tensor(self, name: str) -> Tensor:
        """Read one tensor into memory of its own."""
        shard = self._shard(name)
        self._open[shard.path.name] = shard
        self._open.move_to_end(shard.path.name)
        while len(self._open) > OPEN_FILES:
            self._open.popitem(last=False)[1].close()
        return shard.tensor(name)

    def location(self, name: str) -> TensorLocation | None:
        """Where the tensor's bytes lie; None where they must be computed and only `tensor` has them."""
        return self._shard(name).location(name)

    def close(self) -> None:
        """Close the files; tensors that were read stay valid."""
        for shard in self._shards.values():
            shard.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _shard(self, name: str) -> CheckpointReader:
        if name not in self._home:
            raise CheckpointError(
                f"Checkpoint {self.path} has no tensor '{name}': {suggest(name, self._home)}."
            )
        return self._shards[self._home[name]]


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


def _open_shards(folder: Path, indexed: dict[str, str] | None) -> dict[str, CheckpointReader]:
    """The headers of all shards, by sorted name; files are closed until a tensor is wanted."""
    names = _present(folder) if indexed is None else tuple(sorted(set(indexed.values())))
    if not names:
        raise CheckpointError(_no_weights(folder))
    shards: dict[str, CheckpointReader] = {}
    problems: list[CheckpointError] = []
    for name in names:
        try:
            shards[name] = _open_shard(folder, name)
            shards[name].close()
        except CheckpointError as exc:
            problems.append(exc)
    _raise_all(problems)
    return shards


def _open_shard(folder: Path, name: str) -> CheckpointReader:
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
    return CheckpointReader(path)


def stays_inside(folder: Path, path: Path) -> bool:
    """Whether a path and what it links to lie in the folder; a hub's cache links each file to its blobs."""
    inside = folder.resolve()
    target = path.resolve()
    if target.is_relative_to(inside):
        return True
    hub = inside.parent.parent
    return inside.parent.name == "snapshots" and target.is_relative_to(hub / "blobs")


def _present(folder: Path) -> tuple[str, ...]:
    """The safetensors files of a folder without an index."""
    if (folder / SINGLE).exists() or (folder / SINGLE).is_symlink():
        return (SINGLE,)
    found = (path.name for path in folder.glob("*.safetensors") if not path.name.startswith("."))
    return tuple(sorted(name for name in found if name != ADAPTER))


def _assign(
    folder: Path, shards: dict[str, CheckpointReader], indexed: dict[str, str] | None
) -> dict[str, str]:
    """Each tensor's shard, once headers and index agree."""
    home: dict[str, str] = {}
    problems: list[CheckpointError] = []
    for shard, reader in shards.items():
        for name in reader.names:
            if name in home:
                problems.append(
                    CheckpointCorruptError(
                        f"Tensor '{name}' of {folder} is in shard '{home[name]}' and again in '{shard}'. A "
                        "tensor must have one home. Remove the file that does not belong to the model."
                    )
                )
            home.setdefault(name, shard)
    problems += _disagreements(folder, home, indexed or home)
    _raise_all(problems)
    return home


def _disagreements(folder: Path, home: dict[str, str], indexed: dict[str, str]) -> list[CheckpointError]:
    """Where index and headers differ."""
    remedy = "Index and shards must belong together. Write the model again, or restore it from where it came."
    problems = []
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
