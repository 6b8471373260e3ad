"""From a pretrained CLIP to experts and their accuracies."""

import pytest
import torch
from transformers import CLIPModel

from merge_lib.checkpoints import read_state_dict, write_state_dict
from merge_lib.errors import CheckpointMismatchError, DataError, SpecError, UnknownMethodError
from merge_lib.workloads import Measuring, Probing, Workload
from merge_lib.workloads.pretrained.models import DTYPES

LORA = {"kind": "lora", "lora": {"rank": 2, "alpha": 4, "targets": ["fc1"]}}
PRODUCT = {"kind": "lora", "lora": {**LORA["lora"], "space": "product"}}


def states(workload, tmp_path, tasks=("left-right",), **asked):
    """The base's tensors and those of an expert."""
    base = workload.pretrain(tmp_path / "base.safetensors", seed=0, lineage={})
    expert = workload.fine_tune(
        base.path, tasks, tmp_path / "expert.safetensors", seed=0, lineage={}, **asked
    )
    return read_state_dict(base.path), read_state_dict(expert.path), expert


def test_an_expert_knows_its_task_and_every_model_can_be_asked_about_all(make_workload, tmp_path):
    workload = make_workload(zero_shot=("corners",))
    assert isinstance(workload, Workload)
    assert isinstance(workload, Measuring)
    assert isinstance(workload, Probing)
    base, expert, report = states(workload, tmp_path)
    before = workload.evaluate(base, ["left-right", "top-bottom", "corners"])
    after = workload.evaluate(expert, ["left-right", "top-bottom", "corners"])
    assert after["left-right"] > 0.9 > before["left-right"]
    assert report.validation_accuracy > 0.8
    assert report.losses[-1] < report.losses[0]
    assert workload.chance == (0.5, 0.5)
    assert workload.probes == ("corners",)


def test_the_base_is_the_model_of_the_folder_and_a_whole_checkpoint_loads_in_transformers(
    make_workload, root, tmp_path
):
    base, expert, _ = states(make_workload(), tmp_path)
    model = CLIPModel.from_pretrained(root / "data" / "models" / "tiny")
    assert base.keys() == model.state_dict().keys()
    assert all(torch.equal(base[name], tensor) for name, tensor in model.state_dict().items())
    model.load_state_dict(expert)
    assert torch.equal(expert["logit_scale"], base["logit_scale"])
    changed = {name for name in base if not torch.equal(base[name], expert[name])}
    assert any(name.startswith("text_model") for name in changed)
    assert any(name.startswith("vision_model") for name in changed)


def test_logits_are_those_of_transformers(make_workload, root):
    workload = make_workload()
    model = CLIPModel.from_pretrained(root / "data" / "models" / "tiny").eval()
    measured = workload.measured(model.state_dict())
    images, head = workload.sets["left-right"], workload.targets["left-right"].head
    with torch.no_grad():
        expected = model(
            pixel_values=images.images("test", torch.arange(3)), input_ids=workload.texts.ids(head.prompts)
        ).logits_per_image
    torch.testing.assert_close(measured.logits(images, head, "test")[:3], expected)


def test_adapters_are_all_that_a_checkpoint_holds_and_start_at_the_base(make_workload, tmp_path):
    workload = make_workload(tuning=LORA, fine_tuning={"learning_rate": 1e-2})
    base, expert, _ = states(workload, tmp_path)
    assert len(base) == 4
    assert all(".fc1.lora_" in name for name in base)
    whole = make_workload().pretrain(tmp_path / "whole.safetensors", seed=0, lineage={})
    tasks = ["left-right", "top-bottom"]
    assert workload.evaluate(base, tasks) == make_workload().evaluate(read_state_dict(whole.path), tasks)
    assert workload.evaluate(expert, tasks)["left-right"] > 0.7


def test_products_go_on_from_one_another(make_workload, tmp_path):
    workload = make_workload(tuning=PRODUCT, fine_tuning={"learning_rate": 1e-2, "epochs": 2})
    base, _, report = states(workload, tmp_path)
    assert all(name.endswith("fc1.weight") for name in base)
    again = workload.fine_tune(
        report.path, ["top-bottom"], tmp_path / "second.safetensors", seed=1, lineage={}
    )
    ranks = [torch.linalg.matrix_rank(read_state_dict(again.path)[name] - base[name]) for name in base]
    assert max(int(rank) for rank in ranks) > 2  # of two adapters of rank 2


