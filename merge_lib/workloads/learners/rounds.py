"""Training in rounds of two learners; what they say of each entry, and the fusion, is in `merge_lib.recurrent`."""

import hashlib
import json
import math
from dataclasses import asdict

import torch
from torch import Tensor, nn

from merge_lib.errors import SpecError
from merge_lib.recurrent import (
    CellCounts,
    FusionReport,
    ReplayItem,
    begin_task,
    flatten_rounds,
    fuse,
    observe,
    replay_batch,
    restore_rounds,
)
from merge_lib.workloads.learners.classroom import Classroom, Course, Learned
from merge_lib.workloads.learners.recurrent_kif import RecurrentKif
from merge_lib.workloads.training import saving
from merge_lib.workloads.training.config import EarlyStopping
from merge_lib.workloads.training.lessons import Lesson
from merge_lib.workloads.training.loop import PROGRESS_STEPS, Trained, step_count
from merge_lib.workloads.training.order import Order
from merge_lib.workloads.training.states import State, copy_into, joined, part_of
from merge_lib.workloads.training.stepping import Stepper
from merge_lib.workloads.training.stopping import Watch

NEVER = EarlyStopping(patience=2**31)  # the best is kept, but no training ends early


def learn(room: Classroom, course: Course, settings: RecurrentKif) -> Learned:
    """Train in rounds, from the first step or from the last save, and keep the parameters that were selected."""
    if room.config.early_stopping is not None:
        raise SpecError(
            "'recurrent_kif' selects its parameters by `select_every`; `early_stopping` does not go with it. Take it "
            "out of the workload's settings."
        )
    own, memory = course.own(room), course.memory(room, settings)
    steps = step_count(len(own), room.config)
    generator = torch.Generator().manual_seed(course.seed)
    with Stepper(room.model, room.trained, room.config, steps=steps, generator=generator) as stepper:
        training = RoundTraining(room, course, settings, stepper, generator, own, memory)
        training.resume()
        return training.run()


