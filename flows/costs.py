"""What a study of pretrained models costs on a GPU: worked out from configurations, sizes of data and stated rates.

docs/reproducing.md has the formulas. Nothing is run, and no weights are needed.
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from merge_lib.errors import SpecError
from tasks.project import Project

if TYPE_CHECKING:
    from flows.config import StudyConfig
    from flows.planning import PlannedStep
    from merge_lib.workloads.pretrained.shapes import Shape, Tower

SHAPES, SIZES = "shapes", "sizes.json"  # beside a study
HOUR_S = 3600.0
BYTES = 4  # of a weight, a gradient and each of Adam's two moments
ACTIVATION = 34  # bytes a token, layer and unit of width in 16 bits (Korthikanti et al. 2022, without scores)
KEPT = 2  # of these, where layers are computed twice
REPLAYING = {"replay": 1.5, "recurrent_kif": 1.5}  # steps on memory beside those on the task


@dataclass(frozen=True)
class Rates:
    """What a GPU reaches; the defaults are an H100's (SXM).

    Attributes:
        tflops: 10¹² operations a second at the training's precision; 16 bits, dense.
        eval_tflops: the same in evaluation, which is in 32 bits.
        share: of both, that is reached.
        bandwidth: 10⁹ bytes a second from the GPU's memory: answers are written token by token at this rate.
    """

    tflops: float = 989.0
    eval_tflops: float = 67.0
    share: float = 0.35
    bandwidth: float = 3350.0


@dataclass(frozen=True)
class TaskSize:
    """How much of a task there is, as `sizes.json` has it.

    Attributes:
        classes: texts of an image task that are encoded in every training step.
        templates: texts of each class in evaluation.
        prompt: tokens, on average; of a text about a class, where tasks are of images.
        answer: tokens.
    """

    train: int
    test: int
    classes: int = 0
    templates: int = 1
    prompt: int = 0
    answer: int = 0


@dataclass(frozen=True)
class Cost:
    """Of one combination of a study's axes.

    Attributes:
        memory_gb: of the GPU, in training at most.
        disk_gb: checkpoints, states and merges that are kept.
    """

    trainings: int
    evaluations: int
    train_h: float
    evaluate_h: float
    memory_gb: float
    disk_gb: float


def costs_of(
    study: Path, overrides: Sequence[str], rates: Rates, shape: Path | None = None
) -> dict[str, Cost]:
    """The cost of each combination of the study's axes, by its title.

    Raises:
        SpecError: the study is wrong, begins with no model of transformers, or its model's configuration or the sizes
            of its tasks are not known.
    """
    from flows.axes import load_cells
    from flows.estimates import plan_steps

    project = Project.find()
    sizes = read_sizes(study.parent / SIZES)
    found = {}
    for cell in load_cells(study, overrides):
        steps, _ = plan_steps(project, cell.study)
        found[cell.title or cell.study.study] = _cost(cell.study, steps, sizes, rates, project, study, shape)
    return found


def read_sizes(path: Path) -> dict[str, TaskSize]:
    """The sizes of tasks, by name.

    Raises:
        SpecError: the file cannot be read.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return {name: TaskSize(**size) for name, size in content.items()}
    except (OSError, ValueError, TypeError, AttributeError) as exc:
        raise SpecError(
            f"Sizes '{path}' cannot be read: {exc}. Write a JSON object beside the study: for each task `train` and "
            "`test` examples, and `classes` and `templates`, or `prompt` and `answer` tokens."
        ) from exc


def _cost(
    config: "StudyConfig",
    steps: Sequence["PlannedStep"],
    sizes: Mapping[str, TaskSize],
    rates: Rates,
    project: Project,
    study: Path,
    given: Path | None,
) -> Cost:
    from merge_lib.workloads.pretrained.shapes import shape_of

    if missing := [task for task in config.tasks if task not in sizes]:
        raise SpecError(f"'{study.parent / SIZES}' lacks the tasks {', '.join(missing)}. Add them.")
    load: Any = config.workload
    if not isinstance(getattr(load, "model", None), str):
        raise SpecError(f"Workload '{load.name}' begins with no model of transformers; its cost is measured.")
    shape = shape_of(given or _configuration(load.model, project, study), load.tuning.lora)
    tasks = [sizes[task] for task in config.tasks]
    trained = [step for step in steps if step.kind == "train"]
    judged = sum(step.kind == "evaluate" for step in steps)
    one = sum(_training(shape, load, task) for task in tasks) / len(tasks)
    operations = one * sum(_weight(step.label, config) for step in trained)
    seconds = [_evaluation_s(shape, load, task, rates) for task in tasks]
    votes_s = sum(_vote_s(step.label, config, seconds) for step in steps if step.kind == "route")
    checkpoint = BYTES * (shape.adapted or shape.parameters)
    return Cost(
        len(trained),
        judged,
        operations / (rates.tflops * 1e12 * rates.share) / HOUR_S,
        (judged * sum(seconds) + votes_s) / HOUR_S,
        max(_memory(shape, load, task) for task in tasks) / 1e9,
        checkpoint * sum(step.files for step in steps) / 1e9,
    )


