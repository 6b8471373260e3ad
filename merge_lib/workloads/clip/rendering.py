"""Small tasks of rendered characters: other alphabets, other ways to show them, other questions about them."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64, UInt8

from merge_lib.workloads.clip.scenes import STYLES, name_of, style_of
from merge_lib.workloads.vision.data import DIGITS_WHITE, Examples, Snapshot
from merge_lib.workloads.vision.glyphs import Variation, distance_maps, render


@dataclass(frozen=True)
class Showing:
    """How the characters of a task are shown.

    Attributes:
        turn: quarter turns, counter-clockwise.
        is_mirrored: left and right change places.
        is_negative: paper and ink change places.
        noise: share of the bitmap's pixels that flip.
    """

    turn: int = 0
    is_mirrored: bool = False
    is_negative: bool = False
    noise: float = 0.01

    def shown(self, images: UInt8[np.ndarray, "n s s"]) -> UInt8[np.ndarray, "n s s"]:
        """The images, turned and so on."""
        images = np.rot90(images, self.turn, axes=(1, 2))
        images = images[:, :, ::-1] if self.is_mirrored else images
        return np.ascontiguousarray(DIGITS_WHITE - images if self.is_negative else images)


@dataclass(frozen=True)
class Rendering:
    """A task of rendered characters.

    Attributes:
        characters: that occur.
        fonts: that they are drawn in, each of which must have all of them.
        tells_style: a class is a style (upright, bold, …) rather than a character.
        names: of characters that are neither digits nor Latin letters.
        count: of images, equally many of each class.
        size: side of an image.
        seed: decides every pixel.
        validation: share of the images.
        test: likewise.
        showing: of the characters.
        templates: of texts about an image.
    """

    characters: str
    fonts: tuple[str, ...]
    tells_style: bool
    names: dict[str, str]
    count: int
    size: int
    seed: int
    validation: float
    test: float
    showing: Showing
    templates: tuple[str, ...]


def make_rendered(name: str, wanted: Rendering) -> Snapshot:
    """The snapshot of a task; an image that occurs in a split is in no other."""
    rng = np.random.default_rng(wanted.seed)
    fonts, characters, labels, classes = _drawn(wanted, rng)
    maps = distance_maps(wanted.fonts, tuple(wanted.characters))[fonts, characters]
    images = render(maps, rng, size=wanted.size, variation=Variation(noise=wanted.showing.noise))
    images = wanted.showing.shown(images)
    _, first = np.unique(images.reshape(len(images), -1), axis=0, return_index=True)
    first = np.sort(first)
    cuts = np.cumsum([round(len(first) * wanted.test), round(len(first) * wanted.validation)])
    test, validation, train = np.split(first, cuts)
    splits = {"train": train, "validation": validation, "test": test}
    origin = {"seed": wanted.seed, "count": wanted.count, "fonts": list(wanted.fonts)}
    parts = {split: Examples(images[rows], labels[rows]) for split, rows in splits.items()}
    return Snapshot(name, classes, DIGITS_WHITE, parts, origin, templates=wanted.templates)


def _drawn(
    wanted: Rendering, rng: np.random.Generator
) -> tuple[Int64[np.ndarray, " n"], Int64[np.ndarray, " n"], Int64[np.ndarray, " n"], tuple[str, ...]]:
    """Font, character and label of each image, and the classes' names."""
    if not wanted.tells_style:
        characters = rng.permutation(np.arange(wanted.count) % len(wanted.characters))
        names = tuple(wanted.names.get(c) or name_of(c) for c in wanted.characters)
        return rng.integers(len(wanted.fonts), size=wanted.count), characters, characters, names
    styles = [STYLES.index(style_of(font)) for font in wanted.fonts]
    known = sorted(set(styles))
    labels = rng.permutation(np.arange(wanted.count) % len(known))
    groups = [np.flatnonzero(np.array(styles) == style) for style in known]
    fonts = np.array([rng.choice(groups[label]) for label in labels])
    return (
        fonts,
        rng.integers(len(wanted.characters), size=wanted.count),
        labels,
        tuple(STYLES[s] for s in known),
    )
