"""Recurrent-KIF: what a training loop needs to learn a task without losing the earlier ones.

A task is learned in rounds. In each, the inner learner takes Q steps on the task's data and the outer learner M
steps on a memory of earlier tasks. Both say of every entry of the adapter how important it is; the round ends with
a fusion of what the two learners changed, which keeps of each what is important to it. Nothing here trains: the
functions take adapter parameters and gradients as dicts of tensors, and states are frozen. The loop around them
stands in `merge_lib.recurrent.rounds`. The first task has no memory and is trained as usual.

Scope: whole model; one quantile over all trainable entries.
Variant: `CODE` is the authors' implementation, `PAPER` the paper's text; they differ in the importance (mean times
    uncertainty, decay 0.85; mean alone, decay 0.55) and in the cells "shared" and "redundant" of the fusion.
Reference: Feng et al., "Recurrent Knowledge Identification and Fusion for Language Model Continual Learning",
    ACL 2025, arXiv:2502.17510.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from merge_lib.recurrent.fusion import CellCounts
    from merge_lib.recurrent.importance import Importance, begin_importance, scores_of, update_importance
    from merge_lib.recurrent.masks import Selection, global_quantile, select
    from merge_lib.recurrent.recurrence import CODE, PAPER, Cells, Recurrence, RoundCount
    from merge_lib.recurrent.replay import ReplayItem, replay_batch, select_examples, select_memory
    from merge_lib.recurrent.rounds import Fused, FusionReport, Rounds, begin_task, fuse, observe
    from merge_lib.recurrent.saving import flatten_rounds, restore_rounds

_HOMES = {
    "CODE": "recurrence",
    "PAPER": "recurrence",
    "CellCounts": "fusion",
    "Cells": "recurrence",
    "Fused": "rounds",
    "FusionReport": "rounds",
    "Importance": "importance",
    "Recurrence": "recurrence",
    "ReplayItem": "replay",
    "RoundCount": "recurrence",
    "Rounds": "rounds",
    "Selection": "masks",
    "begin_importance": "importance",
    "begin_task": "rounds",
    "flatten_rounds": "saving",
    "fuse": "rounds",
    "global_quantile": "masks",
    "observe": "rounds",
    "replay_batch": "replay",
    "restore_rounds": "saving",
    "scores_of": "importance",
    "select": "masks",
    "select_examples": "replay",
    "select_memory": "replay",
    "update_importance": "importance",
}

__all__ = [
    "CODE",
    "PAPER",
    "CellCounts",
    "Cells",
    "Fused",
    "FusionReport",
    "Importance",
    "Recurrence",
    "ReplayItem",
    "RoundCount",
    "Rounds",
    "Selection",
    "begin_importance",
    "begin_task",
    "flatten_rounds",
    "fuse",
    "global_quantile",
    "observe",
    "replay_batch",
    "restore_rounds",
    "scores_of",
    "select",
    "select_examples",
    "select_memory",
    "update_importance",
]


def __getattr__(name: str) -> Any:
    """The public name, from its module, which is imported now: settings are read without torch."""
    if name not in _HOMES:
        raise AttributeError(f"module 'merge_lib.recurrent' has no attribute '{name}'")
    return getattr(import_module(f"merge_lib.recurrent.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
