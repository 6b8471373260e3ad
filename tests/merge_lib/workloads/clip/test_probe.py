"""What merging, forgetting reports and forecasts see of CLIP."""

import pytest
import torch

from merge_lib.calibration.collect import Calibration, collect
from merge_lib.calibration.fisher import add_fisher
from merge_lib.checkpoints import read_state_dict
from merge_lib.landscape.measuring import Examples, measure
from merge_lib.probe import Batch, Naming, Picturing, drawn

LORA = {"kind": "lora", "lora": {"rank": 2, "alpha": 4, "targets": ["fc1"]}}
PRODUCT = {"kind": "lora", "lora": {**LORA["lora"], "space": "product"}}


@pytest.mark.parametrize("tuning", [{"kind": "full"}, LORA, PRODUCT], ids=["whole", "factors", "products"])
def test_a_module_has_the_checkpoints_names_and_answers_as_the_workload_does(make_workload, tmp_path, tuning):
    workload = make_workload(tuning=tuning, fine_tuning={"epochs": 1})
    base = workload.pretrain(tmp_path / "base.safetensors", seed=0, lineage={})
    expert = workload.fine_tune(base.path, ["left-right"], tmp_path / "e.safetensors", seed=0, lineage={})
    state, probe = read_state_dict(expert.path), workload.probe()
    module = probe.module(state)
    assert {name for name, _ in module.named_parameters()} == set(state)
    shown = drawn(probe, "left-right", split="test", count=100, seed=0, size=7)
    measured = next(measure(Examples(probe, {"left-right": shown}), [state]))
    assert float(measured[0, 1]) == pytest.approx(workload.evaluate(state, ["left-right"])["left-right"])
    found = {
        name: value for name, value, _ in add_fisher(module, probe, "left-right", _few(shown[0]), _silent)
    }
    assert found.keys() == state.keys()
    folder = collect(
        Calibration(kind="gram", examples=4),
        state,
        probe,
        "left-right",
        tmp_path / "gram",
        data="d",
        model="m",
    )
    assert set(folder.manifest.counts) <= set(state)
    assert len(folder.manifest.counts) >= 2


def test_models_are_measured_one_after_another_by_their_own_weights(make_workload, tmp_path):
    workload = make_workload(tuning=LORA, fine_tuning={"learning_rate": 1e-2})
    base = workload.pretrain(tmp_path / "base.safetensors", seed=0, lineage={})
    expert = workload.fine_tune(base.path, ["left-right"], tmp_path / "e.safetensors", seed=0, lineage={})
    states = [read_state_dict(made.path) for made in (base, expert)]
    probe = workload.probe()
    examples = Examples(
        probe, {"left-right": drawn(probe, "left-right", split="test", count=8, seed=0, size=8)}
    )
    before, after = measure(examples, states)
    assert float(after[0, 0]) < float(before[0, 0])


def test_pictures_and_outputs_are_shown(make_workload):
    workload = make_workload()
    probe = workload.probe()
    assert isinstance(probe, Picturing)
    assert isinstance(probe, Naming)
    batch = next(probe.batches("left-right", split="test", count=3, seed=0, size=3))
    picture = probe.picture(batch.inputs, 1)
    original = workload.sets["left-right"].snapshot.splits["test"].images[int(batch.places[1])]
    assert picture.shape == (8, 8, 3)
    assert (abs(picture[:, :, 0].astype(int) - original) <= 1).all()
    assert probe.outputs("left-right") == ("left", "right")


def _few(batch: Batch) -> list[Batch]:
    return [Batch(batch.inputs[:2], batch.labels[:2])]


def _silent(done: int, of: int) -> None:
    assert done <= of


def test_gradients_reach_both_encoders(make_workload):
    workload = make_workload()
    probe = workload.probe()
    state = workload.models.fresh(seed=0).state_dict()
    module = probe.module(state)
    batch = next(probe.batches("left-right", split="test", count=2, seed=0, size=2))
    probe.logits(module, batch, "left-right").sum().backward()
    reached = {
        name for name, one in module.named_parameters() if one.grad is not None and one.grad.abs().sum()
    }
    assert {"text_projection.weight", "visual_projection.weight"} <= reached
    assert torch.is_tensor(batch.inputs)
