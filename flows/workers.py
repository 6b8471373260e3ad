"""Prefect workers for this machine: one for each GPU, one for everything else, started and stopped together."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import psutil

from flows.pools import CPU_POOL, GPU_POOL, report_lost_runs
from merge_lib.errors import SpecError
from tasks.devices import BY_BUS, MASK, ORDER, visible_in

GRACE_S = 30.0  # what a worker gets to end its flow runs and tell the server
PENDING_S = 120.0  # between a worker's taking a flow run and the start of its process
RESTART_S = 10.0  # after which a worker that ended by itself is started again


@dataclass(frozen=True)
class WorkerSpec:
    """One worker: its pool, the flow runs it may have at a time, and what its environment adds to ours."""

    name: str
    pool: str
    limit: int | None
    environment: dict[str, str] = field(default_factory=dict, hash=False)

    @property
    def command(self) -> list[str]:
        """The command that starts it."""
        arguments = [
            "--pool",
            self.pool,
            "--name",
            self.name,
            "--type",
            "process",
            "--install-policy",
            "never",
        ]
        limit = [] if self.limit is None else ["--limit", str(self.limit)]
        return [sys.executable, "-m", "prefect", "worker", "start", *arguments, *limit]


def plan_workers(asked: Sequence[str] | None, mask: str | None, count: int) -> list[WorkerSpec]:
    """One worker with a limit of 1 for each device, and one for the rest of the work.

    Indices count within the mask that this process was given, as CUDA counts them: of `CUDA_VISIBLE_DEVICES=2,5`
    device 1 is 5.

    Args:
        asked: indices of devices; None takes all that are visible.
        mask: CUDA_VISIBLE_DEVICES of this process; None if it has none.
        count: how many GPUs torch sees. Where it sees none, the indices are taken as they are.

    Returns:
        The workers of the gpu pool, then the one of the cpu pool, which sees no GPU.

    Raises:
        SpecError: an index is no number, is there twice, or is not among the visible devices.
    """
    names = visible_in(mask) if mask is not None else None
    indices = [str(index) for index in range(count)] if asked is None else list(asked)
    _check_indices(indices, len(names) if names is not None else count or None)
    devices = indices if names is None else [names[int(index)] for index in indices]
    ours = f"{psutil.Process().username()}@{socket.gethostname()}"
    workers = [WorkerSpec(f"{ours} gpu {device}", GPU_POOL, 1, {MASK: device}) for device in devices]
    without_device = WorkerSpec(f"{ours} gpu pool, no device", GPU_POOL, 1, {MASK: ""})
    return [*(workers or [without_device]), WorkerSpec(f"{ours} cpu", CPU_POOL, None, {MASK: ""})]


def _check_indices(indices: Sequence[str], visible: int | None) -> None:
    wrong = [
        index for index in indices if not index.isdecimal() or (visible is not None and int(index) >= visible)
    ]
    repeated = sorted({index for index in indices if indices.count(index) > 1})
    if wrong or repeated:
        among = (
            "numbers from 0" if visible is None else f"numbers below {visible}, the number of visible GPUs"
        )
        raise SpecError(
            f"--devices lists indices of GPUs, each once; got '{','.join(indices)}', expected {among}. "
            f"Indices count within {MASK} where that is set; leave --devices out to use every visible GPU."
        )


def run_workers(specs: Sequence[WorkerSpec], say: Callable[[str], None]) -> None:
    """Run the workers until this process is told to stop; one that ends by itself is started again.

    Each worker leads a process group of its own, so a Ctrl-C reaches this process alone; it then stops the workers
    and everything that they started, and tells the server which flow runs that ended.
    """
    names = {spec.name for spec in specs}
    _tell_of_lost_runs(names, say, pending_s=PENDING_S)
    with _stop_asked() as is_stopping:
        running: dict[WorkerSpec, subprocess.Popen[bytes]] = {}
        try:
            running.update((spec, _start(spec)) for spec in specs)
            _watch(running, is_stopping, say)
        finally:
            say("Stopping the workers and what they run …")
            _stop(list(running.values()))
            _tell_of_lost_runs(names, say, pending_s=0.0)


def _watch(
    running: dict[WorkerSpec, subprocess.Popen[bytes]],
    is_stopping: Callable[[], bool],
    say: Callable[[str], None],
) -> None:
    """Until a stop is asked for, start workers again that have ended."""
    due: dict[WorkerSpec, float] = {}
    while not is_stopping():
        for spec, process in running.items():
            if process.poll() is None:
                continue
            if spec not in due:
                say(f"Worker '{spec.name}' ended with status {process.returncode}; it is started again.")
                due[spec] = time.monotonic() + RESTART_S
            elif time.monotonic() >= due[spec]:
                del due[spec]
                running[spec] = _start(spec)
        time.sleep(0.2)


def _start(spec: WorkerSpec) -> subprocess.Popen[bytes]:
    environment = {**os.environ, **spec.environment}
    if (
        MASK not in os.environ
    ):  # indices of ours: count them as the driver's tools do; a given mask stays as it is meant
        environment.setdefault(ORDER, BY_BUS)
    return subprocess.Popen(spec.command, env=environment, start_new_session=True)


def _tell_of_lost_runs(names: Collection[str], say: Callable[[str], None], *, pending_s: float) -> None:
    """Report flow runs without a process; a server that is gone cannot be told."""
    from httpx import HTTPError

    try:
        lost = report_lost_runs(names, pending_s=pending_s)
    except HTTPError as failure:
        say(
            f"The server could not be told which flow runs were stopped; the next start tells it. ({failure})"
        )
        return
    if lost:
        say(
            f"Stopped before they were finished: {', '.join(lost)}. They start again with the next run of the study."
        )


@contextmanager
def _stop_asked() -> Iterator[Callable[[], bool]]:
    """Whether Ctrl-C or SIGTERM has come; the handlers before are put back at the end."""
    asked: list[int] = []
    signals = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, lambda which, _frame: asked.append(which)) for number in signals}
    try:
        yield lambda: bool(asked)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _stop(workers: Sequence[subprocess.Popen[bytes]]) -> None:
    """Ask the workers to stop, which ends their flow runs; kill what is left after the grace.

    Flow runs have sessions of their own, so they are found by parentage, before a parent's end hides it.
    """
    family: list[psutil.Process] = []
    for worker in workers:
        if worker.poll() is None:
            process = psutil.Process(worker.pid)
            family.extend((process, *process.children(recursive=True)))
            worker.terminate()
    _, left = psutil.wait_procs(family, timeout=GRACE_S)
    for process in left:
        process.kill()
    psutil.wait_procs(left, timeout=GRACE_S)
