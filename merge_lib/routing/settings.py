"""How inputs find the models that answer them. Importing this loads no torch."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Unseen = Literal["aggregate", "shared", "base"]
Weights = Literal["mean", "similarity"]


class PrototypeImages(BaseModel):
    """The images that prototypes are made of, beside the classes' texts."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    split: Literal["train", "validation"] = "train"
    examples: Annotated[int, Field(ge=0)] | None = None  # of each task; None: all, 0: texts alone


class RoutingSettings(BaseModel):
    """Which models answer an input. The defaults are those of ConDU's authors.

    Attributes:
        unseen: what answers on tasks that no expert was trained on yet: a vote of the tasks' models, what all
            tasks share, or the base.
        known_tasks: an input of a task that was seen says of which it is, and that task's model answers; else a
            vote answers it, too.
        voters: how many tasks vote on an input, those whose prototypes are most similar to it.
        weights: votes count alike, or by the similarity of the voter's prototypes.
        include_base: the base votes along.
        images: what prototypes are made of.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    unseen: Unseen = "aggregate"
    known_tasks: bool = True
    voters: Annotated[int, Field(ge=0)] = 4
    weights: Weights = "mean"
    include_base: bool = True
    images: PrototypeImages = PrototypeImages()

    @model_validator(mode="after")
    def _somebody_answers(self) -> "RoutingSettings":
        if self.voters == 0 and not self.include_base:
            raise ValueError(
                "`voters: 0` without the base leaves nobody to vote; give a voter, or `include_base: true`"
            )
        if not self.known_tasks and self.unseen != "aggregate":
            raise ValueError(
                f"`unseen: {self.unseen}` asks which tasks were seen, but with `known_tasks: false` no input says of "
                "which task it is, so a vote answers all. Leave `unseen` out, or `known_tasks`"
            )
        return self

    @property
    def votes(self) -> bool:
        """Whether anything is put to the vote."""
        return self.unseen == "aggregate"
