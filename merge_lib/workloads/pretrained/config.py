"""How a pretrained model is fine-tuned. Importing this loads neither torch nor transformers."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from merge_lib.types import Count, Positive, ProperFraction

MADE_HERE = "models"  # folder of the data folder for models that data stages make
Precision = Literal["fp32", "bf16", "fp16"]
EvaluationPrecision = Annotated[
    Precision, Field(exclude_if=lambda precision: precision == "fp32")
]  # of weights and activations of a checkpoint that is evaluated; the default is part of no key of finished work


class LoraConfig(BaseModel):
    """Adapters: W + (alpha / rank) · B A on chosen layers, B = 0 at first and A drawn from the seed.

    Attributes:
        targets: endings of the names of the layers, whole parts of a name, such as "q_proj" or "mlp.fc1".
        space: what checkpoints hold and merges work on: the factors A and B, or the products W + (alpha / rank) · B A.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    rank: Count = 8
    alpha: Positive = 16
    dropout: ProperFraction = 0.0
    targets: Annotated[tuple[str, ...], Field(min_length=1)]
    space: Literal["factor", "product"] = "factor"


class TuningConfig(BaseModel):
    """What is trained of a model: all of it, or adapters."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["full", "lora"] = "full"
    lora: LoraConfig | None = None

    @model_validator(mode="after")
    def _has_adapters(self) -> "TuningConfig":
        if (self.kind == "lora") != (self.lora is not None):
            msg = (
                f"kind is '{self.kind}', but `lora` is {'missing' if self.lora is None else 'given'}; "
                "with kind 'lora' say at least `lora: {targets: […]}`, with kind 'full' leave `lora` out"
            )
            raise ValueError(msg)
        return self


def made_here(model: str, data: str) -> tuple[str, ...]:
    """The snapshot that a model is, if a data stage makes it: the name of its folder in `data/models`."""
    return (Path(model).name,) if Path(model).parent == Path(data) / MADE_HERE else ()
