"""LoRA adapter folders in peft's format: read without peft, and folded into their base on the fly."""

from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from types import TracebackType
from typing import Self

import torch
from torch import Tensor

from merge_lib.checkpoints.adapter_config import AdapterConfig, read_adapter_config
from merge_lib.checkpoints.reader import CheckpointReader
from merge_lib.checkpoints.view import Checkpoint, View
from merge_lib.errors import CheckpointError, CheckpointMismatchError
from merge_lib.files.folders import ADAPTER, stays_inside
from merge_lib.files.headers import FileState, TensorHeader

PREFIX = "base_model.model."
PICKLED = "adapter_model.bin"
ENDINGS = {  # of the names of factors: A, B
    "layer": (".lora_A.weight", ".lora_B.weight"),
    "embedding": (".lora_embedding_A", ".lora_embedding_B"),
}


@dataclass(frozen=True)
class Factors:
    """The two factors of one module's update, as they are named in the file."""

    module: str
    kind: str  # "layer" or "embedding", which holds the transpose of the product
    a: str
    b: str
    a_shape: tuple[int, ...]  # [r, in, …]
    b_shape: tuple[int, ...]  # [out, r, …]
    scale: float

    @property
    def name(self) -> str:
        """The tensor of the base that is updated."""
        return f"{self.module}.weight"

    def needs_transpose(self, shape: tuple[int, ...], config: AdapterConfig) -> bool | None:
        """Whether the base holds [in, out]; None if its shape fits neither way."""
        straight = (self.b_shape[0], *self.a_shape[1:])
        turned = (self.a_shape[1], self.b_shape[0])
        if self.kind == "embedding":
            return True if shape == turned else None
        if shape == straight and not (config.is_transposed and shape == turned):
            return False
        return True if shape == turned and len(straight) == 2 else None


