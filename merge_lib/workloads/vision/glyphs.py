"""The pre-training set, and tasks like it: digits and letters rendered from the fonts that come with matplotlib.

An image is made as the handwritten digits were: a bitmap of 4s x 4s black and white pixels, cut into s x s
blocks of 4 x 4, each replaced by its number of set pixels (0 to 16).
"""

import string
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from jaxtyping import Float32, UInt8
from PIL import Image, ImageDraw, ImageFont

from merge_lib.errors import DataError
from merge_lib.workloads.vision.data import DIGITS_WHITE, Examples, Snapshot

CLASSES = tuple(string.digits + string.ascii_uppercase + string.ascii_lowercase)
FONTS = (
    *(f"DejaVuSans{style}" for style in ("", "-Bold", "-Oblique", "-BoldOblique")),
    *(f"DejaVuSansMono{style}" for style in ("", "-Bold", "-Oblique", "-BoldOblique")),
    *(f"DejaVuSerif{style}" for style in ("", "-Bold", "-Italic", "-BoldItalic")),
    *(f"STIXGeneral{style}" for style in ("", "Bol", "Italic", "BolIta")),
    *("cmr10", "cmb10", "cmss10", "cmtt10", "cmti10"),
)
BLOCK = 4
MASTER = 64  # side of the distance map of a glyph
MARGIN = 12  # empty border of a distance map
CHUNK = 1024  # glyphs drawn at once


@dataclass(frozen=True)
class Variation:
    """How much the glyphs vary; angles in degrees, lengths as shares of the glyph's height."""

    rotation: float = 12.0
    slant: float = 0.25
    height: tuple[float, float] = (0.9, 1.02)  # of the image
    width: tuple[float, float] = (0.5, 0.8)  # of the image, at most; a narrow glyph stays narrow
    shift: float = 0.05
    thickness: tuple[float, float] = (-0.01, 0.05)  # how far a stroke's edge moves outwards
    warp: float = 0.05
    noise: float = 0.01  # share of bitmap pixels that flip


def make_glyphs(
    count: int,
    *,
    size: int,
    seed: int,
    validation: float,
    test: float = 0.0,
    name: str = "glyphs",
    variation: Variation | None = None,
) -> Snapshot:
    """`count` glyphs, equally many of each class, as a snapshot with the splits train and validation.

    Where `test` is not 0 there is a split of that share of them, too. An image that occurs in a split is in no other.
    """
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(count, dtype=np.int64) % len(CLASSES))
    drawn = [
        draw(labels[start : start + CHUNK], rng, size=size, variation=variation or Variation())
        for start in range(0, count, CHUNK)
    ]
    images = np.concatenate(drawn)
    cut = round(count * validation)
    end = cut + round(count * test)
    origin: dict[str, object] = {"seed": seed, "count": count, "validation": validation, "fonts": list(FONTS)}
    splits = {
        "train": _fresh(images, labels, end, count),  # a bare "l" may come out twice
        "validation": Examples(images[:cut], labels[:cut]),
    }
    if test:
        splits["test"] = _fresh(images, labels, cut, end)
        origin["test"] = test
    return Snapshot(name, CLASSES, DIGITS_WHITE, splits, origin)


def _fresh(images: np.ndarray, labels: np.ndarray, start: int, end: int) -> Examples:
    """The examples from start to end that do not occur before."""
    fresh = ~_occurs_in(images[start:end], images[:start])
    return Examples(images[start:end][fresh], labels[start:end][fresh])


def draw(
    labels: np.ndarray, rng: np.random.Generator, *, size: int, variation: Variation
) -> UInt8[np.ndarray, "n s s"]:
    """One glyph a label, in a random font and shape."""
    fonts = rng.integers(len(FONTS), size=len(labels))
    return render(distance_maps()[fonts, labels], rng, size=size, variation=variation)


def render(
    outlines: Float32[np.ndarray, "n m m"], rng: np.random.Generator, *, size: int, variation: Variation
) -> UInt8[np.ndarray, "n s s"]:
    """One image a distance map, in a random shape."""
    n = len(outlines)
    places = _source_places(n, rng, size=size * BLOCK, variation=variation)
    distance = _sample(outlines, places)  # [n, 4s, 4s]
    low, high = variation.thickness
    edge = rng.uniform(low, high, size=(n, 1, 1)) * (MASTER - 2 * MARGIN)
    bitmap = (distance > -edge) ^ (rng.random(distance.shape) < variation.noise)
    blocks = bitmap.reshape(n, size, BLOCK, size, BLOCK)  # [n, s, 4, s, 4]
    return blocks.sum(axis=(2, 4)).astype(np.uint8)


