"""Maps that were asked for: of a run's checkpoints, or of those that a merge recipe names."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flows.audits import load_auditable
from flows.config import StudyConfig, load_study
from flows.stages import setting_of
from merge_lib import merge_checkpoints, workloads
from merge_lib.errors import SpecError, suggest
from merge_lib.maps import ConflictMaps, LossPath, LossSurface
from merge_lib.plugins import load_plugins
from merge_lib.results import CheckpointRef, StudyResults
from merge_lib.spec import MergeSpec
from tasks.jobs import Finished, LandscapeJob, Setting
from tasks.landscape_keys import Seen
from tasks.landscapes import check_landscape, conflicts_between, losses_along, losses_over
from tasks.project import Project

BASE = "base"
_TRAINED = ("expert", "sequential", "latest")  # rows that hold the experts of a regime


@dataclass(frozen=True)
class Choice:
    """What is to be drawn of a run; None leaves it to the run."""

    regime: str | None = None
    seed: int | None = None
    tasks: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()  # of merges


@dataclass(frozen=True)
class Scene:
    """Checkpoints of one regime with one seed, or of a recipe.

    Attributes:
        title: what the picture is of.
        experts: by task, in the order of the sequence.
        merges: those that hold all of `experts`, the earliest of each method.
    """

    title: str
    setting: Setting
    base: Finished | None
    experts: dict[str, Finished]
    merges: dict[str, Seen]
    regime: str = "parallel"
    seed: int = 0

    def path(self, through: Sequence[str], *, points: int, examples: int) -> LossPath:
        """Along the named checkpoints; none: from the base through all experts.

        Raises:
            SpecError: a name is not known, or the weights of a merge were not kept.
        """
        check_landscape(self.setting)
        route = [(name, self._checkpoint(name)) for name in through or self._route()]
        tasks = list(self.experts)
        return losses_along(self.setting, self.title, route, tasks, points=points, examples=examples)[0]

    def surface(self, *, size: int, examples: int) -> LossSurface:
        """Over the plane of base and two experts, with the merges marked.

        Raises:
            SpecError: there are not two experts, or they and the base lie on one line.
        """
        check_landscape(self.setting)
        if len(self.experts) != 2:
            raise SpecError(
                f"A surface lies on the base and two experts; got {len(self.experts)}. "
                f"Name two of {', '.join(self.experts)} by --task."
            )
        job = LandscapeJob(self.regime, self.seed, self.title, size=size, examples=examples)  # type: ignore[arg-type]
        found = losses_over(
            self.setting, job, self._based(), list(self.experts.items()), list(self.merges.values())
        )
        return found[0]

    def conflicts(self) -> ConflictMaps:
        """Between each pair of experts.

        Raises:
            SpecError: there are fewer than two.
        """
        tasks = list(self.experts)
        return conflicts_between(self.setting, self.title, self._based(), list(self.experts.values()), tasks)[
            0
        ]

    def missing(self) -> list[str]:
        """Merges that cannot be marked, as their weights were not kept."""
        return [name for name, merge in self.merges.items() if not merge.is_within_reach]

    def _route(self) -> list[str]:
        return [*([BASE] if self.base is not None else []), *self.experts]

    def _based(self) -> Finished:
        if self.base is None:
            raise SpecError(
                "The map compares task vectors (expert − base), but the recipe has no base. Give the `base`, even if "
                "the method does not need it."
            )
        return self.base

    def _checkpoint(self, name: str) -> Finished:
        if name == BASE:
            return self._based()
        if name in self.experts:
            return self.experts[name]
        if name not in self.merges:
            known = [BASE, *self.experts, *self.merges]
            raise SpecError(
                f"--through names '{name}', but there is no such checkpoint: {suggest(name, known)}."
            )
        if self.merges[name].done.path is None:
            raise SpecError(
                f"The merge '{name}' was not kept, so no path can lead through it. Run the study again with "
                "--set keep_merged=true; all other work of it is finished."
            )
        return self.merges[name].done


def scene_of_run(project: Project, results: StudyResults, choice: Choice, *, pair: bool = False) -> Scene:
    """What was chosen of a run.

    Args:
        project: that the run belongs to.
        results: of the run.
        choice: which regime, seed, experts and merges.
        pair: whether two experts are wanted; where none is named, the first two.

    Raises:
        SpecError: the run has no such regime, seed, task or label.
    """
    load_plugins(project.root, results.config.get("plugins", ()))
    trained = [row for row in results.rows if row.method in _TRAINED]
    regime = _one_of("regime", choice.regime, [row.regime for row in trained])
    seed = _one_of("seed", choice.seed, [row.seed for row in trained if row.regime == regime])
    row = next(row for row in trained if (row.regime, row.seed) == (regime, seed))
    tasks = list(choice.tasks) or results.tasks[: 2 if pair else None]
    for task in tasks:
        _one_of("task", task, results.tasks)
    base = next(row for row in results.rows if row.method == BASE and row.seed in (None, seed))
    experts = {task: _finished(project, row.checkpoints[results.tasks.index(task)]) for task in tasks}
    last = max(results.tasks.index(task) for task in tasks)
    merges = [one for one in results.rows if one.kind == "merge" and (one.regime, one.seed) == (regime, seed)]
    for label in choice.labels:
        _one_of("label", label, [one.label for one in merges])
    chosen = [one for one in merges if not choice.labels or one.label in choice.labels]
    config = results.config
    setting = Setting(
        str(project.root),
        workloads.parse(config["workload"]).settled(project.root).model_dump(mode="json"),
        tuple(results.tasks),
        results.data,
        config.get("resources", {}).get("threads", 1),
        tuple(config.get("plugins", ())),
    )
    return Scene(
        f"{results.run_id} · {regime} · seed {seed}",
        setting,
        _finished(project, base.checkpoints[0]),
        experts,
        {one.label: Seen(one.label, _finished(project, one.checkpoints[last])) for one in chosen},
        str(regime),
        int(seed or 0),
    )


def scene_of_recipe(
    path: Path, study: Path | None, choice: Choice, folder: Path, *, pair: bool = False
) -> Scene:
    """What was chosen of a recipe: its experts are named after the tasks of the study, or after their files.

    With a study the merge is made, in the folder, to be seen among the others.

    Args:
        path: the recipe.
        study: whose workload and tasks losses are measured on; None: none are measured.
        choice: which experts; a recipe has no regime and no seed.
        folder: for what is not kept.
        pair: whether two experts are wanted; where none is named, the first two.

    Raises:
        SpecError: all that is wrong with the recipe or the study, or what was chosen is not there.
    """
    if choice.regime is not None or choice.seed is not None or choice.labels:
        raise SpecError(
            "--regime, --seed and --label choose among a run's checkpoints; leave them out with a recipe."
        )
    spec = load_auditable(path)
    config = None if study is None else load_study(study)
    names = _names(spec, config)
    tasks = list(choice.tasks) or names[: 2 if pair else None]
    for task in tasks:
        _one_of("task", task, names)
    experts = {task: _file(spec.experts[names.index(task)]) for task in tasks}
    base = None if spec.base is None else _file(spec.base)
    if config is None or study is None:
        return Scene(path.stem, Setting(str(folder), {}, tuple(names), {}), base, experts, {})
    merge = Seen(spec.method, _file(merge_checkpoints(spec, folder / "merge.safetensors").path))
    return Scene(path.stem, _setting_of_study(study, config), base, experts, {spec.method: merge})


def _setting_of_study(study: Path, config: StudyConfig) -> Setting:
    """The study's workload on the data of its project, whose hashes must be known.

    Raises:
        SpecError: the data is not up to date.
    """
    from tasks.versioning import recorded_hashes

    project = Project.find(study.resolve().parent)
    load = config.workload
    needed = (*load.task_snapshots(config.tasks), *load.probe_snapshots())
    hashes = recorded_hashes(project, needed) or {} if needed else {}
    if missing := [name for name in needed if name not in hashes]:
        raise SpecError(
            f"The data of {study} is not up to date: {', '.join(missing)}. Run the study, or `dvc repro`, first."
        )
    return setting_of(project, config, {name: hashes[name] for name in needed})


def _names(spec: MergeSpec, config: StudyConfig | None) -> list[str]:
    """A name for each expert."""
    if config is not None:
        if len(config.tasks) < len(spec.experts):
            raise SpecError(
                f"The recipe has {len(spec.experts)} experts, but the study only {len(config.tasks)} tasks. Name a "
                "study that has a task for each expert, in the same order."
            )
        return list(config.tasks[: len(spec.experts)])
    stems = [expert.stem for expert in spec.experts]
    if len(set(stems)) == len(stems):
        return stems
    return [f"{place} {expert.parent.name}/{expert.name}" for place, expert in enumerate(spec.experts, 1)]


def _finished(project: Project, ref: CheckpointRef) -> Finished:
    kind, _, key = ref.record.partition("/")
    path = None if ref.path is None else str(project.root / ref.path)
    return Finished(kind, key, path, ref.digest, ref.size_bytes, 0.0, reused=True)


def _file(path: Path) -> Finished:
    """A checkpoint of the user's own."""
    from merge_lib.checkpoints import checkpoint_digest

    return Finished("file", "", str(path), checkpoint_digest(path), 0, 0.0, reused=True)


def _one_of(what: str, asked: Any, known: Sequence[Any]) -> Any:
    """What was asked for, or the first."""
    names = list(dict.fromkeys(known))
    if asked is None and names:
        return names[0]
    if asked not in names:
        raise SpecError(f"There is no {what} '{asked}': {suggest(str(asked), map(str, names))}.")
    return asked
