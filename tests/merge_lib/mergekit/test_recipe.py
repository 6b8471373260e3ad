"""What a recipe may hold, and how its values are resolved for each tensor."""

import logging
import subprocess
import sys

import pytest

from merge_lib.errors import CheckpointMismatchError, MethodInputError, SpecError, UnknownMethodError
from merge_lib.mergekit import parse_recipe, read_recipe
from merge_lib.mergekit.layers import LayerStack, end_of, find_layers
from merge_lib.mergekit.resolve import TensorInput, resolve
from merge_lib.mergekit.settings import evaluate, read_setting

SHAPES = {
    "model.embed_tokens.weight": (8, 4),
    **{f"model.layers.{n}.{part}.weight": (4, 4) for n in range(5) for part in ("self_attn.q", "mlp.up")},
    "model.norm.weight": (4,),
    "lm_head.weight": (8, 4),
}


def jobs(text, **other):
    recipe = parse_recipe(text)
    models = [entry.model for entry in recipe.models or ()] or ["a", "b"]
    shapes = dict.fromkeys((*models, "base", "a", "b"), SHAPES)
    return {job.name: job for job in resolve(recipe, {**shapes, **other}).jobs}


def layer(n, part="self_attn.q"):
    return f"model.layers.{n}.{part}.weight"


def test_a_gradient_runs_over_the_layers_and_stands_at_its_start_outside():
    found = jobs("""
merge_method: linear
models:
- {model: a, parameters: {weight: [0, 1]}}
- {model: b, parameters: {weight: [1, 0.2, 0.5]}}
""")
    weights = [found[layer(n)].params["weight"] for n in range(5)]
    assert weights == [
        pytest.approx(pair) for pair in [(0, 1), (0.25, 0.6), (0.5, 0.2), (0.75, 0.35), (1, 0.5)]
    ]
    for name in ("model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"):
        assert found[name].params["weight"] == (0, 1)


def test_filters_choose_by_a_part_of_the_name_and_fall_through():
    found = jobs("""
merge_method: linear
models:
- model: a
  parameters: {weight: [{filter: self_attn, value: [0.2, 0.6]}, {filter: embed, value: 0.9}]}
- {model: b, parameters: {weight: [{filter: "*", value: 0.5}, {value: 7}]}}
parameters: {weight: 0.1, normalize: [{filter: norm, value: false}, {value: true}]}
""")
    assert found[layer(2)].params["weight"] == (pytest.approx(0.4), 0.5)
    assert found[layer(2, "mlp.up")].params["weight"] == (0.1, 0.5)  # the recipe's own, as no filter holds
    assert found["model.embed_tokens.weight"].params["weight"] == (0.9, 0.5)
    assert found["model.norm.weight"].params["normalize"] is False
    assert found["lm_head.weight"].params["normalize"] is True


@pytest.mark.parametrize(
    ("raw", "position", "expected"),
    [([1, 3], 0.25, 1.5), ([0, 1, 0], 0.75, 0.5), ([4], 1.0, 4.0), (2, 0.3, 2)],
)
def test_gradients_by_hand(raw, position, expected):
    assert evaluate(read_setting(raw), "w", position) == expected


def test_slices_renumber_layers_and_have_parameters_of_their_own():
    found = jobs("""
merge_method: passthrough
slices:
- sources: [{model: a, layer_range: [0, 3]}]
- sources: [{model: b, layer_range: [1, 4], parameters: {scale: [{filter: self_attn, value: [0, 1]}]}}]
""")
    origins = [(found[layer(n)].experts[0].model, found[layer(n)].experts[0].name) for n in range(6)]
    assert origins == [("a", layer(n)) for n in (0, 1, 2)] + [("b", layer(n)) for n in (1, 2, 3)]
    assert [found[layer(n)].params["scale"] for n in range(6)] == [(1,), (1,), (1,), (0,), (0.5,), (1,)]
    assert layer(6) not in found
    assert found["model.embed_tokens.weight"].experts == (TensorInput("a", "model.embed_tokens.weight"),)
    assert found["model.norm.weight"].experts == (TensorInput("b", "model.norm.weight"),)
    assert found["lm_head.weight"].experts == (TensorInput("b", "lm_head.weight"),)


