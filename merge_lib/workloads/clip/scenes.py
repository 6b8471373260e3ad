"""What a picture of a glyph shows, and the captions that are true of it.

A scene is a row of whole numbers, one an aspect; a caption tells some of the aspects, and is true of every picture
that has these.
"""

import string

import numpy as np
from jaxtyping import Int64

from merge_lib.workloads.vision.glyphs import CLASSES, FONTS

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
STYLES = ("upright", "bold", "italic", "bold italic")
FAMILIES = ("sans", "serif", "typewriter")
KINDS = ("digit", "capital letter", "small letter")

ASPECTS = ("character", "letter", "kind", "style", "family")
FORMS = (
    ("the {character} in {style}", ("character", "style")),
    ("the {character} in {style} {family}", ("character", "style", "family")),
    ("the {character} in {family}", ("character", "family")),
    ("the {character}", ("character",)),
    ("{letter}", ("letter",)),
    ("the {letter} in {style}", ("letter", "style")),
    ("a {kind} in {style}", ("kind", "style")),
    ("a {kind} in {style} {family}", ("kind", "style", "family")),
)
"""Of captions, with the aspects that each tells."""


def name_of(character: str) -> str:
    """How a digit or letter is called: "digit three", "capital letter g", "small letter g"."""
    if character in string.digits:
        return f"digit {DIGITS[int(character)]}"
    return f"{'capital' if character.isupper() else 'small'} letter {character.lower()}"


def style_of(font: str) -> str:
    """The style of a font that comes with matplotlib, by its file's name."""
    words = [
        word
        for word, marks in (("bold", ("Bol", "cmb")), ("italic", ("Ita", "Obl", "cmti")))
        if _has(font, marks)
    ]
    return " ".join(words) or "upright"


def family_of(font: str) -> str:
    """Likewise the family."""
    if _has(font, ("Mono", "cmtt")):
        return "typewriter"
    return "sans" if font.startswith("DejaVuSans") or _has(font, ("cmss",)) else "serif"


def scenes_of(
    fonts: Int64[np.ndarray, " n"], characters: Int64[np.ndarray, " n"]
) -> Int64[np.ndarray, "n aspects"]:
    """What pictures of `CLASSES` in `FONTS` show, given the indices of both."""
    letters = [character.lower() for character in CLASSES]
    known = list(dict.fromkeys(letters))
    kinds = [0 if c in string.digits else 1 if c.isupper() else 2 for c in CLASSES]
    of_character = np.array(
        [[k, known.index(x), kind] for k, (x, kind) in enumerate(zip(letters, kinds, strict=True))]
    )
    of_font = np.array([[STYLES.index(style_of(f)), FAMILIES.index(family_of(f))] for f in FONTS])
    return np.concatenate([of_character[characters], of_font[fonts]], axis=1)


def captions_of(
    scenes: Int64[np.ndarray, "n aspects"], rng: np.random.Generator
) -> tuple[list[str], Int64[np.ndarray, "n aspects"]]:
    """A caption of a random form for each picture, and what it tells: the scene, -1 for what it leaves out."""
    forms = rng.integers(len(FORMS), size=len(scenes))
    told = np.array([[aspect in aspects for aspect in ASPECTS] for _, aspects in FORMS])[forms]
    texts = [
        FORMS[form][0].format(**_words(scene)) for form, scene in zip(forms, scenes.tolist(), strict=True)
    ]
    return texts, np.where(told, scenes, -1)


def all_captions() -> tuple[str, ...]:
    """Every caption that there is, sorted."""
    fonts, characters = np.meshgrid(np.arange(len(FONTS)), np.arange(len(CLASSES)))
    scenes = np.unique(scenes_of(fonts.ravel(), characters.ravel()), axis=0).tolist()
    return tuple(sorted({form.format(**_words(scene)) for form, _ in FORMS for scene in scenes}))


def _words(scene: list[int]) -> dict[str, str]:
    """The words of all aspects of a scene."""
    character = CLASSES[scene[0]]
    name = name_of(character)
    return {
        "character": name,
        "letter": name if character in string.digits else f"letter {character.lower()}",
        "kind": KINDS[scene[2]],
        "style": STYLES[scene[3]],
        "family": FAMILIES[scene[4]],
    }


def _has(font: str, marks: tuple[str, ...]) -> bool:
    return any(mark in font for mark in marks)
