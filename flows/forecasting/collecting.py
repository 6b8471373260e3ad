"""What a study says of forecasting: its merges with their features and with what each task lost by them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from flows.config import StudyConfig
from flows.forecasting.direct import DirectStages, open_setting
from flows.study import resolve
from flows.walk import walk
from merge_lib import merge_in_turn
from merge_lib.checkpoints import read_state_dict
from merge_lib.forecast.answers import Examiner
from merge_lib.forecast.features import Features
from merge_lib.forecast.measuring import Candidate, Measured, measure
from merge_lib.forecast.table import Line
from merge_lib.spec import MergeSpec
from merge_lib.workloads import Probing
from tasks.decoding import is_decoded, specs_of
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
    base: Finished
    experts: dict[Place, list[Finished]]
    expert_scores: dict[Place, list[Scores]]
    merges: dict[Place, dict[str, list[Scores]]]  # by label, a stage each


def lines_of(project: Project, config: StudyConfig) -> Iterator[Line]:
    """Do what is left of the study, then a line for each merge and task.

    Merges of two experts or more are looked at: after some of the stages, and after the last.
    """
    walked = _walk(project, config)
    entries = [_entry(entry) for entry in config.methods]
    for place, experts in walked.experts.items():
        for count in sorted({*(n for n in COUNTS if n <= len(experts)), len(experts)} - {1}):
            yield from _lines_at(walked, config, entries, place, count)


def _walk(project: Project, config: StudyConfig) -> _Walked:
    setting = open_setting(project, config)
    walked: _Walked | None = None
    for cells in walk(config, DirectStages(setting)):
        checkpoints, scores, _ = resolve(cells)
        if walked is None:
            walked = _Walked(setting, checkpoints[0], {}, {}, {})
        elif cells.kind == "merge":
            walked.merges.setdefault((cells.regime, cells.seed), {})[cells.label] = scores  # type: ignore[index]
        elif cells.method in EXPERTS:
            walked.experts[cells.regime, cells.seed] = checkpoints  # type: ignore[index]
            walked.expert_scores[cells.regime, cells.seed] = scores  # type: ignore[index]
    assert walked is not None
    return walked


def _entry(entry: object) -> MergeEntry:
    from flows.walk import _entry_of

    return _entry_of(entry)  # type: ignore[arg-type]


def _lines_at(
    walked: _Walked, config: StudyConfig, entries: Sequence[MergeEntry], place: Place, count: int
) -> Iterator[Line]:
    """The merges of the first experts of a sequence."""
    regime, seed = place
    experts, tasks = walked.experts[place][:count], config.tasks[:count]
    specs = [merge_spec(walked.setting, entry, seed, walked.base, experts) for entry in entries]
    found = measure([Candidate(e.label, spec) for e, spec in zip(entries, specs, strict=True)])
    asked = _answers(walked, tasks, experts, entries, specs)
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
    tasks: Sequence[str],
    experts: Sequence[Finished],
    entries: Sequence[MergeEntry],
    specs: Sequence[MergeSpec],
) -> Mapping[str, list[Features]]:
    """Features of inputs by label; none where the workload shows no inputs."""
    workload = open_workload(walked.setting)
    if not isinstance(workload, Probing):
        return {}
    base, *states = (read_state_dict(done.path) for done in (walked.base, *experts))  # type: ignore[arg-type]
    examiner = Examiner(workload.probe(), tasks, base, states)
    found = {}
    for entry, spec in zip(entries, specs, strict=True):
        models = specs_of(spec, len(experts))[:-1] if is_decoded(entry) else [spec]
        merges = merge_in_turn(models, memory_bytes=memory_share(), threads=walked.setting.threads)
        found[entry.label] = examiner.examine([merged.tensors for merged in merges])
    return found
