"""Raw labelled images: the file of the handwritten digits, folders of images, data sets of the Hugging Face hub."""

import gzip
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from merge_lib.errors import DataError
from merge_lib.workloads.vision.data import DIGITS_WHITE, RawImages

Fit = Literal["stretch", "crop"]
WHITE = 255  # the largest value of a pixel of a picture
PICTURES = {".png", ".jpg", ".jpeg"}


def read_digits(path: Path) -> RawImages:
    """The handwritten digits: gzipped CSV, 64 grey values from 0 to 16 and the label in each row."""
    try:
        with gzip.open(path, "rt", encoding="ascii") as lines:
            table = np.loadtxt(lines, delimiter=",", dtype=np.int64, ndmin=2)
    except FileNotFoundError as exc:
        msg = f"Raw data '{path}' does not exist. Restore it (`git checkout -- {path}`) or name another file."
        raise DataError(msg) from exc
    except (OSError, EOFError, zlib.error, ValueError) as exc:
        msg = (
            f"Raw data '{path}' cannot be read ({exc}). It must be a gzipped CSV of 64 grey values (0 to 16) "
            "and a label in each row; restore the file or point `raw` at another."
        )
        raise DataError(msg) from exc
    if table.shape[1] != 65 or table.min() < 0 or table[:, :64].max() > DIGITS_WHITE:
        msg = (
            f"Raw data '{path}' has {table.shape[1]} columns of values from {table.min()} to {table.max()}, "
            "but a row must hold 64 grey values from 0 to 16 and a label. Restore the file."
        )
        raise DataError(msg)
    found, labels = np.unique(table[:, 64], return_inverse=True)
    images = table[:, :64].astype(np.uint8).reshape(-1, 8, 8)
    return RawImages(images, labels.astype(np.int64), tuple(map(str, found)), DIGITS_WHITE)


@dataclass(frozen=True)
class Form:
    """How pictures are read.

    Attributes:
        size: side of the result.
        colour: whether it is in red, green and blue rather than grey.
        fit: "stretch": all of a picture, every pixel the mean of those that it stands for; "crop": its shorter side
            becomes `size` by bicubic interpolation, and the middle is cut out, as CLIP was trained.
    """

    size: int
    colour: bool = False
    fit: Fit = "stretch"


def read_image_folder(path: Path, form: Form) -> RawImages:
    """A folder with one sub-folder of PNG or JPEG files a class."""
    classes = sorted(
        entry.name for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith(".")
    )
    images, labels = [], []
    for label, name in enumerate(classes):
        for file in sorted((path / name).iterdir()):
            if file.suffix.lower() in PICTURES:
                images.append(decode(file, f"Image '{file}'", form))
                labels.append(label)
    if not images:
        msg = (
            f"Folder '{path}' holds no images. It needs one sub-folder of PNG or JPEG files a class, or the "
            "parquet or arrow files of an image data set."
        )
        raise DataError(msg)
    return RawImages(np.stack(images), np.array(labels, dtype=np.int64), tuple(classes), WHITE)


def decode(file: Any, called: str, form: Form) -> np.ndarray:
    """The pixels of a PNG or JPEG, [size, size] in grey or [size, size, 3] in colour.

    Args:
        file: a path or an open file.
        called: what the message calls it.
        form: how it is read.

    Raises:
        DataError: it is no image.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(file) as image:
            plain = image.convert("RGB" if form.colour else "L")
            return np.asarray(
                _cropped(plain, form.size) if form.fit == "crop" else _stretched(plain, form.size)
            )
    except (UnidentifiedImageError, OSError) as exc:
        msg = f"{called} cannot be read ({exc}). Replace it or take it out of the folder."
        raise DataError(msg) from exc


def _stretched(image: Any, size: int) -> Any:
    from PIL import Image

    return image.resize((size, size), Image.Resampling.BOX)


def _cropped(image: Any, size: int) -> Any:
    """The middle, after the shorter side was brought to `size`."""
    from PIL import Image

    shorter = min(image.size)
    width, height = (max(size, int(size * side / shorter)) for side in image.size)
    left, top = (width - size) // 2, (height - size) // 2
    return image.resize((width, height), Image.Resampling.BICUBIC).crop((left, top, left + size, top + size))


def read_raw(path: Path, form: Form, *, columns: Sequence[str | None] = ()) -> RawImages:
    """Labelled images from a data set's folder, a folder of images, or else a file in the format of the digits.

    Args:
        path: a folder with parquet or arrow files, one with sub-folders of images, or a file.
        form: how pictures are read; the digits are grey and of 8 x 8 pixels whatever it says.
        columns: names of the columns with images and labels, where a data set does not say them.

    Raises:
        DataError: it is none of these, or cannot be read.
    """
    if not path.is_dir():
        if form.colour:
            msg = f"Raw data '{path}' has grey images, but `colour` is true. Leave `colour` out."
            raise DataError(msg)
        return read_digits(path)
    from merge_lib.workloads.vision.hub import is_data_set, read_data_set

    if is_data_set(path):
        return read_data_set(path, form, columns=columns)
    return read_image_folder(path, form)
