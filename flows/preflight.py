"""What can be known to go wrong before anything is started: told then, not after an hour."""

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from flows.config import StudyConfig
from flows.estimates import Estimates, plan_all, summarise_plan
from merge_lib.errors import CheckpointError, MergeError, SpecError
from tasks.project import Project
from tasks.versioning import check_stages

SPARE_BYTES = 50e6  # for the servers' databases, the report and the record


def check_before(project: Project, studies: Sequence[StudyConfig]) -> Estimates:
    """Look at the folder, the disk, the data stages and the user's checkpoints; the estimates of what is to be done.

    Raises:
        SpecError: the project cannot be written.
        DataError: no stage makes data that the studies need.
        MergeError: the disk has too little room.
        CheckpointError: the base that the study names cannot be read.
    """
    check_writable(project)
    check_stages(project, snapshots_of(studies))
    for checkpoint in dict.fromkeys(study.base.checkpoint for study in studies):
        if checkpoint is not None:
            _check_base(project, checkpoint)
    steps, _ = plan_all(project, studies)
    estimates = Estimates.of_project(project, steps)
    needed = sum(line["estimated_bytes"] for line in summarise_plan(steps, estimates)) + SPARE_BYTES
    remedy = (
        ", or set keep_merged=false, which writes no merges"
        if any(study.keep_merged for study in studies)
        else ""
    )
    free = shutil.disk_usage(project.state).free
    if free < needed:
        raise MergeError(
            f"The study will write about {needed / 1e6:.0f} MB, but the disk of '{project.state}' has "
            f"{free / 1e6:.0f} MB left. Free some space, or train with fewer seeds{remedy}."
        )
    return estimates


def snapshots_of(studies: Sequence[StudyConfig]) -> tuple[str, ...]:
    """All data that the studies read."""
    return tuple(dict.fromkeys(name for study in studies for name in study.snapshots))


def check_writable(project: Project) -> None:
    """Make a file in the project's state.

    Raises:
        SpecError: that cannot be done.
    """
    try:
        project.state.mkdir(exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=project.state):
            return
    except OSError as refused:
        raise SpecError(
            f"The project's folder '{project.state}' cannot be written: {refused.strerror}. Runs and finished work are "
            "kept there; make it writable, or copy the project to where you may write."
        ) from refused


def _check_base(project: Project, checkpoint: Path) -> None:
    from merge_lib.checkpoints import open_checkpoint

    with open_checkpoint(project.root / checkpoint) as reader:
        if not reader.names:
            raise CheckpointError(
                f"The base '{checkpoint}' holds no tensors. Name a checkpoint with weights."
            )
