"""Training handed to workers, without workers: what is asked of Prefect, and what is made of its answers."""

from types import SimpleNamespace

import pytest
from prefect.states import Completed, Crashed, Failed, Running

from merge_lib.errors import TrainingError
from tasks import dispatch
from tasks.jobs import Finished, Setting, TrainingJob
from tasks.training import CHECKPOINT, training_key

JOB = TrainingJob(("digits-01",), 0, "sequential 1/2 · seed 0")
START = Finished("pretrain", "k", "base.safetensors", "xxh3:0", 1, 1.0, reused=True)


@pytest.fixture
def setting(tiny_project) -> Setting:
    workload = {"name": "vision", "scenario": "class-incremental"}
    return Setting(str(tiny_project()), workload, ("digits-01", "digits-23"), {"digits-01": "md5"})


class Deployment:
    """Stands for the server: each idempotency key is one flow run, whose states follow each other."""

    def __init__(self, setting, *lives):
        self.key = training_key(setting, JOB, START.digest)[0]
        self.setting, self.lives = setting, {f"{self.key}-{n}": list(life) for n, life in enumerate(lives)}
        self.asked = []

    def __call__(self, _name, *, idempotency_key, **_asked):
        self.asked.append(int(idempotency_key.removeprefix(f"{self.key}-")))
        life = self.lives[idempotency_key]
        state = life.pop(0) if len(life) > 1 else life[0]
        if state.is_completed():
            with self.setting.store.writing("train", self.key) as (folder, commit):
                (folder / CHECKPOINT).write_bytes(b"weights")
                values = {"checkpoint": CHECKPOINT, "digest": "xxh3:1", "size_bytes": 7, "elapsed_s": 1.0}
                commit(inputs={}, params={}, values=values)
        return SimpleNamespace(name="rosy-owl", state=state)


def hand_out(monkeypatch, setting, *lives) -> tuple[Finished, list[int]]:
    deployment = Deployment(setting, *lives)
    monkeypatch.setattr(dispatch, "run_deployment", deployment)
    return dispatch.train_on_worker.fn(setting, JOB, START, "fine-tune/gpu"), deployment.asked


def test_the_checkpoint_comes_from_the_worker_and_is_not_asked_for_again(setting, monkeypatch):
    done, asked = hand_out(monkeypatch, setting, [Running(), Completed()])
    assert done.digest == "xxh3:1"
    assert asked == [0, 0]  # asked for, then waited for
    again, asked = hand_out(monkeypatch, setting)
    assert (again.reused, asked) == (True, [])


def test_what_failed_in_an_earlier_run_is_tried_anew(setting, monkeypatch):
    _, asked = hand_out(monkeypatch, setting, [Failed()], [Crashed()], [Running(), Completed()])
    assert asked == [0, 1, 2, 2]


def test_a_lost_worker_costs_an_attempt(setting, monkeypatch):
    _, asked = hand_out(monkeypatch, setting, [Running(), Crashed()], [Running(), Completed()])
    assert asked == [0, 0, 1, 1]


def test_a_training_that_loses_every_worker_is_given_up(setting, monkeypatch):
    lost = [Running(), Crashed(message="Process exited with status code: -9.")]
    with pytest.raises(TrainingError, match=r"'fine-tune/gpu' ended Crashed .* status code: -9"):
        hand_out(monkeypatch, setting, *(list(lost) for _ in range(5)))


def test_a_training_that_failed_is_not_tried_again(setting, monkeypatch):
    with pytest.raises(TrainingError, match="ended Failed without a checkpoint: loss is nan"):
        hand_out(monkeypatch, setting, [Running(), Failed(message="loss is nan")], [Running(), Completed()])
