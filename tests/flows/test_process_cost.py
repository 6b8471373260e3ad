"""What a process costs."""

import subprocess
import sys

import pytest

from flows.process_cost import ProcessError, family_memory, measure

HOLDING = "import sys; held = bytearray(b'x') * 100_000_000; print('ready', flush=True); sys.stdin.read()"
PARENT = "import subprocess, sys; sys.exit(subprocess.call([sys.executable, '-c', sys.argv[1]]))"


@pytest.fixture
def holding():
    """A process whose child holds 100 MB until it is told to stop."""
    command = [sys.executable, "-c", PARENT, HOLDING]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "ready\n"
        yield process
        process.stdin.close()


def test_memory_of_a_child_counts(holding):
    rss_bytes, anon_bytes = family_memory(holding.pid)
    assert 100_000_000 < anon_bytes < 150_000_000
    assert rss_bytes > anon_bytes


def test_mapped_files_are_resident_but_not_anonymous(tmp_path):
    (tmp_path / "file").write_bytes(bytes(100_000_000))
    code = (
        "import mmap, sys; file = open('file', 'rb'); held = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ);"
        "sum(held[::4096]); print('ready', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, cwd=tmp_path, text=True, **pipes) as process:
        assert process.stdout.readline() == "ready\n"
        rss_bytes, anon_bytes = family_memory(process.pid)
        process.stdin.close()
    assert rss_bytes > 100_000_000
    assert anon_bytes < 30_000_000


def test_a_process_that_has_ended_holds_nothing(tmp_path):
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    assert family_memory(process.pid) == (0, 0)


def test_the_peak_is_kept_and_processor_time_is_counted(tmp_path):
    code = (
        "import time; held = bytearray(b'x') * 100_000_000; time.sleep(1); del held\n"
        "for _ in range(3_000_000): pass"
    )
    cost = measure([sys.executable, "-c", code], log=tmp_path / "log", cwd=tmp_path)
    assert 100_000_000 < cost.anon_bytes <= cost.rss_bytes
    assert cost.wall_s > 1
    assert 0 < cost.cpu_s < cost.wall_s


def test_a_peak_between_two_looks_is_kept(tmp_path):
    code = "held = bytearray(b'x') * 100_000_000; del held; import time; time.sleep(0.5)"
    assert measure([sys.executable, "-c", code], log=tmp_path / "log", cwd=tmp_path).rss_bytes > 100_000_000


def test_a_failure_is_told_with_what_was_printed(tmp_path):
    command = [sys.executable, "-c", "import sys; print('on the way'); sys.exit('no such model')"]
    with pytest.raises(ProcessError, match=r"(?s)status 1: .*no such model"):
        measure(command, log=tmp_path / "log", cwd=tmp_path)
