"""Raw texts: JSON, JSON lines, parquet and arrow, in folders."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from merge_lib.errors import DataError
from merge_lib.workloads.language.snapshots import Example
from merge_lib.workloads.language.sources import Columns, read_source

ROWS = [{"text": "fine", "label": 1}, {"text": "awful", "label": 0}]
REVIEWS = Columns("text", "label", ("bad", "good"))
FOUND = [Example("fine", "good"), Example("awful", "bad")]


def table(rows, names=None):
    """As the hub has it, with the labels' names beside the data."""
    found = pa.Table.from_pylist(rows)
    if names is None:
        return found
    features = {"text": {"_type": "Value"}, "label": {"_type": "ClassLabel", "names": names}}
    return found.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})


def written(path, rows, **keywords):
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        pq.write_table(table(rows, **keywords), path)
    elif path.suffix == ".arrow":
        found = table(rows, **keywords)
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, found.schema) as stream:
            stream.write_table(found)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        path.write_text(json.dumps(rows))
    return path


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.parquet", "a.arrow"])
def test_every_format_gives_the_same_examples(tmp_path, name):
    source = read_source(written(tmp_path / name, ROWS), REVIEWS)
    assert source.examples == FOUND
    assert source.parts == [None, None]


def test_names_of_labels_come_with_the_data_set(tmp_path):
    path = written(tmp_path / "a.parquet", ROWS, names=["poor", "great"])
    assert [e.target for e in read_source(path, Columns("text", "label")).examples] == ["great", "poor"]


def test_folders_keep_their_parts(tmp_path):
    for name in ("train-00000.parquet", "validation.jsonl", "test/part.jsonl"):
        written(tmp_path / name, [{"text": name, "label": 1}])
    found = read_source(tmp_path, REVIEWS)
    assert {example.input: part for example, part in zip(found.examples, found.parts, strict=True)} == {
        "train-00000.parquet": "train",
        "validation.jsonl": "validation",
        "test/part.jsonl": "test",
    }


def test_several_columns_and_lists_of_answers(tmp_path):
    rows = {
        "Definition": ["x"],
        "Instances": [{"premise": "A", "question": "B?", "output": ["yes ", "sure"]}],
    }
    path = written(tmp_path / "task.json", rows)
    columns = Columns("{premise} | {question}", "output")
    assert read_source(path, columns).examples == [Example("A | B?", "yes")]


def test_truth_values_have_names_where_there_are_names(tmp_path):
    path = written(tmp_path / "a.jsonl", [{"input": "x", "target": True}])
    assert read_source(path, Columns(labels=("no", "yes"))).examples[0].target == "yes"
    assert read_source(path, Columns()).examples[0].target == "True"


@pytest.mark.parametrize(
    ("rows", "columns", "message"),
    [
        ([{"text": "x"}], REVIEWS, r"Row 0 of '.*a.jsonl' lacks label; it has: text"),
        (
            [*ROWS, {"text": "x", "label": 7}],
            REVIEWS,
            r"Row 2 of .* has the answer 7, but there are names for 0 to 1",
        ),
        ([[1]], REVIEWS, r"Row 0 of .* lacks all columns; it has: list"),
    ],
)
def test_faulty_rows_are_named(tmp_path, rows, columns, message):
    with pytest.raises(DataError, match=message):
        read_source(written(tmp_path / "a.jsonl", rows), columns)


def test_what_cannot_be_read_is_named(tmp_path):
    (tmp_path / "a.json").write_text('{"rows": 1}')
    (tmp_path / "b.jsonl").write_text("{")
    (tmp_path / "empty").mkdir()
    for name, message in (
        ("a.json", "neither a list of objects nor an object with one under `Instances`"),
        ("b.jsonl", "b.jsonl' cannot be read"),
        ("empty", "holds no texts"),
        ("none.jsonl", "does not exist"),
    ):
        with pytest.raises(DataError, match=message):
            read_source(tmp_path / name, REVIEWS)
