"""What the maps of a landscape are known by among the finished work."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from merge_lib import workloads
from tasks.caching import cache_key
from tasks.facts import is_decoded
from tasks.jobs import Finished, LandscapeJob, MergeEntry, Setting

EXAMPLES_SEED = 0  # the same examples for every checkpoint of a study


@dataclass(frozen=True)
class Seen:
    """A merge that is marked on a surface.

    Attributes:
        made_from: what makes it again, where it was not kept.
    """

    name: str
    done: Finished
    made_from: MergeEntry | None = None

    @property
    def is_within_reach(self) -> bool:
        """Whether its weights can be had: from a file, or made again with coefficients that are known."""
        if self.done.path is not None:
            return True
        return self.made_from is not None and self.made_from.search is None and not is_decoded(self.made_from)


@dataclass(frozen=True)
class Told:
    """What a map is known by."""

    kind: str
    key: str
    inputs: dict[str, str]
    params: dict[str, Any]

    @property
    def record(self) -> str:
        """Its place in the store."""
        return f"{self.kind}/{self.key}"


def maps_of(
    setting: Setting,
    job: LandscapeJob,
    base: Finished,
    experts: Sequence[Finished],
    merges: Sequence[Finished | None],
) -> dict[str, str]:
    """The key of each map that can be looked up; marks only once all merges are known."""
    tasks = setting.tasks[: len(experts)]
    digests = [expert.digest for expert in experts]
    named = list(zip(tasks, digests, strict=True))
    found: list[Told] = []
    if job.conflicts:
        found.append(conflicts_key(base.digest, digests, tasks))
    if job.points:
        route = [("base", base.digest), *named]
        found.append(path_key(setting, route, tasks, points=job.points, examples=job.examples))
    if job.size:
        surface = surface_key(setting, base.digest, named[:2], size=job.size, examples=job.examples)
        found.append(surface)
        seen = [
            Seen(entry.label, done, entry) for entry, done in zip(job.entries, merges, strict=True) if done
        ]
        if len(seen) == len(merges):
            known = [(one.name, one.done.digest) for one in seen if one.is_within_reach]
            found.append(marks_key(surface, known))
    return {told.kind: told.key for told in found}


def conflicts_key(base_digest: str, expert_digests: Sequence[str], tasks: Sequence[str]) -> Told:
    """What the conflict maps of some experts are known by."""
    inputs = {"base": base_digest} | {f"expert_{t}": digest for t, digest in enumerate(expert_digests)}
    return _told("conflicts", inputs, {"tasks": list(tasks)}, ("merge_lib.landscape.conflicts",))


def path_key(
    setting: Setting, route: Sequence[tuple[str, str]], tasks: Sequence[str], *, points: int, examples: int
) -> Told:
    """What a path is known by; `route` has names and digests."""
    inputs, params, code = _measured(setting, tasks, examples)
    inputs |= {f"waypoint_{place}": digest for place, (_, digest) in enumerate(route)}
    params |= {"names": [name for name, _ in route], "points": points}
    return _told("path", inputs, params, ("merge_lib.landscape.paths", *code))


def surface_key(
    setting: Setting, base_digest: str, experts: Sequence[tuple[str, str]], *, size: int, examples: int
) -> Told:
    """What a surface is known by; `experts` has tasks and digests of two. Merges that are marked do not count."""
    inputs, params, code = _measured(setting, [name for name, _ in experts], examples)
    inputs |= {"base": base_digest} | {f"expert_{t}": digest for t, (_, digest) in enumerate(experts)}
    return _told("surface", inputs, {**params, "size": size}, ("merge_lib.landscape.surfaces", *code))


def marks_key(surface: Told, merges: Sequence[tuple[str, str]]) -> Told:
    """What the marks on a surface are known by: the plane, and names and digests of merges."""
    inputs = surface.inputs | {f"merge_{place}": digest for place, (_, digest) in enumerate(merges)}
    params = {**surface.params, "names": [name for name, _ in merges], "surface": surface.key}
    return _told("marks", inputs, params, ("merge_lib.landscape.surfaces",))


def _told(kind: str, inputs: dict[str, str], params: dict[str, Any], code: tuple[str, ...]) -> Told:
    return Told(kind, cache_key(kind, inputs=inputs, params=params, code=code), inputs, params)


def _measured(
    setting: Setting, tasks: Sequence[str], examples: int
) -> tuple[dict[str, str], dict[str, Any], tuple[str, ...]]:
    """Inputs, parameters and code of what is measured on test examples."""
    config = workloads.parse(setting.workload)
    params = {
        "workload": config.parameters_of("evaluate"),
        "of": list(setting.tasks),
        "tasks": list(tasks),
        "examples": examples,
        "seed": EXAMPLES_SEED,
    }
    return setting.hashes_of(config.task_snapshots(tuple(tasks))), params, config.code("evaluate")
