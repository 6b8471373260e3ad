"""Images in the training loop: augmentation, the vision transformer, what it starts from."""

import pytest
import torch
from torch import nn

from merge_lib.workloads.training.loop import train
from merge_lib.workloads.vision.config import FineTuningConfig, ViTConfig
from merge_lib.workloads.vision.lessons import TrainingSet, lesson_of, shifted
from merge_lib.workloads.vision.model import empty_model, initial_model

TINY = ViTConfig(width=32, depth=2, heads=2)


def tiny_model(seed=0):
    return initial_model(TINY, classes=2, generator=torch.Generator().manual_seed(seed))


def half_images(n=24):
    images = 0.2 * torch.randn(n, 8, 8, generator=torch.Generator().manual_seed(0))
    targets = torch.arange(n) % 2
    images[targets == 0, :, :4] += 1.0
    images[targets == 1, :, 4:] += 1.0
    return TrainingSet(images, targets, torch.zeros_like(targets))


def fit(model, examples, *, seed=0, progress=None, **config):
    settings = FineTuningConfig(**({"epochs": 6, "batch_size": 8, "learning_rate": 2e-3} | config))
    generator = torch.Generator().manual_seed(seed)
    lesson = lesson_of(examples, settings)
    return train(model, lesson, settings, generator=generator, progress=progress)


def test_a_tiny_model_learns():
    model, examples = tiny_model(), half_images()
    losses = fit(model, examples).losses
    assert len(losses) == 6
    assert losses[-1] < 0.1 < losses[0]
    assert (model(examples.images).argmax(1) == examples.targets).all()


def test_same_seed_same_values_and_the_global_generator_is_left_alone():
    before = torch.random.get_rng_state()
    models = [tiny_model() for _ in range(3)]
    for model, seed in zip(models, (1, 1, 2), strict=True):
        fit(model, half_images(), seed=seed, shift=1)
    one, same, other = (model.state_dict() for model in models)
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not all(torch.equal(one[name], other[name]) for name in one)
    assert torch.equal(before, torch.random.get_rng_state())


def test_frozen_parameters_keep_their_values():
    model, before = tiny_model(), tiny_model().state_dict()
    fit(model, half_images(), epochs=1, freeze=["head", "*.projection.*"])
    unchanged = {name for name, tensor in model.state_dict().items() if torch.equal(tensor, before[name])}
    assert unchanged >= {"head.weight", "head.bias", "embeddings.projection.weight"}
    assert "layernorm.weight" not in unchanged


def test_layers_computed_twice_give_the_same_model():
    plain, thrifty = tiny_model(), tiny_model()
    fit(plain, half_images(), epochs=2, label_smoothing=0.1, shift=1)
    fit(thrifty, half_images(), epochs=2, label_smoothing=0.1, shift=1, gradient_checkpointing=True)
    assert not thrifty.encoder.computes_twice
    theirs = thrifty.state_dict()
    assert all(torch.equal(value, theirs[name]) for name, value in plain.state_dict().items())


def test_layers_computed_twice_keep_less():
    kept = []
    model, examples = tiny_model(), half_images()
    hooks = torch.autograd.graph.saved_tensors_hooks(
        lambda one: kept.append(one.nelement()) or one, lambda one: one
    )
    counts = []
    for turn_on in (False, True):
        if turn_on:
            model.activation_checkpointing_enable()
        kept.clear()
        with hooks:
            model.train()(examples.images).sum()
        counts.append(sum(kept))
    assert counts[1] < 0.6 * counts[0]


def test_shift_moves_whole_images_over_paper():
    images = torch.full((200, 3, 3), -1.0)
    images[:, 1, 1] = 1.0
    moved = shifted(images, 1, torch.Generator().manual_seed(0))
    assert (moved.flatten(1).sum(1) == -7.0).all()  # one inked pixel, eight of paper
    assert len({tuple(image.flatten().tolist()) for image in moved}) == 9  # three by three places
    assert shifted(images, 0, torch.Generator()) is images


def test_model_counts_and_names():
    model = empty_model(ViTConfig(), classes=62)
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
    # a block: 2 norms, 4 square maps, 2 maps of the perceptron; 4 patches of 16 pixels and the class token
    block = 2 * 128 + 4 * (64 * 64 + 64) + (128 * 64 + 128) + (64 * 128 + 64)
    assert sum(sizes.values()) == 4 * block + (16 * 64 + 64) + 64 + 5 * 64 + 128 + (62 * 64 + 62)
    assert "encoder.layer.3.attention.query.weight" in sizes
    assert all(parameter.device.type == "meta" for parameter in model.parameters())


def test_fresh_weights_have_the_scale_they_should():
    state = initial_model(ViTConfig(), classes=62, generator=torch.Generator().manual_seed(0)).state_dict()
    assert (state["layernorm.weight"] == 1).all()
    assert (state["head.bias"] == 0).all()
    assert state["embeddings.position_embeddings"].std().item() == pytest.approx(0.02, rel=0.2)
    bound = (6 / (64 + 64)) ** 0.5
    assert 0.95 * bound < state["encoder.layer.0.attention.key.weight"].max().item() <= bound
    assert isinstance(empty_model(TINY, classes=2).head, nn.Linear)
