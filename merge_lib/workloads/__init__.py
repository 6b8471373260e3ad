"""Workloads: what is trained, merged and evaluated, behind one small protocol.

Importing this package loads the configuration models only; torch is imported when a workload is created.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from pydantic import BeforeValidator, SerializeAsAny

from merge_lib.probe import Split
from merge_lib.routing.encoder import Routing
from merge_lib.workloads import learners
from merge_lib.workloads.clip.config import ClipConfig
from merge_lib.workloads.cues.config import CuesConfig
from merge_lib.workloads.language.config import LanguageConfig
from merge_lib.workloads.learners import LearnerSettings
from merge_lib.workloads.protocol import Measuring, Probing, Progress, TrainReport, Workload
from merge_lib.workloads.settings import Work, WorkloadSettings, parse, parse_in_study
from merge_lib.workloads.text_cues.config import TextCuesConfig
from merge_lib.workloads.vision.config import VisionConfig

WorkloadConfig = Annotated[SerializeAsAny[WorkloadSettings], BeforeValidator(parse_in_study)]

__all__ = [
    "ClipConfig",
    "CuesConfig",
    "LanguageConfig",
    "LearnerSettings",
    "Measuring",
    "Probing",
    "Progress",
    "Routing",
    "Split",
    "TextCuesConfig",
    "TrainReport",
    "VisionConfig",
    "Work",
    "Workload",
    "WorkloadConfig",
    "WorkloadSettings",
    "create",
    "learners",
    "parse",
]


def create(config: WorkloadSettings, *, tasks: Sequence[str], data: Path) -> Workload:
    """The workload that a study's `workload:` block describes.

    Args:
        config: the validated block.
        tasks: names of the task snapshots, in the order of the task sequence.
        data: the folder that `config.data` names, resolved against the project's root.

    Returns:
        A workload whose snapshots have been found and whose settings fit them.

    Raises:
        DataError: a snapshot is missing, unreadable, or does not fit the model.
        SpecError: the task sequence is empty or names a task twice.
    """
    return config.create(tasks=tasks, data=data)
