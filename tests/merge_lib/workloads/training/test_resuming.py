"""A training that is killed goes on from its last save as if nothing had happened."""

import pytest
import torch

from merge_lib.workloads.training import saving


class Killed(BaseException):
    """Stands for the end of the process."""


def killed_at(step):
    """A progress call, and a batch call, that ends at a step."""

    def hook(words):
        batch, calls = words.batch, iter(range(1, 10_000))

        def counting(rows, generator):
            if next(calls) > step:
                raise Killed
            return batch(rows, generator)

        words.batch = counting
        return words

    return hook


CASES = {
    "plain": ({}, range(18)),
    "dropout": ({"dropout": 0.2}, (4, 10)),
    "micro-batches": ({"micro_batch": 3}, (4, 10)),
    "fp16": ({"precision": "fp16"}, (4, 10)),
    "early stopping": ({"early_stopping": {"patience": 2, "every": 4}}, (1, 6, 8, 11)),
}


@pytest.mark.parametrize(("settings", "steps"), CASES.values(), ids=CASES)
def test_whenever_it_is_killed(network, lesson, fit, same, tmp_path, settings, steps):
    dropout, settings = settings.get("dropout", 0.0), {**settings}
    settings.pop("dropout", None)
    if "early_stopping" in settings:
        settings["validate"] = lambda model: -float(model(lesson().words).square().mean())
    calm = network(dropout)
    expected = fit(calm, lesson(), **settings)
    for step in steps:
        asked = {**settings, "saved": tmp_path / str(step), "save_every": 3}
        with pytest.raises(Killed):
            fit(network(dropout), killed_at(step)(lesson()), **asked)
        resumed = network(dropout)
        course = fit(resumed, lesson(), **asked)
        assert course.resumed_at == step // 3 * 3
        assert same(resumed, calm)
        assert course.curves == expected.curves
        assert (course.steps, course.losses) == (expected.steps, expected.losses)


def test_a_smaller_micro_batch_is_remembered(network, lesson, fit, same, tmp_path):
    calm, resumed = network(), network()
    fit(calm, lesson(most=3))
    with pytest.raises(Killed):
        fit(network(), killed_at(7)(lesson(most=3)), saved=tmp_path, save_every=5)
    course = fit(resumed, lesson(most=3), saved=tmp_path, save_every=5)
    assert (course.resumed_at, course.micro_batch) == (5, 2)
    assert same(resumed, calm)


def test_a_save_of_other_settings_or_with_other_bytes_is_not_gone_on_from(
    network, lesson, fit, tmp_path, caplog
):
    fit(network(), saved=tmp_path, save_every=6)
    assert fit(network(), saved=tmp_path).resumed_at == 18
    assert fit(network(), saved=tmp_path, learning_rate=2e-2).resumed_at == 0
    assert "it is of a training with other settings" in caplog.text
    assert fit(network(), saved=tmp_path, seed=1).resumed_at == 0
    path = tmp_path / saving.FILE
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert fit(network(), saved=tmp_path).resumed_at == 0
    assert "its bytes changed after they were written" in caplog.text
    path.write_bytes(content[:-9])
    assert fit(network(), saved=tmp_path).resumed_at == 0


def test_without_saves_nothing_is_written(network, fit, tmp_path):
    fit(network(), saved=tmp_path / "folder")
    assert not (tmp_path / "folder").exists()


def test_models_that_draw_by_themselves_are_repeatable(network, fit, same):
    before = torch.random.get_rng_state()
    one, again, other, plain = network(0.5), network(0.5), network(0.5), network()
    for model, seed in zip((one, again, other, plain), (1, 1, 2, 1), strict=True):
        fit(model, seed=seed)
        torch.rand(3)  # what others draw has no part in it
    assert same(one, again)
    assert not same(one, other)
    assert not same(one, plain)
    torch.random.set_rng_state(before)
