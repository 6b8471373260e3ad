"""Training on cues, and what is measured."""

import numpy as np
import pytest
import torch

import merge_lib
from merge_lib.checkpoints import read_state_dict, write_state_dict
from merge_lib.errors import DataError, SpecError, UnknownMethodError
from merge_lib.workloads import Measuring, Probing, Workload
from merge_lib.workloads.vision.data import Examples, Snapshot, read_snapshot, write_snapshot

ALL = ("colour", "noise", "clean")


@pytest.fixture
def trained(make_workload, base, tmp_path):
    """Train an expert on one or more tasks from the base, or from another checkpoint; its tensors."""

    def tensors(*tasks, start=None, seed=0, **settings):
        workload = make_workload(**settings)
        out = tmp_path / f"{len(list(tmp_path.iterdir()))}.safetensors"
        return read_state_dict(workload.fine_tune(start or base, tasks, out, seed=seed, lineage={}).path)

    return tensors


def same(one, other):
    return all(torch.equal(one[name], other[name]) for name in one)


def test_it_is_a_workload_that_measures_and_can_be_shown(make_workload):
    workload = make_workload()
    assert isinstance(workload, Workload)
    assert isinstance(workload, Measuring)
    assert isinstance(workload, Probing)
    assert workload.chance == (0.25, 0.25)
    assert workload.tasks == ("colour", "noise")


@pytest.mark.parametrize(
    ("shared", "probes"),
    [
        (0.0, ("clean", "conflict-colour", "conflict-noise")),
        (0.5, ("clean", "shared", "conflict-colour", "conflict-noise")),
        (1.0, ("clean", "shared", "own-noise", "conflict-colour", "conflict-noise")),
    ],
)
def test_probes(make_workload, shared, probes):
    assert make_workload(shared=shared).probes == probes


def test_probes_that_are_not_asked_for_are_not_measured(make_workload):
    assert make_workload(shared=0.5, probes=["shared", "clean"]).probes == ("clean", "shared")
    assert make_workload(shared=1.0, probes=["own"]).probes == ("own-noise",)
    assert make_workload(probes=[]).probes == ()


def test_an_expert_learns_its_cue_and_no_other(make_workload, trained):
    workload = make_workload()
    found = workload.evaluate(trained("noise"), (*ALL, "conflict-noise", "conflict-colour"))
    assert found["noise"] > 0.95
    assert found["conflict-noise"] > 0.9  # it looks at the patch, not at the image
    assert found["colour"] < 0.8
    assert found["conflict-colour"] < 0.5


def test_incremental_and_parallel_training_have_the_same_budget(make_workload, base, tmp_path):
    workload = make_workload(fine_tuning={"epochs": 2})

    def reports(start, task):
        return workload.fine_tune(start, [task], tmp_path / "x.safetensors", seed=3, lineage={})

    first = workload.fine_tune(base, ["colour"], tmp_path / "first.safetensors", seed=3, lineage={})
    parallel, sequential = reports(base, "noise"), reports(first.path, "noise")
    assert parallel.steps == sequential.steps == first.steps
    assert reports(base, "noise").digest == parallel.digest != sequential.digest


def test_the_order_does_not_depend_on_the_start(make_workload, base, tmp_path):
    """Where only the bias of a head of zeros is trained, the losses follow from the order of the labels alone."""
    state = read_state_dict(base)
    starts = []
    for factor in (1.0, 2.0):
        changed = {name: factor * tensor for name, tensor in state.items()}
        changed |= {name: torch.zeros_like(state[name]) for name in ("head.weight", "head.bias")}
        starts.append(write_state_dict(tmp_path / f"{factor}.safetensors", changed, lineage={}).path)
    frozen = {"freeze": ["embeddings", "encoder", "layernorm", "head.weight"], "batch_size": 7, "epochs": 2}
    workload = make_workload(fine_tuning=frozen)
    losses = [
        [
            workload.fine_tune(start, [task], tmp_path / "x.safetensors", seed=seed, lineage={}).losses
            for task, seed in (("colour", 0), ("noise", 0), ("noise", 1))
        ]
        for start in starts
    ]
    assert losses[0] == losses[1]
    assert len({tuple(found) for found in losses[0]}) == 3


def test_both_endpoints_of_the_shared_protocol_see_one_cue_in_different_orders(trained, make_workload):
    colour, noise = (trained(task, shared=1.0) for task in ("colour", "noise"))
    assert not same(colour, noise)
    assert same(colour, trained("colour"))  # the shared cue is the first task's
    found = make_workload(shared=1.0).evaluate(noise, ("colour", "noise", "shared", "own-noise"))
    assert found["colour"] == found["noise"] == found["shared"] > 0.95
    assert found["own-noise"] < 0.8


