"""Coefficients found on validation data: what is searched in which ranges, and how the next trials are chosen.

The ranges are data, checked against the method's own parameters. The search asks Optuna for settings and tells it how
good each was; what a setting is worth is the caller's business. Optuna is imported when a search is run.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import repeat
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    create_model,
    model_validator,
)

from merge_lib.errors import MethodInputError
from merge_lib.layer_scales import LayerScales
from merge_lib.parameters import Parameter, build_model
from merge_lib.registry import MethodInfo
from merge_lib.types import Seed

Value = float | int | bool | str
Coefficients = dict[str, Value]  # the coefficients of one trial, by name
START = 10  # trials that the sampler "tpe" draws before it learns from them
SCALES = "layer_scales"
BLOCKS = f"{SCALES}.blocks"


class Frozen(BaseModel):
    """Read once, never changed, no unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Range(Frozen):
    """All numbers from low to high, both included; integers where the parameter is one."""

    low: int | float = Field(allow_inf_nan=False)
    high: int | float = Field(allow_inf_nan=False)
    log: bool = False  # drawn evenly on a logarithmic scale

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.low >= self.high:
            raise ValueError(f"`low` is {self.low:g} and `high` {self.high:g}; `low` must be the smaller")
        if self.log and self.low <= 0:
            raise ValueError(f"`low` is {self.low:g}, but a logarithmic scale (`log`) needs it above 0")
        return self


def _form(value: object) -> str:
    return "choices" if isinstance(value, list | tuple) else "range"


Choices = Annotated[tuple[Value, ...], Field(min_length=2)]
Span = Annotated[
    Annotated[Range, Tag("range")] | Annotated[Choices, Tag("choices")],
    Discriminator(_form),
]


class ScaleRanges(Frozen):
    """Which of the factors by depth are searched (`merge_lib.layer_scales`)."""

    shallow: Range | None = None
    slope: Range | None = None
    blocks: Range | None = None  # a factor for each block, each in this range

    @model_validator(mode="after")
    def _either_or(self) -> Self:
        if self.blocks and self.slope:
            raise ValueError("`blocks` and `slope` exclude each other; search one of them")
        if not (self.blocks or self.slope or self.shallow):
            raise ValueError("give a range for at least one of `shallow`, `slope` and `blocks`")
        return self


class Search(Frozen):
    """How the coefficients of one entry are found.

    Attributes:
        trials: settings that are tried; the budget.
        seed: of the sampler; the same for every seed of the study.
        sampler: "tpe", Optuna's tree-structured Parzen estimator, begins with START random trials; "random" draws all.
        objective: what is maximised on the validation split: the mean accuracy over the tasks seen, or the worst.
        when: "last": found once with all experts and used after every task, which looks ahead; "every": found anew
            after every task; "first": found after the second task and used from then on.
        params: a range or a list of choices for each parameter that is searched.
        layer_scales: ranges of factors by depth.
    """

    trials: int = Field(ge=1, le=10_000)
    seed: Seed = 0
    sampler: Literal["tpe", "random"] = "tpe"
    objective: Literal["mean", "worst"] = "mean"
    when: Literal["last", "every", "first"] = "last"
    params: Mapping[str, Span] = Field(default_factory=dict)
    layer_scales: ScaleRanges | None = None

    @model_validator(mode="after")
    def _not_empty(self) -> Self:
        params = (
            self.params if isinstance(self.params, Mapping) else self.params.model_dump(exclude_none=True)
        )
        if not params and self.layer_scales is None:
            raise ValueError("a search needs `params` or `layer_scales` with something to search")
        return self

    def experts_at(self, stage: int, stages: int) -> int:
        """With how many experts the setting is found that is used after a stage, counted from 0."""
        return {"last": stages, "every": stage + 1, "first": min(stage + 1, 2)}[self.when]

    def spans(self, blocks: int) -> dict[str, Range | tuple[Value, ...]]:
        """Everything that is searched, by the name that a setting has it under.

        Args:
            blocks: of the model, each of which has a factor if those are searched.

        Raises:
            MethodInputError: factors of blocks are searched, but the model has none.
        """
        found: dict[str, Range | tuple[Value, ...]] = dict(self.params)
        if self.layer_scales is None:
            return found
        for name in ("shallow", "slope"):
            if (span := getattr(self.layer_scales, name)) is not None:
                found[f"{SCALES}.{name}"] = span
        if self.layer_scales.blocks is not None:
            if not blocks:
                raise MethodInputError(
                    "`search.layer_scales.blocks` needs a model with numbered blocks of one stack (`layers.0.…`), but "
                    "this one has none. Search the method's own scale."
                )
            found |= {f"{BLOCKS}.{block}": self.layer_scales.blocks for block in range(blocks)}
        return found


def search_model(info: MethodInfo) -> type[Search]:
    """The search of one method as a pydantic model: its parameters, each in its own domain."""
    fields: dict[str, Any] = {
        parameter.name: (Annotated[Span, AfterValidator(partial(_check_span, parameter))] | None, None)
        for parameter in info.parameters
    }
    params = create_model(f"{info.name}_ranges", __base__=Frozen, **fields)
    return create_model(
        f"{info.name}_search", __base__=Search, params=(params, Field(default_factory=params))
    )


def check_search(info: MethodInfo, given: object) -> Search:
    """The validated search of one method.

    Raises:
        ValidationError: of the model that `search_model` gives; it holds every fault.
    """
    checked = search_model(info).model_validate(given)
    return Search.model_validate(checked.model_dump(exclude_none=True))


