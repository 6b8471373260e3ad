"""A language model and the texts of all tasks, as learners are given them."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import nn

from merge_lib.checkpoints import read_state_dict
from merge_lib.checkpoints.adapters import PREFIX
from merge_lib.errors import SpecError
from merge_lib.recurrent.replay import ReplayItem
from merge_lib.types import StateDict
from merge_lib.workloads.language.asking import TaskTexts
from merge_lib.workloads.language.config import TextTrainingConfig
from merge_lib.workloads.language.encoding import Encoded
from merge_lib.workloads.language.lessons import TextLesson
from merge_lib.workloads.language.models import LanguageModels
from merge_lib.workloads.pretrained.adapters import NAME, adapted_layers
from merge_lib.workloads.pretrained.config import TuningConfig
from merge_lib.workloads.pretrained.tuning import overlay, state_of, trained_parameters
from merge_lib.workloads.training.stopping import Validate


class LanguageClassroom:
    """What the settings of tuning name is trained: all weights, or adapters.

    Args:
        models: of the workload's pretrained model.
        model: to be trained, prepared as `tuning` says.
        tuning: what is trained, and what a checkpoint holds.
        config: of training.
        texts: of every task.
    """

    def __init__(
        self,
        models: LanguageModels,
        model: nn.Module,
        tuning: TuningConfig,
        config: TextTrainingConfig,
        texts: Mapping[str, TaskTexts],
    ) -> None:
        self.model, self.config = model, config
        self.trained: dict[str, nn.Parameter] = trained_parameters(model, tuning, without=config.freeze)
        self._models, self._tuning, self._texts = models, tuning, texts

    def labels(self, task: str) -> Sequence[str]:
        """The answer to each training prompt, where there is a set of them; one class of all where they are open."""
        snapshot = self._texts[task].snapshot
        is_open = snapshot.labels is None
        return ["" if is_open else example.target for example in snapshot.splits["train"]]

    def lesson(self, items: Sequence[ReplayItem]) -> TextLesson:
        """These training examples, in this order."""
        return self._lesson([self._texts[item.task].encoded("train")[item.index] for item in items])

    def held_out(self, task: str, count: int) -> TextLesson:
        """So many validation examples of a task, evenly spread over all."""
        found = self._texts[task].encoded("validation")
        size = min(count, len(found))
        return self._lesson([found[place * len(found) // size] for place in range(size)])

    def size_of(self, items: Sequence[ReplayItem]) -> int:
        """Bytes of these prompts' inputs and of their answers, as UTF-8."""
        examples = [self._texts[item.task].snapshot.splits["train"][item.index] for item in items]
        return sum(len(one.input.encode()) + len(one.target.encode()) for one in examples)

    def validate(self, task: str) -> Validate:
        """Accuracy on the validation prompts of a task."""
        return lambda model: self._texts[task].accuracy(model, "validation")

    def tensors(self) -> StateDict:
        """All of the model, its adapters, or the matrices with adapters folded in."""
        return state_of(self.model, self._tuning)

    def _lesson(self, examples: Sequence[Encoded]) -> TextLesson:
        encoder = self._models.encoder
        return TextLesson(examples, encoder.filler, encoder.start, self.config.label_smoothing)


class AdapterClassroom(LanguageClassroom):
    """Fresh adapters are trained on the weights of the start, and written folded into them."""

    @property
    def downs(self) -> Mapping[str, nn.Parameter]:
        """A of each adapted matrix, [rank, in]."""
        layers = sorted(adapted_layers(self.model).items())
        return {f"{name}.weight": layer.lora_A[NAME].weight for name, layer in layers}

    def matrices(self, checkpoint: Path) -> StateDict:
        """The adapted matrices of a checkpoint, adapters folded in."""
        return products_of(self._models, read_state_dict(checkpoint), f"Checkpoint '{checkpoint}'")


def classroom_of(
    models: LanguageModels,
    config: TextTrainingConfig,
    texts: Mapping[str, TaskTexts],
    start: Path,
    *,
    seed: int,
    is_product: bool,
) -> LanguageClassroom:
    """A room with the model of a checkpoint.

    Args:
        models: of the workload's pretrained model.
        config: of training.
        texts: of every task.
        start: the checkpoint.
        seed: of fresh adapters.
        is_product: as of `Teaching`.

    Raises:
        SpecError: adapters are asked for, but the settings train all weights.
    """
    called = f"Checkpoint '{start}'"
    tensors = read_state_dict(start)
    if not is_product:
        model = models.fresh(seed=seed, start=tensors, called=called)
        return LanguageClassroom(models, model, models.tuning, config, texts)
    tuning = _as_products(models.tuning)
    model = models.fresh(seed=seed)
    overlay(model, products_of(models, tensors, called), called=called, tuning=tuning)
    return AdapterClassroom(models, model, tuning, config, texts)


def products_of(models: LanguageModels, tensors: StateDict, called: str) -> StateDict:
    """The adapted matrices of a checkpoint's tensors, which are factors or have them folded in already."""
    if not any(name.startswith(PREFIX) for name in tensors):
        return tensors
    model = models.fresh(seed=0, start=tensors, called=called)
    return state_of(model, _as_products(models.tuning))


def _as_products(tuning: TuningConfig) -> TuningConfig:
    """The same adapters, folded in where checkpoints are written."""
    if tuning.lora is None:
        raise SpecError(
            "The learner trains low-rank adapters, but the workload's settings train all weights. Set `tuning: {kind: "
            "lora, lora: {targets: […]}}`, or take the learner out."
        )
    return tuning.model_copy(update={"lora": tuning.lora.model_copy(update={"space": "product"})})
