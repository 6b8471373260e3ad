"""What a whole process costs: time, processor time and memory, its children included; Linux only."""

import resource
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Thread
from time import perf_counter

import flows
from merge_lib.errors import MergeError

ROOT = Path(flows.__file__).parents[1]  # from here a process imports these sources
INTERVAL_S = 0.005  # between two looks at its memory
_TAIL = 600


@dataclass(frozen=True)
class Cost:
    """Of one process from its start to its end.

    The peaks are what was seen every few milliseconds, summed over the process and its children; `rss_bytes` is no
    less than the system's own record of the process. Mapped pages of files count in `rss_bytes` alone; the system can
    drop those, but not what `anon_bytes` counts.
    """

    wall_s: float
    cpu_s: float
    rss_bytes: int
    anon_bytes: int


class ProcessError(MergeError):
    """A measured process failed."""


def mergeline(*arguments: str) -> tuple[str, ...]:
    """Our command in a process of its own; to be run from `ROOT`."""
    return (sys.executable, "-m", "flows.cli", *arguments)


def measure(
    command: Sequence[str | Path], *, log: Path, cwd: Path, variables: Mapping[str, str] | None = None
) -> Cost:
    """Run a command and measure it; what it prints goes to the log.

    Raises:
        ProcessError: it failed; the message holds the end of what it printed.
    """
    peaks, done = _Peaks(), Event()
    before = _processor_s()
    with log.open("wb") as printed:
        started = perf_counter()
        process = subprocess.Popen(command, stdout=printed, stderr=printed, cwd=cwd, env=variables)
        watcher = Thread(target=_watch, args=(process.pid, peaks, done))
        watcher.start()
        try:
            status = process.wait()
            wall_s = perf_counter() - started
        finally:
            done.set()
            watcher.join()
    if status:
        tail = log.read_text(encoding="utf-8", errors="replace")[-_TAIL:].strip()
        raise ProcessError(f"`{' '.join(map(str, command))}` ended with status {status}: {tail}")
    return Cost(wall_s, _processor_s() - before, peaks.rss_bytes, peaks.anon_bytes)


@dataclass
class _Peaks:
    rss_bytes: int = 0
    anon_bytes: int = 0


def _watch(pid: int, peaks: _Peaks, done: Event) -> None:
    while not done.wait(INTERVAL_S):
        rss_bytes, anon_bytes = family_memory(pid)
        peaks.rss_bytes = max(peaks.rss_bytes, rss_bytes, _status(pid)["VmHWM"])
        peaks.anon_bytes = max(peaks.anon_bytes, anon_bytes)


def family_memory(pid: int) -> tuple[int, int]:
    """Resident and anonymous bytes, now, of a process and all that descend from it."""
    held = [_memory(member) for member in _family(pid)]
    return sum(resident for resident, _ in held), sum(anonymous for _, anonymous in held)


def _family(pid: int) -> Iterator[int]:
    """The process and all that descend from it."""
    yield pid
    with suppress(OSError):  # it has just ended
        for children in Path(f"/proc/{pid}/task").glob("*/children"):
            for child in children.read_text().split():
                yield from _family(int(child))


def _memory(pid: int) -> tuple[int, int]:
    """Resident and anonymous bytes; 0 of a process that has ended. Shared memory counts as anonymous."""
    held = _status(pid)
    return held["VmRSS"], held["RssAnon"] + held["RssShmem"]


def _status(pid: int) -> dict[str, int]:
    """What the system says of a process's memory, in bytes."""
    held = dict.fromkeys(("VmHWM", "VmRSS", "RssAnon", "RssShmem"), 0)
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            name, _, value = line.partition(":")
            if name in held:
                held[name] = 1024 * int(value.split()[0])
    return held


def _processor_s() -> float:
    """User and system seconds of all children that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime
