"""Digests that are not computed twice, and never trusted for another file."""

import json
import os
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import xxhash

from merge_lib import MergeSpec, merge_checkpoints
from merge_lib.checkpoints import checkpoint_digest, write_state_dict
from merge_lib.checkpoints.digest import raw_bytes
from merge_lib.errors import CheckpointCorruptError
from merge_lib.files.folders import read_stored
from merge_lib.files.headers import FileState
from merge_lib.files.remembered import Record, keep, known_digests, recall, remember
from merge_lib.streaming.executing import Executor
from merge_lib.streaming.run import MergeOptions, merge_to
from merge_lib.user_cache import cache_folder

PLANTED = "f" * 32


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MERGELINE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def settle(path, seconds=100):
    """As if the file had been written long before it is looked at."""
    long_ago = FileState.of(path).mtime_ns - seconds * 10**9
    os.utime(path, ns=(long_ago, long_ago))


@pytest.fixture
def make(tmp_path):
    def make(name, **values):
        tensors = {key: torch.full((50,), float(value)) for key, value in values.items()}
        path = write_state_dict(tmp_path / f"{name}.safetensors", tensors, lineage={}).path
        settle(path)
        return path

    return make


def records(cache):
    return sorted((cache / "digests").glob("*"))


def test_what_is_remembered_is_known_until_the_file_changes(make):
    path = make("one", a=1, b=2)
    source = read_stored(path)
    assert known_digests(source) == {}
    remember(source, {"a": PLANTED})
    remember(source, {"b": "0" * 32})
    assert known_digests(read_stored(path)) == {"a": PLANTED, "b": "0" * 32}
    make("one", a=1, b=3)
    assert known_digests(read_stored(path)) == known_digests(source) == {}


def test_a_file_that_changed_while_it_was_read_is_not_remembered(make, cache):
    path = make("one", a=1)
    source = read_stored(path)
    make("one", a=2)
    remember(source, {"a": PLANTED})
    assert known_digests(read_stored(path)) == {}
    path.unlink()
    remember(source, {"a": PLANTED})
    assert not cache.exists()


@pytest.mark.parametrize("age_s", [1, 0, -3600])
def test_a_file_that_was_written_just_now_is_not_remembered(age_s, make, cache):
    path = make("one", a=1)
    state = FileState.of(path)
    state = FileState(
        state.size_bytes, state.mtime_ns, state.inode, state.ctime_ns, state.mtime_ns + age_s * 10**9
    )
    keep(path, state, Record({"a": PLANTED}))
    assert not cache.exists()


def test_an_older_time_does_not_hide_a_change(make):
    path = make("one", a=1)
    source = read_stored(path)
    remember(source, {"a": PLANTED})
    before = path.stat()
    with path.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"x")
    while path.stat().st_ctime_ns == before.st_ctime_ns:  # the file system's clock is coarse
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_mtime_ns == before.st_mtime_ns
    assert known_digests(read_stored(path)) == {}


@pytest.mark.parametrize("damage", [b"", b"\0" * 300, b"{}", None])
def test_a_damaged_record_is_as_none(damage, make, cache):
    path = make("one", a=1)
    remember(read_stored(path), {"a": PLANTED})
    (record,) = records(cache)
    text = record.read_bytes()
    record.write_bytes(text.replace(b"fff", b"eee") if damage is None else damage)
    assert known_digests(read_stored(path)) == {}
    remember(read_stored(path), {"a": PLANTED})
    assert record.read_bytes() == text


def test_a_cache_that_cannot_be_written_is_done_without(make, cache):
    cache.write_text("a file where the folder should be")
    path = make("one", a=1)
    remember(read_stored(path), {"a": PLANTED})
    assert known_digests(read_stored(path)) == {}


def test_links_to_one_file_know_the_same(make, tmp_path):
    path = make("one", a=1)
    (tmp_path / "link.safetensors").symlink_to(path)
    remember(read_stored(tmp_path / "link.safetensors"), {"a": PLANTED})
    assert known_digests(read_stored(path)) == {"a": PLANTED}


