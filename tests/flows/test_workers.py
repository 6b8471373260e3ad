import socket

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings

from flows.pools import require_server
from flows.workers import plan_workers
from merge_lib.errors import SpecError


def masks(workers, pool="gpu"):
    return [worker.environment["CUDA_VISIBLE_DEVICES"] for worker in workers if worker.pool == pool]


def test_a_worker_for_each_gpu_and_one_that_sees_none():
    workers = plan_workers(None, None, 3)
    assert masks(workers) == ["0", "1", "2"]
    assert masks(workers, "cpu") == [""]
    assert [worker.limit for worker in workers] == [1, 1, 1, None]
    assert len({worker.name for worker in workers}) == 4


def test_a_worker_of_the_gpu_pool_takes_one_flow_run_at_a_time():
    command = " ".join(plan_workers(["0"], None, 1)[0].command)
    assert "--pool gpu" in command
    assert "--limit 1" in command


@pytest.mark.parametrize(
    ("asked", "mask", "count", "expected"),
    [
        (["1"], None, 2, ["1"]),
        (["0", "1"], None, 0, ["0", "1"]),  # pretended: torch sees none
        (None, "2,5", 2, ["2", "5"]),
        (["1"], "2,5", 2, ["5"]),  # counted within the mask
        (["1", "0"], "GPU-8c3f,GPU-02aa", 2, ["GPU-02aa", "GPU-8c3f"]),
        (None, None, 0, [""]),
        (None, "", 0, [""]),
        (None, "-1", 0, [""]),
    ],
)
def test_masks_are_composed_never_overwritten(asked, mask, count, expected):
    assert masks(plan_workers(asked, mask, count)) == expected


@pytest.mark.parametrize(
    ("asked", "mask", "count", "message"),
    [
        (["0", "2"], None, 2, "got '0,2', expected numbers below 2"),
        (["2"], "2,5", 2, "got '2', expected numbers below 2"),
        (["0", "0"], None, 2, "each once; got '0,0'"),
        (["gpu0"], None, 0, "got 'gpu0', expected numbers from 0. Indices count within CUDA_VISIBLE_DEVICES"),
        (["-1"], None, 2, "got '-1'"),
        (["0"], "", 0, "got '0', expected numbers below 0"),
    ],
)
def test_wrong_devices_are_told(asked, mask, count, message):
    with pytest.raises(SpecError, match=message):
        plan_workers(asked, mask, count)


def test_without_a_server_the_message_says_how_to_start_one():
    with (
        temporary_settings(restore_defaults={PREFECT_API_URL}),
        pytest.raises(SpecError, match=r"PREFECT_API_URL names none\. Start one with `prefect server start`"),
    ):
        require_server()


def test_a_server_that_does_not_answer_is_named():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, but nobody listens
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/api"
        with (
            temporary_settings({PREFECT_API_URL: url}),
            pytest.raises(SpecError, match=f"server at {url}, which PREFECT_API_URL names, does not answer"),
        ):
            require_server()
