"""What a model sees on a task's inputs, as observations that merges are given."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from merge_lib import workloads
from merge_lib.errors import CheckpointError, SpecError
from tasks.jobs import Setting
from tasks.training import open_workload

if TYPE_CHECKING:
    from merge_lib.calibration.collect import Calibration, Progress
    from merge_lib.calibration.manifest import Manifest
    from merge_lib.probe import Probe
    from merge_lib.types import StateDict

EXAMPLES = {"features": 4, "gram": 256, "fisher": 64}  # of a task, where nothing is said


def observe(
    setting: Setting,
    calibration: "Calibration",
    weights: "StateDict",
    digest: str,
    task: str,
    out: Path,
    progress: "Progress",
) -> "Manifest":
    """Collect what a model sees on the inputs of a task of the run's workload.

    Args:
        setting: workload, tasks and hashes of the data.
        calibration: what to collect.
        weights: that see the inputs.
        digest: the model's, for the record.
        task: of the setting.
        out: the folder of the observations.
        progress: told how many tensors, or batches, of how many are done.
    """
    from merge_lib.calibration.collect import collect

    data = " ".join(sorted(data_of(setting, (task,)).values()))
    probe = probe_of(setting)
    return collect(
        calibration, weights, probe, task, out, data=data, model=digest, progress=progress
    ).manifest


def observe_checkpoint(
    setting: Setting,
    calibration: "Calibration",
    checkpoint: Path,
    base: Path | None,
    task: str,
    out: Path,
    progress: "Progress",
) -> "Manifest":
    """As `observe`, of a checkpoint wherever it lies; an adapter is folded into its base.

    Raises:
        CheckpointError: it cannot be read, or is not of the workload's model.
        DataError: the task has no examples in that split.
        SpecError: the workload has no probe, or the folder holds other things.
    """
    from merge_lib.checkpoints import checkpoint_digest, read_state_dict

    weights, digest = read_state_dict(checkpoint, base=base), checkpoint_digest(checkpoint, base=base)
    try:
        return observe(setting, calibration, weights, digest, task, out, progress)
    except CheckpointError as failure:
        failure.add_note(f"The checkpoint is {checkpoint}.")
        raise


def probe_of(setting: Setting) -> "Probe":
    """The run's workload, as merging sees it.

    Raises:
        SpecError: the workload cannot be shown inputs to.
    """
    workload = open_workload(setting)
    if not isinstance(workload, workloads.Probing):
        raise SpecError(
            f"Workload '{setting.workload['name']}' has no `probe`, so methods that need data cannot be used with it. "
            "Leave them out, or give it one (merge_lib.probe.Probe)."
        )
    return workload.probe()


def data_of(setting: Setting, tasks: Sequence[str]) -> dict[str, str]:
    """Content hash of each snapshot that the tasks read."""
    return setting.hashes_of(workloads.parse(setting.workload).task_snapshots(tasks))
