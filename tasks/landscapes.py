"""Landscapes: what lies between the checkpoints of a regime; each map is among the finished work."""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefect import task
from prefect.cache_policies import NO_CACHE

from merge_lib import workloads
from merge_lib.errors import SpecError
from merge_lib.maps import ConflictMaps, Landscape, LossPath, LossSurface
from tasks.jobs import Finished, LandscapeJob, Setting, Surveyed
from tasks.landscape_keys import (
    EXAMPLES_SEED,
    Seen,
    Told,
    conflicts_key,
    marks_key,
    path_key,
    surface_key,
)
from tasks.merging import merge_spec
from tasks.progress import Step, report
from tasks.records import Record
from tasks.slots import compute_slot, memory_share, sole_worker
from tasks.training import open_workload

if TYPE_CHECKING:
    from merge_lib.landscape import Examples, Waypoint
    from merge_lib.probe import Probe
    from merge_lib.types import StateDict

FILES = {
    "conflicts": "conflicts.parquet",
    "path": "path.json",
    "surface": "surface.json",
    "marks": "marks.json",
}

logger = logging.getLogger(__name__)


@task(task_run_name="look at {job.label}", cache_policy=NO_CACHE)
def survey_landscape(
    setting: Setting,
    job: LandscapeJob,
    base: Finished,
    experts: list[Finished],
    merged: list[tuple[list[Finished], int]],
) -> Surveyed:
    """All maps that the job asks for; `merged` has for each entry the merges of a job and its place among them."""
    tasks = setting.tasks[: len(experts)]
    conflicts = path = surface = None
    taken_s = []
    if job.conflicts:
        conflicts, elapsed_s = conflicts_between(setting, job.label, base, experts, tasks)
        taken_s.append(elapsed_s)
    if job.points:
        route = [("base", base), *zip(tasks, experts, strict=True)]
        path, elapsed_s = losses_along(
            setting, job.label, route, tasks, points=job.points, examples=job.examples
        )
        taken_s.append(elapsed_s)
    if job.size:
        seen = [
            Seen(entry.label, done[place], entry)
            for entry, (done, place) in zip(job.entries, merged, strict=True)
        ]
        corners = list(zip(tasks[:2], experts[:2], strict=True))
        surface, elapsed_s = losses_over(setting, job, base, corners, seen)
        taken_s.append(elapsed_s)
    found = Landscape(job.regime, job.seed, conflicts, path, surface)
    return Surveyed(found, files_of(setting, found), sum(taken_s), reused=not any(taken_s))


def files_of(setting: Setting, found: Landscape) -> tuple[str, ...]:
    """The files of all maps."""
    root = setting.store.root
    return tuple(str(root / record / FILES[record.partition("/")[0]]) for record in found.records)


def check_landscape(setting: Setting) -> None:
    """Refuse to measure losses on a workload that shows nothing.

    Raises:
        SpecError: it has no probe.
    """
    _probe(setting)


def conflicts_between(
    setting: Setting, label: str, base: Finished, experts: Sequence[Finished], tasks: Sequence[str]
) -> tuple[ConflictMaps, float]:
    """The conflict maps of every pair of experts, and the seconds that they took; 0 if they were found.

    Raises:
        MergeError: a checkpoint cannot be read, or does not match the others.
    """
    told = conflicts_key(base.digest, [expert.digest for expert in experts], tasks)

    def make(folder: Path) -> dict[str, Any]:
        from merge_lib.diagnostics import write_table
        from merge_lib.landscape import conflict_table, summarise_conflicts

        table = conflict_table(_path(base), [_path(expert) for expert in experts], tasks)
        write_table(table, folder / FILES["conflicts"])
        return asdict(summarise_conflicts(table, tasks, told.record))

    record, elapsed_s = _finished(setting, told, label, make)
    return ConflictMaps(**record.values["map"]), elapsed_s


def losses_along(
    setting: Setting,
    label: str,
    route: Sequence[tuple[str, Finished]],
    tasks: Sequence[str],
    *,
    points: int,
    examples: int,
) -> tuple[LossPath, float]:
    """Losses along a path through checkpoints, and the seconds that they took; 0 if they were found.

    Raises:
        MergeError: a checkpoint cannot be read or does not fit, or the workload shows nothing.
    """
    digests = [(name, done.digest) for name, done in route]
    told = path_key(setting, digests, tasks, points=points, examples=examples)

    def make(folder: Path) -> dict[str, Any]:
        from merge_lib.landscape import follow

        waypoints = [_waypoint(name, done) for name, done in route]
        found = follow(waypoints, _examples(setting, tasks, examples), points, _progress("path", label))
        return _kept(LossPath(**{**asdict(found), "record": told.record}), folder / FILES["path"])

    record, elapsed_s = _finished(setting, told, label, make)
    return LossPath(**record.values["map"]), elapsed_s


