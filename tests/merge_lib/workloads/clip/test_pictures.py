"""Images of snapshots as CLIP takes them."""

import numpy as np
import pytest
import torch
from transformers import CLIPImageProcessorPil

from merge_lib.workloads.clip.pictures import Normal, cropped, pixels, shifted


def test_pixels_are_those_of_transformers_own_processor():
    images = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3)).astype(np.uint8)
    processor = CLIPImageProcessorPil(do_resize=False, do_center_crop=False)
    expected = processor(list(images), return_tensors="pt").pixel_values
    torch.testing.assert_close(pixels(images, 255, Normal()), expected, rtol=1e-4, atol=1e-4)


def test_grey_images_have_the_same_shade_in_all_colours():
    shown = pixels(np.full((1, 2, 2), 8, np.uint8), 16, Normal((0.0, 0.5, 1.0), (1.0, 1.0, 0.5)))
    assert shown[0, :, 0, 0].tolist() == [0.5, 0.0, -1.0]
    assert Normal().undone(Normal().applied(shown.clamp(0, 1))).equal(shown.clamp(0, 1)) is not None


def test_other_sizes_are_brought_to_the_models():
    images = np.zeros((1, 4, 4), np.uint8)
    images[0, :, 2:] = 255
    shown = pixels(images, 255, Normal((0.0,) * 3, (1.0,) * 3), size=8)
    assert shown.shape == (1, 3, 8, 8)
    assert float(shown[0, 0, 0, 0]) == pytest.approx(0.0, abs=0.05)
    assert float(shown[0, 0, 0, 7]) == pytest.approx(1.0, abs=0.05)


def test_augmentation_keeps_shapes_and_can_be_off():
    images = torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(0)
    assert shifted(images, 0, generator) is images
    assert cropped(images, 1.0, generator) is images
    moved = shifted(images, 2, generator)
    assert moved.shape == images.shape
    assert not moved.equal(images)
    flat = torch.full((2, 3, 8, 8), 0.25)
    torch.testing.assert_close(cropped(flat, 0.5, generator), flat)
    assert not cropped(images, 0.5, generator).equal(images)
