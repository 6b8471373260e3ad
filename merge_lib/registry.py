"""Which merge methods exist, what they declare, and where their functions are.

A method declares itself with `@merge_method`. What its function receives is read from the names of its
positional arguments: `experts` or `task_vectors` (stacked, [n, *shape]); `base`; `layer`, what is known of the
tensor without its values; `statistics`, for methods that look at the whole model first; `observed`, what
calibration data showed of the layer; `fitted`, what was learned for the tensor before the merge. Its
keyword-only arguments are its parameters; `generator` and `trail` are filled in by the engine. Listing methods
and checking parameters does not import torch (see `merge_lib.catalogue`).
"""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from importlib import import_module
from typing import Any, Literal, Self

from pydantic import BaseModel

from merge_lib.errors import SpecError, UnknownMethodError, suggest
from merge_lib.looks import Look
from merge_lib.parameters import Parameter, build_model, check_params, describe_arguments, read_parameter
from merge_lib.signatures import check_data, check_positional, check_scope, split_signature
from merge_lib.types import Data
from merge_lib.working_set import WorkingSet

Scope = Literal["tensor", "model"]
Receives = Literal["experts", "task_vectors"]
WorksOn = Literal["entry", "row", "tensor"]
Observation = Literal["features", "gram", "fisher"]

_FILLED_IN = ("generator", "trail", "seed", "progress")  # keywords that the engine gives


@dataclass(frozen=True)
class ModelStatistics:
    """How a method with scope "model" looks at every tensor before it merges the first.

    The state that travels through is frozen and has a boolean `complete`. `begin(count, dtype, **params)`
    makes it for `count` experts; while it is not complete, every tensor is folded in by
    `fold(state, tensors, layer)` and the pass is ended by `close(state)`. A state that is complete from the
    beginning costs no pass. Where `join` is given, several threads fold: each begins from the state at the start of
    the pass, and `join(state, other)` puts together what two of them have seen. `looks` says beforehand how many
    passes there will be.
    """

    begin: Callable[..., Any]
    fold: Callable[[Any, Any, Any], Any]
    close: Callable[[Any], Any]
    join: Callable[[Any, Any], Any] | None = None
    looks: tuple[Look, ...] = (Look(),)


@dataclass(frozen=True)
class SharedState:
    """What a continual method with scope "model" keeps of the whole model, beside each tensor's state.

    The step of such a method is `step(state, task_vector, shared, …) -> (State, addends)`, where `addends` is a
    float64 vector that is summed over all tensors. `begin()` makes the shared state before the first expert, a
    frozen dataclass of plain values; `settle(shared, sums)` ends a step of all tensors; and
    `read(state, shared, *, …)` is the merged tensor, or task vector, at any time. Keyword-only arguments of
    `read` are parameters of the method, too.
    """

    begin: Callable[[], Any]
    settle: Callable[[Any, Any], Any]
    read: Callable[..., Any]


@dataclass(frozen=True)
class Implementation:
    """The functions of a method, once its module is imported."""

    merge: Callable[..., Any] | None = None
    statistics: ModelStatistics | None = None
    init: Callable[..., Any] | None = None
    step: Callable[..., Any] | None = None
    shared: SharedState | None = None
    fit: Callable[..., Any] | None = None
    takes: tuple[str, ...] = ()  # names of the positional arguments of merge or step
    filled_in: tuple[str, ...] = ()  # names of the keywords that the engine gives


