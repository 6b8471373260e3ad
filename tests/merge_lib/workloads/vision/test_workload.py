"""Pre-training, fine-tuning and evaluation on checkpoints."""

import pytest
import torch

from merge_lib.checkpoints import checkpoint_digest, open_checkpoint, read_state_dict, write_state_dict
from merge_lib.errors import (
    CheckpointCorruptError,
    CheckpointMismatchError,
    DataError,
    MergeError,
    SpecError,
    UnknownMethodError,
)
from merge_lib.workloads import VisionConfig, create
from merge_lib.workloads.vision.data import Examples, Snapshot, read_snapshot, write_snapshot

BOTH = ["left-right", "top-bottom"]


@pytest.fixture
def constant(base, tmp_path):
    """Write a model that gives every image the same logits, in the order of the classes."""

    def written(*logits):
        state = {name: torch.zeros_like(tensor) for name, tensor in read_state_dict(base).items()}
        state["head.bias"] = torch.tensor(logits)
        return write_state_dict(tmp_path / "constant.safetensors", state, lineage={}).path

    return written


def test_pretraining_reports_what_it_did(make_workload, tmp_path):
    made = make_workload().pretrain(tmp_path / "base.safetensors", seed=0, lineage={"kind": "base"})
    assert made.steps == 2 * 3  # 40 images in batches of 16, two epochs
    assert len(made.losses) == 2
    assert 0.0 <= made.validation_accuracy <= 1.0
    assert made.digest == checkpoint_digest(made.path)
    assert made.size_bytes == made.path.stat().st_size
    with open_checkpoint(made.path) as checkpoint:
        assert checkpoint.lineage["kind"] == "base"


def test_fine_tuning_learns_the_task_and_is_reproducible(make_workload, base, tmp_path):
    workload = make_workload()
    made = [
        workload.fine_tune(base, ["left-right"], tmp_path / f"{n}.safetensors", seed=seed, lineage={})
        for n, seed in enumerate((3, 3, 4))
    ]
    assert made[0].digest == made[1].digest != made[2].digest
    assert made[0].validation_accuracy == 1.0
    assert workload.evaluate(read_state_dict(made[0].path), ["left-right"]) == {"left-right": 1.0}


def test_joint_training_makes_the_same_epochs_over_the_union(make_workload, base, tmp_path):
    workload = make_workload()
    made = workload.fine_tune(base, BOTH, tmp_path / "joint.safetensors", seed=0, lineage={})
    assert made.steps == 12 * 8  # 15 images of each class, in batches of 8, twelve epochs
    assert workload.evaluate(read_state_dict(made.path), BOTH) == {"left-right": 1.0, "top-bottom": 1.0}


# every task's test split has 12 images of each of its two classes
@pytest.mark.parametrize(
    ("scenario", "logits", "expected"),
    [
        ("class-incremental", (0.0, 1.0, 2.0, 3.0), (0.0, 0.5)),  # always "bottom"
        ("class-incremental", (9.0, 1.0, 2.0, 3.0), (0.5, 0.0)),  # always "left"
        ("task-incremental", (0.0, 1.0, 2.0, 3.0), (0.5, 0.5)),  # "right", "bottom"
        ("domain-incremental", (1.0, 1.0, 1.0, 0.0), (0.5, 0.5)),  # position 0: 2e > e + 1
    ],
)
def test_accuracy_of_a_constant_model(make_workload, constant, scenario, logits, expected):
    workload = make_workload(scenario)
    assert tuple(workload.evaluate(read_state_dict(constant(*logits)), BOTH).values()) == expected
    chance = {"class-incremental": 0.25}.get(scenario, 0.5)
    assert workload.chance == (chance, chance)


def test_validation_split_is_another_one(make_workload, constant):
    workload = make_workload()
    tensors = read_state_dict(constant(9.0, 0.0, 0.0, 0.0))
    assert workload.evaluate(tensors, ["left-right"], split="validation") == {"left-right": 0.5}


def test_half_precision_is_evaluated_in_single(make_workload, constant):
    state = {
        name: tensor.bfloat16() for name, tensor in read_state_dict(constant(9.0, 1.0, 2.0, 3.0)).items()
    }
    assert make_workload().evaluate(state, BOTH) == {"left-right": 0.5, "top-bottom": 0.0}
    assert {tensor.dtype for tensor in state.values()} == {torch.bfloat16}


def test_an_evaluated_state_dict_is_as_it_was(make_workload, base):
    state = read_state_dict(base)
    make_workload().evaluate(state, BOTH)
    assert not any(tensor.requires_grad for tensor in state.values())
    assert all(torch.equal(state[name], tensor) for name, tensor in read_state_dict(base).items())


def test_classes_that_only_tasks_have_widen_the_head(make_workload, data, tmp_path):
    few = Examples(torch.zeros(2, 8, 8, dtype=torch.uint8).numpy(), torch.tensor([0, 1]).numpy())
    for folder, name, classes in (("pretraining", "toy", "ab"), ("tasks", "t", "bc")):
        splits = dict.fromkeys(("train", "validation", "test"), few)
        write_snapshot(
            Snapshot(name, tuple(classes), 16, splits, {}), tmp_path / folder / f"{name}.safetensors"
        )
    config = VisionConfig(name="vision", scenario="task-incremental", pretraining={"snapshot": "toy"})
    assert create(config, tasks=["t"], data=tmp_path).classes == ("a", "b", "c")


def test_snapshots_of_another_size_are_refused(data):
    config = VisionConfig(
        name="vision", scenario="task-incremental", model={"image_size": 16}, pretraining={"snapshot": "toy"}
    )
    with pytest.raises(DataError, match=r"images of \[\(8, 8\)\] pixels, but the model takes \(16, 16\)"):
        create(config, tasks=BOTH, data=data)


def test_snapshot_without_a_test_split_is_refused(data, tmp_path):
    source = read_snapshot(data / "tasks" / "left-right.safetensors")
    kept = {split: part for split, part in source.splits.items() if split != "test"}
    broken = Snapshot("left-right", source.classes, source.white, kept, {})
    write_snapshot(broken, tmp_path / "tasks" / "left-right.safetensors")
    write_snapshot(
        read_snapshot(data / "pretraining" / "toy.safetensors"), tmp_path / "pretraining" / "toy.safetensors"
    )
    config = VisionConfig(name="vision", scenario="task-incremental", pretraining={"snapshot": "toy"})
    with pytest.raises(DataError, match="Snapshot 'left-right' lacks test"):
        create(config, tasks=["left-right"], data=tmp_path)


def test_unknown_task_names_the_nearest(make_workload, base):
    with pytest.raises(
        UnknownMethodError, match="'left-rihgt' is not in the task sequence; did you mean 'left-right'"
    ):
        make_workload().evaluate(read_state_dict(base), ["left-rihgt"])


def test_fine_tuning_needs_a_task(make_workload, base, tmp_path):
    with pytest.raises(SpecError, match="at least one task"):
        make_workload().fine_tune(base, [], tmp_path / "x.safetensors", seed=0, lineage={})


def test_a_state_dict_of_another_model_lists_every_fault(make_workload, base):
    state = read_state_dict(base)
    del state["layernorm.bias"]
    state["head.bias"] = torch.zeros(7)
    state["extra"] = torch.zeros(1)
    with pytest.raises(CheckpointMismatchError) as caught:
        make_workload().evaluate(state, BOTH)
    for fault in ("'layernorm.bias' is missing", "'extra' is unknown", "shape (7,), expected (4,)"):
        assert fault in str(caught.value)


def test_checkpoint_with_nan_is_refused(make_workload, base, tmp_path):
    state = read_state_dict(base)
    state["head.bias"][2] = float("nan")
    path = write_state_dict(tmp_path / "nan.safetensors", state, lineage={}).path
    with pytest.raises(CheckpointCorruptError, match=r"NaN or infinite values in head\.bias"):
        make_workload().fine_tune(path, BOTH, tmp_path / "x.safetensors", seed=0, lineage={})


def test_truncated_checkpoint_is_refused(make_workload, base, tmp_path):
    base.write_bytes(base.read_bytes()[:-50])
    with pytest.raises(CheckpointCorruptError, match=r"base\.safetensors"):
        make_workload().fine_tune(base, BOTH, tmp_path / "x.safetensors", seed=0, lineage={})


def test_missing_checkpoint_is_an_error_of_ours(make_workload, tmp_path):
    gone = tmp_path / "gone.safetensors"
    with pytest.raises(MergeError, match=r"gone\.safetensors"):
        make_workload().fine_tune(gone, BOTH, tmp_path / "x.safetensors", seed=0, lineage={})


def test_diverged_training_writes_nothing(make_workload, base, tmp_path):
    from merge_lib.errors import TrainingError

    workload = make_workload(learning_rate=1e30, max_grad_norm=1e30)
    with pytest.raises(TrainingError, match="must be finite"):
        workload.fine_tune(base, BOTH, tmp_path / "x.safetensors", seed=0, lineage={})
    assert not (tmp_path / "x.safetensors").exists()