def _source_places(
    n: int, rng: np.random.Generator, *, size: int, variation: Variation
) -> Float32[np.ndarray, "n 2 s s"]:
    """For each pixel of the bitmap, the (row, column) of the distance map it shows."""
    axis = (np.arange(size, dtype=np.float32) + 0.5) / size - 0.5
    rows, columns = np.meshgrid(axis, axis, indexing="ij")
    angle = np.radians(rng.uniform(-variation.rotation, variation.rotation, n))
    slant = rng.uniform(-variation.slant, variation.slant, n)
    height, width = rng.uniform(*variation.height, n), rng.uniform(*variation.width, n)
    cos, sin = np.cos(angle), np.sin(angle)
    zero = np.zeros(n)
    turn = np.array([[cos, -sin], [sin, cos]]).transpose(2, 0, 1)
    shear = np.array([[1 + zero, zero], [slant, 1 + zero]]).transpose(2, 0, 1)
    stretch = np.array([[1 / height, zero], [zero, 1 / width]]).transpose(2, 0, 1)
    matrix = (stretch @ shear @ turn).astype(np.float32)  # [n, 2, 2]
    moved = (
        np.stack([rows, columns])[None]
        + rng.uniform(-1, 1, (n, 2, 1, 1)).astype(np.float32) * variation.shift
    )
    moved = moved + _smooth_field(n, rng, size=size) * variation.warp
    return np.einsum("nij,njrc->nirc", matrix, moved) * (MASTER - 2 * MARGIN) + MASTER / 2 - 0.5


def _smooth_field(n: int, rng: np.random.Generator, *, size: int) -> Float32[np.ndarray, "n 2 s s"]:
    """Random displacements on a 4 x 4 grid, interpolated linearly to size x size."""
    knots = rng.uniform(-1, 1, (n, 2, 4, 4)).astype(np.float32)
    at = np.linspace(0, 3, size, dtype=np.float32)
    weights = np.clip(1 - np.abs(at[:, None] - np.arange(4, dtype=np.float32)), 0, None)  # [size, 4]
    return np.einsum("ri,nkij,cj->nkrc", weights, knots, weights, optimize=True)


def _sample(
    outlines: Float32[np.ndarray, "n m m"], places: Float32[np.ndarray, "n 2 s s"]
) -> Float32[np.ndarray, "n s s"]:
    """Values at fractional places, interpolated linearly; beyond the border, the border's value."""
    places = np.clip(places, 0, MASTER - 1.001)
    corner = places.astype(np.int64)
    part = places - corner.astype(np.float32)
    (row, column), (down, right) = corner.swapaxes(0, 1), part.swapaxes(0, 1)
    index = np.arange(len(outlines))[:, None, None]
    upper = outlines[index, row, column] * (1 - right) + outlines[index, row, column + 1] * right
    lower = outlines[index, row + 1, column] * (1 - right) + outlines[index, row + 1, column + 1] * right
    return upper * (1 - down) + lower * down


@lru_cache(maxsize=4)
def distance_maps(
    fonts: tuple[str, ...] = FONTS, characters: tuple[str, ...] = CLASSES
) -> Float32[np.ndarray, "fonts characters m m"]:
    """For each font and character, the signed distance to the glyph's outline (positive inside), in pixels.

    Each glyph fills its box's height; its width is in proportion but at most the box's.
    """
    return np.stack([np.stack([_distance_map(font, letter) for letter in characters]) for font in fonts])


def _distance_map(font: str, letter: str) -> Float32[np.ndarray, "m m"]:
    """The signed distance map of one glyph."""
    from scipy.ndimage import distance_transform_edt

    side = MASTER - 2 * MARGIN
    typeface = _typeface(font)
    left, top, right, bottom = typeface.getbbox(letter)
    sheet = Image.new("L", (right - left, bottom - top))
    ImageDraw.Draw(sheet).text((-left, -top), letter, font=typeface, fill=255)
    ink = sheet.crop(sheet.getbbox())
    width = round(min(side, max(1.0, side * 1.4 * ink.width / ink.height)))
    master = Image.new("L", (MASTER, MASTER))
    master.paste(ink.resize((width, side), Image.Resampling.BOX), ((MASTER - width) // 2, MARGIN))
    inside = np.asarray(master) > 127
    return (distance_transform_edt(inside) - distance_transform_edt(~inside)).astype(np.float32)


@lru_cache(maxsize=len(FONTS))
def _typeface(font: str) -> ImageFont.FreeTypeFont:
    """A font of matplotlib's at 160 pixels."""
    import matplotlib as mpl

    path = Path(mpl.get_data_path()) / "fonts" / "ttf" / f"{font}.ttf"
    try:
        return ImageFont.truetype(str(path), 160)
    except OSError as exc:
        msg = f"Font '{path}' cannot be read ({exc}). It comes with matplotlib: reinstall the requirements."
        raise DataError(msg) from exc


def _occurs_in(images: np.ndarray, others: np.ndarray) -> np.ndarray:
    """For each image, whether others contain it."""
    known = {image.tobytes() for image in others}
    return np.array([image.tobytes() in known for image in images], dtype=bool)
