"""Command line of the data stages: `python -m merge_lib.workloads.clip.prepare rendered NAME|model NAME`.

Settings come from `params.yaml`, whose sections `rendered` and `mini_clip` the stages in `dvc.yaml` name.
"""

import argparse
import string
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from merge_lib.errors import MergeError, SpecError, suggest
from merge_lib.workloads.clip.mini_config import MiniParams
from merge_lib.workloads.clip.rendering import Rendering, Showing, make_rendered
from merge_lib.workloads.vision.data import Snapshot, write_snapshot
from merge_lib.workloads.vision.glyphs import FONTS
from merge_lib.workloads.vision.prepare import Share, Template, read_section

ALPHABETS = {
    "digits": string.digits,
    "small letters": string.ascii_lowercase,
    "capital letters": string.ascii_uppercase,
}


class RenderedParams(BaseModel):
    """One entry of section `rendered`: a task of rendered characters."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    characters: Annotated[str, Field(min_length=1)]  # an alphabet's name, or the characters themselves
    names: tuple[
        str, ...
    ] = ()  # of the characters, in order, where they are neither digits nor Latin letters
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


class Params(BaseModel):
    """What the data stages read from `params.yaml`; other sections are for others."""

    model_config = ConfigDict(frozen=True)

    rendered: dict[str, RenderedParams] = {}
    mini_clip: dict[str, MiniParams] = {}


def prepare_rendered(params: Params, name: str) -> Snapshot:
    """The task that section `rendered` describes under that name."""
    return make_rendered(name, _entry("rendered", params.rendered, name).rendering())


def prepare_model(params: Params, name: str, folder: Path) -> None:
    """Train the model that section `mini_clip` describes under that name."""
    from merge_lib.workloads.clip.mini import make_mini

    wanted = _entry("mini_clip", params.mini_clip, name)
    make_mini(folder, wanted)


def _entry(section: str, entries: dict[str, Any], name: str) -> Any:
    if name not in entries:
        msg = f"Section `{section}` of the parameters has no '{name}'; {suggest(name, entries)}."
        raise SpecError(msg)
    return entries[name]


def main(arguments: Sequence[str] | None = None) -> int:
    """Write one snapshot or model; 0 if that worked, else 1 and the reason on standard error."""
    parser = argparse.ArgumentParser(prog="merge_lib.workloads.clip.prepare", description=__doc__)
    parser.add_argument(
        "--params", type=Path, default=Path("params.yaml"), help="settings (default: %(default)s)"
    )
    parser.add_argument(
        "--data", type=Path, default=Path("data"), help="where to write (default: %(default)s)"
    )
    stages = parser.add_subparsers(dest="stage", required=True)
    stages.add_parser("rendered", help="render a task").add_argument("name", help="key in `rendered`")
    stages.add_parser("model", help="train a model").add_argument("name", help="key in `mini_clip`")
    options = parser.parse_args(arguments)
    try:
        params = read_section(Params, options.params)
        if options.stage == "rendered":
            snapshot = prepare_rendered(params, options.name)
            write_snapshot(snapshot, options.data / "tasks" / f"{options.name}.safetensors")
        else:
            prepare_model(params, options.name, options.data / "models" / options.name)
    except (MergeError, OSError) as exc:
        sys.stderr.write(f"error: {exc}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
