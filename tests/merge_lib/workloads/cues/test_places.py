"""Names of tasks, and where their patches lie."""

from itertools import combinations

import pytest

from merge_lib.errors import SpecError
from merge_lib.workloads.cues.places import CueName, check_room, name_at, places, side_of


@pytest.mark.parametrize(
    ("task", "family", "number", "place"),
    [
        ("colour", "colour", 1, 0),
        ("noise", "noise", 1, 1),
        ("colour-2", "colour", 2, 2),
        ("noise-10", "noise", 10, 19),
    ],
)
def test_a_name_says_family_number_and_place(task, family, number, place):
    name = CueName.parse(task)
    assert (name.family, name.number, name.place) == (family, number, place)
    assert name_at(place) == task


@pytest.mark.parametrize(
    "task",
    [
        "color",
        "colour-",
        "colour-1",
        "colour-0",
        "colour-11",
        "noise-02",
        "noise-2-3",
        "Noise",
        "noise-²",
        "",
    ],
)
def test_other_names_are_refused(task):
    with pytest.raises(SpecError, match=f"Task '{task}' is no cue.*colour-2 to colour-10"):
        CueName.parse(task)


@pytest.mark.parametrize(
    ("image", "side", "room"), [(16, 4, 12), (16, 2, 28), (12, 3, 12), (32, 8, 12), (15, 4, 8), (8, 4, 4)]
)
def test_patches_go_around_the_border_without_overlapping(image, side, room):
    found = places(image, side)
    assert len(found) == room
    assert found[:2] == [(0, 0), (image - side, image - side)]
    for row, column in found:
        assert {row, column} & {0, image - side}
        assert 0 <= row <= image - side
        assert 0 <= column <= image - side
    for (a, b), (c, d) in combinations(found, 2):
        assert abs(a - c) >= side or abs(b - d) >= side


def test_side_is_rounded():
    assert [side_of(16, share) for share in (0.25, 0.2, 0.125, 0.5)] == [4, 3, 2, 8]
    assert side_of(10, 0.25) == 3


def test_twenty_tasks_fit_with_smaller_patches():
    tasks = tuple(name_at(place) for place in range(20))
    check_room(tasks, 16, 2, spare=1)
    with pytest.raises(SpecError) as caught:
        check_room(tasks, 16, 4, spare=0)
    message = str(caught.value)
    assert "up to 'noise-10' need 20 places" in message
    assert "only 12 patches of 4 pixels" in message
    assert "at most 12 tasks, up to 'noise-6'" in message
    assert "Set `cue.share` to at most 0.125" in message


def test_a_shared_cue_needs_a_place_too():
    tasks = tuple(name_at(place) for place in range(12))
    check_room(tasks, 16, 4, spare=0)
    with pytest.raises(SpecError, match=r"need 13 places.*at most 11 tasks, up to 'colour-6'"):
        check_room(tasks, 16, 4, spare=1)


def test_images_too_small_for_all_tasks():
    with pytest.raises(SpecError, match=r"at most 4 tasks, up to 'noise-2'. Enlarge the images"):
        check_room(("noise-10",), 4, 2, spare=0)