def _configuration(model: str, project: Project, study: Path) -> Path:
    """The model's config.json: its own, or one that lies beside the study."""
    from merge_lib.workloads.hub_cache import cached_snapshot

    name, _, revision = model.partition("@")
    cached = cached_snapshot("models", name, revision or "main")
    beside = study.parent / SHAPES / f"{Path(name).name}.json"
    places = [project.root / model / "config.json", *([cached / "config.json"] if cached else []), beside]
    for place in places:
        if place.is_file():
            return place
    raise SpecError(
        f"The configuration of model '{model}' is neither on this machine nor at '{beside}'. Name it: "
        "--config config.json."
    )


def _weight(label: str, config: "StudyConfig") -> float:
    """How many ordinary trainings on one task a training comes to."""
    if label.startswith("joint"):
        return float(len(config.tasks))
    return max((factor for name, factor in REPLAYING.items() if label.startswith(name)), default=1.0)


def _vote_s(label: str, config: "StudyConfig", seconds: Sequence[float]) -> float:
    """Seconds of putting inputs to the vote after one stage: of tasks still to come, or of all."""
    entry = next(entry for entry in config.methods if label.startswith(f"{entry.label} · "))
    found = re.search(r" (\d+)/\d+ ", label)
    stage = int(found.group(1)) if found else len(seconds)
    models = min(entry.routing.voters, stage) + entry.routing.include_base
    return models * sum(seconds[stage:] if entry.routing.known_tasks else seconds)


def _training(shape: "Shape", load: Any, task: TaskSize) -> float:
    """Operations of a training on one task."""
    plan = load.fine_tuning
    steps = plan.steps or plan.epochs * math.ceil(task.train / plan.batch_size)
    times = (2 if load.tuning.lora else 3) + bool(plan.gradient_checkpointing)
    texts = task.classes * _text(shape, task) if shape.kind == "clip" else 0.0
    return times * steps * (plan.batch_size * _example(shape, task) + texts)


def _evaluation_s(shape: "Shape", load: Any, task: TaskSize, rates: Rates) -> float:
    """Seconds of an evaluation on one task: operations, and weights that are read for every token of an answer."""
    texts = task.classes * task.templates * _text(shape, task) if shape.kind == "clip" else 0.0
    computed = (task.test * _example(shape, task) + texts) / (rates.eval_tflops * 1e12 * rates.share)
    if shape.kind == "clip":
        return computed
    reads = math.ceil(task.test / load.batch) * task.answer
    return computed + reads * BYTES * shape.towers["decoder"].parameters / (
        rates.bandwidth * 1e9 * rates.share
    )


def _example(shape: "Shape", task: TaskSize) -> float:
    """Operations of a forward pass on one example."""
    if shape.kind == "clip":
        image = shape.towers["image"]
        return image.forward(image.tokens or 0)
    if shape.kind == "seq2seq":
        towers = shape.towers
        return towers["encoder"].forward(task.prompt) + towers["decoder"].forward(task.answer)
    return shape.towers["decoder"].forward(task.prompt + task.answer)


def _text(shape: "Shape", task: TaskSize) -> float:
    """Operations of a forward pass on a text about a class."""
    text = shape.towers["text"]
    return text.forward(task.prompt or text.tokens or 0)


def _memory(shape: "Shape", load: Any, task: TaskSize) -> float:
    """Bytes of a training: weights, gradients, Adam's moments, activations and logits."""
    plan = load.fine_tuning
    weights = BYTES * shape.parameters + 3 * BYTES * (shape.adapted or shape.parameters)
    weights += BYTES * shape.adapted
    at_once = plan.micro_batch or plan.batch_size
    width = 1 if plan.precision != "fp32" else 2
    passes = _passes(shape, load, task, at_once)
    kept = sum(_kept(tower, tokens, again=plan.gradient_checkpointing) for tower, tokens in passes)
    logits = 10 * at_once * (task.answer if shape.kind == "seq2seq" else task.prompt) * shape.vocabulary
    return weights + width * kept + logits


def _passes(shape: "Shape", load: Any, task: TaskSize, at_once: int) -> list[tuple["Tower", int]]:
    """Each tower, and how many tokens are in it at once; texts are as long as the study allows."""
    towers = shape.towers
    if shape.kind == "clip":
        image, text = towers["image"], towers["text"]
        texts = task.classes * (task.prompt or text.tokens or 0)
        return [(image, at_once * (image.tokens or 0)), (text, texts)]
    lengths = {"encoder": load.max_input, "decoder": load.max_target}
    if shape.kind == "causal":
        lengths = {"decoder": load.max_input + load.max_target}
    return [(tower, at_once * lengths[name]) for name, tower in towers.items()]


def _kept(tower: "Tower", tokens: int, *, again: bool) -> float:
    """Bytes of activations in 16 bits."""
    if again:
        return tokens * tower.width * (KEPT * tower.layers + ACTIVATION)
    return ACTIVATION * tokens * tower.width * tower.layers
