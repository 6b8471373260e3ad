"""Task vectors of which only the largest entries are kept, over the whole model or tensor by tensor.

Thresholds over the model are found by passes that come first: `statistics=TRIMMING` in a method's declaration.
"""

from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from merge_lib.layers import Layer
from merge_lib.looks import Look
from merge_lib.ops.quantile import (
    Thresholds,
    begin_thresholds,
    close_thresholds,
    fold_thresholds,
    join_thresholds,
    tensor_threshold,
)
from merge_lib.ops.sparsify import keep_large
from merge_lib.registry import ModelStatistics
from merge_lib.types import Density

Trim = Literal["model", "tensor"]


def begin(count: int, dtype: torch.dtype, *, density: Density, trim: Trim = "model", **_: Any) -> Thresholds:
    """Nothing counted yet; no pass is needed where all is kept, or each tensor is trimmed by itself."""
    return begin_thresholds(count, dtype, share=density, complete=trim == "tensor")


def fold(state: Thresholds, task_vectors: Float[Tensor, " n *shape"], _layer: Layer) -> Thresholds:
    """Count one tensor."""
    return fold_thresholds(state, task_vectors)


TRIMMING = ModelStatistics(
    begin,
    fold,
    close_thresholds,
    join_thresholds,
    looks=(Look("threshold", unless={"density": 1, "trim": "tensor"}),),
)


def trimmed(
    task_vectors: Float[Tensor, " n *shape"], statistics: Thresholds, *, density: float, trim: Trim
) -> Float[Tensor, " n *shape"]:
    """The task vectors with zeros below each expert's threshold, that of the model or of this tensor."""
    if trim == "model":
        return keep_large(task_vectors, statistics.values)
    own = [tensor_threshold(row, density) for row in task_vectors]
    return keep_large(task_vectors, torch.tensor(own, dtype=task_vectors.dtype))
