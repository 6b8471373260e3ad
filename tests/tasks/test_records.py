import json
import os
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from merge_lib.errors import MergeError
from tasks.records import RecordStore

INPUTS, PARAMS = {"start": "abc"}, {"seed": 0}


def test_a_record_with_a_file_replaces_one_without_and_never_the_other_way_round(tmp_path):
    store = RecordStore(tmp_path)
    for content, files in ((None, set()), (b"weights", {"model.safetensors"}), (None, {"model.safetensors"})):
        with store.writing("merge", "k") as (folder, done):
            if content is not None:
                (folder / "model.safetensors").write_bytes(content)
            record = done(inputs=INPUTS, params=PARAMS, values={})
        assert record.values["files"].keys() == files
        assert store.find("merge", "k") == record
    assert (store.folder("merge", "k") / "model.safetensors").read_bytes() == b"weights"


def commit(store: RecordStore, key: str, content: bytes = b"weights") -> None:
    with store.writing("train", key) as (folder, done):
        (folder / "model.bin").write_bytes(content)
        done(inputs=INPUTS, params=PARAMS, values={"digest": "d"})


def test_a_record_is_found_with_what_was_written(tmp_path):
    store = RecordStore(tmp_path)
    commit(store, "k")
    record = store.find("train", "k")
    assert record is not None
    assert (record.kind, record.key, record.inputs, record.params) == ("train", "k", INPUTS, PARAMS)
    assert record.values == {"digest": "d", "files": {"model.bin": 7}}
    assert store.find("train", "other") is None
    assert store.find("merge", "k") is None


def test_leaving_without_commit_leaves_nothing(tmp_path):
    store = RecordStore(tmp_path)
    scratch = ExitStack()
    folder, _ = scratch.enter_context(store.writing("train", "k"))
    (folder / "model.bin").write_bytes(b"half")
    scratch.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)
    assert store.find("train", "k") is None
    assert list((tmp_path / "train").iterdir()) == []


@pytest.mark.parametrize("damage", ["truncate", "remove", "empty record", "record of another form"])
def test_a_damaged_record_counts_as_unfinished_and_is_replaced(tmp_path, damage):
    store = RecordStore(tmp_path)
    commit(store, "k")
    folder = store.folder("train", "k")
    match damage:
        case "truncate":
            (folder / "model.bin").write_bytes(b"wei")
        case "remove":
            (folder / "model.bin").unlink()
        case "empty record":
            (folder / "record.json").write_text("")
        case _:
            (folder / "record.json").write_text(json.dumps({"kind": "train"}))
    assert store.find("train", "k") is None
    commit(store, "k")
    assert store.find("train", "k") is not None


def test_the_first_of_two_writers_wins(tmp_path):
    store = RecordStore(tmp_path)
    with store.writing("train", "k") as (folder, done):
        (folder / "model.bin").write_bytes(b"mine")
        with RecordStore(tmp_path).writing("train", "k") as (other, theirs):
            (other / "model.bin").write_bytes(b"theirs")
            theirs(inputs=INPUTS, params=PARAMS, values={"digest": "theirs"})
        assert done(inputs=INPUTS, params=PARAMS, values={"digest": "mine"}).values["digest"] == "theirs"


def test_leftovers_of_a_killed_process_are_removed_and_those_of_a_living_one_stay(tmp_path):
    store = RecordStore(tmp_path)
    dead = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True
    )
    gone = tmp_path / "train" / f".k.a1.{int(dead.stdout)}.partial"
    mine = tmp_path / "train" / f".other.a2.{os.getpid()}.partial"
    gone.mkdir(parents=True)
    mine.mkdir()
    assert store.remove_leftovers() == 1
    assert not gone.exists()
    assert mine.exists()


def test_a_store_that_cannot_be_written_is_named(tmp_path):
    blocked = tmp_path / "store"
    blocked.write_text("a file where the folder should be")
    with (
        pytest.raises(MergeError, match=r"kept in '.*store', which cannot be written.*Free some space"),
        RecordStore(blocked).writing("train", "k"),
    ):
        pass


def test_of_kind_lists_whole_records_only(tmp_path):
    store = RecordStore(tmp_path)
    commit(store, "b")
    commit(store, "a")
    commit(store, "c")
    Path(store.folder("train", "b") / "record.json").write_text("{")
    assert [record.key for record in store.of_kind("train")] == ["a", "c"]
