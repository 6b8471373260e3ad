"""CLIPs that vote, in a study and outside."""

import pytest
import torch
from PIL import Image

from merge_lib import MergeSpec
from merge_lib.checkpoints import read_state_dict
from merge_lib.errors import CheckpointMismatchError, DataError
from merge_lib.routing import PrototypeImages, Routing, RoutingSettings, route
from merge_lib.routing.portraits import Portraits
from merge_lib.sequence import fold_experts, read_merge
from merge_lib.workloads import ClipConfig
from merge_lib.workloads.clip.answering import open_clip, portrait_of
from merge_lib.workloads.clip.heads import Targets
from tasks.jobs import Setting
from tasks.portraying import keep_portrait

TASKS = ("left-right", "top-bottom")


@pytest.fixture
def base(make_workload, tmp_path):
    """The checkpoint of the tiny model as it is."""
    path = tmp_path / "base.safetensors"
    make_workload().pretrain(path, seed=0, lineage={})
    return path


def test_a_voter_sees_what_the_model_sees(base, make_workload):
    workload = make_workload()
    assert isinstance(workload, Routing)
    assert ClipConfig.routes
    tensors = read_state_dict(base)
    encoder, measured = workload.encoder(tensors), workload.measured(tensors)
    images = workload.sets["top-bottom"]
    every = measured.image_features(images, "test")
    torch.testing.assert_close(encoder.inputs("top-bottom", split="test"), every)
    rows = torch.tensor([3, 1, 7])
    torch.testing.assert_close(encoder.inputs("top-bottom", split="test", rows=rows), every[rows])
    logits = encoder.inputs("top-bottom", split="test") @ encoder.classes("top-bottom").T
    right = (logits.argmax(1) == workload.labels("top-bottom", split="test")).double().mean()
    assert float(right) == workload.evaluate(tensors, ["top-bottom"])["top-bottom"]


@pytest.mark.parametrize("scenario", ["task-incremental", "class-incremental"])
def test_one_voter_alone_is_the_model_itself(base, make_workload, scenario):
    workload, tensors = make_workload(scenario=scenario), read_state_dict(base)
    alone = RoutingSettings(voters=1, include_base=False, known_tasks=False)
    found = route(workload, tensors, [lambda: tensors], ["left-right"], TASKS, alone)
    assert found.accuracy == workload.evaluate(tensors, TASKS)
    assert found.right == {"left-right": 1.0}


def test_prototypes_are_of_the_task_s_own_classes(base, make_workload):
    workload, tensors = make_workload(scenario="class-incremental"), read_state_dict(base)
    targets: Targets = workload.targets["top-bottom"]
    assert len(targets.head.names) == 4
    portrait = portrait_of(workload, tensors, "top-bottom")
    assert portrait.names == ("top", "bottom")
    assert portrait.texts == (("the top half",), ("the bottom half",))
    torch.testing.assert_close(portrait.prototypes.norm(dim=1), torch.ones(2))


def test_image_files_are_answered_out_of_what_a_sequence_keeps(base, make_workload, root, tmp_path):
    workload, state = make_workload(fine_tuning={"epochs": 2}), tmp_path / "state.safetensors"
    experts = [tmp_path / f"{task}.safetensors" for task in TASKS]
    for task, out in zip(TASKS, experts, strict=True):
        workload.fine_tune(base, [task], out, seed=0, lineage={})
    fold_experts(MergeSpec(method="condu", base=base, experts=tuple(experts)), state)
    prototypes = tmp_path / "prototypes.safetensors"
    setting = Setting(str(root), workload.config.model_dump(mode="json"), TASKS, {})
    for task in TASKS:  # as `mergeline prototypes` does
        portraits = keep_portrait(setting, task, base, prototypes, PrototypeImages())
    with pytest.raises(CheckpointMismatchError, match="has prototypes that the base"):
        keep_portrait(setting, TASKS[0], experts[0], prototypes, PrototypeImages())

    images, rows = workload.sets["top-bottom"], range(0, 60, 3)
    paths = [tmp_path / f"{row}.png" for row in rows]
    for path, row in zip(paths, rows, strict=True):
        Image.fromarray(images.snapshot.splits["test"].images[row]).save(path)
    own = read_state_dict(read_merge(state, base, tmp_path / "own.safetensors", task=1).path)
    said = workload.measured(own).logits(images, workload.targets["top-bottom"].head, "test").argmax(1)
    with open_clip(base, state, prototypes, root=root) as (answering, council):
        images = answering.read(paths)
        answers = council.answer(images, task="top-bottom")
        assert [answer.name for answer in answers] == [("top", "bottom")[said[row]] for row in rows]
        untold = council.answer(images)
        assert {name for one in untold for name in one.voters} == {*TASKS, "base"}
        assert {one.name for one in untold} <= {"left", "right", "top", "bottom"}
        with pytest.raises(DataError, match=r"These are no images: .*base\.safetensors"):
            answering.read([base])
    other = Portraits(portraits.base, {**portraits.workload, "digest": "xxh3:other"}, portraits.tasks)
    other.save(prototypes)
    with (
        pytest.raises(CheckpointMismatchError, match="but the prototypes were made with xxh3:other"),
        open_clip(base, state, prototypes, root=root),
    ):
        pass
