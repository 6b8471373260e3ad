"""Splits of texts and their files."""

import pytest

from merge_lib.errors import DataError
from merge_lib.workloads.language.snapshots import (
    Example,
    Shares,
    Source,
    Wording,
    make_snapshot,
    read_snapshot,
    write_snapshot,
)

ASK = Wording("Good or bad?", "{instruction}\n{input}\nAnswer:")


def reviews(count=40, parts=None, *, every=4):
    """Every so manieth is good."""
    examples = [Example(f"text {n}", "good" if n % every == 0 else "bad") for n in range(count)]
    return Source(examples, parts or [None] * count)


def made(source=None, labels=("bad", "good"), most=None, seed=0):
    shares = Shares(seed=seed, validation=0.1, test=0.25, most=most or {})
    return make_snapshot(source or reviews(), "reviews", ASK, labels, shares)


def texts(snapshot, split):
    return [example.input for example in snapshot.splits[split]]


def test_no_text_is_in_two_splits_and_each_label_is_divided_alike():
    snapshot = made()
    every = [text for split in snapshot.splits for text in texts(snapshot, split)]
    assert sorted(every) == sorted(example.input for example in reviews().examples)
    counts = {
        split: [sum(e.target == label for e in part) for label in ("bad", "good")]
        for split, part in snapshot.splits.items()
    }
    assert counts == {"train": [19, 7], "validation": [3, 1], "test": [8, 2]}


def test_the_split_depends_on_the_seed_alone():
    shuffled = reviews()
    backwards = Source(list(reversed(shuffled.examples)), shuffled.parts)
    assert made().splits == made(backwards).splits
    assert set(texts(made(seed=1), "test")) != set(texts(made(), "test"))


def test_part_of_a_split_keeps_the_shares_of_labels():
    snapshot = made(reviews(400), most={"train": 20, "test": 8})
    for split, count, good in (("train", 20, 5), ("test", 8, 2)):
        part = snapshot.splits[split]
        assert len(part) == count
        assert sum(example.target == "good" for example in part) == good


def test_a_source_keeps_its_own_test_examples_and_copies_of_them_are_not_trained_on():
    examples = [*reviews(20).examples, Example("text 3", "bad"), Example("new", "good")]
    snapshot = made(Source(examples, ["train"] * 20 + ["test"] * 2))
    assert sorted(texts(snapshot, "test")) == ["new", "text 3"]
    assert "text 3" not in texts(snapshot, "train") + texts(snapshot, "validation")


def test_a_text_with_two_answers_is_left_out():
    source = reviews()
    snapshot = made(Source([*source.examples, Example("text 5", "good")], [None] * 41))
    assert all("text 5" not in texts(snapshot, split) for split in snapshot.splits)


def test_open_answers_are_divided_together():
    source = Source([Example(str(n), f"answer {n}") for n in range(20)], [None] * 20)
    assert {split: len(part) for split, part in made(source, None).splits.items()} == {
        "train": 13,
        "validation": 2,
        "test": 5,
    }


@pytest.mark.parametrize(
    ("source", "labels", "message"),
    [
        (
            reviews(),
            ("bad", "fine"),
            r"Task 'reviews' has the answers 'good', which are not among its labels",
        ),
        (reviews(3), ("bad", "good"), r"3 distinct examples, too few for the split\(s\) validation"),
    ],
)
def test_faulty_tasks_are_refused(source, labels, message):
    with pytest.raises(DataError, match=message):
        made(source, labels)


def test_a_template_holds_the_input_once():
    with pytest.raises(DataError, match=r"Template 'no place' must hold \{input\} once"):
        Wording(template="no place").prompt("x")
    assert ASK.prompt("Fine {this}.") == "Good or bad?\nFine {this}.\nAnswer:"


def test_a_snapshot_is_read_as_it_was_written(tmp_path):
    snapshot = made(
        Source([Example(f"a\u2028line {n} é", "good") for n in range(10)], [None] * 10), ("good", "bad")
    )
    paths = [tmp_path / name / "x.jsonl" for name in ("a", "b")]
    for path in paths:
        write_snapshot(snapshot, path)
    assert read_snapshot(paths[0]) == snapshot
    assert paths[0].read_bytes() == paths[1].read_bytes()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text[:-20], r"cannot be read \(JSONDecodeError"),
        (
            lambda text: text.replace('"validation", "target"', '"train", "target"'),
            "validation split has no examples",
        ),
        (
            lambda text: text.replace('"target": "good"', '"target": "great"'),
            "'great', which is not among the labels",
        ),
    ],
)
def test_damaged_snapshots_are_refused(tmp_path, change, message):
    write_snapshot(made(), tmp_path / "x.jsonl")
    text = (tmp_path / "x.jsonl").read_text()
    assert change(text) != text
    (tmp_path / "x.jsonl").write_text(change(text))
    with pytest.raises(DataError, match=message):
        read_snapshot(tmp_path / "x.jsonl")


def test_a_missing_snapshot_says_how_it_is_made(tmp_path):
    with pytest.raises(DataError, match=r"does not exist. Run `dvc repro`"):
        read_snapshot(tmp_path / "x.jsonl")
