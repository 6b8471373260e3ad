"""How much each task is expected to lose under each of several merges, before any of them is evaluated."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from merge_lib.checkpoints import read_state_dict
from merge_lib.errors import MethodInputError, SpecError
from merge_lib.forecast.answers import Asked, Examiner
from merge_lib.forecast.features import Features
from merge_lib.forecast.measuring import Candidate, Measured, measure, task_names
from merge_lib.forecast.model import ForecastModel, Kind, Prediction
from merge_lib.probe import Probe
from merge_lib.streaming.in_memory import merge_in_turn
from merge_lib.types import StateDict

MEMORY_BYTES = 1 << 30  # of merges at once, where inputs are shown to them


@dataclass(frozen=True)
class Expectation:
    """What is expected of one merge.

    Attributes:
        tasks: the prediction of each task, in expert order; empty where the method refused.
        refusal: why it cannot merge these experts.
    """

    label: str
    method: str
    tasks: Mapping[str, Prediction] = field(default_factory=dict)
    refusal: str = ""

    @property
    def mean(self) -> float:
        """The expected loss, mean over tasks, in points."""
        return sum(one.loss for one in self.tasks.values()) / len(self.tasks)

    @property
    def worst(self) -> str:
        """The task that is expected to lose most."""
        return max(self.tasks, key=lambda task: self.tasks[task].loss)


@dataclass(frozen=True)
class Forecast:
    """What is expected of several merges of the same experts.

    Attributes:
        kind: whether weights alone were looked at, or inputs, too.
        expectations: from the least expected loss to the greatest, then those that were refused.
        outside: for each feature beyond the table's range, for how many merges and tasks it is.
        model: what the prediction comes from.
    """

    kind: Kind
    tasks: tuple[str, ...]
    expectations: tuple[Expectation, ...]
    outside: Mapping[str, int]
    model: ForecastModel

    @property
    def rows(self) -> int:
        """How many merges and tasks are predicted."""
        return sum(len(one.tasks) for one in self.expectations)


def forecast(
    candidates: Sequence[Candidate],
    *,
    tasks: Sequence[str] = (),
    probe: Probe | None = None,
    asked: Asked = Asked(),  # noqa: B008 -- frozen
    model: ForecastModel | None = None,
    progress: Callable[[int], None] = lambda _bytes: None,
) -> Forecast:
    """Measure the merges, and predict from their features what each task loses.

    Args:
        candidates: merges of the same base and experts.
        tasks: a name for each expert; none: from the file names. With a probe they are the probe's tasks.
        probe: shows unlabelled inputs of each task to base, experts and merges; then each merge is made in memory.
        asked: which inputs.
        model: None: the package's own.
        progress: told the bytes of each tensor that is read for the weights' features.

    Raises:
        SpecError: base or experts differ, or the numbers of tasks and experts.
        CheckpointError: a checkpoint is missing or damaged, or does not match the others.
        DataError: a task has no inputs.
    """
    model = ForecastModel.load() if model is None else model
    kind: Kind = "weights" if probe is None else "inputs"
    measured = measure(candidates, progress=progress)
    names = _named(candidates[0], tasks)
    if probe is not None:
        measured = list(_examined(candidates, measured, probe, names, asked))
    found = [_expect(one, names, model, kind) for one in measured]
    made = sorted((one for one in found if one.tasks), key=lambda one: (one.mean, one.label))
    refused = [one for one in found if not one.tasks]
    return Forecast(kind, tuple(names), (*made, *refused), _outside(made), model)


def _named(candidate: Candidate, tasks: Sequence[str]) -> list[str]:
    experts = candidate.spec.experts
    if tasks and len(tasks) != len(experts):
        raise SpecError(
            f"{len(tasks)} tasks were named for {len(experts)} experts. Name one for each expert, in order."
        )
    names = list(tasks) or task_names(experts)
    if len(set(names)) < len(names):
        raise SpecError(f"Two experts have one task: {', '.join(names)}. Name each task once.")
    return names


def _expect(measured: Measured, tasks: Sequence[str], model: ForecastModel, kind: Kind) -> Expectation:
    if measured.refusal:
        return Expectation(measured.label, measured.method, refusal=measured.refusal)
    predicted = model.of(kind).predict(measured.rows)
    return Expectation(measured.label, measured.method, dict(zip(tasks, predicted, strict=True)))


def _outside(expectations: Sequence[Expectation]) -> dict[str, int]:
    """How often each feature lies outside, the most frequent first."""
    counts: dict[str, int] = {}
    for one in expectations:
        for prediction in one.tasks.values():
            for name in prediction.outside:
                counts[name] = counts.get(name, 0) + 1
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def _examined(
    candidates: Sequence[Candidate],
    measured: Sequence[Measured],
    probe: Probe,
    tasks: Sequence[str],
    asked: Asked,
) -> Iterator[Measured]:
    """The same with features of inputs."""
    spec = candidates[0].spec
    base, *experts = (read_state_dict(path, base=spec.base) for path in (spec.base, *spec.experts))  # type: ignore[arg-type]
    examiner = Examiner(probe, tasks, base, experts, asked)
    for candidate, one in zip(candidates, measured, strict=True):
        if one.refusal:
            yield one
            continue
        try:
            found = examiner.examine(_models(candidate, base))
        except MethodInputError as refused:
            yield Measured(one.label, one.method, refusal=str(refused))
            continue
        yield Measured(one.label, one.method, _joined(one.rows, found))


def _models(candidate: Candidate, base: StateDict) -> list[StateDict]:
    """The merge whole, or the model of each task."""
    if candidate.made is not None:
        floating = [name for name, tensor in base.items() if tensor.is_floating_point()]
        return [{**base, **{name: candidate.made(name) for name in floating}}]
    return [merged.tensors for merged in merge_in_turn(candidate.models, memory_bytes=MEMORY_BYTES)]


def _joined(rows: Sequence[Features], more: Sequence[Features]) -> tuple[Features, ...]:
    return tuple({**row, **added} for row, added in zip(rows, more, strict=True))
