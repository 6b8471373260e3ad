"""Training by several processes: `python -m merge_lib.workloads.training.worker FOLDER COUNT`, called by `together`.

This process starts the others by accelerate's launchers and waits for them. When standard input closes, the caller is
gone, and all of them end.
"""

import json
import os
import signal
import sys
from pathlib import Path
from threading import Thread

from merge_lib.errors import MergeError, SpecError
from merge_lib.workloads.training.together import ASSIGNMENT, FAILURE, PROGRESS, REPORT


def main(folder: Path, count: int) -> int:
    """Start the processes and wait for them; what they came to lies in the folder."""
    Thread(target=_end_with_caller, daemon=True).start()
    try:
        _launch(folder, count)
    except MergeError as failure:
        _tell(folder, failure)
    except Exception:
        if not (folder / FAILURE).exists():  # else it was one of ours, which a process has told
            raise
    return 0


def _launch(folder: Path, count: int) -> None:
    try:
        from accelerate import debug_launcher, notebook_launcher
    except ImportError as missing:
        raise SpecError(
            "`devices` above 1 needs accelerate, which is not installed. Install mergeline[models]."
        ) from missing
    import torch

    if torch.cuda.device_count() == 0:
        debug_launcher(work, (str(folder),), num_processes=count)
    else:
        notebook_launcher(work, (str(folder),), num_processes=count, use_port=_free_port())


def work(folder: str) -> None:
    """Carry the assignment out as one of the processes; the first one reports."""
    import torch
    from accelerate import PartialState

    from merge_lib.workloads.training.assignments import Assignment, report_to_json
    from merge_lib.workloads.training.team import Team

    state = PartialState(cpu=torch.cuda.device_count() == 0)
    leads = Team.present().leads
    place = Path(folder)
    assignment = Assignment.from_json((place / ASSIGNMENT).read_text(encoding="utf-8"))
    torch.set_num_threads(assignment.threads)
    try:
        report = assignment.carry_out(assignment.open_workload(), _say if leads else None)
    except MergeError as failure:
        _tell(place, failure)
        raise
    if leads:
        (place / REPORT).write_text(report_to_json(report), encoding="utf-8")
    state.wait_for_everyone()
    state.destroy_process_group()


def _say(done: int, total: int) -> None:
    sys.stdout.write(f"{PROGRESS} {done} {total}\n")
    sys.stdout.flush()


def _tell(folder: Path, failure: MergeError) -> None:
    """Leave an error of ours for the caller; the first one counts."""
    told = {"kind": type(failure).__name__, "message": str(failure)}
    try:
        with (folder / FAILURE).open("x", encoding="utf-8") as file:
            json.dump(told, file)
    except FileExistsError:
        return


def _free_port() -> str:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def _end_with_caller() -> None:
    while os.read(sys.stdin.fileno(), 4096):
        pass
    os.killpg(os.getpgrp(), signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2])))
