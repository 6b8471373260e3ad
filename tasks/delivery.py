"""Delivery to MLflow beside the run: a process of its own empties the outbox while the run goes on.

MLflow's client costs as much as a tenth of a small study; in a process of its own it takes another core instead of
the run's. `python -m tasks.delivery ROOT RUN` delivers until its standard input closes and nothing waits any more,
so what was recorded before a `kill -9` of the run still arrives.
"""

import logging
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from pathlib import Path

from tasks.file_locks import alone
from tasks.payloads import Outbox, RunPayload
from tasks.progress import Step, tell
from tasks.project import Project
from tasks.runs import outbox_of

logger = logging.getLogger(__name__)

PAUSE_S = 0.2
REFUSED = 3  # exit status: MLflow did not take a record


class Courier:
    """Puts payloads into the outbox of a run and lets a process of its own deliver them."""

    def __init__(self, project: Project, run_id: str) -> None:
        self.outbox = outbox_of(project, run_id)
        command = [sys.executable, "-m", "tasks.delivery", str(project.root), run_id]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,  # Ctrl-C is for the run; this process ends when the run lets go of it
        )

    def record(self, payload: RunPayload) -> None:
        """Keep the payload; it is on its way."""
        self.outbox.put(payload)

    def close(self) -> str | None:
        """Wait until all is delivered, and tell how far that is; what stopped it, if something did."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        waiting = self.outbox.count()
        while self._process.poll() is None:
            left = self.outbox.count()
            tell(Step("record", "record in MLflow", 1.0 - (left + 1) / (waiting + 1)))
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(PAUSE_S)
        said = self._process.stdout.read()
        self._process.stdout.close()
        if self._process.returncode == 0:
            return None
        reason = said.strip() or f"the delivery ended with status {self._process.returncode}."
        logger.warning("%s The records wait; `mergeline sync` delivers them later.", reason)
        return reason


@contextmanager
def sole_courier(outbox: Outbox) -> Iterator[None]:
    """One process at a time delivers from an outbox."""
    with alone(outbox.folder / "lock"):
        yield


def deliver_while_open(project: Project, run_id: str, closed: threading.Event) -> None:
    """Deliver what waits, again and again, until `closed` is set and nothing waits.

    Raises:
        TrackingError: MLflow did not take a record; it and the later ones stay.
    """
    from tasks.tracking import MlflowTracker

    outbox = outbox_of(project, run_id)
    with sole_courier(outbox):
        tracker = MlflowTracker(project, outbox)
        while True:
            is_last = closed.is_set()
            if tracker.deliver() == 0:
                if is_last:
                    return
                closed.wait(PAUSE_S)


def main(root: str, run_id: str) -> int:
    """Deliver for one run; tells on standard output what stopped it."""
    from tasks.tracking import TrackingError

    closed = threading.Event()

    def watch() -> None:
        sys.stdin.read()
        closed.set()

    threading.Thread(target=watch, daemon=True).start()
    try:
        with redirect_stdout(
            sys.stderr
        ):  # MLflow prints an address for every run; nobody empties the pipe meanwhile
            deliver_while_open(Project(Path(root)), run_id, closed)
    except TrackingError as failure:
        sys.stdout.write(f"{failure}\n")
        return REFUSED
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
