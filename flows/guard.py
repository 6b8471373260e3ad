"""Runs a server and ends it when its owner is gone: `python -I guard.py COMMAND …`.

The owner holds the other end of this process's standard input. The system closes it however the owner ends,
`kill -9` included, so a server never outlives the command that started it. Imports only the standard library.
"""

import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from queue import SimpleQueue

PATIENCE_S = 8.0  # from the polite signal to the other one


def main(command: list[str]) -> int:
    """Run the command until it ends or standard input closes; returns its exit status."""
    ended: SimpleQueue[int] = SimpleQueue()  # safe to put into from a signal's handler
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the owner's business
    signal.signal(signal.SIGTERM, lambda _signal, _frame: ended.put(0))
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)
    threading.Thread(target=_wait_for_owner, args=(ended,), daemon=True).start()
    threading.Thread(target=lambda: ended.put(child.wait()), daemon=True).start()
    status = ended.get()
    _stop_group(child)
    return status


def _wait_for_owner(ended: "SimpleQueue[int]") -> None:
    while os.read(sys.stdin.fileno(), 4096):
        pass
    ended.put(0)


def _stop_group(child: subprocess.Popen[bytes]) -> None:
    """End the command and everything that it started."""
    with suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGTERM)
    deadline = time.monotonic() + PATIENCE_S
    while _group_lives(child) and time.monotonic() < deadline:
        time.sleep(0.05)
    with suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


def _group_lives(child: subprocess.Popen[bytes]) -> bool:
    child.poll()  # a group of which only the unread status is left is over
    try:
        os.killpg(child.pid, 0)
    except ProcessLookupError:
        return False
    return True


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
