import io
import math

import numpy as np
import pytest
from PIL import Image

from merge_lib.diagnostics import read_table, write_table
from merge_lib.errors import CheckpointCorruptError, DataError
from merge_lib.forgetting import answers_of, compare_answers, often_forgotten
from merge_lib.forgetting.answers import read_answers, write_answers
from merge_lib.forgetting.comparison import ANSWERS, shares_of
from merge_lib.forgetting.examples import choose, png

TASKS = ("letters", "signs")
NAME = ("ties", "trimmed")


@pytest.fixture
def models(state):
    """Of five letters the expert misses 1, the merge misses 0, 2 and 4; on signs all are right but the base."""
    return {
        "base": state(at_0=[0, 9, 0], at_1=[0, 9, 0], at_2=[9, 0, 0]),
        "expert": state(at_1=[0, 3, 0], at_0=[2, 0, 0], at_4=[0, 0, 1]),
        "merge": state(at_0=[0, 4, 0], at_2=[0, 0, 4], at_4=[4, 0, 0]),
    }


def answers(probe, model, tasks=TASKS):
    return answers_of(probe, model, tasks)


def compared(probe, models, tasks=("letters",), **options):
    of = {name: answers(probe, model, tasks) for name, model in models.items()}
    return compare_answers(probe, NAME, of["base"], of["expert"], of["merge"], **options)


def changes(table):
    return dict(zip(table["example"].to_pylist(), table["change"].to_pylist(), strict=True))


def test_answers_on_every_example_in_the_probe_s_order(toy, models):
    found = answers(toy, models["expert"])["letters"]
    assert sorted(found.places.tolist()) == [0, 1, 2, 3, 4]
    by_place = dict(zip(found.places.tolist(), found.said.tolist(), strict=True))
    assert by_place == {0: 0, 1: 1, 2: 1, 3: 1, 4: 2}
    assert found.accuracy == 0.8
    # the right answer leads by 1: e / (e + 2)
    sure = dict(zip(found.places.tolist(), found.sure.tolist(), strict=True))
    assert sure[3] == pytest.approx(math.e / (math.e + 2))
    assert sure[0] > sure[4] > sure[3]


def test_batches_change_nothing(toy, models):
    whole, small = (answers(type(toy)(largest=size), models["merge"])["letters"] for size in (256, 1))
    for name in ("truth", "said", "sure", "places"):
        assert np.array_equal(getattr(whole, name), getattr(small, name))


def test_where_places_are_not_known_the_order_counts(toy, models):
    found = answers(type(toy)(tells_places=False), models["expert"])["letters"]
    assert found.places.tolist() == [0, 1, 2, 3, 4]


def test_what_was_forgotten_by_hand(pictures, models):
    table = compared(pictures, models)
    assert table.schema.equals(ANSWERS)
    assert changes(table) == {0: "forgotten", 1: "gained", 2: "forgotten", 3: "kept", 4: "forgotten"}
    (line,) = (row for row in table.to_pylist() if row["example"] == 2)
    assert {key: line[key] for key in ("method", "label", "task", "truth", "base", "expert", "merge")} == {
        "method": "ties",
        "label": "trimmed",
        "task": "letters",
        "truth": "b",
        "base": "a",
        "expert": "b",
        "merge": "c",
    }
    assert line["sure"] == pytest.approx(math.e / (math.e + 2))
    assert line["left"] == pytest.approx(math.e / (math.e + 1 + math.e**4))
    assert shares_of(table)["letters"] == pytest.approx(
        {"before": 0.8, "after": 0.4, "base": 0.4, "forgotten": 0.6, "gained": 0.2, "examples": 5}
    )


def test_nobody_forgot_anything(pictures, models):
    table = compared(pictures, {**models, "merge": models["expert"]}, TASKS)
    assert shares_of(table)["signs"]["forgotten"] == 0
    assert table["picture"].null_count == len(table) == 8
    assert often_forgotten([table]) == []


def test_the_surest_are_shown_as_pictures(pictures, models):
    table = compared(pictures, models, count=2)
    shown = [row for row in table.to_pylist() if row["picture"] is not None]
    assert {row["example"] for row in shown} == {0, 4}
    for row in shown:
        image = np.asarray(Image.open(io.BytesIO(row["picture"])))
        assert image.shape == (4, 6)
        assert (image == row["example"]).all()


def test_as_texts_long_ones_cut(texts, models):
    table = compared(texts, models, count=1)
    (row,) = (row for row in table.to_pylist() if row["text"] is not None)
    assert row["text"].startswith("example 0 x")
    assert len(row["text"]) == 400
    assert row["truth"] == "0"  # outputs have no names here


def test_without_either_there_are_numbers(toy, models):
    table = compared(toy, models)
    assert table["picture"].null_count == table["text"].null_count == 5
    found = often_forgotten([table], 2)
    assert [(one.example, one.truth, one.answer) for one in found] == [(0, "0", "1"), (4, "2", "0")]
    assert {one.picture for one in found} == {""}


def test_equally_sure_ones_come_in_the_order_of_the_split():
    forgotten = np.array([True, True, False, True])
    sure = np.array([0.5, 0.9, 1.0, 0.5 + 1e-9])
    assert choose(forgotten, sure, np.array([7, 1, 2, 3]), 3) == [1, 3, 0]


def test_what_most_merges_forgot_comes_first(pictures, models, state):
    other = {**models, "merge": state(at_4=[0, 9, 0], at_2=[9, 0, 0])}
    third = {**models, "merge": state(at_4=[0, 9, 0])}
    found = often_forgotten([compared(pictures, one) for one in (models, other, third)])
    assert [(one.example, one.merges, one.of) for one in found] == [(4, 3, 3), (2, 2, 3), (0, 1, 3)]
    assert [one.answer for one in found] == ["b", "a", "b"]  # of 4: b twice, a once; of 2: a and c
    assert all(one.picture for one in found)


def test_a_table_with_pictures_comes_back_from_its_file(pictures, models, tmp_path):
    table = compared(pictures, models)
    assert read_table(write_table(table, tmp_path / "answers.parquet"), ANSWERS).equals(table)


def test_answers_come_back_from_their_file(toy, models, tmp_path):
    found = answers(toy, models["expert"])
    write_answers(found, tmp_path / "answers.safetensors")
    again = read_answers(tmp_path / "answers.safetensors", TASKS)
    for task in TASKS:
        assert np.array_equal(again[task].said, found[task].said)
        assert np.array_equal(again[task].sure, found[task].sure)
    for content in (b"", b"PK\x03\x04 broken", (tmp_path / "answers.safetensors").read_bytes()[:-40]):
        (tmp_path / "broken.safetensors").write_bytes(content)
        with pytest.raises(CheckpointCorruptError, match=r"broken\.safetensors cannot be read"):
            read_answers(tmp_path / "broken.safetensors", TASKS)
    with pytest.raises(CheckpointCorruptError, match=r"answers\.safetensors cannot be read: .*others"):
        read_answers(tmp_path / "answers.safetensors", ("others",))


def test_large_pictures_are_made_smaller():
    image = Image.open(io.BytesIO(png(np.zeros((300, 150, 3), np.uint8))))
    assert image.size == (32, 64)
    assert image.mode == "RGB"


@pytest.mark.parametrize("picture", [np.zeros((2, 2)), np.zeros(4, np.uint8), np.zeros((2, 2, 4), np.uint8)])
def test_a_picture_of_another_form_is_refused(picture):
    with pytest.raises(DataError, match=r"must be uint8, \[h, w\] or \[h, w, 3\]"):
        png(picture)
