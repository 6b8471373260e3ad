"""Routing: inputs find those models of a merge that answer them; each way of it is finished work of its own.

Which models an input asks follows from what the base sees. That is finished work, too, `features`: of every task and
split once for all merges upon the base. The models are asked as they are made, so none of them is kept.
"""

import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import xxhash

from merge_lib import workloads
from merge_lib.errors import SpecError
from merge_lib.results import RoutedStage
from merge_lib.routing import RoutingSettings
from tasks.caching import cache_key
from tasks.evaluation import apart, evaluate_each, evaluation_key, probes_of
from tasks.facts import routing_of
from tasks.jobs import Finished, MergeEntry, Scores, Setting
from tasks.progress import Step, report
from tasks.records import Record
from tasks.slots import sole_worker
from tasks.training import open_workload

if TYPE_CHECKING:
    from torch import Tensor

    from merge_lib.probe import Split
    from merge_lib.routing import BaseView, Encoder, Poll, Routing
    from merge_lib.types import StateDict

KIND, FEATURES = "route", "features"
VOTING, SEEING = "merge_lib.routing.polling", "merge_lib.routing.view"
FILE = "features.safetensors"


@dataclass(frozen=True)
class Route:
    """One way to answer by the models of a merge.

    Attributes:
        label: of the row.
        inputs: what it is made from.
        params: of the merge, and of the routing.
    """

    label: str
    settings: RoutingSettings
    key: str
    inputs: dict[str, str]
    params: dict[str, Any]


def route_of(
    setting: Setting,
    entry: MergeEntry,
    merge: tuple[str, dict[str, str], dict[str, Any]],
    base_digest: str,
) -> Route | None:
    """The entry's route, if it has one; `merge` is key, inputs and parameters of its merge."""
    settings = routing_of(entry)
    if settings is None:
        return None
    key, inputs, params = merge
    config = workloads.parse(setting.workload)
    inputs = {**inputs, "base": base_digest, **setting.hashes_of(config.task_snapshots(setting.tasks))}
    params = {**params, "routing": settings.model_dump(mode="json"), "tasks": list(setting.tasks)}
    made_from = {**inputs, "merge": key, "evaluation": evaluation_key(setting, base_digest)[0]}
    found = cache_key(KIND, inputs=made_from, params=params, code=(VOTING, *config.code("evaluate")))
    return Route(entry.label, settings, found, inputs, params)


def recorded_route(setting: Setting, key: str) -> Finished | None:
    """What was measured of a route, if it is among the finished work."""
    record = setting.store.find(KIND, key)
    return None if record is None else _finished(setting, record, reused=True)


def _finished(setting: Setting, record: Record, *, reused: bool) -> Finished:
    values = record.values
    accuracy = tuple(values["accuracy"][name] for name in setting.tasks)
    scores = Scores(values["digest"], accuracy, values["elapsed_s"], reused, values.get("probes", {}))
    done = Finished.from_record(record, setting.store.folder(KIND, record.key), reused=reused)
    return replace(done, elapsed_s=values["merged_s"], scores=scores, routed=RoutedStage(**values["routed"]))


