"""Preparing, training and storing pretrained models, in each form of a checkpoint."""

import json

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from torch.func import functional_call

from merge_lib.checkpoints import read_state_dict, write_state_dict
from merge_lib.engine import merge_checkpoints
from merge_lib.errors import CheckpointCorruptError, CheckpointMismatchError, SpecError
from merge_lib.spec import MergeSpec
from merge_lib.workloads.pretrained.config import LoraConfig, TuningConfig
from merge_lib.workloads.pretrained.exporting import write_factors
from merge_lib.workloads.pretrained.loading import load_model
from merge_lib.workloads.pretrained.tuning import in_a_call, overlay, prepare, state_of, trained_parameters

FULL = TuningConfig()


@pytest.fixture
def model(located, model_class):
    return load_model(located, model_class)


@pytest.fixture
def factor(targets) -> TuningConfig:
    return TuningConfig(kind="lora", lora=LoraConfig(rank=2, alpha=6, targets=targets))


@pytest.fixture
def products(targets) -> TuningConfig:
    return TuningConfig(kind="lora", lora=LoraConfig(rank=2, alpha=6, targets=targets, space="product"))


def stir(model, tuning, *, seed: int) -> None:
    """Change every trained parameter, as a training would."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for _, parameter in sorted(trained_parameters(model, tuning).items()):
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.05)


def write(model, tuning, path):
    return write_state_dict(path, state_of(model, tuning), lineage={"kind": "test"}).path


def test_a_whole_checkpoint_loads_beside_the_configuration(model, model_class, located, outputs, tmp_path):
    prepare(model, FULL, seed=0)
    stir(model, FULL, seed=1)
    folder = tmp_path / "model"
    path = write(model, FULL, folder / "model.safetensors")
    (folder / "config.json").write_text((located.folder / "config.json").read_text())
    assert load_file(path).keys() == load_file(located.folder / "model.safetensors").keys()
    torch.testing.assert_close(outputs(model_class.from_pretrained(folder)), outputs(model))


def test_fresh_adapters_change_nothing_and_come_from_the_seed(model, factor, outputs):
    before, global_state = outputs(model), torch.random.get_rng_state()
    prepare(model, factor, seed=3)
    assert torch.equal(torch.random.get_rng_state(), global_state)
    torch.testing.assert_close(outputs(model), before)
    first = {name: tensor.clone() for name, tensor in state_of(model, factor).items()}
    stir(model, factor, seed=1)
    assert not torch.equal(outputs(model), before)
    prepare(model, factor, seed=3)
    assert all(torch.equal(tensor, first[name]) for name, tensor in state_of(model, factor).items())
    prepare(model, factor, seed=4)
    assert not all(torch.equal(tensor, first[name]) for name, tensor in state_of(model, factor).items())


def test_products_are_the_weights_with_scaled_factors_added(model, kind, products):
    before = {name: tensor.clone() for name, tensor in state_of(model, FULL).items()}
    prepare(model, products, seed=0)
    stir(model, products, seed=1)
    factors = trained_parameters(model, products)
    state = state_of(model, products)
    assert len(factors) == 2 * len(state)
    for name, weight in state.items():
        layer = f"base_model.model.{name.removesuffix('.weight')}"
        a, b = factors[f"{layer}.lora_A.weight"], factors[f"{layer}.lora_B.weight"]
        added = (b @ a).T if kind == "gpt2" else b @ a
        torch.testing.assert_close(weight, before[name] + 3.0 * added)


def test_folded_products_answer_as_the_adapted_model_does(model, model_class, located, products, outputs):
    prepare(model, products, seed=0)
    stir(model, products, seed=1)
    state, expected = state_of(model, products), outputs(model)
    plain = load_model(located, model_class)
    overlay(plain, state, called="Checkpoint", tuning=products)
    torch.testing.assert_close(outputs(plain), expected)
    again = prepare(load_model(located, model_class), products, seed=5)
    overlay(again, state, called="Checkpoint")
    torch.testing.assert_close(outputs(again), expected)


@pytest.mark.parametrize("form", ["whole", "factor", "product"])
def test_what_was_stored_is_laid_over_again(
    form, model, model_class, located, factor, products, outputs, tmp_path
):
    tuning = {"whole": FULL, "factor": factor, "product": products}[form]
    prepare(model, tuning, seed=0)
    stir(model, tuning, seed=1)
    tensors = read_state_dict(write(model, tuning, tmp_path / "x.safetensors"))
    other = prepare(load_model(located, model_class), tuning, seed=9)
    places = in_a_call(other, tensors, called="Checkpoint")
    keys = other.state_dict().keys()
    assert places.keys() <= keys
    before = outputs(other)
    overlay(other, tensors, called="Checkpoint")
    torch.testing.assert_close(outputs(other), outputs(model))
    assert not torch.equal(outputs(other), before)


def test_factors_merge_with_the_initial_adapter_as_base(model, factor, tmp_path):
    prepare(model, factor, seed=0)
    base = write(model, factor, tmp_path / "base.safetensors")
    experts = []
    for seed in (1, 2):
        overlay(model, read_state_dict(base), called="Base")
        stir(model, factor, seed=seed)
        experts.append(write(model, factor, tmp_path / f"{seed}.safetensors"))
    spec = MergeSpec(
        method="task_arithmetic",
        params={"scale": 0.5},
        base=base,
        experts=experts,
    )
    merged = read_state_dict(merge_checkpoints(spec, tmp_path / "merged.safetensors").path)
    start, first, second = (read_state_dict(path) for path in (base, *experts))
    for name, tensor in merged.items():
        torch.testing.assert_close(tensor, start[name] + 0.5 * (first[name] + second[name] - 2 * start[name]))
    overlay(model, merged, called="Merge")


def test_peft_loads_exported_factors(model, kind, model_class, located, factor, outputs, tmp_path):
    prepare(model, factor, seed=0)
    stir(model, factor, seed=1)
    write_factors(
        tmp_path / "adapter",
        state_of(model, factor),
        factor.lora,
        base=str(located.folder),
        lineage={},
        is_stored_in_out=kind == "gpt2",
    )
    loaded = PeftModel.from_pretrained(load_model(located, model_class), tmp_path / "adapter")
    torch.testing.assert_close(outputs(loaded), outputs(model))
    assert json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())["lora_alpha"] == 6


def test_a_functional_call_takes_the_tensors(model, kind, factor, tmp_path):
    prepare(model, factor, seed=0)
    stir(model, factor, seed=1)
    tensors = {name: tensor.clone() for name, tensor in state_of(model, factor).items()}
    words = {"input_ids": torch.tensor([[5, 6, 39]])}
    images = {"pixel_values": torch.ones(1, 3, 16, 16)} if kind == "clip" else {}
    labels = {} if kind == "clip" else {"labels": torch.tensor([[5, 6, 39]])}
    inputs = {**words, **images, **labels}
    with torch.no_grad():
        expected = model(**inputs)[0]
        prepare(model, factor, seed=0)
        told = functional_call(model, in_a_call(model, tensors, called="Checkpoint"), (), inputs)
    torch.testing.assert_close(told[0], expected)


@pytest.mark.parametrize("kind", ["clip"])
def test_what_is_left_out_keeps_its_value(model, factor):
    prepare(model, FULL, seed=0)
    trained = trained_parameters(model, FULL, without=("logit_scale", "text_model"))
    assert trained
    assert all(name.startswith(("vision_model", "visual", "text_proj")) for name in trained)
    assert not model.logit_scale.requires_grad
    assert sum(p.requires_grad for p in model.parameters()) == len(trained)
    prepare(model, factor, seed=0)
    trained = trained_parameters(model, factor, without=("logit_scale", "text_model"))
    assert trained
    assert all(name.startswith("base_model.model.vision_model") for name in trained)
    with pytest.raises(SpecError, match=r"pattern 'nothing' names no parameter of the model; known: "):
        trained_parameters(model, factor, without=("nothing",))
    with pytest.raises(SpecError, match="leaves no parameter to train"):
        trained_parameters(model, factor, without=("*",))


@pytest.mark.parametrize("kind", ["tied llama"])
def test_a_tied_weight_is_trained_and_stored_once(model):
    prepare(model, FULL, seed=0)
    assert "lm_head.weight" not in trained_parameters(model, FULL)
    assert "lm_head.weight" not in state_of(model, FULL)
    assert "model.embed_tokens.weight" in state_of(model, FULL)


@pytest.mark.parametrize("kind", ["llama"])
def test_what_does_not_fit_is_refused(model, factor, products):
    tensors = dict(state_of(model, FULL))
    norm = tensors.pop("model.norm.weight")
    with pytest.raises(
        CheckpointMismatchError, match=r"Checkpoint 'a' does not fit .*'model.norm.weight' is m"
    ):
        overlay(model, tensors, called="Checkpoint 'a'")
    with pytest.raises(CheckpointCorruptError, match=r"NaN or infinite values in model\.norm\.weight"):
        overlay(model, {**tensors, "model.norm.weight": norm * torch.nan}, called="x")
    prepare(model, products, seed=0)
    state = dict(state_of(model, products))
    name, _ = state.popitem()
    with pytest.raises(CheckpointMismatchError, match=f"'{name}' is missing"):
        overlay(model, state, called="x")


@pytest.mark.parametrize("kind", ["llama"])
def test_targets_that_name_no_layer_are_listed(model):
    lora = LoraConfig(targets=("q_proj", "qproj", "norm"))
    with pytest.raises(
        SpecError,
        match=r"`qproj` is the end of no layer's name; `norm` names model.norm, a LlamaRMSNorm. .*up_proj",
    ):
        prepare(model, TuningConfig(kind="lora", lora=lora), seed=0)


def test_adapters_are_asked_for_with_their_settings():
    with pytest.raises(ValueError, match="kind is 'lora', but `lora` is missing"):
        TuningConfig(kind="lora")
    with pytest.raises(ValueError, match="kind is 'full', but `lora` is given"):
        TuningConfig(lora=LoraConfig(targets=("q",)))
