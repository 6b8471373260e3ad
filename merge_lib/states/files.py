"""State files: what a continual method keeps between experts, as a safetensors file that says what it is.

The tensors of a state are called "field:tensor". All else is in the file's lineage: the method with its
parameters, the digests of the base and of every expert, what the method keeps of the whole model. Reading one
runs no code.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from merge_lib import registry
from merge_lib.checkpoints import (
    CheckpointReader,
    CheckpointWriter,
    WrittenCheckpoint,
    combine_digests,
    tensor_digest,
)
from merge_lib.errors import CheckpointCorruptError, CheckpointMismatchError
from merge_lib.states.manifest import (
    History,
    Recipe,
    check_told,
    history_of,
    manifest,
    recipe_of,
    shared_of,
)
from merge_lib.states.spilled import SpilledStates
from merge_lib.states.values import rebuild, tensor_keys


class StateFile(Mapping[str, Any]):
    """An open state file: the states of all tensors, by name, read when they are asked for.

    Args:
        path: the file.

    Attributes:
        path: the file.
        recipe: how it was made.
        history: what it was made from.
        shared: what the method keeps of the whole model; None if nothing.
        size_bytes: of the file.

    Raises:
        CheckpointError: there is no such file, or it is no state.
        CheckpointCorruptError: it is damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self._reader = CheckpointReader(self.path)
        try:
            self._told = check_told(self.path, self._reader.lineage)
            self._check_names()
            self.recipe, self.history = recipe_of(self._told), history_of(self._told)
            implementation = registry.get(self.recipe.method).implementation
        except BaseException:
            self._reader.close()
            raise
        self._kind = type(implementation.init(torch.zeros(0)))  # type: ignore[misc]
        shared = implementation.shared
        self.shared = None if shared is None else shared_of(type(shared.begin()), self._told["shared"])
        self.size_bytes = self._reader.size_bytes
        self._digests: dict[str, str] = {}

    def __getitem__(self, name: str) -> Any:
        outline = self._told["outlines"][self._told["tensors"][name]["outline"]]
        return rebuild(self._kind, outline, lambda key: self._tensor(f"{key}:{name}"))

    def __iter__(self) -> Iterator[str]:
        return iter(self._told["tensors"])

    def __len__(self) -> int:
        return len(self._told["tensors"])

    @property
    def digest(self) -> str:
        """What the file says that its tensors are."""
        return self._told["digest"]

    @property
    def state_bytes(self) -> int:
        """Bytes of the tensors."""
        return self._told["state_bytes"]

    def part_bytes(self) -> dict[str, int]:
        """Bytes of the tensors by what they are in the state, such as `masks`, over all tensors of the model."""
        found: dict[str, int] = {}
        for name in self._reader.names:
            part = name.partition(":")[0].partition(".")[0]
            found[part] = found.get(part, 0) + self._reader.location(name).size_bytes
        return found

    def check_whole(self) -> None:
        """Compare the tensors with the file's own digest; those that nobody asked for are read now.

        Raises:
            CheckpointCorruptError: names both digests.
        """
        for name in self._reader.names:
            if name not in self._digests:
                self._tensor(name)
        found = combine_digests(self._digests)
        if found != self.digest:
            raise CheckpointCorruptError(
                f"State {self.path} has the digest {found}, but recorded {self.digest}. It changed after it was "
                "written. Restore it, or fold the experts in again."
            )

    def close(self) -> None:
        """Close the file."""
        self._reader.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _tensor(self, name: str) -> Tensor:
        tensor = self._reader.tensor(name)
        self._digests.setdefault(name, tensor_digest(tensor))
        return tensor

    def _check_names(self) -> None:
        """Refuse a file that lacks a tensor or has one too many."""
        expected = {
            f"{key}:{name}"
            for name, entry in self._told["tensors"].items()
            for key in tensor_keys(self._told["outlines"][entry["outline"]])
        }
        wrong = expected ^ set(self._reader.names)
        if wrong:
            listed = ", ".join(
                f"'{name}' is {'missing' if name in expected else 'there without reason'}"
                for name in sorted(wrong)
            )
            raise CheckpointCorruptError(
                f"State {self.path} is not whole: {listed}. Restore it, or fold the experts in again."
            )


def check_same_recipe(state: StateFile, recipe: Recipe) -> None:
    """Refuse to go on with another method, other parameters or another precision.

    Raises:
        CheckpointMismatchError: lists every difference.
    """
    pairs = [
        (name, getattr(state.recipe, name), getattr(recipe, name))
        for name in ("method", "seed", "exclude", "dtype", "arithmetic")
    ]
    if state.recipe.method == recipe.method:
        names = sorted({*state.recipe.params, *recipe.params})
        pairs += [
            (f"params.{name}", state.recipe.params.get(name), recipe.params.get(name)) for name in names
        ]
    wrong = [
        f"`{name}` is {theirs!r} in the state, but {ours!r} was asked for."
        for name, theirs, ours in pairs
        if theirs != ours
    ]
    if wrong:
        raise CheckpointMismatchError(
            f"State {state.path} belongs to another sequence. "
            + " ".join(wrong)
            + " A sequence keeps its recipe: give the state's, or begin a new state."
        )


def check_same_base(path: Path, recorded: str | None, found: str | None) -> None:
    """Refuse to go on from another base.

    Raises:
        CheckpointMismatchError: names both digests.
    """
    if recorded != found:
        raise CheckpointMismatchError(
            f"State {path} was made with {_told_base(recorded)}, but {_told_base(found)} was given. A sequence keeps "
            "its base. Give the one that it began with, or begin a new state."
        )


def _told_base(digest: str | None) -> str:
    return "no base" if digest is None else f"the base {digest}"


def write_state(
    path: Path, recipe: Recipe, history: History, states: SpilledStates, shared: Any
) -> WrittenCheckpoint:
    """Write a state file: atomically; an existing one is replaced.

    Args:
        path: where to.
        recipe: how it was made.
        history: what it was made from, every expert folded in.
        states: of all tensors.
        shared: what the method keeps of the whole model, a dataclass of plain values; None if nothing.

    Returns:
        Path, digest and size.

    Raises:
        CheckpointError: the disk is full, or the folder read-only.
    """
    layout = {
        f"{key}:{name}": (dtype, tuple(shape))
        for name in states
        for key, (dtype, shape, _) in states.describe(name).tensors.items()
    }
    size = sum(states.describe(name).size_bytes for name in states)
    with CheckpointWriter(path, layout, manifest(recipe, history, states, shared, size)) as writer:
        for name in states:
            for key, tensor in states.tensors(name):
                writer.write(f"{key}:{name}", tensor)
        return writer.finish()