def test_the_same_seed_gives_the_same_expert(make_workload, tmp_path):
    workload = make_workload(fine_tuning={"epochs": 1, "shift": 1, "smallest_crop": 0.8})
    one, other = (states(workload, tmp_path)[2].digest for _ in range(2))
    assert one == other


@pytest.mark.parametrize("tuning", [{"kind": "full"}, LORA, PRODUCT], ids=["whole", "factors", "products"])
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_models_are_evaluated_in_16_bits_where_that_is_asked(make_workload, tmp_path, tuning, precision):
    half, whole = (
        make_workload(tuning=tuning, fine_tuning={"epochs": 1}, **more)
        for more in ({"evaluation_precision": precision}, {})
    )
    base = half.pretrain(tmp_path / "base.safetensors", seed=0, lineage={})
    expert = half.fine_tune(base.path, ["left-right"], tmp_path / "e.safetensors", seed=0, lineage={})
    state = read_state_dict(expert.path)
    assert all(tensor.dtype == torch.float32 for tensor in state.values())
    measured = half.measured(state)
    assert {one.dtype for one in measured.model.parameters()} == {DTYPES[precision]}
    found, expected = (
        one.logits(one_set.sets["left-right"], one_set.targets["left-right"].head, "test")
        for one, one_set in ((measured, half), (whole.measured(state), whole))
    )
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, atol=0.5, rtol=0.05)
    assert not torch.equal(found, expected)
    assert half.evaluate(state, ["left-right"]).keys() == {"left-right"}


def test_class_incremental_seeks_among_the_classes_of_all_tasks(make_workload, tmp_path):
    workload = make_workload(
        ("left-right", "top-bottom", "corners"), scenario="class-incremental", fine_tuning={"epochs": 1}
    )
    assert workload.chance == (0.25, 0.25, 0.25)
    assert workload.probe().outputs("corners") == ("left", "right", "top", "bottom")
    assert workload.targets["corners"].of(torch.tensor([0, 1])).tolist() == [0, 3]
    _, expert, _ = states(workload, tmp_path, ("left-right", "corners"))
    assert set(workload.evaluate(expert, ["corners"])) == {"corners"}


def test_joint_training_learns_each_task_among_its_own_classes(make_workload, tmp_path):
    workload = make_workload()
    _, expert, _ = states(workload, tmp_path, ("left-right", "top-bottom"))
    assert min(workload.evaluate(expert, ["left-right", "top-bottom"]).values()) > 0.9


def test_a_single_task_may_be_trained_faster(make_workload):
    workload = make_workload(strength={"left-right": 5.0}, fine_tuning={"learning_rate": 0.25})
    rates = [workload.fine_tuning(tasks).learning_rate for tasks in (["left-right"], ["top-bottom"])]
    assert rates == [1.25, 0.25]
    assert workload.fine_tuning(["left-right", "top-bottom"]).learning_rate == 0.25


def test_wrong_names_are_told(make_workload):
    with pytest.raises(SpecError, match="`zero_shot` names top-bottom, which the task sequence trains on"):
        make_workload(zero_shot=("top-bottom",))
    with pytest.raises(SpecError, match="each once"):
        make_workload(("left-right", "left-right"))
    with pytest.raises(SpecError, match="`strength` names corners, not in the task sequence"):
        make_workload(strength={"corners": 2.0})
    with pytest.raises(UnknownMethodError, match="'left' is neither in the task sequence nor a probe"):
        make_workload().evaluate({}, ["left"])
    with pytest.raises(SpecError, match="at least one task"):
        make_workload().lesson([])


def test_another_models_checkpoint_is_refused(make_workload, tmp_path):
    with pytest.raises(CheckpointMismatchError, match="'logit_scale' is missing"):
        make_workload().evaluate({"weight": torch.zeros(1)}, ["left-right"])
    other = write_state_dict(tmp_path / "other.safetensors", {"weight": torch.zeros(1)}, lineage={})
    with pytest.raises(CheckpointMismatchError, match=r"Checkpoint '.*other.safetensors' does not fit"):
        make_workload().fine_tune(other.path, ["left-right"], tmp_path / "x", seed=0, lineage={})


def test_texts_that_are_too_long_are_named(make_workload):
    with pytest.raises(DataError, match=r"at most 8 tokens, but these have more: 'a very .*' \(\d+\)"):
        make_workload().texts.ids(["left", "a very long and winding text about the left half of an image"])