class RoundTraining:
    """One task in rounds.

    Args:
        room: model and examples.
        course: the task.
        settings: of the rounds, the memory and the selection.
        stepper: the one optimiser of both learners.
        generator: of the order and of augmentation.
        own: the task's examples.
        memory: those of earlier tasks.
    """

    def __init__(
        self,
        room: Classroom,
        course: Course,
        settings: RecurrentKif,
        stepper: Stepper,
        generator: torch.Generator,
        own: tuple[ReplayItem, ...],
        memory: tuple[ReplayItem, ...],
    ) -> None:
        self.course, self.settings, self.recurrence = course, settings, settings.recurrence
        self.stepper, self.generator, self.memory = stepper, generator, memory
        self.config = room.config
        self.own_lesson, self.memory_lesson = room.lesson(own), room.lesson(memory)
        self.order = Order(len(own), self.config.batch_size, generator)
        self.values = {name: one.data for name, one in stepper.trained.items()}
        self.rounds = begin_task(self.values)
        self.fusions: list[FusionReport] = []
        self.inner_losses: list[float] = []
        self.total = step_count(len(own), self.config)
        self.per_epoch = math.ceil(len(own) / self.config.batch_size)
        self.resumed_at = self.looked_at = 0
        self.watch = self._watch(room) if settings.held_out else None
        self.fingerprint = self._fingerprint()

    @property
    def done(self) -> int:
        """Steps of the inner learner."""
        return len(self.inner_losses)

    def run(self) -> Learned:
        """Make the steps and fusions that are left."""
        while self.done < self.total or self.rounds.phase(self.recurrence) != "inner":
            self._advance()
            self._look()
            self._save()
            if self.course.progress and (self.done % PROGRESS_STEPS == 0 or self.done == self.total):
                self.course.progress(self.done, self.total)
        if self.watch is not None:
            self.watch.restore_best()
        return Learned(self._trained(), self.memory, tuple(self.fusions))

    def _advance(self) -> None:
        """One step of the learner whose turn it is, or a fusion."""
        phase = self.rounds.phase(self.recurrence)
        if phase == "fusion":
            fused = fuse(self.rounds, self.values, self.recurrence)
            copy_into(self.values, fused.parameters)
            self.rounds = fused.rounds
            self.fusions.append(fused.report)
        elif phase == "inner":
            self.inner_losses.append(self._step(self.own_lesson, self.order.take(), is_inner=True))
        else:
            size = self.settings.outer_batch or self.config.batch_size
            places = replay_batch(len(self.memory), size, step=self.rounds.outer.steps, seed=self.course.seed)
            self._step(self.memory_lesson, torch.tensor(places), is_inner=False)

    def _step(self, lesson: Lesson, rows: Tensor, *, is_inner: bool) -> float:
        """One step of the optimiser, and what it says of every entry; its loss."""
        batch = lesson.batch(rows, self.generator)
        made = self.stepper.step(lesson, batch, moves_schedule=is_inner)
        found = self.stepper.gradients()
        gradients = {
            name: found[name] if name in found else torch.zeros_like(one) for name, one in self.values.items()
        }
        self.rounds = observe(self.rounds, self.values, gradients, self.recurrence)
        return made.loss

    def _look(self) -> None:
        """At the development loss, where it is time and no round is half outer."""
        if self.watch is None or self.done == self.looked_at:
            return
        if self.rounds.phase(self.recurrence) != "inner":
            return
        if self.done % self.settings.select_every == 0 or self.done == self.total:
            self.watch.look(self.stepper.model)
            self.looked_at = self.done

    def _watch(self, room: Classroom) -> Watch:
        tasks = (*self.course.before, self.course.task)
        lessons = [room.held_out(task, self.settings.held_out) for task in tasks]
        return Watch(NEVER, lambda model: -_mean_loss(model, lessons, self.stepper.device), self.values)

    def _trained(self) -> Trained:
        epochs = [self.inner_losses[at : at + self.per_epoch] for at in range(0, self.done, self.per_epoch)]
        losses = [sum(epoch) / len(epoch) for epoch in epochs]
        steps = self.done + self.rounds.outer.steps
        return Trained(
            losses, steps, self.stepper.curves, self.stepper.micro_batch, resumed_at=self.resumed_at
        )

    def resume(self) -> None:
        """Go on from the save of this training, if there is one."""
        state = None if self.course.saved is None else saving.load(self.course.saved, self.fingerprint)
        if state is None:
            return
        self.stepper.load_state_dict(part_of(state, "stepper"))
        self.order.load_state_dict(part_of(state, "order"))
        if self.watch is not None:
            self.watch.load_state_dict(part_of(state, "watch"))
        counts = {name: int(value) for name, value in part_of(state, "count").items()}
        device = self.stepper.device
        self.rounds = restore_rounds(
            counts, {name: one.to(device) for name, one in part_of(state, "rounds").items()}
        )
        self.inner_losses = state["inner_losses"].tolist()
        self.fusions = [_report(row) for row in state["fusions"].tolist()]
        self.resumed_at = self.done
        self.looked_at = int(state["looked_at"])
        self.generator.set_state(state["generator"])

    def state_dict(self) -> State:
        """All that the rest of the training depends on."""
        counts, rounds = flatten_rounds(self.rounds)
        parts = {
            "stepper": self.stepper.state_dict(),
            "order": self.order.state_dict(),
            "count": {name: torch.tensor(value) for name, value in counts.items()},
            "rounds": rounds,
        }
        if self.watch is not None:
            parts["watch"] = self.watch.state_dict()
        return joined(parts) | {
            "inner_losses": torch.tensor(self.inner_losses, dtype=torch.float64),
            "fusions": torch.tensor([_row(one) for one in self.fusions], dtype=torch.float64),
            "looked_at": torch.tensor(self.looked_at),
            "generator": self.generator.get_state(),
        }

    def _save(self) -> None:
        """After every so many steps of both learners."""
        every, made = self.config.save_every, self.done + self.rounds.outer.steps
        if self.course.saved is None or not every or made % every:
            return
        saving.save(self.course.saved, self.state_dict(), self.fingerprint)

    def _fingerprint(self) -> str:
        """Of what decides the course: settings, examples, memory, parameters, seed."""
        about = {
            "config": self.config.model_dump(mode="json", exclude={"save_every"}),
            "settings": self.settings.model_dump(mode="json"),
            "task": self.course.task,
            "size": self.total,
            "memory": [asdict(one) for one in self.memory],
            "parameters": {name: list(one.shape) for name, one in self.values.items()},
            "seed": self.course.seed,
        }
        return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:32]


def _mean_loss(model: nn.Module, lessons: list[Lesson], device: torch.device) -> float:
    """Mean over the lessons of the loss on all their examples."""
    losses = []
    for lesson in lessons:
        batch = lesson.batch(torch.arange(lesson.size), torch.Generator())
        losses.append(float(lesson.loss(model, {name: one.to(device) for name, one in batch.items()})))
    return math.fsum(losses) / len(losses)


def _row(report: FusionReport) -> list[float]:
    """A report as numbers; NaN for what soft weights do not have."""
    told = asdict(report)
    cells = told.pop("cells") or dict.fromkeys(("shared", "new", "historical", "redundant"), math.nan)
    return [math.nan if value is None else float(value) for value in (*told.values(), *cells.values())]


def _report(row: list[float]) -> FusionReport:
    """Undo `_row`."""
    inner, outer, *rest = row
    norms, cells = rest[:3], rest[3:]
    if math.isnan(inner):
        return FusionReport(None, None, None, *norms)
    return FusionReport(inner, outer, CellCounts(*map(int, cells)), *norms)
