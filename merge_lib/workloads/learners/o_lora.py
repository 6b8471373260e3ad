"""O-LoRA: each task's adapter is kept orthogonal to those of the earlier tasks."""

from typing import ClassVar

from merge_lib.types import Weight
from merge_lib.workloads.learners.settings import LearnerSettings


class OLora(LearnerSettings):
    """A fresh adapter for each task, folded into the weights at its end; held off the earlier row spaces.

    L + weight · Σ over matrices and earlier tasks i of Σ|V_i Aᵀ|, where the rows of V_i are an orthonormal basis of the
    row space of what task i changed in the matrix.

    Variant: V_i instead of the earlier A_i, whose rows span the same space, so that finished checkpoints are all
        that is needed; the penalty is that of unit rows.
    Differs from the paper: earlier adapters are in the weights from the end of their task, not beside them; the result
        of a forward pass is the same.
    Reference: Wang et al., "Orthogonal Subspace Learning for Language Model Continual Learning", EMNLP Findings
        2023, arXiv:2310.14152, eqs. 5-8.

    Attributes:
        weight: of the penalty, the paper's λ₁.
    """

    name: ClassVar[str] = "o_lora"
    title: ClassVar[str] = "O-LoRA"
    paper: ClassVar[str] = "https://arxiv.org/abs/2310.14152"
    module: ClassVar[str] = "merge_lib.workloads.learners.orthogonality"
    needs_adapters: ClassVar[bool] = True
    looks_back: ClassVar[bool] = True

    weight: Weight = 0.5
