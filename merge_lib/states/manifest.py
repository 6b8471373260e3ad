"""What a state file says of itself, beside its tensors: plain JSON values under a seal."""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
import xxhash

from merge_lib.checkpoints.dtypes import DTYPE_NAMES, DTYPES
from merge_lib.errors import CheckpointCorruptError, CheckpointError
from merge_lib.states.spilled import SpilledStates

KIND = "state"
FORMAT = 1
_SEAL = "seal"


@dataclass(frozen=True)
class Recipe:
    """What must be the same whenever a sequence goes on.

    Attributes:
        params: those that the steps depend on; what only reading a merge depends on may change.
        dtype: of floating tensors in the merged checkpoint; None: as in the base, else the first expert.
        arithmetic: dtype of the arithmetic and of the state.
    """

    method: str
    params: Mapping[str, Any]
    seed: int
    exclude: tuple[str, ...]
    dtype: str | None
    arithmetic: str


@dataclass(frozen=True)
class History:
    """What a state was made from.

    Attributes:
        base: its digest; None where the method needs none and none was given.
        experts: their digests, in order.
        merged: dtype and shape of each tensor that is folded, as experts store it.
        copied: the digests of the other tensors, which all experts share.
    """

    base: str | None
    experts: tuple[str, ...]
    merged: Mapping[str, tuple[torch.dtype, tuple[int, ...]]]
    copied: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class DescribedExperts:
    """The tensors that experts of a sequence have, as far as its state tells."""

    label: str
    history: History

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the tensors, sorted."""
        return tuple(sorted({*self.history.merged, *self.history.copied}))

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor."""
        return self._described(name)[1]

    def dtype(self, name: str) -> torch.dtype:
        """Element type of a tensor."""
        return self._described(name)[0]

    def _described(self, name: str) -> tuple[torch.dtype, tuple[int, ...]]:
        if name in self.history.merged:
            return self.history.merged[name]
        dtype, rest = self.history.copied[name].split(" ", 1)
        return DTYPES[dtype], tuple(json.loads(rest.rpartition(" ")[0]))


def manifest(
    recipe: Recipe, history: History, states: SpilledStates, shared: Any, size_bytes: int
) -> dict[str, Any]:
    """All that a file says of itself but its digest, as plain JSON values."""
    told = {
        **_described(recipe, history, states),
        "shared": shared and dataclasses.asdict(shared),
        "state_bytes": size_bytes,
    }
    return {**told, _SEAL: _seal(told)}


def _described(recipe: Recipe, history: History, states: SpilledStates) -> dict[str, Any]:
    outlines: list[Any] = []
    tensors = {}
    for name in sorted(states):
        outline = states.describe(name).outline
        if outline not in outlines:
            outlines.append(outline)
        dtype, shape = history.merged[name]
        tensors[name] = {
            "dtype": DTYPE_NAMES[dtype],
            "shape": list(shape),
            "outline": outlines.index(outline),
        }
    return {
        "kind": KIND,
        "format": FORMAT,
        **dataclasses.asdict(recipe),
        "exclude": list(recipe.exclude),
        "base": history.base,
        "experts": list(history.experts),
        "tensors": tensors,
        "copied": dict(history.copied),
        "outlines": outlines,
        "versions": {"mergeline": _own_version(), "torch": torch.__version__},
    }


def _own_version() -> str:
    try:
        return version("mergeline")
    except PackageNotFoundError:
        return "unknown"


def check_told(path: Path, told: Mapping[str, Any]) -> Mapping[str, Any]:
    """The lineage of a state file, once it is seen to be one and unchanged."""
    if told.get("kind") != KIND:
        found = (
            f"it says of itself that it is a '{told['kind']}'"
            if "kind" in told
            else "it does not say what it is"
        )
        raise CheckpointError(f"{path} is not a state: {found}. Give a file that `mergeline fold` wrote.")
    if told.get("format") != FORMAT:
        raise CheckpointError(
            f"State {path} has the format {told.get('format')}, but this version reads {FORMAT}. "
            "Go on with the version that wrote it, or fold the experts in again."
        )
    if told.get(_SEAL) != _seal({key: value for key, value in told.items() if key not in (_SEAL, "digest")}):
        raise CheckpointCorruptError(
            f"State {path} changed after it was written: what it says of itself does not fit its seal. "
            "Restore it, or fold the experts in again."
        )
    return told


def _seal(told: Mapping[str, Any]) -> str:
    text = json.dumps(told, sort_keys=True, separators=(",", ":"))
    return f"xxh3:{xxhash.xxh3_128_hexdigest(text.encode())}"


def recipe_of(told: Mapping[str, Any]) -> Recipe:
    """How the state was made."""
    names = [one.name for one in dataclasses.fields(Recipe)]
    return Recipe(**{**{name: told[name] for name in names}, "exclude": tuple(told["exclude"])})


def history_of(told: Mapping[str, Any]) -> History:
    """What the state was made from."""
    merged = {
        name: (DTYPES[entry["dtype"]], tuple(entry["shape"])) for name, entry in told["tensors"].items()
    }
    return History(told["base"], tuple(told["experts"]), merged, told["copied"])


def shared_of(kind: type, values: Mapping[str, Any]) -> Any:
    """The shared state, whose JSON lists were tuples."""
    return kind(**{name: _tupled(value) for name, value in values.items()})


def _tupled(value: Any) -> Any:
    return tuple(_tupled(item) for item in value) if isinstance(value, list) else value
