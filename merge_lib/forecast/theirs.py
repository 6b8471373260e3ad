"""Merges of mergekit's recipes as a forecast looks at them: tensor by tensor, beside a base."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor

from merge_lib.checkpoints import Checkpoint
from merge_lib.errors import CheckpointMismatchError, SpecError
from merge_lib.forecast.measuring import Candidate
from merge_lib.mergekit import plan_recipe, read_recipe
from merge_lib.mergekit.arithmetic import merge_tensor
from merge_lib.spec import MergeSpec
from merge_lib.streaming.planning import MergePlan, Work
from merge_lib.streaming.torch_route import opened

_ANY = "average"  # the method of a spec that only names base and experts


@contextmanager
def opened_recipe(recipe: Path, *, base: Path | None = None, seed: int = 0) -> Iterator[Candidate]:
    """A recipe's merge, which can be measured as long as the context lasts.

    Args:
        recipe: the YAML file.
        base: what its models were fine-tuned from, for recipes that do not say so.
        seed: of methods that draw at random.

    Raises:
        SpecError: there is no base, or no expert beside it.
        CheckpointMismatchError: the recipe puts layers in other places, so that there is no task vector.
        MergeError: as `plan_recipe`.
    """
    plan = plan_recipe(read_recipe(recipe), recipe.parent, seed=seed)
    own = plan.base.path if plan.base is not None else base
    if own is None:
        raise SpecError(
            f"{recipe} names no base, but a forecast looks at task vectors (expert − base). Give --base with what the "
            "models were fine-tuned from."
        )
    experts = tuple(one.path for one in plan.experts if one.path.resolve() != Path(own).resolve())
    if not experts:
        raise SpecError(f"{recipe} names no model beside the base. Add the experts.")
    _check_places(recipe, plan)
    with opened(plan.sources) as readers:
        homes = {
            header.key: reader
            for source, reader in zip(plan.sources, readers, strict=True)
            for header in source.tensors.values()
        }
        spec = MergeSpec(method=_ANY, base=own, experts=experts)
        yield Candidate(recipe.stem, spec, _maker(plan, homes), plan.method)


def _maker(plan: MergePlan, homes: Mapping[Any, Checkpoint]) -> Callable[[str], Tensor]:
    works = {work.name: work for work in plan.works}

    def make(name: str) -> Tensor:
        if name not in works:
            raise CheckpointMismatchError(
                f"Tensor '{name}' is in the base, but the recipe's merge has none of that name. A forecast compares "
                "models of one architecture; merge all layers."
            )
        return _merge(works[name], homes, plan.seed)

    return make


def _merge(work: Work, homes: Mapping[Any, Checkpoint], seed: int) -> Tensor:
    base, *experts = (header and homes[header.key].tensor(header.name) for header in work.inputs)
    return merge_tensor(work, base, experts, seed=seed)  # type: ignore[arg-type]


def _check_places(recipe: Path, plan: MergePlan) -> None:
    moved = sorted(
        {work.name for work in plan.works for header in work.inputs if header and header.name != work.name}
    )
    if moved:
        raise CheckpointMismatchError(
            f"{recipe} puts layers in other places: {len(moved)} tensors, such as '{moved[0]}', are made of others. "
            "Such a model has no task vectors, so nothing can be said of what it loses. Leave `slices` out."
        )
