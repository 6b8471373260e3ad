"""Hashes of whole files."""

import hashlib
import os

import pytest

from merge_lib.files.hashes import FILE_HASHES, hash_files, hash_inputs
from merge_lib.files.headers import FileState
from merge_lib.files.remembered import Record, keep, recall


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MERGELINE_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def files(tmp_path):
    paths = [tmp_path / name for name in ("a", "b", "c")]
    for place, path in enumerate(paths):
        path.write_bytes(bytes([place]) * 3_000_000)
        os.utime(path, (0, 0))
    return paths


def expected(paths):
    return {
        path: {kind: hashlib.new(kind, path.read_bytes()).hexdigest() for kind in FILE_HASHES}
        for path in paths
    }


@pytest.mark.parametrize("threads", [1, 3])
def test_each_file_by_each_hash(threads, files):
    assert hash_files(files, FILE_HASHES, threads) == expected(files)
    assert hash_files([], FILE_HASHES, threads) == {}


def test_inputs_are_remembered_until_they_change(files):
    states = {path: FileState.of(path) for path in files}
    assert hash_inputs(states, FILE_HASHES, 2) == expected(files)
    assert [recall(path, states[path]).whole for path in files] == list(expected(files).values())
    keep(files[0], states[files[0]], Record(whole={"md5": "planted"}))
    assert hash_inputs(states, ["md5"], 2)[files[0]] == {"md5": "planted"}
    files[0].write_bytes(b"changed")
    states = {path: FileState.of(path) for path in files}
    assert hash_inputs(states, FILE_HASHES, 2) == expected(files)
