"""CLIP on images of no data set: what is kept of a task, and models that are asked about image files.

Legend: n images, s side that the model takes, c classes, d width of the common space.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from functools import partial as bound
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from merge_lib.errors import CheckpointMismatchError, DataError
from merge_lib.routing import BaseView, PrototypeImages
from merge_lib.routing.answering import Council, open_council
from merge_lib.routing.portraits import Portrait, Portraits
from merge_lib.types import StateDict
from merge_lib.workloads.clip.config import PARTS, ClipConfig
from merge_lib.workloads.clip.measuring import Measured
from merge_lib.workloads.clip.model import Clip
from merge_lib.workloads.clip.texts import Texts
from merge_lib.workloads.clip.workload import ClipWorkload
from merge_lib.workloads.pretrained.loading import load_image_processor, load_model, load_tokenizer
from merge_lib.workloads.pretrained.locating import locate
from merge_lib.workloads.pretrained.models import PretrainedModels
from merge_lib.workloads.training.devices import training_device


def begin_portraits(workload: ClipWorkload, base_digest: str) -> Portraits:
    """Those of a sequence before its first task.

    Args:
        workload: whose model answers.
        base_digest: of the base's checkpoint.
    """
    settings = workload.config.parameters_of("evaluate")
    return Portraits(base_digest, {**settings, "zero_shot": [], "digest": workload.located.digest})


def portrait_of(
    workload: ClipWorkload, base: StateDict, task: str, images: PrototypeImages | None = None
) -> Portrait:
    """What is kept of a task.

    Args:
        workload: with the task's snapshot.
        base: the tensors of the base.
        task: its name.
        images: those that prototypes are made of; None: all of the training split.
    """
    shown = images or PrototypeImages()
    view = BaseView.of(workload, workload.encoder(base), task, split=shown.split, examples=shown.examples)
    head, own = workload.targets[task].head, workload.own_classes(task).tolist()
    names, texts = (tuple(every[place] for place in own) for every in (head.names, head.texts))
    return Portrait(task, names, texts, view.prototypes())


@dataclass(frozen=True)
class ClipSpeaker:
    """One model; see `merge_lib.routing.answering.Speaker`."""

    measured: Measured

    def inputs(self, batch: Float[Tensor, "n 3 s s"]) -> Float[Tensor, "n d"]:
        """Unit features of images."""
        return torch.cat([self.measured.features_of(part) for part in batch.split(self.measured.at_once)])

    def classes(self, texts: Sequence[Sequence[str]]) -> Float[Tensor, "c d"]:
        """Of each class the mean of the unit features of its texts."""
        return torch.stack([self.measured.text_features(list(one)).mean(dim=0) for one in texts])


class ClipAnswering:
    """A CLIP of no study, with its tokenizer and image processor.

    Args:
        config: model and tuning.
        root: the folder that a model's folder is relative to.

    Raises:
        CheckpointError: the model is not on this machine.
        CheckpointMismatchError: it is not the one that `config.digest` names.
    """

    def __init__(self, config: ClipConfig, root: Path) -> None:
        self.config = config
        self.located = locate(config.model, root, parts=PARTS)
        if config.digest not in {"", self.located.digest}:
            msg = (
                f"Model '{config.model}' has the digest {self.located.digest}, but the prototypes were made with "
                f"{config.digest}. Give the model that they were made with."
            )
            raise CheckpointMismatchError(msg)
        load = bound(load_model, self.located, Clip)
        self.models = PretrainedModels(load, config.tuning, config.evaluation_precision)

    def speaker(self, tensors: StateDict) -> ClipSpeaker:
        """A model with a checkpoint's tensors."""
        model = self.models.reading(tensors, device=training_device())
        return ClipSpeaker(Measured(model, self._texts, at_once=self.config.evaluation_batch))

    def read(self, paths: Sequence[Path]) -> Float[Tensor, "n 3 s s"]:
        """Images as the model takes them, by the checkpoint's own image processor, in the model's size.

        Raises:
            DataError: names every file that is no image.
        """
        from PIL import Image, UnidentifiedImageError

        images, faults = [], []
        for path in paths:
            try:
                with Image.open(path) as image:
                    images.append(image.convert("RGB"))
            except (OSError, UnidentifiedImageError) as refused:
                faults.append(f"{path} ({refused})")
        if faults or not images:
            raise DataError(
                f"These are no images: {'; '.join(faults) or 'none was given'}. Give image files."
            )
        side = self._sizes.vision_config.image_size
        size = {"size": {"shortest_edge": side}, "crop_size": {"height": side, "width": side}}
        return self._processor(images=images, return_tensors="pt", **size).pixel_values

    @cached_property
    def _processor(self) -> Any:
        return load_image_processor(self.located)

    @cached_property
    def _texts(self) -> Texts:
        return Texts(load_tokenizer(self.located), length=self._sizes.text_config.max_position_embeddings)

    @cached_property
    def _sizes(self) -> Any:
        from transformers import CLIPConfig

        return CLIPConfig.from_pretrained(self.located.folder, local_files_only=True)


@contextmanager
def open_clip(
    base: Path, state: Path, prototypes: Path, *, root: Path, model: str | None = None
) -> Iterator[tuple[ClipAnswering, Council]]:
    """What a sequence keeps, ready to answer images.

    Args:
        base: the checkpoint that the sequence began with.
        state: the file that `mergeline fold` wrote.
        prototypes: the file that `Portraits.save` wrote.
        root: the folder that a model's folder is relative to.
        model: a name on the hub, or a folder; None: the one that the prototypes name.

    Yields:
        What reads images, and the models that answer them.

    Raises:
        CheckpointMismatchError: the files are not of one sequence.
        CheckpointError: one is missing or damaged.
    """
    portraits = Portraits.load(prototypes)
    settings: Mapping[str, Any] = {**portraits.workload, **({} if model is None else {"model": model})}
    answering = ClipAnswering(ClipConfig.model_validate(settings), root)
    with open_council(answering.speaker, base, state, portraits) as council:
        yield answering, council
