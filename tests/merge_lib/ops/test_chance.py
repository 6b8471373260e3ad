import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from merge_lib.ops.chance import TensorGenerator, philox


@given(start=st.integers(0, 70), length=st.integers(0, 70))
def test_a_piece_draws_what_the_whole_draws_there(start, length):
    whole = TensorGenerator(1, "w").bits(2, 140)
    piece = TensorGenerator(1, "w", offset=start).bits(2, length)
    np.testing.assert_array_equal(piece, whole[start : start + length])


def test_seed_tensor_and_expert_all_matter():
    draws = {
        tuple(TensorGenerator(seed, tensor).bits(expert, 4).tolist())
        for seed in (0, 1, 10)
        for tensor in ("a", "b", "1")
        for expert in (0, 1, 10)
    }
    assert len(draws) == 27


def test_the_draws_never_change():
    assert TensorGenerator(7, "model.layers.0.weight").bits(0, 4).tolist() == [
        1409933009,
        66291738,
        2222441195,
        1751399615,
    ]


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        (0, (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        (0xFFFFFFFF, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    ],
)
def test_the_generator_is_philox(word, expected):
    """The known answers that its authors publish."""
    drawn = philox((np.array([word], np.uint64),) * 4, (word, word))
    assert tuple(int(part[0]) for part in drawn) == expected


@pytest.mark.parametrize("density", [0.3, 1.0, 2**-32, 1 - 2**-32, 0.5 + 2**-20])
def test_kept_is_what_draws_below_the_density(density):
    generator = TensorGenerator(3, "w")
    below = generator.bits(1, 100_000) < np.uint64(round(density * 2**32))
    np.testing.assert_array_equal(generator.keep(1, (100_000,), density).numpy(), below)


def test_every_entry_is_kept_at_density_one():
    assert TensorGenerator(0, "w").keep(0, (50, 20), 1.0).all()


@pytest.mark.parametrize("density", [0.1, 0.5, 0.9])
def test_the_share_kept_is_the_density(density):
    kept = TensorGenerator(0, "w").keep(0, (200, 200), density)
    # standard error at most sqrt(0.25 / 40000) = 0.0025
    assert kept.to(torch.float64).mean().item() == pytest.approx(density, abs=0.01)


def test_shapes_without_entries():
    assert TensorGenerator(0, "w").keep(0, (0, 3), 0.5).shape == (0, 3)
    assert TensorGenerator(0, "w").keep(0, (), 0.5).shape == ()
