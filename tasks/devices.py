"""The devices that this process may train on, and the locks by which at most one training uses each."""

import fcntl
import logging
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path

logger = logging.getLogger(__name__)

MASK = "CUDA_VISIBLE_DEVICES"
ORDER, BY_BUS = (
    "CUDA_DEVICE_ORDER",
    "PCI_BUS_ID",
)  # the order in which CUDA counts; by bus, the driver's tools agree


def count_devices() -> int:
    """How many GPUs torch can use here, under the mask that this process was given."""
    import torch

    return torch.cuda.device_count()


def visible_devices() -> tuple[str, ...]:
    """The GPUs that the mask leaves visible, by UUID where the driver tells it, else as the mask says it.

    Returns:
        ("cpu",) if no GPU is visible.
    """
    mask = os.environ.get(MASK)
    if mask is None:
        return tuple(_installed().values()) or ("cpu",)
    return tuple(_identity(name) for name in visible_in(mask)) or ("cpu",)


def visible_in(mask: str) -> tuple[str, ...]:
    """The devices that a mask names; like CUDA, nothing from the first -1 on."""
    names = [name.strip() for name in mask.split(",")]
    names = [name for name in names[: names.index("-1") if "-1" in names else None] if name]
    return tuple(dict.fromkeys(names))


@contextmanager
def devices_held() -> Iterator[tuple[str, ...]]:
    """Hold every visible device alone; waits as long as another training of this user has one of them.

    The locks are files in the machine's folder for temporary files. The kernel drops them when the process ends,
    however it ends.

    Yields:
        The devices.
    """
    devices = tuple(sorted(visible_devices()))  # in one order everywhere, so that no two wait for each other
    with ExitStack() as locks:
        for device in devices:
            locks.enter_context(_locked(device))
        yield devices


@contextmanager
def _locked(device: str) -> Iterator[None]:
    folder = Path(tempfile.gettempdir()) / f"mergeline-{os.getuid()}"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with (folder / f"device-{device.replace('/', '_')}.lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            logger.info("Device '%s' is taken by another training; this one waits until it is free.", device)
            fcntl.flock(lock, fcntl.LOCK_EX)
            logger.info("Device '%s' is free; the training starts.", device)
        yield


def _identity(name: str) -> str:
    """The UUID of an index or of a shortened UUID; the name itself where it is not known."""
    installed = _installed()
    if name in installed and os.environ.get(ORDER) == BY_BUS:
        return installed[name]
    return next((uuid for uuid in installed.values() if uuid.startswith(name)), name)


@cache
def _installed() -> dict[str, str]:
    """Index to UUID of every GPU of this machine, as the driver's tool tells it."""
    if (tool := shutil.which("nvidia-smi")) is None:
        return {}
    command = [tool, "--query-gpu=index,uuid", "--format=csv,noheader"]
    listed = subprocess.run(command, capture_output=True, text=True, check=False)
    pairs = [line.split(",") for line in listed.stdout.splitlines() if listed.returncode == 0]
    return {index.strip(): uuid.strip() for index, uuid in pairs}
