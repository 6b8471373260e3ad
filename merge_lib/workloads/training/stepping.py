"""One step after another: loss, gradients, optimiser, within the memory that there is."""

import logging
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from types import TracebackType

import torch
from torch import Tensor, nn

from merge_lib.errors import SpecError, TrainingError
from merge_lib.workloads.training.chance import draws_at_random, seeded
from merge_lib.workloads.training.config import TrainingConfig
from merge_lib.workloads.training.curves import Curves
from merge_lib.workloads.training.devices import device_of, training_device
from merge_lib.workloads.training.lessons import Batch, Lesson
from merge_lib.workloads.training.memory import give_back, is_out_of_memory
from merge_lib.workloads.training.readings import UNREAD, Readings, Step
from merge_lib.workloads.training.schedule import Schedule
from merge_lib.workloads.training.states import (
    State,
    copy_into,
    curves_as_tensors,
    curves_from,
    joined,
    moments_of,
    part_of,
    restore_moments,
)
from merge_lib.workloads.training.team import Team

logger = logging.getLogger(__name__)

LOWER = {"bf16": torch.bfloat16, "fp16": torch.float16}
MOST_SEED = 2**62
CHECKPOINTING = ("activation", "gradient")  # what transformers' models call it, and called it
NO_ROOM_FOR_OPTIMISER = (
    "The optimiser's state does not fit into memory, whatever the micro-batch. Train fewer parameters (LoRA, "
    "`freeze`), or take a device with more memory."
)


