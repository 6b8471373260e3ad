"""Running a recipe: open the models, merge tensor by tensor, write a folder."""

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from time import perf_counter

from merge_lib.checkpoints import open_checkpoint
from merge_lib.compatibility import TensorSource
from merge_lib.engine import MergeReport
from merge_lib.errors import SpecError
from merge_lib.mergekit.arithmetic import merge_tensor, out_dtype
from merge_lib.mergekit.folder import check_tokenizers, write_surroundings, write_weights
from merge_lib.mergekit.recipe import models_of, read_recipe
from merge_lib.mergekit.resolve import Resolution, resolve
from merge_lib.mergekit.schema import Recipe


def merge_mergekit(
    recipe: Path, out: Path, *, seed: int = 0, models: Mapping[str, Path] | None = None
) -> MergeReport:
    """Merge what a mergekit recipe says, with mergekit's mathematics, into a folder.

    Args:
        recipe: the YAML file.
        out: the folder of the result, made if missing; transformers loads it where the template has a
            configuration.
        seed: of the methods that draw at random.
        models: where the models of the recipe are; those not named are paths from the current folder.

    Returns:
        Where the weights are and what they are.

    Raises:
        SpecError: the recipe is wrong, or the output is one of its models.
        CheckpointError: a model is missing or damaged, or does not fit the others.
        MethodInputError: weights are not finite.
    """
    started = perf_counter()
    content = read_recipe(recipe)
    paths = {name: Path((models or {}).get(name, name)) for name in models_of(content)}
    if Path(out).resolve() in {path.resolve() for path in paths.values()}:
        raise SpecError(f"The output {out} is a model of the recipe. Give the result a folder of its own.")
    with ExitStack() as stack:
        sources = {name: stack.enter_context(open_checkpoint(path)) for name, path in paths.items()}
        shapes = {name: {key: source.shape(key) for key in source.names} for name, source in sources.items()}
        plan = resolve(content, shapes)
        check_tokenizers(paths.values(), paths[plan.template])
        layout = _layout(plan, content, sources)
        tensors = ((job.name, merge_tensor(job, content, sources, seed=seed)) for job in plan.jobs)
        written = write_weights(out, layout, tensors, _lineage(content, seed))
    layers = plan.layers and tuple((paths[model], layer) for model, layer in plan.layers)
    write_surroundings(Path(out), paths[plan.template], dtype=_main_dtype(layout), layers=layers)
    return MergeReport(written.path, written.digest, written.size_bytes, perf_counter() - started, ())


def _layout(plan: Resolution, recipe: Recipe, sources: Mapping[str, TensorSource]) -> dict:
    """Dtype and shape of every tensor of the result."""
    layout = {}
    for job in plan.jobs:
        first = job.experts[0]
        source = sources[first.model]
        layout[job.name] = (out_dtype(recipe, source.dtype(first.name)), source.shape(first.name))
    return layout


def _main_dtype(layout: dict) -> str:
    """The floating dtype that most tensors have, as a configuration names it."""
    names = [str(dtype).removeprefix("torch.") for dtype, _ in layout.values() if dtype.is_floating_point]
    return max(sorted(set(names)), key=names.count, default="float32")


def _lineage(recipe: Recipe, seed: int) -> dict:
    """What the file says of itself."""
    plain = {"merge_method": recipe.merge_method, "models": list(models_of(recipe))}
    return {"kind": "merge", "variant": "mergekit", "recipe": plain, "seed": seed}
