"""From a model in memory to a trained checkpoint on disk, and the report of it."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from merge_lib.checkpoints import WrittenCheckpoint, write_state_dict
from merge_lib.types import StateDict
from merge_lib.workloads.protocol import Progress, TrainReport
from merge_lib.workloads.training.config import TrainingConfig
from merge_lib.workloads.training.devices import on_training_device
from merge_lib.workloads.training.lessons import Lesson
from merge_lib.workloads.training.loop import Trained, train
from merge_lib.workloads.training.stopping import Validate
from merge_lib.workloads.training.team import Team


def make_checkpoint(  # noqa: PLR0913 -- what, how, and where to
    model: nn.Module,
    lesson: Lesson,
    config: TrainingConfig,
    out: Path,
    *,
    lineage: dict[str, Any],
    generator: torch.Generator,
    validate: Validate,
    tensors: Callable[[], StateDict] | None = None,
    trained: Mapping[str, nn.Parameter] | None = None,
    saved: Path | None = None,
    progress: Progress | None = None,
) -> TrainReport:
    """Train a model and write what a checkpoint holds of it.

    Args:
        model: trained in place.
        lesson: what is learned.
        config: how.
        out: the checkpoint's file.
        lineage: JSON values that say where it comes from.
        generator: of all draws.
        validate: accuracy on the validation data, in [0, 1]; for the report, and for early stopping.
        tensors: what the checkpoint holds, asked for when the training is over; None: the model's state dict.
        trained: names to parameters that change; None: all that `freeze` leaves.
        saved: folder for saves on the way.
        progress: told how many steps of how many are made.

    Returns:
        Path and digest, and how it went. Of processes that train together only the first one writes.

    Raises:
        TrainingError: a loss or gradient is not finite, or one example does not fit into memory.
        SpecError: the settings do not fit the model.
        CheckpointError: the disk refused.
    """
    started = time.perf_counter()
    with on_training_device(model):
        course = train(
            model,
            lesson,
            config,
            generator=generator,
            trained=trained,
            validate=validate,
            saved=saved,
            progress=progress,
        )
        model.eval()
        with torch.no_grad():
            accuracy = validate(model)
    written = WrittenCheckpoint(out, "", 0)
    if Team.present().leads:
        state = model.state_dict() if tensors is None else tensors()
        written = write_state_dict(out, {name: one.detach() for name, one in state.items()}, lineage=lineage)
    return report_of(course, written, time.perf_counter() - started, accuracy)


def report_of(course: Trained, written: WrittenCheckpoint, elapsed_s: float, accuracy: float) -> TrainReport:
    """What is told of a checkpoint and its training."""
    return TrainReport(
        written.path,
        written.digest,
        written.size_bytes,
        elapsed_s,
        course.steps,
        course.losses,
        accuracy,
        course.curves.joined(),
        course.micro_batch,
        course.stopped_early,
        course.resumed_at,
    )