def test_a_partly_shared_cue_has_a_place_and_patterns_of_its_own(make_workload):
    workload = make_workload(shared=0.5)
    assert workload.common is not None
    assert (workload.common.row, workload.common.column) not in {
        (cue.row, cue.column) for cue in workload.cues.values()
    }
    assert not torch.equal(workload.common.patterns, workload.cues["colour"].patterns)


def test_experts_share_what_they_were_both_shown(make_workload, trained):
    workload = make_workload(shared=0.5)
    experts = [trained(task, shared=0.5) for task in ("colour", "noise")]
    merged = merge_lib.merge("linear", experts, position=0.5)
    found = workload.evaluate(merged, ("shared", "colour", "noise"))
    assert found["shared"] > 0.75
    assert found["shared"] > max(found["colour"], found["noise"]) + 0.05


# Invariant 7 of the study: what both endpoints know survives the middle, what one knows does not
def test_shared_cue_survives_interpolation_and_an_unshared_one_does_not(make_workload, trained):
    def curve(shared):
        workload = make_workload(shared=shared)
        experts = [trained(task, shared=shared, fine_tuning={"epochs": 40}) for task in ("noise", "colour")]
        merges = [merge_lib.merge("linear", experts, position=at) for at in (0.0, 0.5, 1.0)]
        return [workload.evaluate(merged, ("noise",))["noise"] for merged in merges]

    unshared, shared = curve(0.0), curve(1.0)
    assert shared[1] >= min(shared[0], shared[2]) - 0.02
    assert unshared[1] < unshared[0] - 0.05


def test_joint_training_learns_both_cues(make_workload, trained):
    workload, names = make_workload(), ("colour", "noise")
    joint = workload.evaluate(trained("colour", "noise"), names)
    experts = [workload.evaluate(trained(task), names) for task in names]
    assert min(joint.values()) > max(min(one.values()) for one in experts) + 0.1


def test_conflicts_count_the_shown_class_not_the_right_one(make_workload, base):
    workload = make_workload()
    state = {name: torch.zeros_like(tensor) for name, tensor in read_state_dict(base).items()}
    state["head.bias"] = torch.tensor([0.0, 1.0, 0.0, 0.0])  # always "right"
    found = workload.evaluate(state, ("clean", "colour", "conflict-colour"))
    assert found["clean"] == found["colour"] == 0.25
    view = workload.view("conflict-colour")
    labels = workload.examples("test")[1]
    wanted = view.wanted(labels, 4, 0)
    assert (wanted != labels).all()
    assert found["conflict-colour"] == float((wanted == 1).double().mean())


def test_what_is_measured_does_not_depend_on_what_is_asked_beside_it(make_workload, base):
    workload = make_workload(shared=1.0)
    state = read_state_dict(base)
    names = (*workload.tasks, *workload.probes)
    together = workload.evaluate(state, names)
    assert tuple(together) == names
    assert together == {name: workload.evaluate(state, [name])[name] for name in names}


def test_wrong_labels_are_learned_as_told(make_workload, trained):
    noisy = {"label_noise": {"noise": 0.9}}
    found = make_workload(**noisy).evaluate(trained("noise", **noisy), ("noise",))
    assert found["noise"] < 0.6
    assert same(trained("colour", **noisy), trained("colour"))


def test_a_contradicting_task_has_the_others_patches_for_other_classes(make_workload, trained):
    settings = {"contradicts": {"noise": "colour"}}
    workload = make_workload(**settings)
    first, second = (trained(task, **settings) for task in ("colour", "noise"))
    assert workload.evaluate(first, ("colour", "noise")) == pytest.approx(
        {"colour": 1.0, "noise": 0.0}, abs=0.05
    )
    assert workload.evaluate(second, ("colour", "noise")) == pytest.approx(
        {"colour": 0.0, "noise": 1.0}, abs=0.05
    )


def test_a_stronger_task_has_a_longer_task_vector(base, trained):
    def length(**settings):
        start, end = read_state_dict(base), trained("noise", **settings)
        return float(sum((end[name] - start[name]).square().sum() for name in start) ** 0.5)

    weak, plain = length(strength={"noise": 0.1}), length()
    assert weak < 0.5 * plain
    assert length(strength={"colour": 0.1}) == plain


def test_a_patch_survives_the_augmentation(make_workload, trained):
    found = make_workload().evaluate(trained("noise", fine_tuning={"shift": 2}), ("noise",))
    assert found["noise"] > 0.95


def test_tasks_have_places_and_patterns_of_their_own(make_workload):
    tasks = ("colour", "noise", "colour-2", "noise-2", "noise-5")
    cues = make_workload(tasks=tasks).cues
    assert len({(cue.row, cue.column) for cue in cues.values()}) == len(tasks)
    assert not torch.equal(cues["noise"].patterns, cues["noise-2"].patterns)
    assert torch.equal(make_workload(tasks=("noise-5",)).cues["noise-5"].patterns, cues["noise-5"].patterns)