def losses_over(
    setting: Setting,
    job: LandscapeJob,
    base: Finished,
    experts: Sequence[tuple[str, Finished]],
    merges: Sequence[Seen],
) -> tuple[LossSurface, float]:
    """Losses over the plane through base and two experts with merges marked, and the seconds that were needed.

    Finished rows of the grid outlive a kill. A merge whose weights cannot be had is left out, and the log says so.

    Raises:
        SpecError: the three lie on one line, or the workload shows nothing.
        MergeError: a checkpoint cannot be read or does not fit.
    """
    from merge_lib.landscape import Plane, Rows, survey

    digests = [(name, done.digest) for name, done in experts]
    told = surface_key(setting, base.digest, digests, size=job.size, examples=job.examples)
    tasks = [name for name, _ in experts]

    def plane() -> Plane:
        first, second = (_read(done) for _, done in experts)
        return Plane.through(_read(base), first, second, ("base", tasks[0], tasks[1]))

    def make(folder: Path) -> dict[str, Any]:
        rows = Rows(setting.store.root / "surface" / f".{told.key}.rows", told.key)
        examples = _examples(setting, tasks, job.examples)
        found = survey(plane(), examples, job.size, rows, _progress("surface", job.label))
        values = _kept(
            LossSurface.from_dict({**asdict(found), "record": told.record}), folder / FILES["surface"]
        )
        rows.remove()
        return values

    record, surface_s = _finished(setting, told, job.label, make)
    marks, marks_s = _marks(setting, job, told, plane, (base, [done for _, done in experts]), merges)
    surface = LossSurface.from_dict({**record.values["map"], "marks": marks})
    return surface, surface_s + marks_s


def _marks(
    setting: Setting,
    job: LandscapeJob,
    surface: Told,
    plane: Callable[[], Any],
    made_from: tuple[Finished, list[Finished]],
    merges: Sequence[Seen],
) -> tuple[list[dict[str, Any]], float]:
    """Base, experts and merges as plain values, and the seconds that they took."""
    from merge_lib.landscape import Waypoint, mark

    known = [merge for merge in merges if merge.is_within_reach]
    if gone := [merge.name for merge in merges if merge not in known]:
        logger.info("%s: not marked, as their weights were not kept: %s", job.label, ", ".join(gone))
    told = marks_key(surface, [(merge.name, merge.done.digest) for merge in known])

    def make(_folder: Path) -> dict[str, Any]:
        tasks = surface.params["tasks"]
        models = [
            (Waypoint(merge.name, partial(_weights, setting, job.seed, merge, *made_from)), "merge")
            for merge in known
        ]
        examples = _examples(setting, tasks, job.examples)
        found = mark(plane(), examples, models, corners=("base", *tasks))
        return {"marks": [asdict(one) for one in found]}

    record, elapsed_s = _finished(setting, told, job.label, make)
    return record.values["map"]["marks"], elapsed_s


def _weights(
    setting: Setting, seed: int, merge: Seen, base: Finished, experts: list[Finished]
) -> "StateDict":
    """Of a merge: read, or made again from the experts that it is of."""
    if merge.done.path is not None:
        return _read(merge.done)
    from merge_lib import merge_in_turn

    assert merge.made_from is not None
    spec = merge_spec(setting, merge.made_from, seed, base, experts)
    (made,) = merge_in_turn([spec], memory_bytes=memory_share(), threads=setting.threads)
    return made.tensors


def _finished(
    setting: Setting, told: Told, label: str, make: Callable[[Path], dict[str, Any]]
) -> tuple[Record, float]:
    """The record of a map, made now if it is not among the finished work; and the seconds that it took, 0 if it was."""
    with sole_worker(told.key):
        record = setting.store.find(told.kind, told.key)
        if record is not None:
            report(Step(told.kind, label, 1.0, reused=True))
            return record, 0.0
        with compute_slot():
            report(Step(told.kind, label, 0.0))
            with setting.store.writing(told.kind, told.key) as (folder, commit):
                started = time.perf_counter()
                found = make(folder)
                values = {"map": found, "elapsed_s": time.perf_counter() - started}
                record = commit(inputs=told.inputs, params=told.params, values=values)
    report(Step(told.kind, label, 1.0))
    return record, record.values["elapsed_s"]


def _progress(kind: str, label: str) -> Callable[[int, int], None]:
    """A callback for (done, in all) that stops short of the end: a map is done once it is kept."""
    return lambda done, total: report(Step(kind, label, done / (total + 1)))


def _probe(setting: Setting) -> "Probe":
    workload = open_workload(setting)
    if not isinstance(workload, workloads.Probing):
        raise SpecError(
            f"Workload '{setting.workload['name']}' has no `probe`, so no losses can be measured between its "
            "checkpoints. Leave `paths` and `surface` out, or give it one (merge_lib.probe.Probe)."
        )
    return workload.probe()


def _examples(setting: Setting, tasks: Sequence[str], count: int) -> "Examples":
    from merge_lib.landscape import Examples

    return Examples.draw(_probe(setting), list(tasks), count=count, seed=EXAMPLES_SEED)


def _waypoint(name: str, done: Finished) -> "Waypoint":
    from merge_lib.landscape import Waypoint

    return Waypoint(name, partial(_read, done))


def _read(done: Finished) -> "StateDict":
    from merge_lib.checkpoints import read_state_dict

    return read_state_dict(_path(done))


def _path(done: Finished) -> Path:
    return Path(done.path or "")


def _kept(found: LossPath | LossSurface, file: Path) -> dict[str, Any]:
    """The values of a map, which is also kept as a file of its own, to be recorded."""
    from merge_lib.maps import save_map

    save_map(found, file)
    return asdict(found)
