"""Which training image carries which cue and which label."""

import pytest
import torch

from merge_lib.workloads.cues.banks import Cue
from merge_lib.workloads.cues.marking import BARE, Marks, roles, told


def counts(which, *positions):
    return [int((which == position).sum()) for position in positions]


@pytest.mark.parametrize(
    ("shared", "probability", "expected"),
    [(0.0, 1.0, [40, 0, 0]), (1.0, 1.0, [0, 40, 0]), (0.25, 1.0, [30, 10, 0]), (0.5, 0.5, [10, 10, 20])],
)
def test_shares_are_exact(shared, probability, expected):
    which = roles(40, own=0, common=1, shared=shared, probability=probability, draws=(0, "colour"))
    assert counts(which, 0, 1, BARE) == expected


def test_more_sharing_takes_from_the_same_images():
    def with_common(share):
        return roles(40, own=0, common=1, shared=share, probability=1.0, draws=(0, "a")) == 1

    assert (with_common(0.25) <= with_common(0.5)).all()


def test_tasks_draw_their_own_images():
    first, second = (
        roles(40, own=0, common=1, shared=0.5, probability=1.0, draws=(0, task)) for task in ("a", "b")
    )
    assert not torch.equal(first, second)


def test_wrong_labels_are_wrong_and_as_many_as_asked():
    labels = torch.arange(200) % 4
    noisy = told(labels, classes=4, noise=0.3, draws=(0, "a"))
    assert int((noisy != labels).sum()) == 60
    assert noisy.min() >= 0
    assert noisy.max() <= 3
    assert torch.equal(noisy, told(labels, classes=4, noise=0.3, draws=(0, "a")))
    assert torch.equal(told(labels, classes=4, noise=0.0, draws=(0, "a")), labels)
    steps = (noisy - labels).remainder(4).bincount(minlength=4)
    assert steps[1:].min() >= 10  # each other class about 20 times


def test_each_row_gets_its_own_cue_and_class():
    cues = tuple(
        Cue(torch.stack([torch.full((1, 1), sign * k) for k in (1.0, 2.0)]), place, place)
        for sign, place in ((1, 0), (-1, 1))
    )
    marks = Marks(cues, torch.tensor([0, 1, BARE, 0]), torch.tensor([0, 1, 1, 1]))
    images = torch.zeros(3, 2, 2)
    stamped = marks.stamp(images, torch.tensor([3, 2, 1]))
    assert stamped.tolist() == [[[2, 0], [0, 0]], [[0, 0], [0, 0]], [[0, 0], [0, -2]]]
    assert not images.any()
