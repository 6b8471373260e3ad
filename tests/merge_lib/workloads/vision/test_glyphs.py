"""The pre-training set."""

from pathlib import Path

import numpy as np
import pytest

from merge_lib.workloads.vision.glyphs import (
    BLOCK,
    CLASSES,
    FONTS,
    Variation,
    _sample,
    _typeface,
    distance_maps,
    draw,
    make_glyphs,
)
from merge_lib.workloads.vision.sources import read_digits

STILL = Variation(
    rotation=0, slant=0, height=(1, 1), width=(0.8, 0.8), shift=0, thickness=(0, 0), warp=0, noise=0
)


@pytest.fixture(scope="module")
def glyphs():
    return make_glyphs(12400, size=8, seed=0, validation=0.1)


def test_every_class_is_equally_frequent():
    splits = make_glyphs(248, size=8, seed=0, validation=0.25).splits
    assert np.bincount(np.concatenate([part.labels for part in splits.values()])).tolist() == [4] * 62


def test_seed_decides_every_byte():
    one, same, other = (make_glyphs(124, size=8, seed=seed, validation=0.5) for seed in (5, 5, 6))
    assert one.splits["train"].images.tobytes() == same.splits["train"].images.tobytes()
    assert one.splits["train"].images.tobytes() != other.splits["train"].images.tobytes()


def test_grey_values_are_counts_of_set_pixels():
    images = draw(np.arange(62), np.random.default_rng(0), size=8, variation=STILL)
    assert images.dtype == np.uint8
    assert images.max() == BLOCK * BLOCK
    assert images.min() == 0


def test_size_is_free():
    assert make_glyphs(124, size=28, seed=0, validation=0.5).splits["train"].images.shape[1:] == (28, 28)


def test_without_variation_a_bar_is_a_bar():
    images = draw(np.full(50, CLASSES.index("l")), np.random.default_rng(0), size=8, variation=STILL)
    assert (images[:, :, 0] == 0).all()  # no ink at the left edge
    assert (images[:, 1:7].sum(axis=2) > 0).all()  # ink from top to bottom


def test_thickness_and_noise_add_ink():
    labels = np.tile(np.arange(62), 4)

    def ink(**change):
        variation = Variation(**(STILL.__dict__ | change))
        return draw(labels, np.random.default_rng(0), size=8, variation=variation).sum()

    assert ink(thickness=(-0.05, -0.05)) < ink() < ink(thickness=(0.05, 0.05))
    assert ink() < ink(noise=0.1)


def test_values_between_places_are_linear():
    outlines = np.zeros((1, 64, 64), dtype=np.float32)
    outlines[0, 10, 20], outlines[0, 11, 20] = 4.0, 8.0
    places = np.array([[10.25], [20.0]], dtype=np.float32).reshape(1, 2, 1, 1)
    assert _sample(outlines, places).item() == pytest.approx(0.75 * 4 + 0.25 * 8)


def test_every_font_draws_every_class():
    maps = distance_maps()
    assert maps.shape[:2] == (len(FONTS), 62)
    assert (maps.max(axis=(2, 3)) > 1).all()  # a stroke inside
    assert (maps[:, :, 0, 0] < 0).all()  # paper in the corner
    assert _typeface(FONTS[0]).getname()[0] == "DejaVu Sans"


def test_pretraining_holds_no_handwritten_image(glyphs):
    handwritten = {image.tobytes() for image in read_digits(Path("data/raw/digits.csv.gz")).images}
    drawn = {image.tobytes() for part in glyphs.splits.values() for image in part.images}
    assert not handwritten & drawn


def test_validation_holds_no_training_image(glyphs):
    parts = [{image.tobytes() for image in part.images} for part in glyphs.splits.values()]
    assert not parts[0] & parts[1]
    assert len(glyphs.splits["validation"].images) == 1240
    assert len(glyphs.splits["train"].images) > 11000


def test_a_task_of_glyphs_has_a_test_split_of_its_own():
    plain = make_glyphs(620, size=8, seed=0, validation=0.1)
    task = make_glyphs(620, size=8, seed=0, validation=0.1, test=0.5, name="letters")
    assert (task.name, plain.name) == ("letters", "glyphs")
    assert {split: len(part.labels) for split, part in task.splits.items()} == pytest.approx(
        {"train": 248, "validation": 62, "test": 310}, abs=12
    )
    parts = [{image.tobytes() for image in part.images} for part in task.splits.values()]
    assert sum(map(len, parts)) == len(set.union(*parts))
    assert task.splits["validation"].images.tobytes() == plain.splits["validation"].images.tobytes()
    assert "test" not in plain.origin
