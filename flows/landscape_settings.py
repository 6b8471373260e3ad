"""What a study says of the maps between its checkpoints."""

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

POINTS = 11  # of paths and surfaces, where a study just says `true`


class LandscapeSettings(BaseModel):
    """What is looked at between base, experts and merges, for every regime and seed; `false` leaves all of it out."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    conflicts: bool = True  # each pair of experts, layer by layer; from weights alone
    paths: int = Field(
        default=0, ge=0
    )  # points of each leg from the base through all experts; 0 or false: none
    surface: int = Field(default=0, ge=0)  # points along each side, of the first seed; 0 or false: none
    examples: int = Field(default=128, ge=1)  # of each task's test split, that losses are measured on

    @model_validator(mode="before")
    @classmethod
    def _accept_a_word(cls, value: object) -> object:
        return {"conflicts": value} if isinstance(value, bool) else value

    @field_validator("paths", "surface", mode="before")
    @classmethod
    def _accept_yes(cls, value: object) -> object:
        return (POINTS if value else 0) if isinstance(value, bool) else value

    @field_validator("paths", "surface")
    @classmethod
    def _has_two_ends(cls, value: int) -> int:
        if value == 1:
            raise ValueError("one point has no ends; give 2 or more, or `false`")
        return value

    @property
    def shows_examples(self) -> bool:
        """Whether losses are measured."""
        return bool(self.paths or self.surface)
