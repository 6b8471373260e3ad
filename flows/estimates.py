"""How long the steps of a study take, from the records of finished work; without any, from rough defaults."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from statistics import median
from typing import Any

from flows.config import StudyConfig
from flows.planning import PlannedStep, PlanningStages
from flows.stages import setting_of
from flows.walk import walk
from tasks.project import Project
from tasks.records import RecordStore

GUESSES_S = {
    **{
        "data": 3.0,  # of a stage; DVC takes most of it
        "pretrain": 40.0,
        "train": 3.0,
        "trial": 0.1,
        "merge": 0.05,
        "route": 0.3,
        "evaluate": 0.1,
        "audit": 0.1,
        "forgetting": 0.2,
    },
    **{"conflicts": 0.3, "path": 2.0, "surface": 4.0, "marks": 0.3},
}
SAMPLE = 40  # records looked at for each kind


@dataclass(frozen=True)
class Estimates:
    """Typical seconds and bytes of each kind of step."""

    typical_s: dict[str, float]
    typical_bytes: float
    is_measured: bool  # False: nothing of this kind was ever done here
    total_s: float  # of what is still to be done; at least one

    @classmethod
    def of_project(cls, project: Project, steps: list[PlannedStep]) -> "Estimates":
        """Medians over finished work, added up over the steps that are not finished."""
        store = RecordStore(project.store)
        seconds, sizes = {}, []
        for kind, guess in GUESSES_S.items():
            records = list(islice(store.of_kind(kind), SAMPLE))
            times = [record.values["elapsed_s"] for record in records]
            seconds[kind] = median(times) if times else guess
            sizes += [record.values["size_bytes"] for record in records if "size_bytes" in record.values]
        total_s = sum(seconds[step.kind] for step in steps if not step.is_cached)
        return cls(seconds, median(sizes) if sizes else 1e6, bool(sizes), max(total_s, 1.0))

    def seconds(self, kind: str) -> float:
        """Typical seconds of one step; 0 of what is part of another, such as what a merge learns from data."""
        return self.typical_s.get(kind, 0.0)


def plan_steps(project: Project, config: StudyConfig) -> tuple[list[PlannedStep], bool]:
    """Every step of the study, and whether the data is up to date; nothing is run."""
    from tasks.versioning import recorded_hashes, stages_done

    needed = config.snapshots
    hashes = recorded_hashes(project, needed) or {} if needed else {}
    is_known = all(name in hashes for name in needed)
    data = {name: hashes[name] for name in needed} if is_known else {}
    setting = setting_of(project, config, data, is_settled=is_known)
    stages = PlanningStages(setting, is_data_known=is_known)
    for _ in walk(config, stages):
        pass
    data_steps = [
        PlannedStep("data", address, done) for address, done in stages_done(project, needed).items()
    ]
    return [*data_steps, *stages.steps], is_known


def plan_all(project: Project, studies: Sequence[StudyConfig]) -> tuple[list[PlannedStep], bool]:
    """The steps of several studies; what is to be done for two of them counts twice, until it is done.

    Data alone counts once: most of the cells of a file with axes need the same.
    """
    plans = [plan_steps(project, study) for study in studies]
    steps = [step for steps, _ in plans for step in steps]
    data_steps = dict.fromkeys(step for step in steps if step.kind == "data")
    others = [step for step in steps if step.kind != "data"]
    return [*data_steps, *others], all(is_known for _, is_known in plans)


def summarise_plan(steps: list[PlannedStep], estimates: Estimates) -> list[dict[str, Any]]:
    """One line a kind of step: how many, how many are finished already, seconds and bytes to come."""
    counted = Counter(step.kind for step in steps)
    cached = Counter(step.kind for step in steps if step.is_cached)
    files = dict.fromkeys(GUESSES_S, 0)
    for step in steps:
        files[step.kind] += 0 if step.is_cached else step.files
    lines = []
    for kind in GUESSES_S:
        to_run = counted[kind] - cached[kind]
        lines.append(
            {
                "kind": kind,
                "steps": counted[kind],
                "cached": cached[kind],
                "to_run": to_run,
                "estimated_s": round(to_run * estimates.seconds(kind), 1),
                "estimated_bytes": round(files[kind] * estimates.typical_bytes),
            }
        )
    return lines
