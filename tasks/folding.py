"""Folding: a continual method's merge after a task, from its state after the task before and one expert.

States are finished work of their own, `fold`, by what they were made from; a sequence that begins in the same way
goes on from them.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import TYPE_CHECKING, Any

from merge_lib import registry
from tasks.caching import cache_key
from tasks.facts import SCALE_BYTES, SHARED
from tasks.jobs import Finished, MergeEntry, Setting

if TYPE_CHECKING:
    from torch import Tensor

    from merge_lib.checkpoints import WrittenCheckpoint
    from merge_lib.streaming.in_memory import MergedInMemory

SEQUENCE = "merge_lib.sequence"  # the module that folds
STATE = "state.safetensors"


@dataclass(frozen=True)
class Folded:
    """A merge that was made by a step.

    Attributes:
        values: what its record says, beside the files.
    """

    merged: "WrittenCheckpoint"
    values: dict[str, Any]


@dataclass(frozen=True)
class Folding:
    """A continual method after some experts of a sequence."""

    setting: Setting
    entry: MergeEntry
    seed: int
    base: Finished
    experts: Sequence[Finished]

    def step(self, out: Path, lineage: dict[str, Any]) -> Folded:
        """Fold in what the longest finished state lacks; keep the new state, and write the merge.

        Args:
            out: where the merge goes.
            lineage: for the merge's file.

        Raises:
            MergeError: the method refuses, or a checkpoint or the state cannot be used.
        """
        from merge_lib.sequence import fold_experts

        key, inputs, params = self._key(len(self.experts))
        count, earlier = self._earlier()
        with self.setting.store.writing("fold", key) as (folder, commit):
            done = fold_experts(
                self._spec(count), folder / STATE, earlier=earlier, out=out, again=True, lineage=lineage
            )
            values = {"state": STATE, "digest": done.digest, "state_bytes": done.state_bytes}
            commit(inputs=inputs, params=params, values={**values, "elapsed_s": done.elapsed_s})
        merged: WrittenCheckpoint = done.merged  # type: ignore[assignment]
        told = {"checkpoint": out.name, "digest": merged.digest, "size_bytes": merged.size_bytes}
        return Folded(merged, {**told, "elapsed_s": done.elapsed_s, "state_bytes": done.state_bytes})

    def decoded(self) -> "Iterator[MergedInMemory]":
        """The model of each task, and what they share last, out of the state after all experts."""
        from merge_lib.sequence import read_merge
        from merge_lib.streaming.in_memory import MergedInMemory

        with TemporaryDirectory() as folder:
            out = Path(folder) / "decoded.safetensors"
            started = perf_counter()
            key = self._key(len(self.experts))[0]
            if self.setting.store.find("fold", key) is None:
                self.step(out, {})
                out.unlink()
            state = self.setting.store.folder("fold", key) / STATE
            for task in (*range(len(self.experts)), SHARED):
                written = read_merge(state, Path(self.base.path or ""), out, task=task)
                yield MergedInMemory(written.digest, take_tensors(out), perf_counter() - started)
                started = perf_counter()

    def state_bytes(self) -> int | None:
        """Of the state after all experts; None if it was not made yet."""
        record = self.setting.store.find("fold", self._key(len(self.experts))[0])
        return None if record is None else record.values["state_bytes"]

    def kept(self) -> dict[str, int]:
        """Bytes of each part of the state after all experts, which was made before."""
        from merge_lib.states import StateFile

        path = self.setting.store.folder("fold", self._key(len(self.experts))[0]) / STATE
        with StateFile(path) as state:
            return {**state.part_bytes(), "rescalers": len(self.experts) * SCALE_BYTES}

    def _earlier(self) -> tuple[int, Path | None]:
        """How many experts the longest finished state holds, all but the last at most, and where it lies."""
        store = self.setting.store
        for count in range(len(self.experts) - 1, 0, -1):
            key = self._key(count)[0]
            if store.find("fold", key) is not None:
                return count, store.folder("fold", key) / STATE
        return 0, None

    def _key(self, count: int) -> tuple[str, dict[str, str], dict[str, Any]]:
        """Key, inputs and parameters of the state after the first experts."""
        from merge_lib.sequence import step_params

        info = registry.get(self.entry.method)
        inputs = {f"expert_{t}": expert.digest for t, expert in enumerate(self.experts[:count])}
        inputs["base"] = self.base.digest
        kept = step_params(info, info.check_params(self.entry.params))
        params = {"method": info.name, "params": kept, "seed": self.seed}
        return cache_key("fold", inputs=inputs, params=params, code=(SEQUENCE, info.module)), inputs, params

    def _spec(self, count: int) -> Any:
        """What is to be folded in beyond the first experts."""
        from merge_lib import MergeSpec

        paths = [Path(done.path) for done in (self.base, *self.experts[count:]) if done.path is not None]
        return MergeSpec(
            method=self.entry.method,
            params=self.entry.params,
            base=paths[0],
            experts=tuple(paths[1:]),
            seed=self.seed,
        )


def take_tensors(path: Path) -> "dict[str, Tensor]":
    """The tensors of a checkpoint, whose file goes."""
    from merge_lib.checkpoints import read_state_dict

    tensors = read_state_dict(path)
    path.unlink()
    return tensors
