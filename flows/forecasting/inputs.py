"""The unlabelled inputs of a study's workload, for a forecast."""

from collections.abc import Sequence
from pathlib import Path

from flows.config import load_study
from merge_lib import workloads
from merge_lib.errors import SpecError
from merge_lib.probe import Probe
from merge_lib.workloads import Probing
from tasks.project import Project


def open_probe(study: Path, tasks: Sequence[str], experts: int) -> tuple[Probe, list[str]]:
    """What shows the inputs, and the task of each expert.

    Args:
        study: its YAML file, in a project whose data is made.
        tasks: of the experts, in order; none: the first tasks of the study.
        experts: how many there are.

    Raises:
        SpecError: the study is wrong, its workload shows no inputs, or has not these tasks.
        DataError: a snapshot is missing.
    """
    config = load_study(study)
    named = list(tasks) or list(config.tasks[:experts])
    unknown = [name for name in named if name not in config.tasks]
    if unknown or len(named) != experts:
        raise SpecError(
            f"The recipe has {experts} experts, but study '{config.study}' has the tasks {', '.join(config.tasks)} and "
            f"--tasks names {', '.join(tasks) or 'none'}. Name the task of each expert, in order, by --tasks."
        )
    project = Project.find(study.resolve().parent)
    workload = workloads.create(config.workload, tasks=config.tasks, data=project.root / config.workload.data)
    if not isinstance(workload, Probing):
        raise SpecError(
            f"Workload '{config.workload.name}' shows no inputs: it has no `probe()`. Leave --inputs out, or add it."
        )
    return workload.probe(), named
