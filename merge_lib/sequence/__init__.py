"""A sequence of experts that arrive one after another: folded into a state file, and merges read from it."""

from merge_lib.sequence.folds import FoldPreview, FoldReport, fold_experts, preview_fold, read_merge
from merge_lib.sequence.opening import step_params

__all__ = ["FoldPreview", "FoldReport", "fold_experts", "preview_fold", "read_merge", "step_params"]
