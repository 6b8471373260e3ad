"""Language models judged by tasks of EleutherAI's lm-evaluation-harness, through its own library.

Tasks are those that come with it, or YAML files of one's own in its format; data sets are read from the Hugging Face
cache or from files. Reference: Gao et al., "A framework for few-shot language model evaluation", 2024.
"""

import logging
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn
from transformers import PreTrainedTokenizerBase

from merge_lib.errors import DataError, SpecError
from merge_lib.workloads.pretrained.judge_tasks import INSTALL, check_known, check_tasks
from merge_lib.workloads.training.devices import training_device

if TYPE_CHECKING:
    from lm_eval.tasks import TaskManager


@dataclass(frozen=True)
class Judgement:
    """One metric of one task.

    Attributes:
        variant: the harness's filter of answers, "none" where there is but one.
        error: standard error of the mean; None where there is none.
        examples: how many it is over.
        shots: solved examples in each prompt.
        version: of the task.
    """

    task: str
    metric: str
    variant: str
    value: float
    error: float | None
    is_higher_better: bool
    examples: int
    shots: int
    version: str


def judge(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    tasks: Sequence[str],
    *,
    include: Path | None = None,
    limit: int | None = None,
    shots: int | None = None,
    batch_size: int = 8,
) -> list[Judgement]:
    """Judge a causal or sequence-to-sequence model; on the GPU if there is one.

    Args:
        model: of transformers.
        tokenizer: its own.
        tasks: names of tasks or groups of tasks.
        include: a folder with YAML files of further tasks.
        limit: examples of each task, the first ones; None: all.
        shots: solved examples in each prompt; None: as each task says.
        batch_size: requests at once.

    Returns:
        By task and metric.

    Raises:
        SpecError: the harness is not installed, or does not know a task.
        DataError: a task's data set cannot be read.
    """
    check_tasks(tasks, include)
    with _harness():
        from lm_eval import simple_evaluate
        from lm_eval.models.huggingface import HFLM
    manager = _manager(tasks, include)
    judged = HFLM(
        pretrained=model.to(training_device()),  # type: ignore[arg-type] -- a model of transformers
        tokenizer=tokenizer,  # type: ignore[arg-type]
        batch_size=batch_size,
    )
    with _explained(tasks):
        told = simple_evaluate(
            model=judged,
            tasks=list(tasks),
            num_fewshot=shots,
            limit=limit,
            task_manager=manager,
            log_samples=False,
        )
    return sorted(_judgements(told or {}), key=lambda one: (one.task, one.metric, one.variant))


def _manager(tasks: Sequence[str], include: Path | None) -> "TaskManager":
    """What knows the tasks: those of the folder alone if they are enough, for the harness's own are thousands."""
    from lm_eval.tasks import TaskManager

    own = TaskManager(include_path=include, include_defaults=False) if include is not None else None
    if own is not None and set(tasks) <= set(own.all_tasks):
        return own
    manager = TaskManager(include_path=include)
    check_known(tasks, manager.all_tasks)
    return manager


def _judgements(told: dict[str, Any]) -> Iterator[Judgement]:
    """The harness's table, `results[task]["metric,filter"]`, a line a metric."""
    for task, results in told.get("results", {}).items():
        for key, value in results.items():
            metric, _, variant = key.partition(",")
            if not variant or metric.endswith("_stderr") or not isinstance(value, int | float):
                continue
            error = results.get(f"{metric}_stderr,{variant}")
            yield Judgement(
                task,
                metric,
                variant,
                float(value),
                float(error) if isinstance(error, int | float) and math.isfinite(error) else None,
                told.get("higher_is_better", {}).get(task, {}).get(metric) is not False,
                told.get("n-samples", {}).get(task, {}).get("effective", 0),
                told.get("n-shot", {}).get(task, 0),
                str(told.get("versions", {}).get(task, "")),
            )


@contextmanager
def _harness() -> Iterator[None]:
    """Say what to do where the harness is not installed."""
    try:
        yield
    except ImportError as exc:
        raise SpecError(
            f"Judging needs the package lm-eval, which cannot be imported here ({exc}). {INSTALL}"
        ) from exc
    logging.getLogger("lm_eval").setLevel(logging.ERROR)


@contextmanager
def _explained(tasks: Sequence[str]) -> Iterator[None]:
    """Turn what the harness raises about data sets into ours."""
    try:
        yield
    except (OSError, ValueError, RuntimeError, KeyError) as exc:
        raise DataError(
            f"The tasks {', '.join(tasks)} could not be judged: {type(exc).__name__}: "
            f"{' '.join(str(exc).split())[:600]} Without a network, a task's data set must be in the Hugging Face "
            "cache, or its YAML must name files (`dataset_path: json`, `dataset_kwargs: {data_files: …}`)."
        ) from exc
