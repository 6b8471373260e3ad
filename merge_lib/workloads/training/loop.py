"""The training loop: batches in a seeded order, steps, looks at validation data, saves on the way."""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from merge_lib.errors import SpecError
from merge_lib.workloads.protocol import Progress
from merge_lib.workloads.training import saving
from merge_lib.workloads.training.config import WITHOUT_EFFECT, TrainingConfig
from merge_lib.workloads.training.curves import Curves
from merge_lib.workloads.training.lessons import Lesson
from merge_lib.workloads.training.order import Order
from merge_lib.workloads.training.parameters import trainable_parameters
from merge_lib.workloads.training.states import State, joined, part_of
from merge_lib.workloads.training.stepping import Stepper
from merge_lib.workloads.training.stopping import Validate, Watch

PROGRESS_STEPS = 10  # a progress report at least every so many steps


@dataclass(frozen=True)
class Trained:
    """How a training went.

    Attributes:
        losses: mean of each epoch; of the last one as far as it went.
        steps: that were made.
        curves: of every step.
        micro_batch: examples that were on the device at once in the end; None: the whole batch.
        stopped_early: the validation value had stopped rising.
        resumed_at: the step that it went on after; 0: it was not resumed.
    """

    losses: list[float]
    steps: int
    curves: Curves
    micro_batch: int | None = None
    stopped_early: bool = False
    resumed_at: int = 0


def train(
    model: nn.Module,
    lesson: Lesson,
    config: TrainingConfig,
    *,
    generator: torch.Generator,
    trained: Mapping[str, nn.Parameter] | None = None,
    validate: Validate | None = None,
    saved: Path | None = None,
    progress: Progress | None = None,
) -> Trained:
    """Train the model in place.

    Args:
        model: comes back where it was, CPU or GPU.
        lesson: what is learned.
        config: how; early stopping needs `validate`.
        generator: of the order, the augmentation, and what the model draws by itself.
        trained: names to parameters that change; None: all that `freeze` leaves.
        validate: the value that early stopping looks at, the higher the better.
        saved: folder for the saves of `save_every`; what was left there by a killed training is gone on from, and
            gives the very same weights. Whoever keeps the result removes the folder.
        progress: told how many steps of how many are made.

    Raises:
        TrainingError: a loss or gradient is not finite, or one example does not fit into memory.
        SpecError: the settings do not fit the model.
    """
    trained = trainable_parameters(model, config.freeze) if trained is None else trained
    with Stepper(
        model, trained, config, steps=step_count(lesson.size, config), generator=generator
    ) as stepper:
        course = Course(stepper, lesson, generator, _watch(config, validate, model, trained))
        if saved is not None:
            course.resume(saved)
        return course.run(saved, progress)


def step_count(size: int, config: TrainingConfig) -> int:
    """Steps of a training on so many examples."""
    return config.steps or _per_epoch(size, config) * (config.epochs or 0)


def _per_epoch(size: int, config: TrainingConfig) -> int:
    return math.ceil(size / config.batch_size)


def _watch(
    config: TrainingConfig,
    validate: Validate | None,
    model: nn.Module,
    trained: Mapping[str, nn.Parameter],
) -> Watch | None:
    """Early stopping, if it is asked for."""
    if config.early_stopping is None:
        return None
    if validate is None:
        raise SpecError(
            "`early_stopping` needs a validation value, but this training has none. Take it out of the settings."
        )
    values = {**{name: one.data for name, one in trained.items()}, **dict(model.named_buffers())}
    return Watch(config.early_stopping, validate, values)


class Course:
    """A training from its first step, or from where it was killed, to its last."""

    def __init__(
        self, stepper: Stepper, lesson: Lesson, generator: torch.Generator, watch: Watch | None
    ) -> None:
        self.stepper, self.lesson, self.config = stepper, lesson, stepper.config
        self.generator, self.watch = generator, watch
        self.order = Order(lesson.size, self.config.batch_size, generator)
        self.total = step_count(lesson.size, self.config)
        self.done = self.resumed_at = 0
        self.stopped_early = False
        self.fingerprint = self._fingerprint()

    def run(self, saved: Path | None, progress: Progress | None) -> Trained:
        """Make the steps that are left."""
        while not self._is_over():
            self.stepper.step(self.lesson, self.lesson.batch(self.order.take(), self.generator))
            self.done += 1
            if self.watch is not None and self._is_time_to_look():
                self.stopped_early = self.watch.look(self.stepper.model)
            if saved is not None and self._is_time_to_save():
                saving.save(saved, self.state_dict(), self.fingerprint)
            if progress and self.done % PROGRESS_STEPS == 0 and not self._is_over():
                progress(self.done, self.total)
        if progress:
            progress(self.total, self.total)
        return self._end()

    def resume(self, saved: Path) -> None:
        """Go on from the save in the folder, if there is one of this training."""
        state = saving.load(saved, self.fingerprint)
        if state is None:
            return
        self.stepper.load_state_dict(part_of(state, "stepper"))
        self.order.load_state_dict(part_of(state, "order"))
        if self.watch is not None:
            self.watch.load_state_dict(part_of(state, "watch"))
        course = part_of(state, "course")
        self.done = self.resumed_at = int(course["done"])
        self.stopped_early = bool(course["stopped_early"])
        self.generator.set_state(course["generator"])

    def state_dict(self) -> State:
        """All that the rest of the training depends on."""
        course = {
            "done": torch.tensor(self.done),
            "stopped_early": torch.tensor(self.stopped_early),
            "generator": self.generator.get_state(),
        }
        parts = {"course": course, "order": self.order.state_dict(), "stepper": self.stepper.state_dict()}
        return joined(parts | ({} if self.watch is None else {"watch": self.watch.state_dict()}))

    def _is_over(self) -> bool:
        return self.done >= self.total or self.stopped_early

    def _is_time_to_save(self) -> bool:
        every = self.config.save_every
        return every is not None and self.done % every == 0 and self.stepper.team.leads

    def _is_time_to_look(self) -> bool:
        """After each epoch, or so many steps, and at the end."""
        settings = self.config.early_stopping
        every = (settings and settings.every) or _per_epoch(self.lesson.size, self.config)
        return self.done % every == 0 or self.done == self.total

    def _end(self) -> Trained:
        curves = self.stepper.curves
        if self.watch is not None:
            self.watch.restore_best()
        per_epoch = _per_epoch(self.lesson.size, self.config)
        epochs = [curves.loss[at : at + per_epoch] for at in range(0, self.done, per_epoch)]
        losses = [sum(epoch) / len(epoch) for epoch in epochs]
        micro = self.stepper.micro_batch
        return Trained(losses, self.done, curves, micro, self.stopped_early, self.resumed_at)

    def _fingerprint(self) -> str:
        """Of what decides the course: settings, examples, parameters, seed."""
        about = {
            "settings": _plain(self.config),
            "size": self.lesson.size,
            "parameters": {name: list(one.shape) for name, one in self.stepper.trained.items()},
            "seed": self.generator.initial_seed(),
        }
        return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:32]


def _plain(config: TrainingConfig) -> dict[str, object]:
    return {
        name: value for name, value in config.model_dump(mode="json").items() if name not in WITHOUT_EFFECT
    }