def _check_span(parameter: Parameter, span: Range | tuple[Value, ...]) -> Range | tuple[Value, ...]:
    """Refuse what lies outside of the parameter's domain."""
    if parameter.name == "task":
        raise ValueError("`task` says whose model is given, so it cannot be searched; leave it out")
    values: Sequence[Value] = (span.low, span.high) if isinstance(span, Range) else span
    if isinstance(span, Range) and (parameter.choices or parameter.kind not in ("number", "integer")):
        raise ValueError(f"a range needs a number; give a list of choices, each {parameter.domain}")
    wrong = [value for value in values if not _fits(parameter, value)]
    if wrong:
        got = " and ".join(repr(value) for value in wrong)
        raise ValueError(f"got {got}, but each value must be {parameter.domain}")
    return span


def _fits(parameter: Parameter, value: Value) -> bool:
    try:
        build_model("one", (parameter,)).model_validate({parameter.name: value})
    except ValidationError:
        return False
    return True


def settled_scales(fixed: Mapping[str, Any] | None, setting: Coefficients) -> dict[str, Any] | None:
    """The factors by depth of one trial: what is fixed, and what the setting says.

    Args:
        fixed: the entry's own `layer_scales`, as plain values.
        setting: of the trial; names that are no factors count for nothing.
    """
    searched = {
        name.removeprefix(f"{SCALES}."): value for name, value in setting.items() if name.startswith(SCALES)
    }
    if not searched:
        return None if fixed is None else dict(fixed)
    count = sum(name.startswith("blocks.") for name in searched)
    plain = {name: value for name, value in searched.items() if not name.startswith("blocks.")}
    kept = {name: value for name, value in (fixed or {}).items() if name == "shallow" or value}
    if count:
        shallow = kept.get("shallow", 1.0)
        blocks = [searched[f"blocks.{block}"] for block in range(count)]
        kept = {"shallow": 1.0 if shallow == "auto" else shallow, "blocks": blocks}
    return LayerScales.model_validate({**kept, **plain}).model_dump(mode="json")


def own_setting(
    spans: Mapping[str, Range | tuple[Value, ...]],
    params: Mapping[str, Any],
    scales: Mapping[str, Any] | None,
) -> Coefficients | None:
    """The setting that the entry has without a search, if all of it lies in the ranges.

    Without factors by depth of its own, each block's is 1; a slope has none, as its `shallow` then is another.
    """
    blocks = (scales or {}).get("blocks") or repeat(1.0 if scales is None else None, len(spans))
    factors = {f"{SCALES}.{name}": value for name, value in (scales or {}).items()}
    factors |= {f"{BLOCKS}.{block}": value for block, value in enumerate(blocks)}
    own = {name: {**factors, **params}.get(name) for name in spans}
    return own if all(_lies_in(span, own[name]) for name, span in spans.items()) else None


def _lies_in(span: Range | tuple[Value, ...], value: Any) -> bool:
    if isinstance(span, Range):
        return isinstance(value, int | float) and span.low <= value <= span.high
    return value in span


@dataclass(frozen=True)
class Trial:
    """One setting and what it was worth."""

    setting: Coefficients
    objective: float


def run_search(
    search: Search,
    spans: Mapping[str, Range | tuple[Value, ...]],
    evaluate: Callable[[Sequence[Coefficients]], Sequence[float]],
    *,
    integers: frozenset[str] = frozenset(),
    first: Coefficients | None = None,
) -> tuple[Trial, ...]:
    """Try as many settings as the budget allows.

    The same search with the same values gives the same trials, so one that was stopped is repeated with the values
    that are known. Trials that do not depend on one another come in one batch.

    Args:
        search: budget, seed and sampler.
        spans: what is searched.
        evaluate: the objective of each setting of a batch, larger is better.
        integers: names in `spans` whose ranges hold integers.
        first: a setting to begin with, such as the method's own.

    Returns:
        The trials in their order.

    Raises:
        MethodInputError: an objective is not finite.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(sampler=_sampler(search), direction="maximize")
    if first is not None:
        study.enqueue_trial(first)
    distributions = {name: _distribution(span, is_integer=name in integers) for name, span in spans.items()}
    trials: list[Trial] = []
    while len(trials) < search.trials:
        asked = [study.ask(distributions) for _ in range(_batch(search, len(trials)))]
        settings = [dict(trial.params) for trial in asked]
        objectives = evaluate(settings)
        for trial, setting, objective in zip(asked, settings, objectives, strict=True):
            if not math.isfinite(objective):
                raise MethodInputError(f"The objective of {setting} is {objective}; it must be finite.")
            study.tell(trial, objective)
            trials.append(Trial(setting, objective))
    return tuple(trials)


def best_of(trials: Sequence[Trial]) -> Trial:
    """The trial with the highest objective; of equals the first."""
    return max(trials, key=lambda trial: trial.objective)


def _batch(search: Search, done: int) -> int:
    """How many trials are chosen before the next result is needed."""
    left = search.trials - done
    if search.sampler == "random":
        return left
    return min(left, START) if done == 0 else 1


def _sampler(search: Search) -> Any:
    from optuna.samplers import RandomSampler, TPESampler

    seed = search.seed % 2**32  # what numpy's generator takes
    return (
        RandomSampler(seed=seed)
        if search.sampler == "random"
        else TPESampler(seed=seed, n_startup_trials=START)
    )


def _distribution(span: Range | tuple[Value, ...], *, is_integer: bool) -> Any:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if not isinstance(span, Range):
        return CategoricalDistribution(span)
    if is_integer:
        return IntDistribution(int(span.low), int(span.high), log=span.log)
    return FloatDistribution(float(span.low), float(span.high), log=span.log)