class Stepper:
    """A model in training on the training device; `close` brings it back.

    Args:
        model: trained in place.
        trained: names to parameters of the model that change; the others are left as they are.
        config: of optimiser, schedule, precision and memory; neither its length nor `freeze` is looked at.
        steps: along which the schedule goes.
        generator: seeds what the model draws by itself, if it does.

    Attributes:
        micro_batch: examples that are on the device at once; None: the whole batch.
        team: the processes that train together.

    Raises:
        SpecError: the model cannot do what the settings ask for.
    """

    def __init__(
        self,
        model: nn.Module,
        trained: Mapping[str, nn.Parameter],
        config: TrainingConfig,
        *,
        steps: int,
        generator: torch.Generator,
    ) -> None:
        self.model, self.trained, self.config = model, dict(trained), config
        self.device, self._home = training_device(), device_of(model)
        self.micro_batch = config.micro_batch
        self._schedule, self._position = Schedule(config, steps), 0
        self._readings = Readings(config, steps, 1 if self.device.type == "cpu" else UNREAD)
        self.team, self._generator, self._draws = Team.present(), generator, draws_at_random(model)
        self._check_team()
        model.to(self.device).train()
        self._undone = ExitStack()
        if config.gradient_checkpointing:
            self._undone.enter_context(_layers_computed_twice(model))
        self._called = torch.compile(model) if config.compile else model
        self._scaler = torch.amp.GradScaler(self.device.type, enabled=config.precision == "fp16")
        self._optimizer = torch.optim.AdamW(
            list(self.trained.values()),
            lr=config.learning_rate,
            betas=config.betas,
            weight_decay=config.weight_decay,
            fused=True,
        )

    @property
    def curves(self) -> Curves:
        """Loss, learning rate and gradient norm of every step so far."""
        self._readings.settle()
        return self._readings.curves

    def step(self, lesson: Lesson, batch: Batch, *, moves_schedule: bool = True) -> Step:
        """Change the parameters by the gradients of one batch.

        Args:
            lesson: whose loss it is.
            batch: on the CPU, all of it; what is too much at once is computed in parts.
            moves_schedule: the next step has the next learning rate.

        Raises:
            TrainingError: a loss or gradient is not finite, or one example does not fit into memory.
        """
        rate = self._schedule.rate(self._position)
        loss = self.team.add_up(self._find_gradients(lesson, batch))
        self.team.add_up_gradients(list(self.trained.values()))
        made = Step(loss, self._update(rate), rate)
        self._position += int(moves_schedule)
        self._readings.add(made)
        return made

    def gradients(self) -> dict[str, Tensor]:
        """Those of the last step, clipped; to be read before the next one."""
        return {name: one.grad for name, one in self.trained.items() if one.grad is not None}

    def close(self) -> None:
        """Bring the model back to where it was."""
        self._undone.close()
        self.model.to(self._home)

    def __enter__(self) -> "Stepper":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def state_dict(self) -> State:
        """All that the next step depends on, but for the generator."""
        curves = self.curves
        counts = {
            "position": self._position,
            "micro_batch": self.micro_batch or 0,
            "skipped": self._readings.skipped,
        }
        parts = {
            "count": {name: torch.tensor(value) for name, value in counts.items()},
            "curve": curves_as_tensors(curves),
            "scaler": {name: torch.tensor(value) for name, value in self._scaler.state_dict().items()},
            "moment": moments_of(self._optimizer, self.trained),
            "parameter": {name: one.detach() for name, one in self.trained.items()},
            "buffer": dict(self.model.named_buffers()),
        }
        return joined(parts)

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on from there."""
        counts = {name: int(value) for name, value in part_of(state, "count").items()}
        self._position, self._readings.skipped = counts["position"], counts["skipped"]
        self.micro_batch = counts["micro_batch"] or None
        self._readings.curves = curves_from(part_of(state, "curve"))
        if scaler := part_of(state, "scaler"):
            self._scaler.load_state_dict({name: value.item() for name, value in scaler.items()})
        restore_moments(self._optimizer, self.trained, part_of(state, "moment"))
        copy_into({name: one.data for name, one in self.trained.items()}, part_of(state, "parameter"))
        copy_into(dict(self.model.named_buffers()), part_of(state, "buffer"))

    def _check_team(self) -> None:
        """Refuse to train with fewer processes than asked for."""
        if self.team.size != self.config.devices:
            raise SpecError(
                f"`devices` is {self.config.devices}, but {self.team.size} process trains here. Set it to 1, or let a "
                "study's base or experts be trained, which starts the others."
            )

    def _update(self, rate: float) -> Tensor:
        """One step of the optimiser; the norm of the gradients before they were clipped."""
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        self._scaler.unscale_(self._optimizer)
        norm = nn.utils.clip_grad_norm_(list(self.trained.values()), self.config.max_grad_norm)
        try:
            self._scaler.step(self._optimizer)
        except (RuntimeError, MemoryError) as failure:
            if not is_out_of_memory(failure):
                raise
            raise TrainingError(f"{NO_ROOM_FOR_OPTIMISER} ({_first_line(failure)})") from failure
        self._scaler.update()
        return norm.detach()

    def _find_gradients(self, lesson: Lesson, batch: Batch) -> Tensor:
        """The batch's loss; its gradients lie in the parameters. What does not fit is tried again in smaller parts."""
        seed = int(torch.randint(MOST_SEED, (), generator=self._generator)) if self._draws else None
        seed = None if seed is None else seed + self.team.place
        while True:
            with nullcontext() if seed is None else seeded(seed, self.device):
                try:
                    return self._accumulate(lesson, batch)
                except (RuntimeError, MemoryError) as failure:
                    if not is_out_of_memory(failure):
                        raise
                    self._take_less(_size(self.team.share(batch)), failure)
            self._optimizer.zero_grad()
            give_back(self.device)

    def _accumulate(self, lesson: Lesson, batch: Batch) -> Tensor:
        """Gradients of the mean over the batch's units, from parts of at most `micro_batch` examples."""
        self._optimizer.zero_grad()
        own = self.team.share(batch)
        most = self.micro_batch or max(_size(own), 1)
        if self.team.size == 1 and most >= _size(batch):
            return self._backward(lesson, batch, 1.0)
        starts = range(0, _size(own), most)
        parts = ({name: one[start : start + most] for name, one in own.items()} for start in starts)
        units = lesson.units(batch)
        losses = [self._backward(lesson, part, n / units) for part in parts if (n := lesson.units(part)) > 0]
        return torch.stack(losses).sum() if losses else torch.zeros((), device=self.device)

    def _backward(self, lesson: Lesson, part: Batch, share: float) -> Tensor:
        """The loss of a part as its share in the batch's; its gradients are added to those that are there."""
        on_device = {name: one.to(self.device, non_blocking=True) for name, one in part.items()}
        with self._precision():
            loss = lesson.loss(self._called, on_device)
        loss = loss if share == 1.0 else loss * share
        self._scaler.scale(loss).backward()
        return loss.detach()

    def _precision(self) -> AbstractContextManager[object]:
        """Where the forward pass is computed in 16 bits, if it is."""
        lower = LOWER.get(self.config.precision)
        return nullcontext() if lower is None else torch.autocast(self.device.type, dtype=lower)

    def _take_less(self, size: int, failure: BaseException) -> None:
        """Halve the micro-batch.

        Raises:
            TrainingError: it is one example already.
        """
        now = min(self.micro_batch or size, size)
        if now == 1:
            raise TrainingError(
                f"One example does not fit into the memory of {self.device} ({_first_line(failure)}). Take "
                "`gradient_checkpointing: true`, `precision: bf16`, a smaller model or LoRA, or a device with more "
                "memory."
            ) from failure
        self.micro_batch = now // 2
        logger.warning(
            "%d examples at once do not fit into the memory of %s; going on with %d, the batch stays %d.",
            *(now, self.device, self.micro_batch, size),
        )


def _size(batch: Batch) -> int:
    """How many examples a batch has."""
    return len(next(iter(batch.values())))


def _first_line(failure: BaseException) -> str:
    return str(failure).strip().split("\n", maxsplit=1)[0]


@contextmanager
def _layers_computed_twice(model: nn.Module) -> Iterator[None]:
    """Turn gradient checkpointing on, and off again.

    Raises:
        SpecError: the model has none.
    """
    word = next((word for word in CHECKPOINTING if hasattr(model, f"{word}_checkpointing_enable")), None)
    if word is None:
        raise SpecError(
            f"`gradient_checkpointing` is true, but a {type(model).__name__} cannot compute its layers twice. Take "
            "it out, or lower `micro_batch`."
        )
    config = getattr(model, "config", None)
    used = getattr(config, "use_cache", None)
    if config is not None and used:
        config.use_cache = False  # of keys and values: only generation has a use for it
    enable = getattr(model, f"{word}_checkpointing_enable")
    enable(**{f"{word}_checkpointing_kwargs": {"use_reentrant": False}})
    try:
        yield
    finally:
        getattr(model, f"{word}_checkpointing_disable")()
        if config is not None and used:
            config.use_cache = used
