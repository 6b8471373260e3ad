import pytest

from merge_lib.layers import Layer, describe_layers


@pytest.mark.parametrize(
    ("name", "shape", "role"),
    [
        ("encoder.layer.0.attention.query.weight", (64, 64), "linear"),
        ("encoder.layer.0.attention.query.bias", (64,), "shift"),
        ("encoder.layer.0.layernorm_before.weight", (64,), "scale"),
        ("visual.ln_1.gamma", (64,), "scale"),
        ("embeddings.projection.weight", (64, 16), "linear"),
        ("embeddings.patch_embeddings.projection.weight", (64, 3, 16, 16), "convolution"),
        ("vision_model.embeddings.patch_embedding.weight", (64, 3, 16, 16), "convolution"),
        ("vision_model.embeddings.position_embedding.weight", (50, 64), "embedding"),
        ("vision_model.embeddings.class_embedding", (64,), "other"),
        ("embeddings.position_embeddings", (1, 17, 64), "embedding"),
        ("embeddings.cls_token", (1, 1, 64), "embedding"),
        ("model.embed_tokens.weight", (100, 64), "embedding"),
        ("lm_head.weight", (100, 64), "linear"),
        ("shared.weight", (100, 64), "embedding"),
        ("transformer.wte.weight", (100, 64), "embedding"),
        ("text_projection.weight", (64, 32), "linear"),
        ("logit_scale", (), "other"),
        ("conv1.weight", (8, 3, 3), "convolution"),
        ("model.norm.weight", (64,), "scale"),
        ("self_attn.in_proj_bias", (192,), "shift"),
    ],
)
def test_the_role_follows_from_name_and_shape(name, shape, role):
    assert describe_layers({name: shape})[name].role == role


@pytest.mark.parametrize(
    ("name", "shape", "parts"),
    [
        ("blocks.0.attn.qkv.weight", (192, 64), 3),
        ("blocks.0.attn.qkv.bias", (192,), 3),
        ("resblocks.1.attn.in_proj_weight", (192, 64), 3),
        ("attn.kv.weight", (128, 64), 2),
        ("attn.c_attn.weight", (64, 64), 1),
        ("attn.q_proj.weight", (192, 64), 1),
    ],
)
def test_packed_matrices_are_counted(name, shape, parts):
    assert describe_layers({name: shape})[name].parts == parts


@pytest.mark.parametrize(
    ("name", "shape", "packed"),
    [
        ("h.0.attn.c_attn.weight", (768, 2304), (3, 1)),  # GPT-2, [in, out]
        ("h.0.crossattention.c_attn.weight", (768, 1536), (2, 1)),
        ("h.0.attn.c_attn.weight", (2304, 768), (3, 0)),
        ("h.0.attn.c_attn.weight", (2304, 2048), (1, 0)),  # one key and value for all heads
        ("layers.0.self_attn.qkv_proj.weight", (7680, 5120), (1, 0)),  # fewer keys than queries
        ("layers.0.mixer.in_proj.weight", (3072, 768), (1, 0)),  # of a state space model
        ("attn.kv.weight", (129, 64), (1, 0)),
        ("attn.qkv.weight", (0, 0), (1, 0)),
    ],
)
def test_packed_matrices_are_told_by_their_shape(name, shape, packed):
    shift = name.removesuffix("weight") + "bias"
    layers = describe_layers({name: shape, shift: (max(shape),)})
    assert (layers[name].parts, layers[name].parts_axis) == packed
    assert (layers[shift].parts, layers[shift].parts_axis) == (packed[0], 0)


def test_blocks_are_counted_in_each_stack():
    names = ["v.layers.0.w", "v.layers.2.w", "t.layers.0.w", "t.layers.1.mlp.0.w", "head.weight"]
    layers = describe_layers(dict.fromkeys(names, (2, 2)))
    assert [(layers[name].block, layers[name].blocks) for name in names] == [
        (0, 3),
        (2, 3),
        (0, 2),
        (1, 2),
        (None, 0),
    ]
    assert [layers[name].depth for name in names] == [0.0, 1.0, 0.0, 1.0, None]
    assert Layer("h.0.w", (2,), block=0, blocks=1).depth == 0.0
