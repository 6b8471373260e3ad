"""How a model is trained, as a study states it. Importing this loads neither torch nor numpy."""

from collections.abc import Collection
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Count = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]
Decay = Annotated[float, Field(ge=0.0, lt=1.0)]

WITHOUT_EFFECT = ("save_every",)  # settings that change no result


class EarlyStopping(BaseModel):
    """When a training ends before its time; its best weights are kept, whether it does or not."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    patience: Count = 3  # looks at the validation value in a row that bring no improvement
    min_delta: Annotated[float, Field(ge=0.0)] = 0.0  # what counts as an improvement
    every: Count | None = None  # steps between two looks; None: an epoch


class TrainingConfig(BaseModel):
    """One training: AdamW under a schedule with linear warm-up, for so many epochs or so many steps."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    epochs: Count | None = None
    steps: Count | None = None
    batch_size: Count = 32
    learning_rate: Positive
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.01
    betas: tuple[Decay, Decay] = (0.9, 0.999)
    warmup: Share = 0.1  # share of the steps in which the learning rate rises
    schedule: Literal["cosine", "linear", "constant"] = "cosine"  # after the warm-up; the first two fall to 0
    max_grad_norm: Positive = 1.0
    label_smoothing: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    freeze: tuple[str, ...] = ()  # glob patterns of parameter names that keep their values
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"  # of forward and backward pass; weights are fp32
    micro_batch: Count | None = None  # examples that are on the device at once; None: the batch
    gradient_checkpointing: bool = False  # layers are computed twice rather than kept
    compile: bool = False  # by torch.compile
    devices: Count = 1  # GPUs that share every batch; without a GPU, processes
    early_stopping: EarlyStopping | None = None
    save_every: Count | None = None  # steps between two saves from which a killed training goes on

    @model_validator(mode="before")
    @classmethod
    def _steps_replace_epochs(cls, given: Any) -> Any:
        """Who says `steps` need not take back the default of `epochs`."""
        if isinstance(given, dict) and given.get("steps") is not None and "epochs" not in given:
            return {**given, "epochs": None}
        return given

    @model_validator(mode="after")
    def _has_one_length(self) -> "TrainingConfig":
        if (self.epochs is None) == (self.steps is None):
            got = f"epochs {self.epochs} and steps {self.steps}"
            msg = f"a training has a number of epochs or a number of steps, got {got}; give one of them"
            raise ValueError(msg)
        return self


def deciding(settings: BaseModel, parts: Collection[str]) -> dict[str, Any]:
    """Parts of a workload's settings in plain form, without what changes no result: for keys of finished work."""
    told = settings.model_dump(mode="json", include=set(parts))
    for part in parts:
        if isinstance(getattr(settings, part), TrainingConfig):
            told[part] = {name: value for name, value in told[part].items() if name not in WITHOUT_EFFECT}
    return told
