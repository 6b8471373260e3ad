"""The whole model that a checkpoint of a study stands for, whatever form the checkpoint has."""

import json
from pathlib import Path

import torch
import transformers
from torch import nn
from transformers import PreTrainedModel

from merge_lib.checkpoints import read_state_dict
from merge_lib.checkpoints.adapters import PREFIX
from merge_lib.errors import CheckpointError
from merge_lib.workloads.pretrained.adapters import fold_in
from merge_lib.workloads.pretrained.config import TuningConfig
from merge_lib.workloads.pretrained.loading import load_model
from merge_lib.workloads.pretrained.locating import CONFIG, Located
from merge_lib.workloads.pretrained.tuning import overlay, prepare


def model_class(located: Located) -> type[PreTrainedModel]:
    """The class of transformers that the model's configuration names.

    Raises:
        CheckpointError: it names none, or one that transformers does not have.
    """
    path = located.folder / CONFIG
    try:
        named = json.loads(path.read_text(encoding="utf-8")).get("architectures")
    except (OSError, ValueError, AttributeError) as exc:
        raise CheckpointError(f"Configuration {path} cannot be read: {exc}. Restore the model.") from exc
    cls = getattr(transformers, named[0], None) if named else None
    if cls is None:
        raise CheckpointError(
            f"Configuration {path} names {named or 'no class'} under `architectures`, which transformers "
            f"{transformers.__version__} does not have. Name a class of it there."
        )
    return cls


def outline(located: Located) -> nn.Module:
    """The model without values, on torch's meta device: its layers, their names and shapes.

    Raises:
        CheckpointError: the configuration cannot be read, or names no class of transformers.
    """
    cls = model_class(located)
    with torch.device("meta"):
        return cls(cls.config_class.from_pretrained(located.folder, local_files_only=True))


def rebuild(located: Located, tuning: TuningConfig, checkpoint: Path | None = None) -> nn.Module:
    """The model with a checkpoint's tensors in it, adapters folded in; in evaluation mode on the CPU.

    Args:
        located: the model that the study began with.
        tuning: how the study trains it.
        checkpoint: the base, an expert or a merge; None: the model as it is.

    Raises:
        CheckpointError: a file cannot be read.
        CheckpointMismatchError: the checkpoint is not of this model.
        CheckpointCorruptError: its values are not finite.
    """
    model = load_model(located, model_class(located))
    if checkpoint is None:
        return model
    tensors = read_state_dict(checkpoint)
    if any(name.startswith(PREFIX) for name in tensors):
        prepare(model, tuning, seed=0)
    overlay(model, tensors, called=f"Checkpoint '{checkpoint}'", tuning=tuning)
    return fold_in(model)
