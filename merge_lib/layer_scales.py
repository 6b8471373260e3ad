"""Factors on a merged task vector that depend on a tensor's depth; they go around any method that has a base."""

from collections.abc import Mapping
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from merge_lib.errors import SpecError
from merge_lib.layers import Layer
from merge_lib.types import Scale


class LayerScales(BaseModel):
    """LiNeS, or a factor for each block.

    LiNeS: a tensor of block ℓ of L is scaled by α + β·ℓ/(L − 1), all others by α.

    Variant: depth is counted in each stack of blocks by itself, as in the two encoders of CLIP.
    Differs from the paper: nothing; blocks are told from names by their first number, not by substrings.
    Reference: Wang et al., "LiNeS: Post-training Layer Scaling Prevents Forgetting and Enhances Model Merging",
        ICLR 2025, arXiv:2410.17146, equations 2 and 4.

    Attributes:
        shallow: α; "auto" is ‖Σ_t τ_t‖₁ / (T·‖Δ‖₁) over the merged tensors, Δ being the merged task vector.
        slope: β.
        blocks: instead, a factor for each block from the input on; `shallow` is then that of the others.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    shallow: Scale | Literal["auto"] = "auto"
    slope: Scale = 0.0
    blocks: Annotated[tuple[Scale, ...], Field(strict=False)] = ()

    @model_validator(mode="after")
    def _either_or(self) -> Self:
        if self.blocks and (self.slope != 0.0 or self.shallow == "auto"):
            raise ValueError(
                "`blocks` takes no `slope`, and `shallow` must be a number: that of other tensors"
            )
        return self

    @property
    def is_automatic(self) -> bool:
        """α follows from the task vectors and the merge."""
        return self.shallow == "auto"

    @property
    def stated_shallow(self) -> float:
        """α as it is stated; 1 until it is known where it follows from the merge."""
        return 1.0 if self.shallow == "auto" else self.shallow

    def factor(self, layer: Layer, shallow: float) -> float:
        """What a tensor's merged task vector is multiplied by.

        Args:
            layer: the tensor.
            shallow: α, once it is known.
        """
        if layer.block is None or layer.depth is None:
            return shallow
        return self.blocks[layer.block] if self.blocks else shallow + self.slope * layer.depth

    def check(self, layers: Mapping[str, Layer]) -> None:
        """Refuse factors that do not fit the model.

        Raises:
            SpecError: names what was found.
        """
        stacks = sorted({layer.blocks for layer in layers.values() if layer.block is not None})
        if not stacks:
            raise SpecError(
                "`layer_scales` needs a model with numbered blocks (`layers.0.…`), but no tensor's name has a number. "
                "Leave `layer_scales` out, or set the method's own scale."
            )
        if self.blocks and stacks != [len(self.blocks)]:
            raise SpecError(
                f"`layer_scales.blocks` has {len(self.blocks)} factors, but the model's stacks have "
                f"{', '.join(map(str, stacks))} blocks. Give one factor for each block."
            )
