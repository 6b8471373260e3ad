from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from merge_lib.errors import DataError
from merge_lib.recurrent import replay_batch, select_examples, select_memory


def evenly(size, classes):
    return [index % classes for index in range(size)]


def counted(labels, chosen):
    return Counter(labels[index] for index in chosen)


def test_two_percent_of_a_thousand():
    labels = evenly(1000, 10)
    chosen = select_examples(labels)
    assert len(chosen) == 20
    assert set(counted(labels, chosen).values()) == {2}
    assert list(chosen) == sorted(set(chosen))


def test_what_the_classes_leave_over_is_drawn_at_random():
    labels = evenly(1000, 14)  # one of each class, six more
    chosen = select_examples(labels)
    assert len(chosen) == 20
    assert len(counted(labels, chosen)) == 14


def test_a_rare_class_gives_all_that_it_has():
    labels = ["often"] * 990 + ["seldom"] * 10
    chosen = select_examples(labels, share=0.05)
    assert counted(labels, chosen) == {"often": 40, "seldom": 10}


def test_every_class_has_one_even_if_the_share_has_room_for_fewer():
    assert len(select_examples(evenly(1000, 77))) == 77
    assert len(select_examples(["a", "b", "a"])) == 2


def test_the_fifteen_tasks_of_the_long_sequence():
    tasks = {f"task_{place}": evenly(1000, 2) for place in range(13)}
    tasks["cb"], tasks["copa"] = evenly(250, 3), evenly(400, 2)
    first = {name: tasks[name] for name in (*[f"task_{place}" for place in range(12)], "cb", "copa")}
    memory = select_memory(first)  # at the fifteenth task
    assert Counter(item.task for item in memory)["cb"] == 5
    assert Counter(item.task for item in memory)["copa"] == 8
    assert len(memory) == 12 * 20 + 5 + 8 == 253


def test_the_seed_decides():
    labels = evenly(500, 5)
    assert select_examples(labels) == select_examples(labels)
    assert select_examples(labels, seed=1) != select_examples(labels)


def test_the_share_counts_as_it_was_written():
    assert len(select_examples([0] * 100, share=0.29)) == 29  # 0.29 · 100 is 28.999…


@given(
    labels=st.lists(st.integers(0, 6), min_size=1, max_size=80),
    share=st.sampled_from([0.02, 0.1, 0.5, 1.0]),
    seed=st.integers(0, 5),
)
def test_no_class_is_left_out_and_names_of_classes_do_not_matter(labels, share, seed):
    chosen = select_examples(labels, share=share, seed=seed)
    wanted, classes = int(share * len(labels) + 1e-9), len(set(labels))
    assert set(counted(labels, chosen)) == set(labels)
    assert wanted <= len(chosen) <= max(wanted, classes)
    renamed = [f"class {6 - label}" for label in labels]
    assert select_examples(renamed, share=share, seed=seed) == chosen


def test_each_outer_step_draws_afresh_and_a_small_memory_is_repeated():
    first, again, second = (replay_batch(30, 8, step=step) for step in (0, 0, 1))
    assert first == again != second
    assert len(set(first)) == 8
    assert sorted(Counter(replay_batch(3, 8, step=0)).values()) == [2, 3, 3]
    drawn = Counter(index for step in range(400) for index in replay_batch(10, 3, step=step))
    assert all(80 <= count <= 160 for count in drawn.values())


def test_what_is_refused():
    with pytest.raises(DataError, match=r"a share of 0.02 of 0 examples"):
        select_examples([])
    with pytest.raises(DataError, match=r"The share must be in \(0, 1\]"):
        select_examples([1], share=0.0)
    with pytest.raises(DataError, match="A batch of 8 from a memory of 0 examples"):
        replay_batch(0, 8, step=0)
    assert select_memory({}) == ()
