"""Thirds of models of any depth."""

import pytest

from merge_lib.forecast.regions import parts_of, region_of
from merge_lib.layers import describe_layers


@pytest.mark.parametrize(
    ("depth", "expected"),
    [
        (1, "m"),
        (2, "el"),
        (3, "eml"),
        (4, "emml"),
        (6, "eemmll"),
        (12, "eeeemmmmllll"),
    ],
)
def test_blocks_by_their_middle(depth, expected):
    layers = describe_layers({f"layers.{block}.weight": (4, 4) for block in range(depth)})
    assert "".join(region_of(layer)[0] for layer in layers.values()) == expected


@pytest.mark.parametrize(
    ("name", "shape", "expected"),
    [
        ("embeddings.position_embeddings", (1, 5, 8), "early"),
        ("embeddings.projection.weight", (8, 16), "early"),
        ("model.embed_tokens.weight", (100, 8), "early"),
        ("conv1.weight", (8, 3, 3, 3), "early"),
        ("wte.weight", (100, 8), "early"),
        ("layernorm.weight", (8,), "output"),
        ("head.weight", (10, 8), "output"),
        ("lm_head.weight", (100, 8), "output"),
        ("weight", (6, 2), "output"),
    ],
)
def test_outside_of_blocks(name, shape, expected):
    assert region_of(describe_layers({name: shape})[name]) == expected


def test_vectors_are_a_part_beside_their_region():
    layers = describe_layers({"head.bias": (10,), "head.weight": (10, 8)})
    assert parts_of(layers["head.bias"]) == ("output", "vectors")
    assert parts_of(layers["head.weight"]) == ("output",)