def test_many_may_remember_at_the_same_time(make, cache):
    path = make("one", **{f"t{i}": i for i in range(40)})
    source = read_stored(path)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda name: remember(source, {name: PLANTED}), source.names))
    known = known_digests(source)
    assert known
    assert set(known.values()) == {PLANTED}
    assert len(records(cache)) == 1  # nothing is left beside it


def test_the_folder_is_the_users_cache(monkeypatch, tmp_path):
    monkeypatch.delenv("MERGELINE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "mergeline"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/ada")
    assert str(cache_folder()) == "/home/ada/.cache/mergeline"


@pytest.fixture
def spec(make):
    base, one, two = make("base", a=1, b=5), make("one", a=2, b=6), make("two", a=3, b=7)
    return MergeSpec(method="average", base=base, experts=(one, two), exclude=("b",))


def digests_in(out):
    manifest = json.loads((out / "merge_manifest.json").read_text())
    return [
        {name: told.split()[-1] for name, told in entry["tensors"].items()}
        for entry in (manifest["base"], *manifest["experts"])
    ]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_merge_remembers_its_inputs_and_reads_no_more_than_it_needs(dtype, spec, tmp_path):
    spec = MergeSpec(**{**spec.model_dump(), "dtype": dtype})  # with a kernel, and by torch
    merge_to(spec, tmp_path / "first")
    sources = [read_stored(path) for path in (spec.base, *spec.experts)]
    assert [known_digests(source) for source in sources] == digests_in(tmp_path / "first")
    remember(sources[1], {"b": PLANTED})  # the merge has no use for it, so nothing but this tells
    merge_to(spec, tmp_path / "second")
    assert digests_in(tmp_path / "second")[1]["b"] == PLANTED
    with pytest.raises(CheckpointCorruptError, match="its lineage recorded"):
        merge_checkpoints(spec, tmp_path / "third.safetensors")
    assert known_digests(read_stored(tmp_path / "first" / "model.safetensors")) == {}


def test_merges_in_the_library_remember_too(spec):
    merge_checkpoints(spec, spec.base.with_name("out.safetensors"))
    source = read_stored(spec.experts[0])
    bytes_of_b = raw_bytes(torch.full((50,), 6.0))
    assert known_digests(source)["b"] == xxhash.xxh3_128_hexdigest(bytes_of_b)


def test_digests_of_an_interrupted_run_are_not_remembered(spec, tmp_path, monkeypatch):
    """They were taken before the files were looked at again."""
    with monkeypatch.context() as patch:
        patch.setattr(Executor, "_copy", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            merge_to(spec, tmp_path / "out", MergeOptions(threads=1))
    assert merge_to(spec, tmp_path / "out").continued == 1
    assert set(known_digests(read_stored(spec.base))) == {"b"}


def test_an_input_that_changes_during_the_merge_is_refused(spec, make, tmp_path):
    options = MergeOptions(progress=lambda _read: make("two", a=3, b=8))
    with pytest.raises(CheckpointCorruptError, match=r"two\.safetensors changed while it was merged"):
        merge_to(spec, tmp_path / "out", options)
    assert not (tmp_path / "out" / "merge_manifest.json").exists()
    assert merge_to(spec, tmp_path / "out").continued == 0


def test_kernels_do_not_digest_what_is_remembered(spec, tmp_path):
    remember(read_stored(spec.experts[1]), {"a": PLANTED})
    done = merge_to(spec, tmp_path / "out")
    assert (done.arithmetic, digests_in(tmp_path / "out")[2]["a"]) == ("kernels", PLANTED)
    assert done.digest == checkpoint_digest(tmp_path / "out")  # outputs are always digested


def test_an_empty_record_for_what_was_never_seen(make):
    path = make("one", a=1)
    assert recall(path, FileState.of(path)) == Record()
