"""Running a recipe: a front of the merge engine."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path

from merge_lib.mergekit.plan import plan_recipe
from merge_lib.mergekit.recipe import read_recipe
from merge_lib.streaming.run import MergeOptions, StreamedMerge, merge_planned


def merge_mergekit(
    recipe: Path,
    out: Path,
    *,
    seed: int = 0,
    models: Mapping[str, Path] | None = None,
    options: MergeOptions | None = None,
) -> StreamedMerge:
    """Merge what a mergekit recipe says, with mergekit's mathematics, as `mergeline merge` does.

    Args:
        recipe: the YAML file.
        out: a folder that is empty, new or unfinished, or a file's path.
        seed: of the methods that draw at random.
        models: where the models of the recipe are; those not named are paths from the recipe's folder or, if
            nothing is there, from the current one.
        options: threads, memory, shard size.

    Returns:
        Where the merge is and what it is.

    Raises:
        SpecError: the recipe is wrong, or the output would overwrite something.
        CheckpointError: a model is missing or damaged, or does not fit the others.
        MethodInputError: weights are not finite.
    """
    recipe = Path(recipe)
    make = partial(plan_recipe, read_recipe(recipe), recipe.parent, seed=seed, models=models)
    return merge_planned(make, Path(out), options)
