"""LoRA adapter folders in peft's format, read without peft."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import torch
from torch import Tensor

from merge_lib.checkpoints.adapter_config import AdapterConfig, read_adapter_config
from merge_lib.checkpoints.reader import CheckpointReader
from merge_lib.errors import CheckpointError
from merge_lib.files.folders import ADAPTER, stays_inside
from merge_lib.files.headers import FileState

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
