import numpy as np
import pytest
import torch

from merge_lib.probe import Naming, Picturing, Telling


def test_examples_are_pictures_with_dark_ink_on_light_paper(make_workload):
    workload = make_workload()
    probe = workload.probe()
    assert isinstance(probe, Picturing)
    assert not isinstance(probe, Telling)
    (batch,) = probe.batches("top-bottom", split="test", count=10**6, seed=0, size=10**6)
    images = workload._snapshots["top-bottom"].splits["test"].images  # 0 is paper, 16 the most ink
    for row, place in enumerate(batch.places.tolist()):
        picture = probe.picture(batch.inputs, row)
        assert picture.dtype == np.uint8
        np.testing.assert_allclose(picture, 255 * (1 - images[place] / 16.0), atol=0.51)
    assert sorted(batch.places.tolist()) == list(range(len(images)))


@pytest.mark.parametrize(
    ("scenario", "first", "second"),
    [
        ("task-incremental", ("left", "right"), ("top", "bottom")),
        ("domain-incremental", ("left", "right"), ("top", "bottom")),
        ("class-incremental", ("left", "right", "top", "bottom"), ("left", "right", "top", "bottom")),
    ],
)
def test_outputs_are_named_after_their_classes(scenario, first, second, make_workload):
    workload = make_workload(scenario)
    probe = workload.probe()
    assert isinstance(probe, Naming)
    assert probe.outputs("left-right") == first
    assert probe.outputs("top-bottom") == second
    (batch,) = probe.batches("top-bottom", split="test", count=10**6, seed=0, size=10**6)
    labels = workload._snapshots["top-bottom"].splits["test"].labels[batch.places.numpy()]
    named = [second[output] for output in batch.labels.tolist()]
    assert named == [("top", "bottom")[label] for label in labels]
    assert torch.is_tensor(batch.labels)
