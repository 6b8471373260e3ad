"""Patterns of cues: frozen by their seed, far apart, written hard."""

import pytest
import torch

from merge_lib.workloads.cues.banks import Cue, bank, colours, generator_of


def drawn(family, *words, classes=5, channels=3):
    return bank(family, classes=classes, channels=channels, side=4, generator=generator_of(*words))


def test_hundred_colours_are_well_separated():
    found = colours(100, generator_of(0))
    assert found.shape == (100, 3)
    assert ((found >= 0) & (found <= 1)).all()
    assert torch.pdist(found).min() > 0.2
    # 100 random colours come as near as 0.02: five points of 255 in each channel


def test_colours_come_in_random_order():
    distances = (colours(62, generator_of(0)) - colours(62, generator_of(1))).abs().sum(1)
    assert (distances > 0).sum() > 50


@pytest.mark.parametrize("family", ["colour", "noise"])
def test_a_bank_is_frozen_by_its_words(family):
    assert torch.equal(drawn(family, 0, "a"), drawn(family, 0, "a"))
    assert not torch.equal(drawn(family, 0, "a"), drawn(family, 1, "a"))
    assert not torch.equal(drawn(family, 0, "a"), drawn(family, 0, "b"))


def test_a_colour_is_the_same_all_over_the_patch():
    patterns = drawn("colour", 0)
    assert patterns.shape == (5, 3, 4, 4)
    assert torch.equal(patterns, patterns[:, :, :1, :1].expand_as(patterns))


def test_noise_is_uniform_and_grey():
    patterns = drawn("noise", 0, classes=200)
    assert torch.equal(patterns, patterns[:, :1].expand_as(patterns))
    values = patterns[:, 0].flatten().sort().values  # [200 · 16]
    expected = torch.linspace(-1, 1, len(values))
    assert (values - expected).abs().max() < 2 * 0.03  # Kolmogorov: 1.6 / sqrt(3200) for 1 in 100


def test_noise_for_a_grey_model_has_no_channels():
    grey = drawn("noise", 0, channels=1)
    assert grey.shape == (5, 4, 4)
    assert torch.equal(grey, drawn("noise", 0)[:, 0])


def test_writing_overwrites_the_patch_and_nothing_else():
    patterns = torch.arange(8.0).reshape(2, 1, 2, 2).expand(-1, 3, -1, -1)
    images = torch.full((3, 3, 5, 5), -1.0)
    Cue(patterns, 1, 2).write(images, torch.tensor([1, 0, 1]))
    expected = torch.full((5, 5), -1.0)
    expected[1:3, 2:4] = torch.tensor([[4.0, 5.0], [6.0, 7.0]])
    assert torch.equal(images[0, 0], expected)
    assert torch.equal(images[2], images[0])
    assert torch.equal(images[1, 2, 1:3, 2:4], torch.tensor([[0.0, 1.0], [2.0, 3.0]]))


def test_a_contradiction_gives_every_class_the_pattern_of_another():
    cue = Cue(drawn("noise", 0, classes=7), 3, 0)
    other = cue.permuted(generator_of("x"))
    assert (other.row, other.column) == (3, 0)
    source = [
        next(k for k in range(7) if torch.equal(cue.patterns[k], pattern)) for pattern in other.patterns
    ]
    assert sorted(source) == list(range(7))
    assert all(new != old for old, new in enumerate(source))
