"""Portraits of tasks, kept beside the state of a sequence for answers outside a study."""

from pathlib import Path
from typing import TYPE_CHECKING

from merge_lib.errors import CheckpointMismatchError, SpecError
from tasks.jobs import Setting
from tasks.training import open_workload

if TYPE_CHECKING:
    from merge_lib.routing import PrototypeImages
    from merge_lib.routing.portraits import Portraits


def keep_portrait(
    setting: Setting, task: str, base: Path, target: Path, images: "PrototypeImages"
) -> "Portraits":
    """Add a task to a file of prototypes, which is begun where there is none.

    Raises:
        SpecError: the workload's models cannot answer images outside a study.
        CheckpointMismatchError: the file is of another base, or has the task already.
        CheckpointError: a file cannot be read.
    """
    from merge_lib.checkpoints import checkpoint_digest, read_state_dict
    from merge_lib.routing.portraits import Portraits
    from merge_lib.workloads.clip.answering import begin_portraits, portrait_of
    from merge_lib.workloads.clip.workload import ClipWorkload

    workload = open_workload(setting)
    if not isinstance(workload, ClipWorkload):
        raise SpecError(
            f"Workload '{setting.workload['name']}' has no texts of classes, so it keeps no prototypes. Take a study "
            "with the workload 'clip'."
        )
    digest = checkpoint_digest(base)
    portraits = Portraits.load(target) if target.exists() else begin_portraits(workload, digest)
    if portraits.base != digest:
        raise CheckpointMismatchError(
            f"{target} has prototypes that the base {portraits.base} sees, but {base} is {digest}. Give the base of "
            "its sequence, or begin a new file."
        )
    portraits = portraits.with_task(portrait_of(workload, read_state_dict(base), task, images))
    portraits.save(target)
    return portraits
