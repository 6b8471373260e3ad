"""Which entries of a study may have `routing:`, told before anything runs."""

from collections.abc import Sequence
from typing import Any

from merge_lib.errors import suggest
from merge_lib.workloads import WorkloadSettings
from tasks.facts import SHARED


def check_models(method: str, params: dict[str, Any]) -> None:
    """Refuse routing where there is but one model.

    Raises:
        ValueError: names the methods that give one for each task.
    """
    from merge_lib import registry

    decoding = [info.name for info in registry.methods() if info.decodes]
    if method not in decoding:
        raise ValueError(
            f"method '{method}' gives one model, so there is nothing to choose from; leave `routing` out, or take a "
            f"method with a model for each task: {suggest(method, decoding)}"
        )
    if (task := params.get("task", SHARED)) != SHARED:
        raise ValueError(f"`params.task: {task}` asks for that task's model alone; leave it or `routing` out")


def check_features(workload: WorkloadSettings, voting: Sequence[str]) -> None:
    """Refuse votes on inputs that have no features to choose by.

    Args:
        workload: of the study.
        voting: labels of the entries whose routing puts inputs to the vote.

    Raises:
        ValueError: names the workloads that have features.
    """
    if not voting or workload.routes:
        return
    able = [name for name, settings in workload.known.items() if settings.routes]
    others = suggest(workload.name, able) if able else "none is known here"
    raise ValueError(
        f"`routing` of {', '.join(voting)} puts inputs to the vote, but workload '{workload.name}' has no features by "
        "which they could choose (merge_lib.workloads.Routing). Give `unseen: shared` or `unseen: base`, or take a "
        f"workload that has: {others}"
    )
