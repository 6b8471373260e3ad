"""Command line of the data stages: `python -m merge_lib.workloads.clip.prepare rendered NAME|model NAME`.

Settings come from `params.yaml`, whose sections `rendered` and `mini_clip` the stages in `dvc.yaml` name.
"""

import argparse
import logging
import string
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from ruamel.yaml import YAML, YAMLError

from merge_lib.errors import MergeError, SpecError, suggest
from merge_lib.workloads.clip.rendering import Rendering, Showing, make_rendered
from merge_lib.workloads.vision.data import Snapshot, write_snapshot
from merge_lib.workloads.vision.glyphs import FONTS
from merge_lib.workloads.vision.prepare import Share, Template

ALPHABETS = {
    "digits": string.digits,
    "small letters": string.ascii_lowercase,
    "capital letters": string.ascii_uppercase,
}


class RenderedParams(BaseModel):
    """One entry of section `rendered`: a task of rendered characters."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    characters: Annotated[str, Field(min_length=1)]  # an alphabet's name, or the characters themselves
    names: tuple[str, ...] = ()  # of the characters, in order, where they are neither digits nor Latin letters
    fonts: tuple[str, ...] | None = None  # None: all; else those whose file's name begins with one of these
    tells: Literal["character", "style"] = "character"
    count: Annotated[int, Field(ge=20)]
    size: Annotated[int, Field(ge=4)] = 12
    seed: int = 0
    validation: Share = 0.1
    test: Share = 0.3
    turn: Literal[0, 90, 180, 270] = 0  # degrees, counter-clockwise
    mirrored: bool = False
    negative: bool = False
    noise: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.01
    templates: tuple[Template, ...] = ("the {}",)

    @property
    def alphabet(self) -> str:
        """The characters themselves."""
        return ALPHABETS.get(self.characters, self.characters)

    @property
    def chosen_fonts(self) -> tuple[str, ...]:
        """The fonts themselves."""
        return tuple(font for font in FONTS if self.fonts is None or font.startswith(self.fonts))

    @model_validator(mode="after")
    def _names_and_fonts_fit(self) -> "RenderedParams":
        unknown = [c for c in self.alphabet if c not in string.digits + string.ascii_letters]
        if self.names and len(self.names) != len(self.alphabet):
            msg = f"`names` has {len(self.names)} names, but there are {len(self.alphabet)} characters; give one each"
            raise ValueError(msg)
        if unknown and not self.names and self.tells == "character":
            msg = f"{', '.join(unknown)} are neither digits nor Latin letters; say how they are called in `names`"
            raise ValueError(msg)
        if not self.chosen_fonts:
            msg = f"`fonts` {list(self.fonts or ())} begin the name of no font; known: {', '.join(FONTS)}"
            raise ValueError(msg)
        return self

    def rendering(self) -> Rendering:
        """As the renderer takes it."""
        return Rendering(
            characters=self.alphabet,
            fonts=self.chosen_fonts,
            tells_style=self.tells == "style",
            names=dict(zip(self.alphabet, self.names, strict=False)),
            count=self.count,
            size=self.size,
            seed=self.seed,
            validation=self.validation,
            test=self.test,
            showing=Showing(self.turn // 90, self.mirrored, self.negative, self.noise),
            templates=self.templates,
        )
