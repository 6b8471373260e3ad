"""The words of a method's signature: every constraint once."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

if TYPE_CHECKING:
    from torch import Tensor

TensorName = str
StateDict = Mapping[TensorName, "Tensor"]

Data = Literal["none", "unlabelled", "labelled", "test inputs"]  # what a merge needs beside weights

Share = Annotated[float, Field(gt=0, le=1)]
Density = Share  # of entries kept
Fraction = Annotated[float, Field(ge=0, le=1)]
ProperFraction = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Scale = Annotated[float, Field(allow_inf_nan=False)]  # factor on a task vector
Seed = Annotated[int, Field(ge=0, lt=2**63)]
TaskIndex = Annotated[int, Field(ge=-1)]  # whose model a decoding method gives; −1: none's, the shared one
Count = Annotated[int, Field(ge=1)]
Natural = Annotated[int, Field(ge=0)]  # none is allowed
CutOff = Annotated[float, Field(ge=1e-7, lt=1)]  # of singular values, relative to the largest
Steps = Natural  # of an optimiser
LearningRate = Positive
Name = Annotated[
    str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=60)
]  # of tasks, rows, studies