class Adapter:
    """One open adapter folder.

    Attributes:
        path: the folder.
        config: what it says of its factors.
        factors: by the name of the base's tensor that they update.
        whole: tensors stored whole (modules to save, biases), from the base's name to the name in the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = read_adapter_config(path)
        self._file = CheckpointReader(_weights(path))
        self.size_bytes = self._file.size_bytes
        try:
            self.factors, self.whole = _sort(self._file, self.config, path)
        except BaseException:
            self.close()
            raise

    @property
    def states(self) -> Mapping[Path, FileState]:
        """What the weights and the configuration were when they were read."""
        return {**self._file.states, self.config.path: self.config.state}

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor in the file."""
        return self._file.shape(name)

    def dtype(self, name: str) -> torch.dtype:
        """Element type of a tensor in the file."""
        return self._file.dtype(name)

    def tensor(self, name: str) -> Tensor:
        """Read one tensor of the file."""
        return self._file.tensor(name)

    def matrices(self, factors: Factors, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """A [r, in · …] and B [out, r], of which s · B A is the update."""
        a, b = (self.tensor(name).to(dtype) for name in (factors.a, factors.b))
        return a.flatten(1), b.flatten(1)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Adapted(View):
    """A base with an adapter folded into it: W + s · B A for the modules it updates, in float32 or wider.

    Equal to what peft's `merge_and_unload` makes, but not rounded to the base's dtype.

    Raises:
        CheckpointMismatchError: the adapter does not fit the base; every problem is listed.
    """

    def __init__(self, base: Checkpoint, adapter: Adapter) -> None:
        super().__init__(base)
        self._adapter = adapter
        self._transposed = _fit(base, adapter)
        self.path = adapter.path
        self.size_bytes = base.size_bytes + adapter.size_bytes

    @property
    def label(self) -> str:
        """What messages call this checkpoint."""
        return str(self._adapter.path)

    @property
    def shards(self) -> tuple[Path, ...]:
        """The files of the base and of the adapter."""
        return (*self.source.shards, *self._adapter.states)

    @property
    def states(self) -> Mapping[Path, FileState]:
        """What they were when their headers were read."""
        return {**self.source.states, **self._adapter.states}

    @property
    def lineage(self) -> dict[str, object]:
        """Adapters carry none."""
        return {}

    def tensor(self, name: str) -> Tensor:
        """Read one tensor of the base and update it."""
        adapter = self._adapter
        if name in adapter.factors:
            return self._updated(name)
        if name in adapter.whole:
            return adapter.tensor(adapter.whole[name])
        return super().tensor(name)

    def location(self, name: str) -> TensorHeader | None:
        """Where the base has the tensor; None if the adapter changes it."""
        is_changed = name in self._adapter.factors or name in self._adapter.whole
        return None if is_changed else super().location(name)

    def close(self) -> None:
        """Close the base and the adapter."""
        super().close()
        self._adapter.close()

    def _updated(self, name: str) -> Tensor:
        adapter, factors = self._adapter, self._adapter.factors[name]
        stored = adapter.tensor(adapter.whole[name]) if name in adapter.whole else super().tensor(name)
        dtype = (
            torch.promote_types(stored.dtype, torch.float32) if stored.dtype.itemsize > 1 else torch.float32
        )
        a, b = adapter.matrices(factors, dtype)
        update = factors.scale * (b @ a)  # [out, in · …]
        if self._transposed[name]:
            update = update.T
        return stored.to(dtype) + update.reshape(stored.shape)


def _weights(folder: Path) -> Path:
    path = folder / ADAPTER
    if path.exists() and not stays_inside(folder, path):
        raise CheckpointError(
            f"Adapter file {path} leads to {path.resolve()}, outside of its folder. Copy the file into it."
        )
    if not path.exists() and (folder / PICKLED).exists():
        raise CheckpointError(
            f"Adapter {folder} has its weights only as a pickle ({PICKLED}), which can run code when it is "
            f"read. An adapter must be safetensors. Run: mergeline convert {folder} {folder}-safe"
        )
    return path


def _sort(
    file: CheckpointReader, config: AdapterConfig, folder: Path
) -> tuple[dict[str, Factors], dict[str, str]]:
    """Factors and whole tensors, by the base's names."""
    factors: dict[str, Factors] = {}
    whole: dict[str, str] = {}
    problems: list[str] = []
    known = frozenset(file.names)
    for name in file.names:
        found = _factors(file, config, name, known, problems)
        if found is not None:
            factors[found.name] = found
        elif not name.startswith(PREFIX):
            problems.append(f"Tensor '{name}' of adapter {folder} is not named '{PREFIX}…'.")
        elif ".lora_" not in name:
            whole[name.removeprefix(PREFIX).replace(".base_layer.", ".")] = name
        elif not name.endswith(tuple(ending for pair in ENDINGS.values() for ending in pair)):
            problems.append(f"Tensor '{name}' of adapter {folder} is no factor of plain LoRA.")
    problems += _widows(file, factors, folder)
    if problems or not (factors or whole):
        problems = problems or [f"Adapter {folder} has no tensors."]
        raise CheckpointError(
            "\n".join(problems) + "\nOnly plain LoRA in peft's format is read. Save it again."
        )
    return factors, whole


def _factors(
    file: CheckpointReader, config: AdapterConfig, name: str, known: frozenset[str], problems: list[str]
) -> Factors | None:
    """The factors whose first one has this name."""
    for kind, (a_ending, b_ending) in ENDINGS.items():
        other = name.removesuffix(a_ending) + b_ending
        if name.endswith(a_ending) and name.startswith(PREFIX) and other in known:
            module = name.removeprefix(PREFIX).removesuffix(a_ending)
            a, b, rank = file.shape(name), file.shape(other), config.rank_of(module)
            if len(a) < 2 or len(b) < 2 or not (a[0] == b[1] == rank) or any(size != 1 for size in b[2:]):
                problems.append(
                    f"Factors of '{module}' in adapter {file.path.parent} have shapes {a} and {b}, but its "
                    f"configuration gives rank {rank}."
                )
            return Factors(module, kind, name, other, a, b, config.scale_of(module))
    return None


def _widows(file: CheckpointReader, factors: Mapping[str, Factors], folder: Path) -> list[str]:
    """Factors without their other half."""
    paired = {name for found in factors.values() for name in (found.a, found.b)}
    endings = tuple(ending for pair in ENDINGS.values() for ending in pair)
    return [
        f"Factor '{name}' of adapter {folder} is there without its other half."
        for name in file.names
        if name.endswith(endings) and name not in paired and name.startswith(PREFIX)
    ]


def _fit(base: Checkpoint, adapter: Adapter) -> dict[str, bool]:
    """For each updated tensor whether the product is transposed."""
    known = frozenset(base.names)
    problems, transposed = [], {}
    for name, factors in adapter.factors.items():
        if name not in known:
            problems.append(_not_there(name, base, adapter))
            continue
        turned = factors.needs_transpose(base.shape(name), adapter.config)
        if turned is None:
            problems.append(
                f"Tensor '{name}' has shape {base.shape(name)} in base '{base.label}', but adapter "
                f"'{adapter.path}' has factors {factors.b_shape} · {factors.a_shape} for it."
            )
        else:
            transposed[name] = turned
    for name, stored in adapter.whole.items():
        if name not in known:
            problems.append(_not_there(name, base, adapter))
        elif adapter.shape(stored) != base.shape(name):
            problems.append(
                f"Tensor '{name}' has shape {base.shape(name)} in base '{base.label}', but "
                f"{adapter.shape(stored)} in adapter '{adapter.path}'."
            )
    if problems:
        raise CheckpointMismatchError(
            "\n".join(problems) + "\nAn adapter fits only the base that it was trained on. Give that base."
        )
    return transposed


def _not_there(name: str, base: Checkpoint, adapter: Adapter) -> str:
    near = get_close_matches(name, base.names, n=1, cutoff=0.6)
    hint = f"; the nearest name is '{near[0]}'" if near else ""
    return f"Adapter '{adapter.path}' changes tensor '{name}', which base '{base.label}' does not have{hint}."
