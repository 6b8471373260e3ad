"""Answers of base and experts on every example: finished work, since every merge is compared with the same ones."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from merge_lib import workloads
from tasks.caching import cache_key
from tasks.jobs import Finished, Setting
from tasks.slots import sole_worker

if TYPE_CHECKING:
    from merge_lib.forgetting import Answers
    from merge_lib.probe import Probe

ANSWERING = "merge_lib.forgetting.answers"
FILE = "answers.safetensors"


def answers_of_checkpoint(
    setting: Setting, probe: "Probe", checkpoint: Finished, tasks: Sequence[str]
) -> "dict[str, Answers]":
    """The answers of a checkpoint on each of the tasks, found or made now; the caller holds a slot."""
    from merge_lib.checkpoints import read_state_dict
    from merge_lib.forgetting.answers import answers_of, read_answers, write_answers

    config = workloads.parse(setting.workload)
    inputs = {"checkpoint": checkpoint.digest} | setting.hashes_of(config.task_snapshots(setting.tasks))
    params = {
        "workload": config.parameters_of("evaluate"),
        "of": list(setting.tasks),
        "tasks": list(tasks),
        "split": "test",
    }
    key = cache_key("answers", inputs=inputs, params=params, code=(ANSWERING, *config.code("evaluate")))
    path = setting.store.folder("answers", key) / FILE
    with sole_worker(key):
        if setting.store.find("answers", key) is not None:
            return read_answers(path, tasks)
        with setting.store.writing("answers", key) as (folder, commit):
            found = answers_of(probe, read_state_dict(Path(checkpoint.path or "")), tasks)
            write_answers(found, folder / FILE)
            commit(inputs=inputs, params=params, values={"answers": FILE})
    return found
