"""From checkpoint to checkpoint by a learner: what the flow calls."""

import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from importlib import import_module
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from merge_lib.checkpoints import write_state_dict
from merge_lib.errors import SpecError
from merge_lib.recurrent import FusionReport
from merge_lib.results import Taught
from merge_lib.workloads.learners.classroom import Classroom, Course, Learned, Teaching
from merge_lib.workloads.learners.settings import LearnerSettings
from merge_lib.workloads.protocol import TrainReport
from merge_lib.workloads.training.writing import report_of


def teach(
    workload: object, settings: LearnerSettings, course: Course, out: Path, *, lineage: dict[str, Any]
) -> TrainReport:
    """Train the last checkpoint of a course on its task and write the result to `out`.

    Raises:
        SpecError: the workload cannot be taught.
        TrainingError: the training diverged.
    """
    if not isinstance(workload, Teaching):
        raise SpecError(
            f"Workload {type(workload).__name__} has no `classroom`, so '{settings.name}' cannot train its models. "
            "Take the learner out of the study."
        )
    started = time.perf_counter()
    room = workload.classroom(course.checkpoints[-1], seed=course.seed, is_product=settings.needs_adapters)
    learned: Learned = import_module(settings.module).learn(room, course, settings)
    room.model.eval()
    with torch.no_grad():
        accuracy = room.validate(course.task)(room.model)
    tensors = {name: one.detach() for name, one in room.tensors().items()}
    written = write_state_dict(out, tensors, lineage=lineage)
    report = report_of(learned.trained, written, time.perf_counter() - started, accuracy)
    fusions = [_figures(one) for one in learned.fusions]
    return replace(report, taught=_told(room, settings, learned, fusions), fusions=fusions)


def _figures(fusion: FusionReport) -> dict[str, float]:
    """What a fusion did, as plain numbers by name; cells as shares of all entries."""
    told = asdict(fusion)
    cells = told.pop("cells") or {}
    total = sum(cells.values())
    return {name: value for name, value in told.items() if value is not None} | {
        name: count / total for name, count in cells.items()
    }


def _told(
    room: Classroom, settings: LearnerSettings, learned: Learned, fusions: Sequence[dict[str, float]]
) -> dict[str, Any]:
    """What the learner was shown, and its fusions on average: the fields of `Taught`."""
    means = {name: fmean(one[name] for one in fusions) for name in fusions[0]} if fusions else {}
    kinds = ("shared", "new", "historical", "redundant")
    return asdict(
        Taught(
            memory_examples=len(learned.memory),
            memory_bytes=room.size_of(learned.memory) if learned.memory else 0,
            held_out=settings.held_out,
            fusions=len(fusions),
            cells={name: means[name] for name in kinds if name in means},
            norms={name: means[f"{name}_norm"] for name in ("inner", "outer", "fused") if means},
        )
    )