@dataclass(frozen=True)
class Routes:
    """The routes of one merge that are to be evaluated while its models are made.

    Attributes:
        seen: the tasks that there are models for.
    """

    setting: Setting
    routes: tuple[Route, ...]
    base: Finished
    seen: tuple[str, ...]

    def ask(self, place: int, tensors: "StateDict") -> None:
        """Ask the model of one task."""
        from merge_lib.routing.polling import ask

        ask(self._asked, place, lambda: self._workload.encoder(tensors))

    def finish(
        self,
        merged: Finished,
        kept: dict[str, int],
        label: str,
    ) -> dict[str, Finished]:
        """Keep what was measured, by the routes' keys.

        Args:
            merged: the merge, with its scores: of each task's model on that task, and of what they share.
            kept: part of what must be kept beside the base -> bytes.
            label: of the stage.
        """
        return {route.key: self._keep(route, merged, kept, label) for route in self.routes}

    def _keep(self, route: Route, merged: Finished, kept: dict[str, int], label: str) -> Finished:
        started = time.perf_counter()
        assert merged.scores is not None
        measured = merged.scores.by_name(self.setting.tasks)
        chosen: dict[str, dict[str, float]] = {}
        if route.key in self._polls:
            result = self._polls[route.key].result()
            measured |= result.accuracy
            chosen = result.chosen
            of_tasks = self._prototypes(route.settings)
            kept = {**kept, "prototypes": sum(rows.numel() * rows.itemsize for rows in of_tasks.values())}
        elif route.settings.unseen == "base":
            measured |= self._scores_of_base()
        digest = f"xxh3:{xxhash.xxh3_128_hexdigest(f'{merged.digest} {route.key}'.encode())}"
        values = {
            "checkpoint": None,
            "digest": digest,
            "size_bytes": sum(kept.values()),
            **apart(self.setting, measured),
            "routed": asdict(RoutedStage(chosen, kept)),
            "merged_s": merged.elapsed_s,
            "elapsed_s": time.perf_counter() - started,
        }
        values |= {} if merged.state_bytes is None else {"state_bytes": merged.state_bytes}
        values |= {"learning": merged.learning} if merged.learning else {}
        with self.setting.store.writing(KIND, route.key) as (_, commit):
            record = commit(inputs=route.inputs, params=route.params, values=values)
        report(Step(KIND, f"{route.label} · {label}", 1.0))
        return _finished(self.setting, record, reused=False)

    def _scores_of_base(self) -> dict[str, float]:
        from merge_lib.checkpoints import read_state_dict

        unseen = (*self.setting.tasks[len(self.seen) :], *probes_of(self.setting))
        if not unseen:
            return {}
        tensors = read_state_dict(Path(self.base.path or ""))
        return evaluate_each(self.setting, "base", self.base.digest, tensors, unseen)

    @cached_property
    def _workload(self) -> "Routing":
        return routing_workload(self.setting)

    @property
    def _asked(self) -> list["Poll"]:
        return list(self._polls.values())

    @cached_property
    def _polls(self) -> dict[str, "Poll"]:
        """By the key of each route that puts inputs to the vote."""
        from merge_lib.routing import Poll

        voting = [route for route in self.routes if route.settings.votes]
        views = self._views((*self.setting.tasks, *probes_of(self.setting)), "test") if voting else {}
        return {route.key: Poll(route.settings, self._prototypes(route.settings), views) for route in voting}

    def _prototypes(self, settings: RoutingSettings) -> "dict[str, Tensor]":
        images = settings.images
        views = self._views(self.seen, images.split, images.examples)
        return {task: view.prototypes() for task, view in views.items()}

    def _views(
        self, tasks: Iterable[str], split: "Split", examples: int | None = None
    ) -> "dict[str, BaseView]":
        return views_of(self.setting, self.base, tuple(tasks), split, examples)


def routing_workload(setting: Setting) -> "Routing":
    """The workload of the run, which must have features to choose by."""
    workload = open_workload(setting)
    if not isinstance(workload, workloads.Routing):
        raise SpecError(
            f"Workload '{setting.workload['name']}' lacks `encoder`, `labels` or `own_classes`, so its inputs cannot "
            "be put to the vote. Give it these (merge_lib.workloads.Routing), or leave `routing` out."
        )
    return workload


def views_of(
    setting: Setting, base: Finished, tasks: Sequence[str], split: "Split", examples: int | None = None
) -> "dict[str, BaseView]":
    """What the base sees of the tasks, found or made now; the caller holds a slot."""
    encoders: list[Encoder] = []

    def encoder() -> "Encoder":
        if not encoders:
            from merge_lib.checkpoints import read_state_dict

            encoders.append(routing_workload(setting).encoder(read_state_dict(Path(base.path or ""))))
        return encoders[0]

    return {task: _view(setting, base, encoder, task, split, examples) for task in tasks}


def _view(
    setting: Setting, base: Finished, encoder: Any, task: str, split: "Split", examples: int | None
) -> "BaseView":
    from merge_lib.routing import BaseView

    evaluation, inputs, params = evaluation_key(setting, base.digest)
    params = {**params, "task": task, "split": split, "examples": examples}
    config = workloads.parse(setting.workload)
    made_from = {**inputs, "evaluation": evaluation}
    key = cache_key(FEATURES, inputs=made_from, params=params, code=(SEEING, *config.code("evaluate")))
    path = setting.store.folder(FEATURES, key) / FILE
    with sole_worker(key):
        if setting.store.find(FEATURES, key) is not None:
            return BaseView.load(path)
        with setting.store.writing(FEATURES, key) as (folder, commit):
            view = BaseView.of(routing_workload(setting), encoder(), task, split=split, examples=examples)
            view.save(folder / FILE, {"kind": FEATURES, "key": key, "inputs": inputs})
            commit(inputs=inputs, params=params, values={"features": FILE})
    return view
