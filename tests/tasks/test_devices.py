import logging
import subprocess
import sys
import threading

import pytest

from tasks import devices

HOLD = """
import sys
from tasks.devices import devices_held
with devices_held() as held:
    print(*held, flush=True)
    sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def machine(tmp_path, monkeypatch):
    """A machine without GPUs and without locks."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)  # where the locks are is asked for again
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.delenv("CUDA_DEVICE_ORDER", raising=False)
    devices._installed.cache_clear()
    yield tmp_path
    devices._installed.cache_clear()


@pytest.fixture
def two_gpus(machine):
    tool = machine / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho '0, GPU-aa11'\necho '1, GPU-bb22'\n")
    tool.chmod(0o755)


@pytest.mark.parametrize(
    ("mask", "names"),
    [("0,1", ("0", "1")), (" 3 , 1", ("3", "1")), ("", ()), ("-1", ()), ("2,-1,4", ("2",)), ("1,1", ("1",))],
)
def test_a_mask_is_read_as_cuda_reads_it(mask, names):
    assert devices.visible_in(mask) == names


@pytest.mark.parametrize(("mask", "expected"), [(None, ("cpu",)), ("", ("cpu",)), ("1", ("1",))])
def test_without_a_driver_devices_are_called_as_the_mask_calls_them(mask, expected, monkeypatch):
    if mask is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", mask)
    assert devices.visible_devices() == expected


@pytest.mark.parametrize(
    ("mask", "order", "expected"),
    [
        (None, None, ("GPU-aa11", "GPU-bb22")),
        ("1", "PCI_BUS_ID", ("GPU-bb22",)),
        ("GPU-bb", None, ("GPU-bb22",)),  # CUDA takes shortened UUIDs
        ("1", None, ("1",)),  # CUDA may count in another order than the driver's tools
        ("MIG-7/1/0", "PCI_BUS_ID", ("MIG-7/1/0",)),
    ],
)
def test_a_gpu_is_known_by_its_uuid(two_gpus, mask, order, expected, monkeypatch):
    for name, value in {"CUDA_VISIBLE_DEVICES": mask, "CUDA_DEVICE_ORDER": order}.items():
        if value is not None:
            monkeypatch.setenv(name, value)
    assert devices.visible_devices() == expected


def test_a_device_is_held_by_one_process_until_it_is_gone(monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    waiting, got = threading.Event(), threading.Event()
    handler = logging.Handler()
    handler.emit = lambda _record: waiting.set()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    command = [sys.executable, "-c", HOLD]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "0\n"

        def hold():
            with devices.devices_held():
                got.set()

        devices.logger.addHandler(handler)
        waiter = threading.Thread(target=hold)
        waiter.start()
        assert waiting.wait(60)
        assert not got.is_set()
        holder.kill()
    waiter.join(60)
    devices.logger.removeHandler(handler)
    assert got.is_set()
    assert [record.getMessage() for record in caplog.records] == [
        "Device '0' is taken by another training; this one waits until it is free.",
        "Device '0' is free; the training starts.",
    ]


def test_different_devices_do_not_wait_for_each_other(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    with devices.devices_held() as first:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
        with devices.devices_held() as second:
            assert (first, second) == (("0",), ("1",))
