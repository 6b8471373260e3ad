"""What a study says of forecasting: its merges with their features and with what each task lost by them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from flows.config import StudyConfig
from flows.forecasting.direct import DirectStages, open_setting
from flows.landscape_settings import LandscapeSettings
from flows.study import resolve
from flows.walk import Sight, entry_of, walk
from merge_lib import merge_in_turn
from merge_lib.checkpoints import read_state_dict
from merge_lib.errors import SpecError
from merge_lib.forecast.answers import Examiner
from merge_lib.forecast.features import Features
from merge_lib.forecast.measuring import Candidate, Measured, measure
from merge_lib.forecast.table import Line
from merge_lib.spec import MergeSpec
from merge_lib.workloads import Probing
from tasks.jobs import Finished, MergeEntry, Scores, Setting
from tasks.merging import merge_spec
from tasks.project import Project
from tasks.slots import memory_share
from tasks.training import open_workload

EXPERTS = ("expert", "sequential", "latest")  # the reference rows whose checkpoints are merged
COUNTS = (2, 3, 5, 8, 12)  # of experts whose merges are looked at, beside those of all
Place = tuple[str, int]  # regime and seed


@dataclass
class _Walked:
    """A study whose steps are done."""

    setting: Setting
    bases: dict[int | None, Finished] = field(default_factory=dict)  # by seed; None: of all seeds
    experts: dict[Place, list[Finished]] = field(default_factory=dict)
    expert_scores: dict[Place, list[Scores]] = field(default_factory=dict)
    merges: dict[Place, dict[str, list[Scores]]] = field(default_factory=dict)  # by label, a stage each

    def base(self, seed: int) -> Finished:
        """What the experts of a seed come from."""
        return self.bases.get(seed) or self.bases[None]


def lines_of(project: Project, config: StudyConfig) -> Iterator[Line]:
    """Do what is left of the study, then a line for each merge and task.

    Merges of two experts or more are looked at: after some of the stages, and after the last.

    Raises:
        SpecError: the study searches coefficients.
    """
    if searched := [entry.label for entry in config.methods if entry.search]:
        raise SpecError(
            f"Study '{config.study}' searches the coefficients of {', '.join(searched)}, but a forecast "
            "learns from merges whose parameters are stated. Give their `params`."
        )
    walked = _walk(project, config)
    entries = [entry_of(entry) for entry in config.methods]
    for place, experts in walked.experts.items():
        for count in sorted({*(n for n in COUNTS if n <= len(experts)), len(experts)} - {1}):
            yield from _lines_at(walked, config, entries, place, count)


def _unexamined(config: StudyConfig) -> StudyConfig:
    """The same merges, but nothing is said of them that the table does not need."""
    unseen = LandscapeSettings(conflicts=False)
    return config.model_copy(
        update={"audit": False, "forgetting": False, "landscape": unseen, "learners": ()}
    )


def _walk(project: Project, config: StudyConfig) -> _Walked:
    setting = open_setting(project, config)
    walked = _Walked(setting)
    for cells in walk(_unexamined(config), DirectStages(setting)):
        if isinstance(cells, Sight):
            continue
        checkpoints, scores, *_ = resolve(cells)
        if cells.method == "base":
            walked.bases[cells.seed] = checkpoints[0]
        elif cells.kind == "merge":
            walked.merges.setdefault((cells.regime, cells.seed), {})[cells.label] = scores  # type: ignore[index]
        elif cells.method in EXPERTS:
            walked.experts[cells.regime, cells.seed] = checkpoints  # type: ignore[index]
            walked.expert_scores[cells.regime, cells.seed] = scores  # type: ignore[index]
    return walked


def _lines_at(
    walked: _Walked, config: StudyConfig, entries: Sequence[MergeEntry], place: Place, count: int
) -> Iterator[Line]:
    """The merges of the first experts of a sequence."""
    regime, seed = place
    experts, tasks = walked.experts[place][:count], config.tasks[:count]
    specs = [merge_spec(walked.setting, entry, seed, walked.base(seed), experts) for entry in entries]
    found = measure([Candidate(e.label, spec) for e, spec in zip(entries, specs, strict=True)])
    asked = _answers(walked, seed, tasks, experts, entries, specs)
    for entry, measured in zip(entries, found, strict=True):
        scores = walked.merges[place][entry.label][count - 1]
        for position, features in enumerate(_together(measured, asked.get(entry.label))):
            told = {
                "study": config.study,
                "workload": config.workload.name,
                "scenario": str(getattr(config.workload, "scenario", "")),
                "regime": regime,
                "label": entry.label,
                "method": entry.method,
                "task": tasks[position],
            }
            counts = {"seed": seed, "experts": count, "position": position}
            expert = walked.expert_scores[place][position].accuracy[position]
            yield Line(told, counts, expert, scores.accuracy[position], features)


def _together(measured: Measured, asked: Sequence[Features] | None) -> list[Features]:
    """Features of weights, and of inputs where there are any."""
    return [{**row, **(asked[place] if asked else {})} for place, row in enumerate(measured.rows)]


def _answers(
    walked: _Walked,
    seed: int,
    tasks: Sequence[str],
    experts: Sequence[Finished],
    entries: Sequence[MergeEntry],
    specs: Sequence[MergeSpec],
) -> Mapping[str, list[Features]]:
    """Features of inputs by label; none where the workload shows no inputs."""
    workload = open_workload(walked.setting)
    if not isinstance(workload, Probing):
        return {}
    base, *states = (read_state_dict(done.path) for done in (walked.base(seed), *experts))  # type: ignore[arg-type]
    examiner = Examiner(workload.probe(), tasks, base, states)
    found = {}
    for entry, spec in zip(entries, specs, strict=True):
        models = Candidate(entry.label, spec).models
        merges = merge_in_turn(models, memory_bytes=memory_share(), threads=walked.setting.threads)
        found[entry.label] = examiner.examine([merged.tensors for merged in merges])
    return found