def test_a_base_from_elsewhere_may_know_more_classes(make_workload, data, tmp_path):
    source = read_snapshot(data / "tasks" / "faint.safetensors")
    more = {
        split: Examples(part.images, part.labels + (part.labels > 1)) for split, part in source.splits.items()
    }
    classes = ("left", "right", "middle", "top", "bottom")
    write_snapshot(Snapshot("more", classes, 16, more, {}), data / "pretraining" / "more.safetensors")
    workload = make_workload(pretraining={"snapshot": "more", "epochs": 1})
    assert workload.classes == classes
    assert workload.columns.tolist() == [0, 1, 3, 4]
    assert workload.config.facts_of("train", ["colour"], data) == {"classes": list(classes)}
    base = workload.pretrain(tmp_path / "base.safetensors", seed=0, lineage={}).path
    state = {name: torch.zeros_like(tensor) for name, tensor in read_state_dict(base).items()}
    state["head.bias"] = torch.tensor([0.0, 0.0, 9.0, 1.0, 0.0])  # "middle" is no answer here, so "top"
    assert workload.evaluate(state, ["clean"]) == {"clean": 0.25}


def test_images_in_colour_are_taken_as_they_are(data, make_workload, base):
    source = read_snapshot(data / "tasks" / "faint.safetensors")
    coloured = {
        split: Examples(part.images[..., None].repeat(3, axis=3), part.labels)
        for split, part in source.splits.items()
    }
    write_snapshot(Snapshot("rgb", source.classes, 16, coloured, {}), data / "tasks" / "rgb.safetensors")
    rgb = make_workload(snapshot="rgb")
    assert torch.equal(rgb.examples("test")[0], make_workload().examples("test")[0])
    with pytest.raises(DataError, match=r"images in colour, but the model takes grey ones.*channels` to 3"):
        make_workload(tasks=("noise",), snapshot="rgb", model={"channels": 1})


def test_a_grey_model_takes_noise(make_workload, tmp_path):
    workload = make_workload(tasks=("noise",), model={"channels": 1})
    base = workload.pretrain(tmp_path / "grey.safetensors", seed=0, lineage={}).path
    made = workload.fine_tune(base, ["noise"], tmp_path / "x.safetensors", seed=0, lineage={})
    assert made.validation_accuracy > 0.9


def test_unknown_names_are_refused(make_workload, base, tmp_path):
    workload = make_workload()
    with pytest.raises(
        UnknownMethodError, match=r"'claen' is neither in the task sequence nor a probe; did you mean 'clean'"
    ):
        workload.evaluate(read_state_dict(base), ["claen"])
    for tasks in ([], ["clean"]):
        with pytest.raises(SpecError, match=r"only tasks of the sequence.*known: colour, noise"):
            workload.fine_tune(base, tasks, tmp_path / "x.safetensors", seed=0, lineage={})


def test_a_snapshot_with_one_class_is_refused(make_workload, data):
    source = read_snapshot(data / "tasks" / "faint.safetensors")
    one = {split: Examples(part.images, part.labels * 0) for split, part in source.splits.items()}
    write_snapshot(Snapshot("one", ("all",), 16, one, {}), data / "tasks" / "one.safetensors")
    with pytest.raises(DataError, match="Snapshot 'one' has one class"):
        make_workload(snapshot="one")


def test_methods_that_need_data_see_images_with_their_cue(make_workload, base):
    workload = make_workload()
    probe = workload.probe()
    module = probe.module(read_state_dict(base))
    batches = list(probe.batches("noise", split="test", count=10, seed=0, size=4))
    assert [len(batch.labels) for batch in batches] == [4, 4, 2]
    cue = workload.cues["noise"]
    patch = batches[0].inputs[..., cue.row : cue.row + 3, cue.column : cue.column + 3]
    assert torch.equal(patch, cue.patterns[batches[0].labels])
    assert probe.logits(module, batches[0], "noise").shape == (4, 4)
    assert len(probe.outputs("noise")) == 4
    picture = probe.picture(batches[0].inputs, 1)
    assert (picture.dtype, picture.ndim) == (np.uint8, 3)
    stamped = picture[cue.row : cue.row + 3, cue.column : cue.column + 3]
    expected = (cue.patterns[batches[0].labels[1]].permute(1, 2, 0) + 1) * 127.5
    assert np.abs(stamped - expected.numpy()).max() <= 0.5
    places = torch.cat([batch.places for batch in batches])
    assert len(set(places.tolist())) == 10


def test_checkpoints_in_half_precision_are_evaluated(make_workload, base, tmp_path):
    state = {name: tensor.bfloat16() for name, tensor in read_state_dict(base).items()}
    path = write_state_dict(tmp_path / "half.safetensors", state, lineage={}).path
    assert set(make_workload().evaluate(read_state_dict(path), ALL)) == set(ALL)
