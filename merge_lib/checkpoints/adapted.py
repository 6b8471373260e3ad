"""A base with an adapter folded into it on the fly."""

from collections import defaultdict
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from merge_lib.checkpoints.adapters import Adapter, Factors
from merge_lib.checkpoints.spellings import match_spellings
from merge_lib.checkpoints.view import Checkpoint, View
from merge_lib.errors import CheckpointMismatchError
from merge_lib.files.headers import FileState, TensorHeader

Change = TypeVar("Change")


class Adapted(View):
    """A base with an adapter folded into it: W + s · B A for the modules it updates, in float32 or wider.

    Equal to what peft's `merge_and_unload` makes, but not rounded to the base's dtype.

    Raises:
        CheckpointMismatchError: the adapter does not fit the base; every problem is listed.
    """

    def __init__(self, base: Checkpoint, adapter: Adapter) -> None:
        super().__init__(base)
        self._adapter = adapter
        self._factors, self._whole, self._transposed = _fit(base, adapter)
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
        if name in self._factors:
            return self._updated(name)
        return self._before(name)

    def location(self, name: str) -> TensorHeader | None:
        """Where the base has the tensor; None if the adapter changes it."""
        is_changed = name in self._factors or name in self._whole
        return None if is_changed else super().location(name)

    def close(self) -> None:
        """Close the base and the adapter."""
        super().close()
        self._adapter.close()

    def _before(self, name: str) -> Tensor:
        """The tensor without its factors: the base's, or the adapter's own."""
        return self._adapter.tensor(self._whole[name]) if name in self._whole else super().tensor(name)

    def _updated(self, name: str) -> Tensor:
        stored, factors = self._before(name), self._factors[name]
        dtype = (
            torch.promote_types(stored.dtype, torch.float32) if stored.dtype.itemsize > 1 else torch.float32
        )
        a, b = self._adapter.matrices(factors, dtype)
        update = factors.scale * (b @ a)  # [out, in · …]
        if self._transposed[name]:
            update = update.T
        return stored.to(dtype) + update.reshape(stored.shape)


def _fit(base: Checkpoint, adapter: Adapter) -> tuple[dict[str, Factors], dict[str, str], dict[str, bool]]:
    """By the base's names: factors, tensors stored whole, and whether the product is transposed."""
    problems: list[str] = []
    factors = _by_base_name(adapter.factors, base, adapter, problems)
    whole = _by_base_name(adapter.whole, base, adapter, problems)
    transposed = {}
    for name, found in factors.items():
        turned = found.needs_transpose(base.shape(name), adapter.config)
        transposed[name] = bool(turned)
        if turned is None:
            problems.append(
                f"Tensor '{name}' has shape {base.shape(name)} in base '{base.label}', but adapter "
                f"'{adapter.path}' has factors {found.b_shape} · {found.a_shape} for it."
            )
    problems += [
        f"Tensor '{name}' has shape {base.shape(name)} in base '{base.label}', but "
        f"{adapter.shape(stored)} in adapter '{adapter.path}'."
        for name, stored in whole.items()
        if adapter.shape(stored) != base.shape(name)
    ]
    if problems:
        raise CheckpointMismatchError(
            "\n".join(problems)
            + "\nAn adapter fits only the base that it was trained on. Give that base. If it is "
            "stored under other names than it is held, save it again with `save_original_format=False`."
        )
    return factors, whole, transposed


def _by_base_name(
    changes: Mapping[str, Change], base: Checkpoint, adapter: Adapter, problems: list[str]
) -> dict[str, Change]:
    """The changes by the names that the base has for their tensors, each of which is changed once."""
    found = match_spellings(changes, base.names)
    problems += [_not_there(name, base, adapter) for name in changes if name not in found]
    spellings: dict[str, list[str]] = defaultdict(list)
    for name, known in found.items():
        spellings[known].append(name)
    problems += [
        f"Adapter '{adapter.path}' changes '{known}' of base '{base.label}' under several names: "
        f"{', '.join(sorted(names))}."
        for known, names in spellings.items()
        if len(names) > 1
    ]
    return {known: changes[name] for name, known in found.items()}


def _not_there(name: str, base: Checkpoint, adapter: Adapter) -> str:
    near = get_close_matches(name, base.names, n=1, cutoff=0.6)
    hint = f"; the nearest name is '{near[0]}'" if near else ""
    return f"Adapter '{adapter.path}' changes tensor '{name}', which base '{base.label}' does not have{hint}."
