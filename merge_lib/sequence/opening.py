"""Opening what a fold reads, and refusing what cannot be folded: all problems in one error."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from merge_lib import registry
from merge_lib.arithmetic import accepted
from merge_lib.compatibility import check_compatible, match_excluded
from merge_lib.engine import DigestedCheckpoint, check_paths, job_of, open_digested
from merge_lib.errors import MergeError, SpecError
from merge_lib.plan import Job, Plan
from merge_lib.registry import MethodInfo
from merge_lib.spec import MergeSpec
from merge_lib.states import DescribedExperts, Recipe, StateFile, check_same_base, check_same_recipe


@dataclass(frozen=True)
class Opened:
    """All that a fold reads, open and checked as far as headers tell."""

    spec: MergeSpec
    base: DigestedCheckpoint | None
    experts: tuple[DigestedCheckpoint, ...]
    earlier: StateFile | None
    plan: Plan
    recipe: Recipe

    @property
    def before(self) -> tuple[str, ...]:
        """Digests of the experts that are folded in already."""
        return () if self.earlier is None else self.earlier.history.experts


@contextmanager
def opened_fold(spec: MergeSpec, state: Path, earlier: Path | None, out: Path | None) -> Iterator[Opened]:
    """Open and check everything; all problems in one error."""
    info = registry.get(spec.method)
    _check_request(info, spec, state, earlier, out)
    with ExitStack() as stack:
        base = open_digested(stack, spec.base)
        experts = tuple(open_digested(stack, path, spec.base) for path in spec.experts)
        file = None if earlier is None else stack.enter_context(StateFile(earlier))
        plan = Plan([job_of(spec, spec.experts)], base, experts)  # type: ignore[arg-type]
        opened = Opened(spec, base, experts, file, plan, _recipe(spec, info, plan))  # type: ignore[arg-type]
        if file is not None:
            _check_all(_goes_on(opened, file))
        yield opened


def _check_request(
    info: MethodInfo, spec: MergeSpec, state: Path, earlier: Path | None, out: Path | None
) -> None:
    """Refuse what no header need be read for."""
    if info.kind != "continual":
        known = ", ".join(one.name for one in registry.methods() if one.kind == "continual")
        raise SpecError(
            f"Method '{info.name}' merges all experts at once and keeps no state. Take a continual one: {known}."
        )
    around = [word for word in ("layer_scales", "equalise") if getattr(spec, word) is not None]
    if around:
        raise SpecError(
            f"`{'`, `'.join(around)}` needs all experts at once, but a state takes them one after another. "
            "Leave it out, or merge the experts without a state."
        )
    outs = [state] if out is None else [state, out]
    check_paths([spec] * len(outs), outs)
    if out is not None and earlier is not None and out.resolve() == earlier.resolve():
        raise SpecError(f"The merge would replace the state {earlier}. Give it a path of its own.")


def _goes_on(opened: Opened, file: StateFile) -> Sequence[Callable[[], None]]:
    """What must hold for a sequence to go on."""
    spec, told = opened.spec, DescribedExperts(str(file.path), file.history)
    excluded = match_excluded(spec.exclude, sorted({*opened.plan.names, *told.names}))
    recorded = None if opened.base is None else opened.base.recorded_digest or file.history.base
    return (
        lambda: check_same_recipe(file, opened.recipe),
        lambda: check_same_base(file.path, file.history.base, recorded),
        lambda: check_compatible(
            None, [told, *opened.experts], excluded, dtype_is_stated=spec.dtype is not None
        ),  # type: ignore[list-item]
    )


def _check_all(checks: Sequence[Callable[[], None]]) -> None:
    """Run all checks; raise what they found as one error, of the first one's kind."""
    found = []
    for check in checks:
        try:
            check()
        except MergeError as exc:
            found.append(exc)
    if found:
        raise type(found[0])("\n".join(str(exc) for exc in found)) from found[0]


def _recipe(spec: MergeSpec, info: MethodInfo, plan: Plan) -> Recipe:
    dtype = str(plan.arithmetic_dtype(0)).removeprefix("torch.")
    return Recipe(spec.method, step_params(info, spec.params), spec.seed, spec.exclude, spec.dtype, dtype)


def step_params(info: MethodInfo, params: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters of a continual method that its steps, and so its states, depend on."""
    return accepted(info.implementation.step, params)  # type: ignore[arg-type]


def spec_of(file: StateFile, base: Path, params: dict[str, Any]) -> MergeSpec:
    """The recipe of a state, which stands in for its experts."""
    recipe, info = file.recipe, registry.get(file.recipe.method)
    if info.implementation.shared is None:
        raise SpecError(
            f"Method '{info.name}' gives its merge only while an expert is folded in. Give the expert, and a place "
            "for the merge."
        )
    fixed = sorted(set(params) & set(recipe.params))
    if fixed:
        raise SpecError(
            f"{', '.join(f'`{name}`' for name in fixed)} cannot be changed: the steps of state {file.path} depended "
            "on it. Leave it out, or begin a new state."
        )
    return MergeSpec(
        method=recipe.method,
        params={**recipe.params, **params},
        base=base,
        experts=(file.path,),
        seed=recipe.seed,
        exclude=recipe.exclude,
        dtype=recipe.dtype,
    )


def without_experts(spec: MergeSpec) -> Job:
    """A job that merges from what a state holds."""
    dtype = None if spec.dtype is None else getattr(torch, spec.dtype)
    return Job(registry.get(spec.method), spec.params, spec.seed, (), spec.exclude, dtype)
