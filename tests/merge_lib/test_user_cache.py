"""What can be made again does not stay for ever."""

import os
import subprocess
import sys
from time import time

import pytest

from merge_lib.user_cache import forget_unused, mark_used

DAY_S = 86_400


@pytest.fixture
def make_files(tmp_path):
    """Files of so many bytes that were last used so many days ago, by name."""

    def make(files):
        for name, (size, days) in files.items():
            (tmp_path / name).write_bytes(bytes(size))
            os.utime(tmp_path / name, (time() - days * DAY_S,) * 2)
        return tmp_path

    return make


def names(folder):
    return {path.name for path in folder.iterdir()}


@pytest.mark.parametrize(
    ("keep_days", "keep_bytes", "left"),
    [
        (100, 1000, {"new", "used", "old"}),
        (15, 1000, {"new", "used"}),
        (100, 300, {"new", "used", "old"}),
        (100, 299, {"new", "used"}),
        (100, 199, {"new"}),
        (15, 100, {"new"}),
        (0.5, 1000, set()),
    ],
)
def test_files_that_were_not_used_for_long_or_are_too_many_go(make_files, keep_days, keep_bytes, left):
    folder = make_files({"old": (100, 20), "new": (100, 1), "used": (100, 10)})
    forget_unused(folder, keep_days=keep_days, keep_bytes=keep_bytes)
    assert names(folder) == left


def test_a_file_in_use_stays(make_files):
    folder = make_files({"a": (1, 20), "b": (1, 20)})
    mark_used(folder / "a")
    mark_used(folder / "not there")
    forget_unused(folder, keep_days=15, keep_bytes=10)
    assert names(folder) == {"a"}


def test_a_use_is_noted_once_a_day(make_files):
    folder = make_files({"a": (1, 0.5)})
    before = (folder / "a").stat().st_mtime_ns
    mark_used(folder / "a")
    assert (folder / "a").stat().st_mtime_ns == before


def test_processes_forget_at_the_same_time(make_files):
    folder = make_files({f"{place:03}": (10, 20 if place % 2 else 1) for place in range(400)})
    code = (
        "import sys; from pathlib import Path; from merge_lib.user_cache import forget_unused; input()\n"
        "forget_unused(Path(sys.argv[1]), keep_days=15, keep_bytes=4000)"
    )
    command = [sys.executable, "-c", code, str(folder)]
    started = [subprocess.Popen(command, stdin=subprocess.PIPE, text=True) for _ in range(3)]
    for process in started:
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in started:
        process.communicate()
    assert [process.returncode for process in started] == [0, 0, 0]
    assert names(folder) == {f"{place:03}" for place in range(0, 400, 2)}
