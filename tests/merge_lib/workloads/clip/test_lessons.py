"""What an expert learns."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from merge_lib.errors import DataError
from merge_lib.workloads.clip.lessons import ABSENT, smoothed
from merge_lib.workloads.clip.subjects import subject_of
from merge_lib.workloads.vision.data import Examples, Snapshot

NOTHING = {"test": Examples(np.zeros((1, 2, 2), np.uint8), np.zeros(1, np.int64))}


def test_without_a_mask_it_is_torchs_own_loss():
    logits, labels = (
        torch.randn(5, 4, generator=torch.Generator().manual_seed(0)),
        torch.tensor([0, 1, 2, 3, 0]),
    )
    for smoothing in (0.0, 0.3):
        found = smoothed(logits, labels, torch.zeros(5, 4), smoothing)
        torch.testing.assert_close(found, functional.cross_entropy(logits, labels, label_smoothing=smoothing))


def test_classes_that_a_task_lacks_do_not_count():
    logits, labels = torch.randn(3, 4, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 1])
    mask = torch.tensor([0.0, 0.0, ABSENT, ABSENT]).expand(3, 4)
    expected = functional.cross_entropy(logits[:, :2], labels, label_smoothing=0.2)
    torch.testing.assert_close(smoothed(logits, labels, mask, 0.2), expected)


def test_a_batch_knows_the_classes_of_each_image(make_workload):
    workload = make_workload()
    lesson = workload.lesson(("top-bottom", "left-right"))
    assert lesson.head.names == ("top", "bottom", "left", "right")
    count = workload.sets["top-bottom"].size("train")
    batch = lesson.batch(torch.tensor([0, count]), torch.Generator())
    labels = [int(workload.sets[task].labels("train")[0]) for task in ("top-bottom", "left-right")]
    assert batch["labels"].tolist() == [labels[0], 2 + labels[1]]
    assert (lesson.allowed[batch["task"]] == 0).int().tolist() == [[1, 1, 0, 0], [0, 0, 1, 1]]
    torch.testing.assert_close(
        batch["pixel_values"][1], workload.sets["left-right"].images("train", torch.tensor([0]))[0]
    )


def test_snapshots_say_how_classes_are_called():
    plain = Snapshot("pets", ("c", "d"), 1, NOTHING, {})
    assert subject_of(plain, ("a {}",)) == subject_of(plain, ["a {}"])
    assert subject_of(plain, ("a {}",)).names == ("c", "d")
    told = Snapshot("pets", ("c", "d"), 1, NOTHING, {}, ("cat", "dog"), ("my {}",))
    assert (subject_of(told, ("a {}",)).names, subject_of(told, ()).templates) == (("cat", "dog"), ("my {}",))
    with pytest.raises(DataError, match="calls several classes cat"):
        subject_of(Snapshot("pets", ("c", "d"), 1, NOTHING, {}, ("cat", "cat")), ())
