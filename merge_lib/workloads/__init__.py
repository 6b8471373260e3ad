"""Workloads: what is trained, merged and evaluated, behind one small protocol.

Importing this package loads the configuration models only; torch is imported when a workload is created.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from merge_lib.workloads.protocol import Progress, Split, TrainReport, Workload
from merge_lib.workloads.vision.config import VisionConfig

# A second workload makes this a union: Annotated[VisionConfig | ClipConfig, Field(discriminator="name")].
WorkloadConfig = VisionConfig

__all__ = [
    "Progress",
    "Split",
    "TrainReport",
    "VisionConfig",
    "Workload",
    "WorkloadConfig",
    "create",
    "parse",
]


def parse(settings: dict[str, Any]) -> WorkloadConfig:
    """The configuration from its plain form, as it travels between processes."""
    return WorkloadConfig.model_validate(settings)


def create(config: WorkloadConfig, *, tasks: Sequence[str], data: Path) -> Workload:
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
    from merge_lib.workloads.vision.workload import VisionWorkload

    return VisionWorkload(config, tasks=tasks, data=data)