@dataclass(frozen=True)
class MethodInfo:
    """What a method declares about itself."""

    name: str
    title: str
    paper: str
    kind: Literal["batch", "continual"]  # all experts at once, or folded in as they arrive
    scope: Scope
    receives: Receives
    needs_base: bool
    order_free: bool
    randomised: bool
    works_on: WorksOn  # the least that the function can be given of a tensor: any part, whole rows, all of it
    whole_where: dict[str, Any]  # values of parameters with which it needs all of a tensor nevertheless
    working_set: WorkingSet  # what it takes of memory beside its arguments
    looks: tuple[Look, ...]  # what it asks the whole model before it merges
    data: Data  # what it needs beside weights
    observation: Observation | None  # what calibration must have collected
    module: str
    summary: str
    parameters: tuple[Parameter, ...] = field(default=())

    @property
    def is_fitted(self) -> bool:
        """It learns from data before the merge."""
        return self.data != "none" and self.observation is None

    @property
    def decodes(self) -> bool:
        """It gives a model for each task rather than one; the parameter `task` says which."""
        return any(parameter.name == "task" for parameter in self.parameters)

    def needs_of(self, params: Mapping[str, Any]) -> WorksOn:
        """The least of a tensor that the function can be given with these parameters."""
        is_whole = any(params.get(name) == value for name, value in self.whole_where.items())
        return "tensor" if is_whole else self.works_on

    def passes_before(self, params: Mapping[str, Any], bits: int) -> int:
        """Passes over all tensors before the one that merges, in arithmetic of so many bits."""
        return sum(look.passes(params, bits) for look in self.looks)

    @cached_property
    def params_model(self) -> type[BaseModel]:
        """The pydantic model of the parameters: extra forbidden, ranges checked."""
        return build_model(self.name, self.parameters)

    @property
    def implementation(self) -> Implementation:
        """The functions; imports the method's module, and with it torch."""
        if self.name not in _implementations:
            import_module(self.module)
        return _implementations[self.name]

    def check_params(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """The parameters with all defaults.

        Raises:
            SpecError: lists every unknown, missing or wrong parameter.
        """
        return check_params(self.name, self.params_model, self.parameters, params)

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Self:
        """The inverse of `to_dict`."""
        parameters = tuple(Parameter.from_dict(parameter) for parameter in fields["parameters"])
        working_set = WorkingSet.from_dict(fields["working_set"])
        looks = tuple(Look.from_dict(look) for look in fields["looks"])
        return cls(**{**fields, "parameters": parameters, "working_set": working_set, "looks": looks})

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        plain = {key: value for key, value in vars(self).items() if key in self.__dataclass_fields__}
        parameters = [parameter.to_dict() for parameter in self.parameters]
        looks = [look.to_dict() for look in self.looks]
        return {**plain, "parameters": parameters, "working_set": self.working_set.to_dict(), "looks": looks}


declared: dict[str, MethodInfo] = {}
_implementations: dict[str, Implementation] = {}


def merge_method(  # noqa: PLR0913 -- a declaration: each is one fact
    *,
    name: str,
    title: str,
    paper: str,
    needs_base: bool,
    order_free: bool,
    scope: Scope = "tensor",
    works_on: WorksOn = "entry",
    whole_where: Mapping[str, Any] | None = None,
    working_set: WorkingSet = WorkingSet(),  # noqa: B008 -- frozen
    data: Data = "none",
    observation: Observation | None = None,
    statistics: ModelStatistics | None = None,
    init: Callable[..., Any] | None = None,
    shared: SharedState | None = None,
    fit: Callable[..., Any] | None = None,
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Declare the decorated function as a merge method.

    The function is a method that merges all experts at once, or, where `init` is given, the `step` of a
    method that folds experts in as they arrive: `init(base) -> State` and
    `step(state, expert or task_vector, *, …) -> (merged, State)`. A function that receives task vectors
    returns a merged task vector, to which the engine adds the base; one that receives experts returns the
    merged weights.

    Args:
        name: what a spec calls it.
        title: what a report calls it.
        paper: link to the paper that defines it.
        needs_base: cannot be computed without the base.
        order_free: the order of the experts changes nothing beyond rounding.
        scope: "model" where one tensor's result depends on the others; then `statistics` is given, or
            `shared` by a continual method.
        works_on: the least that the function can be given of a tensor: any part of it, whole rows of the first
            axis (a vector is one row), or all of it.
        whole_where: values of parameters with which it needs all of a tensor, whatever `works_on` says.
        working_set: how much memory the function takes, at its peak, as a test measures it.
        data: what it needs beside weights; "test inputs" marks a method that looks at what it is judged by.
        observation: what `merge_lib.calibration` must have collected, for a function that takes `observed`.
        statistics: the pass over the whole model that comes first.
        init: makes the state of a continual method before the first expert.
        shared: what a continual method keeps of the whole model.
        fit: learns from data before the merge what the function takes as `fitted`:
            `fit(probe, tasks, base, experts, *, …) -> dict` of tensors by tensor name, from state dicts and the
            task of each expert. Its keywords are parameters of the method, too; `seed` and `progress` are given.

    Returns:
        A decorator that returns the function unchanged.

    Raises:
        SpecError: the name is taken, or the signature is not that of a method.
    """

    def declare(function: Callable[..., Any]) -> Callable[..., Any]:
        takes, keywords = split_signature(function, name)
        check_positional(name, takes, continual=init is not None)
        check_scope(name, takes, scope=scope, whole=statistics if init is None else shared)
        check_data(name, takes, data=data, observation=observation, fit=fit)
        texts = describe_arguments(function)
        filled_in = tuple(key for key in _FILLED_IN if key in keywords)
        for other in (shared and shared.read, fit):
            if other is not None:
                keywords = {**split_signature(other, name)[1], **keywords}
                texts = {**describe_arguments(other), **texts}
        info = MethodInfo(
            name=name,
            title=title,
            paper=paper,
            kind="batch" if init is None else "continual",
            scope=scope,
            receives="task_vectors" if {"task_vectors", "task_vector"} & set(takes) else "experts",
            needs_base=needs_base,
            order_free=order_free,
            randomised="generator" in keywords,
            works_on=works_on,
            whole_where=dict(whole_where or {}),
            working_set=working_set,
            looks=_looks(statistics, shared),
            data=data,
            observation=observation,
            module=function.__module__,
            summary=inspect.cleandoc(function.__doc__ or "").partition("\n")[0],
            parameters=tuple(
                read_parameter(parameter, name, texts.get(key, ""))
                for key, parameter in keywords.items()
                if key not in _FILLED_IN
            ),
        )
        _check_name_is_free(info)
        declared[name] = info
        _implementations[name] = (
            Implementation(merge=function, statistics=statistics, fit=fit, takes=takes, filled_in=filled_in)
            if init is None
            else Implementation(init=init, step=function, shared=shared, takes=takes, filled_in=filled_in)
        )
        return function

    return declare


def _looks(statistics: ModelStatistics | None, shared: SharedState | None) -> tuple[Look, ...]:
    """What is asked of the whole model first; to fold in all experts takes one pass."""
    if statistics is not None:
        return statistics.looks
    return () if shared is None else (Look(),)


def _check_name_is_free(info: MethodInfo) -> None:
    """Refuse a second method of the same name; the same module may be imported or run again."""
    earlier = declared.get(info.name)
    if earlier is not None and earlier.module != info.module:
        raise SpecError(
            f"Two methods are called '{info.name}': one in {earlier.module}, one in {info.module}. "
            "Rename one."
        )


def get(name: str) -> MethodInfo:
    """The method of that name.

    Raises:
        UnknownMethodError: there is none; the message holds the nearest and all names.
    """
    known = _known()
    if name not in known:
        raise UnknownMethodError(f"There is no merge method '{name}': {suggest(name, known)}.")
    return known[name]


def names() -> tuple[str, ...]:
    """Names of all methods, sorted."""
    return tuple(sorted(_known()))


def methods() -> tuple[MethodInfo, ...]:
    """All methods, sorted by name."""
    known = _known()
    return tuple(known[name] for name in sorted(known))


def _known() -> dict[str, MethodInfo]:
    """The methods of the package and those declared elsewhere in this process."""
    from merge_lib.catalogue import builtin_methods

    return {**builtin_methods(), **declared}
