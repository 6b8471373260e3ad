"""How the mini-CLIP is made, as `params.yaml` states it. Importing this loads neither torch nor transformers."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from merge_lib.workloads.training.config import Count, Positive, TrainingConfig


class Sizes(BaseModel):
    """Of the two encoders."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    image_size: Count = 12
    patch_size: Count = 4
    width: Count = 64
    depth: Count = 2  # layers of the image encoder
    text_depth: Count = 2
    heads: Count = 4


class MiniParams(TrainingConfig):
    """One entry of section `mini_clip`: a CLIP to be trained on rendered characters."""

    count: Annotated[int, Field(ge=62)]  # pictures, equally many of each digit and letter
    seed: int = 0  # decides pictures, captions and first weights
    sizes: Sizes = Sizes()
    epochs: Count | None = 10
    batch_size: Count = 128
    learning_rate: Positive = 3e-3
