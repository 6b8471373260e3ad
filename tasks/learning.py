"""What methods learn from data before a merge: observations of each expert, and what is fitted to all of them.

Both are finished work of their own, `observe` and `fit`, by what they were made from: methods, stages and studies share
observations.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from merge_lib import registry, workloads
from tasks.caching import cache_key
from tasks.facts import calibration_of
from tasks.jobs import Finished, MergeEntry, Setting
from tasks.observing import data_of, observe, probe_of
from tasks.progress import reporter
from tasks.slots import sole_worker

if TYPE_CHECKING:
    from torch import Tensor

    from merge_lib.spec import MergeSpec

COLLECTING, FITTING = "merge_lib.calibration.collect", "merge_lib.fitting"
FITTED = "fitted.safetensors"


@dataclass(frozen=True)
class Learning:
    """The data side of one entry's merge.

    Attributes:
        tasks: of the experts, in order.
    """

    setting: Setting
    entry: MergeEntry
    seed: int
    tasks: tuple[str, ...]
    base: Finished
    experts: Sequence[Finished]

    def observations(self) -> tuple[Path, ...]:
        """A folder for each expert, collected now where there is none; none for methods that observe nothing."""
        if registry.get(self.entry.method).observation is None:
            return ()
        return tuple(
            self._observe(task, expert) for task, expert in zip(self.tasks, self.experts, strict=True)
        )

    def fitted(self) -> Path | None:
        """The file of what the method learned, fitted now where there is none; None for methods that learn nothing."""
        info = registry.get(self.entry.method)
        if not info.is_fitted:
            return None
        inputs = {
            "base": self.base.digest,
            **{f"expert_{place}": expert.digest for place, expert in enumerate(self.experts)},
            **data_of(self.setting, self.tasks),
        }
        params = {
            "method": info.name,
            "params": self.entry.params,
            **_asked(self.setting, self.tasks, self.seed),
        }
        code = (FITTING, info.module, *_workload_code(self.setting))
        key = cache_key("fit", inputs=inputs, params=params, code=code)
        with sole_worker(key):
            if self.setting.store.find("fit", key) is None:
                self._fit(key, inputs, params)
        return self.setting.store.folder("fit", key) / FITTED

    def _fit(self, key: str, inputs: dict[str, str], params: dict[str, Any]) -> None:
        from merge_lib.calibration.fitted import write_fitted
        from merge_lib.fitting import fit

        states = [_state(done) for done in (self.base, *self.experts)]
        with self.setting.store.writing("fit", key) as (folder, commit):
            fitted = fit(
                self.entry.method,
                probe_of(self.setting),
                self.tasks,
                states[0],
                states[1:],
                seed=self.seed,
                params=self.entry.params,
                progress=reporter("fit", self.entry.label),
            )
            write_fitted(folder / FITTED, fitted, {"key": key, "inputs": inputs, "params": params})
            commit(inputs=inputs, params=params, values={"fitted": FITTED})

    def _observe(self, task: str, expert: Finished) -> Path:
        """The observations of one expert on its task."""
        kind = registry.get(self.entry.method).observation
        asked = calibration_of(self.entry)
        inputs = {"expert": expert.digest, **data_of(self.setting, (task,))}
        if asked["expert_scale"] != 1.0:
            inputs["base"] = self.base.digest
        params = {"kind": kind, **asked, **_asked(self.setting, (task,), self.seed)}
        code = (COLLECTING, *_workload_code(self.setting))
        key = cache_key("observe", inputs=inputs, params=params, code=code)
        with sole_worker(key):
            if self.setting.store.find("observe", key) is None:
                self._collect(task, expert, key, inputs, params)
        return self.setting.store.folder("observe", key)

    def _collect(
        self, task: str, expert: Finished, key: str, inputs: dict[str, str], params: dict[str, Any]
    ) -> None:
        from merge_lib.calibration.collect import Calibration

        asked = calibration_of(self.entry)
        calibration = Calibration(
            kind=params["kind"],
            examples=asked["examples"],
            seed=self.seed,
            split=asked["split"],
            rows=asked["rows"],
        )
        with self.setting.store.writing("observe", key) as (folder, commit):
            weights, digest = self._shown(expert, asked["expert_scale"]), expert.digest
            observe(self.setting, calibration, weights, digest, task, folder, reporter("observe", task))
            commit(inputs=inputs, params=params, values={"folder": "."})

    def _shown(self, expert: Finished, scale: float) -> "dict[str, Tensor]":
        """The weights that see the inputs: base + scale · task vector."""
        state = _state(expert)
        if scale == 1.0:
            return state
        base = _state(self.base)
        return {
            name: base[name] + scale * (tensor - base[name]) if tensor.is_floating_point() else tensor
            for name, tensor in state.items()
        }


def told_of_learning(setting: Setting, spec: "MergeSpec") -> dict[str, Any]:
    """What a merge's record says of the seconds that learning from data took, if there was any: `learning`."""
    folders = [*spec.observations, *([spec.fitted.parent] if spec.fitted else [])]
    records = [setting.store.find(folder.parent.name, folder.name) for folder in folders]
    seconds = {f"{record.kind}/{record.key}": record.elapsed_s for record in records if record is not None}
    return {"learning": seconds} if seconds else {}


def learning_key(
    setting: Setting, entry: MergeEntry, tasks: tuple[str, ...], seed: int
) -> tuple[dict[str, str], dict[str, Any], tuple[str, ...]]:
    """What a merge's key has beside: inputs, parameters and code; nothing for methods that need no data."""
    info = registry.get(entry.method)
    if info.data == "none":
        return {}, {}, ()
    asked = _asked(setting, tasks, seed)
    params = {**asked, **({} if info.is_fitted else {"calibration": calibration_of(entry)})}
    code = (FITTING if info.is_fitted else COLLECTING, *_workload_code(setting))
    return data_of(setting, tasks), {"data": params}, code


def _asked(setting: Setting, tasks: Sequence[str], seed: int) -> dict[str, Any]:
    config = workloads.parse(setting.workload)
    return {
        "workload": config.parameters_of("evaluate"),
        "of": list(setting.tasks),
        "tasks": list(tasks),
        "seed": seed,
    }


def _workload_code(setting: Setting) -> tuple[str, ...]:
    return workloads.parse(setting.workload).code("evaluate")


def _state(done: Finished) -> "dict[str, Tensor]":
    from merge_lib.checkpoints import read_state_dict

    return read_state_dict(Path(done.path or ""))
