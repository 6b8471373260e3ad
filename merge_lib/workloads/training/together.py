"""Training by several processes, a GPU each, which accelerate starts: called in the process that waits for them.

`python -m merge_lib.workloads.training.worker` is a process of its own, so that CUDA, threads and locks of the
caller have no part in it. Its end of a pipe tells it when the caller is gone.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch

import merge_lib
from merge_lib import errors
from merge_lib.errors import MergeError, SpecError, TrainingError
from merge_lib.workloads.protocol import Progress, TrainReport
from merge_lib.workloads.training.assignments import Assignment, report_from_json

ASSIGNMENT, REPORT, FAILURE, LOG = "assignment.json", "report.json", "failure.json", "log.txt"
PROGRESS = "progress"  # the first word of a line that tells how far it is
PATIENCE_S = 10.0  # between the polite signal and the other one
TAIL = 1500  # characters of the log that a message shows


def train_together(assignment: Assignment, devices: int, progress: Progress | None) -> TrainReport:
    """Carry the assignment out by so many processes; gives what one would, but for rounding.

    Raises:
        SpecError: there are GPUs, but fewer than that; or accelerate is not installed.
        TrainingError: the processes ended without a result.
        MergeError: what one of them raised.
    """
    visible = torch.cuda.device_count()
    if 0 < visible < devices:
        raise SpecError(
            f"`devices` is {devices}, but this process sees {visible} GPU{'s'[: visible > 1]}. Lower it, or widen "
            "CUDA_VISIBLE_DEVICES."
        )
    with tempfile.TemporaryDirectory(prefix="mergeline-training-") as place:
        folder = Path(place)
        (folder / ASSIGNMENT).write_text(assignment.to_json(), encoding="utf-8")
        with _running(folder, devices) as process:
            for line in process.stdout or ():
                if progress is not None and (told := line.split())[:1] == [PROGRESS]:
                    progress(int(told[1]), int(told[2]))
            process.wait()
        return _result(folder, process.returncode)


@contextmanager
def _running(folder: Path, devices: int) -> Iterator[subprocess.Popen[str]]:
    """The processes, which end when this is left."""
    command = [sys.executable, "-m", "merge_lib.workloads.training.worker", str(folder), str(devices)]
    package = str(Path(merge_lib.__file__).parents[1])
    paths = os.pathsep.join([package, *filter(None, [os.environ.get("PYTHONPATH")])])
    variables = {**os.environ, "PYTHONPATH": paths, "PYTORCH_NVML_BASED_CUDA_CHECK": "1"}
    with (folder / LOG).open("wb") as log:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            env=variables,
            start_new_session=True,
            text=True,
        )
    try:
        yield process
    finally:
        _end(process)


def _end(process: subprocess.Popen[str]) -> None:
    """Stop it with everything that it started, if it is still there."""
    for sent in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, sent)
        with suppress(subprocess.TimeoutExpired):
            process.wait(PATIENCE_S)
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()


def _result(folder: Path, status: int) -> TrainReport:
    if (folder / FAILURE).exists():
        told = json.loads((folder / FAILURE).read_text(encoding="utf-8"))
        kind = getattr(errors, told["kind"], MergeError)
        raise kind(told["message"])
    if status or not (folder / REPORT).exists():
        tail = (folder / LOG).read_text(encoding="utf-8", errors="replace")[-TAIL:].strip()
        raise TrainingError(f"The processes that trained together ended with status {status}: {tail}")
    return report_from_json((folder / REPORT).read_text(encoding="utf-8"))