def test_a_slice_of_one_layer_stands_at_the_end_of_its_gradients():
    found = jobs("""
merge_method: slerp
base_model: a
slices:
- {sources: [{model: a, layer_range: [2, 3]}, {model: b, layer_range: [4, 5]}], parameters: {t: [0.1, 0.9]}}
""")
    assert found[layer(0)].params == {"t": 0.9}
    assert found[layer(0)].base == TensorInput("a", layer(2))
    assert found[layer(0)].experts == (TensorInput("b", layer(4)),)
    assert found["lm_head.weight"].params == {"t": 0.1}


def test_the_base_is_apart_from_the_experts_with_each_methods_defaults():
    found = jobs("""
merge_method: ties
base_model: base
models: [{model: base}, {model: a, parameters: {density: 0.5}}, {model: b}]
parameters: {weight: 0.4, lambda: 0.7}
""")
    job = found["lm_head.weight"]
    assert job.base == TensorInput("base", "lm_head.weight")
    assert [item.model for item in job.experts] == ["a", "b"]
    assert job.params == {
        "normalize": True,
        "scale": 0.7,
        "rescale": False,
        "weight": (0.4, 0.4),
        "density": (0.5, 1.0),
    }


def test_karcher_merges_an_unlisted_base_like_any_model():
    found = jobs("merge_method: karcher\nbase_model: base\nmodels: [{model: a}, {model: b}]\n")
    job = found["lm_head.weight"]
    assert ([item.model for item in job.experts], job.base) == (["a", "b", "base"], None)
    assert job.params == {"max_iter": 10, "tol": 1e-5}


def test_all_problems_are_told_at_once_with_the_nearest_name(tmp_path):
    path = tmp_path / "recipe.yml"
    path.write_text("""
merge_method: linear
model: []
models: [{model: a, parameter: {weight: 1}}]
tokenizer: {source: base}
tokenizer_source: union
parameters: {weight: [1, {filter: x}]}
""")
    with pytest.raises(SpecError, match="cannot be used") as caught:
        read_recipe(path)
    message = str(caught.value)
    assert "`model` is not a field of a recipe: did you mean 'models'?" in message
    assert "`models.0.parameter` is not a field of a recipe: did you mean 'parameters'?" in message
    assert "`tokenizer` is not supported. Only `tokenizer_source: base`" in message
    assert "`tokenizer_source` is 'union', which is not supported. Write `base`" in message
    assert "a value is a number, true or false, a list of numbers (over the layers)" in message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "merge_method: ties\nmodels: [{model: a}]\nparameters: {weight: 1}",
            "needs a base. Give `base_model`",
        ),
        (
            "merge_method: ties\nbase_model: b\nmodels: [{model: a}]\nparameters: {densty: 1, weight: 1}",
            "`parameters.densty` is not a parameter of 'ties': did you mean 'density'?",
        ),
        (
            "merge_method: ties\nbase_model: b\nmodels: [{model: a}]\nparameters: {density: [0.1, 1.5], weight: 1}",
            "`parameters.density` is 1.5, which is not a number in [0, 1]",
        ),
        (
            "merge_method: linear\nmodels: [{model: a, parameters: {normalize: false}}]",
            "`models.0.parameters.normalize` is one value for the whole merge",
        ),
        (
            "merge_method: linear\nmodels: [{model: a}]\nparameters: {normalize: 1}",
            "which is not true or false",
        ),
        (
            "merge_method: slerp\nbase_model: a\nmodels: [{model: a}]",
            "0 models beside the base. Method 'slerp' takes 1",
        ),
        ("merge_method: model_stock\nbase_model: b\nmodels: [{model: a}]", "takes 2 or more"),
        ("merge_method: linear\nmodels: [{model: a}, {model: a}]", "names a model twice"),
        ("merge_method: linear\nmodels: [{model: a+lora+}]", "neither a model nor a model and an adapter"),
        ("merge_method: linear\nmodels: [{model: a@main}]", "names a revision"),
        ("merge_method: linear", "either `models` or `slices`"),
        (
            "merge_method: linear\nslices: [{sources: [{model: a, layer_range: [0, 2]}, "
            "{model: b, layer_range: [0, 3]}]}]",
            "must be equally long",
        ),
        (
            "merge_method: ties\nbase_model: base\nslices:\n- sources: [{model: a, layer_range: [0, 2]}]",
            "has no source from the base 'base'",
        ),
        ("merge_method: linear\nmodels: [{model: a}]\ndtype: float8", "`dtype`"),
        ("- linear", "is not a mapping"),
        ("merge_method: [", "is not YAML"),
    ],
)
def test_what_is_refused(text, message):
    with pytest.raises(SpecError) as caught:
        parse_recipe(text)
    assert message in str(caught.value)


def test_an_unknown_method_is_told_with_the_nearest():
    with pytest.raises(UnknownMethodError, match="did you mean 'dare_ties'"):
        parse_recipe("merge_method: dare-ties\nmodels: [{model: a}]")


def test_int8_mask_is_ignored_aloud(caplog):
    with caplog.at_level(logging.WARNING, logger="merge_lib"):
        parse_recipe("merge_method: linear\nmodels: [{model: a}]\nparameters: {int8_mask: true}")
    assert "int8_mask, which changes no result here and is ignored" in caplog.text


def test_what_only_the_models_show():
    with pytest.raises(SpecError, match=r"`weight` of model 'b' has no value for tensor"):
        jobs("merge_method: linear\nmodels: [{model: a, parameters: {weight: 1}}, {model: b}]")
    with pytest.raises(SpecError, match=r"takes the layers \[4, 9\] of model 'a', which has 5"):
        jobs("merge_method: passthrough\nslices: [{sources: [{model: a, layer_range: [4, 9]}]}]")
    with pytest.raises(MethodInputError, match=r"are \[1, -1\], which add up to 0"):
        jobs(
            "merge_method: linear\nmodels: [{model: a, parameters: {weight: 1}}, {model: b, parameters: {weight: -1}}]"
        )
    smaller = {**SHAPES, "lm_head.weight": (7, 4), "extra.weight": (1,)}
    smaller.pop("model.norm.weight")
    with pytest.raises(CheckpointMismatchError) as caught:
        jobs("merge_method: linear\nmodels: [{model: a}, {model: b}]\nparameters: {weight: 1}", b=smaller)
    for part in (
        "has shape (7, 4) in model 'b'",
        "'model.norm.weight' is missing",
        "'extra.weight' is in model 'b'",
    ):
        assert part in str(caught.value)


def test_layers_are_found_by_name_and_shape():
    assert find_layers(SHAPES) == LayerStack("model.layers.", 5)
    assert find_layers(
        {f"transformer.h.{n}.mlp.{m}.w": (2,) for n in range(3) for m in range(2)}
    ) == LayerStack("transformer.h.", 3)
    two = {f"{side}.block.{n}.layer.0.w": (2,) for side in ("encoder", "decoder") for n in range(2)}
    assert find_layers(two) == ("decoder.block.", "encoder.block.")
    uneven = {"conv.0.weight": (3,), "conv.1.weight": (4,), **SHAPES}
    assert find_layers(uneven) == LayerStack("model.layers.", 5)


def test_ambiguous_layers_are_refused_only_where_layers_matter():
    two = {f"{side}.block.{n}.w": (2,) for side in ("encoder", "decoder") for n in range(2)}
    plain = "merge_method: linear\nmodels: [{model: a}]\nparameters: {weight: 1}"
    assert len(resolve(parse_recipe(plain), {"a": two}).jobs) == 4
    with pytest.raises(SpecError, match=r"several stacks: decoder\.block\., encoder\.block\. of layers"):
        resolve(parse_recipe(plain.replace("weight: 1", "weight: [0, 1]")), {"a": two})


@pytest.mark.parametrize(
    ("name", "end"),
    [
        ("model.embed_tokens.weight", "first"),
        ("transformer.ln_f.bias", "last"),
        ("embed_out.weight", "last"),
        ("x", None),
    ],
)
def test_ends_of_a_model(name, end):
    assert end_of(name) == end


def test_reading_a_recipe_imports_no_torch():
    code = "import sys, merge_lib.mergekit.resolve; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
