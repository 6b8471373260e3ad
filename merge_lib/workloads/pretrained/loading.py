"""Models, tokenizers and processors of transformers from a folder that is whole."""

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from transformers import AutoImageProcessor, AutoTokenizer, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from merge_lib.errors import CheckpointError, CheckpointMismatchError
from merge_lib.files.folders import INDEX, SINGLE, read_stored
from merge_lib.workloads.pretrained.locating import Located, weight_files

_log = logging.getLogger(__name__)
_alone = threading.Lock()  # while transformers loads a model, it changes what all threads of a process share


def load_model(
    located: Located,
    cls: Any,  # a class of `transformers`, of models or one that chooses among them
    *,
    dtype: torch.dtype = torch.float32,
) -> nn.Module:
    """The model in evaluation mode, on the CPU.

    Args:
        located: where it is.
        cls: the class of transformers, such as `CLIPModel`, or one that chooses, such as `AutoModelForCausalLM`.
        dtype: of its floating tensors.

    Raises:
        CheckpointError: transformers cannot read it.
        CheckpointCorruptError: a file of weights is damaged.
        CheckpointMismatchError: the weights are not all there for this class, or have other shapes.
    """
    if weight_files(located.folder)[0] in (SINGLE, INDEX):
        read_stored(located.folder)  # a damaged file is told as such
    with _alone, _quiet(), _explained(located, cls.__name__):
        model, told = cls.from_pretrained(
            located.folder,
            dtype=dtype,
            local_files_only=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
        )
    _check_whole(told, located, cls)
    return model.eval()


def load_tokenizer(located: Located) -> PreTrainedTokenizerBase:
    """The tokenizer beside the model.

    Raises:
        CheckpointError: there is none, or transformers cannot read it.
    """
    with _explained(located, "a tokenizer"):
        return AutoTokenizer.from_pretrained(located.folder, local_files_only=True)


def load_image_processor(located: Located) -> Any:
    """What prepares images for the model, on Pillow.

    Raises:
        CheckpointError: there is none, or transformers cannot read it.
    """
    with _explained(located, "an image processor"):
        return AutoImageProcessor.from_pretrained(located.folder, local_files_only=True, backend="pil")


def _check_whole(told: dict[str, Any], located: Located, cls: type) -> None:
    """Every weight of the model came from the files, none was drawn at random."""
    missing = sorted(told["missing_keys"])
    faults = [f"'{name}' is missing" for name in missing]
    faults += [
        f"'{name}' has shape {tuple(got)}, expected {tuple(expected)}"
        for name, got, expected in sorted(told["mismatched_keys"])
    ]
    if faults:
        raise CheckpointMismatchError(
            f"Model '{located.source}' does not hold what {cls.__name__} needs: {'; '.join(faults)}. Name a model "
            f"of that kind; '{located.folder / 'config.json'}' says of which kind this one is."
        )
    if unused := sorted(told["unexpected_keys"]):
        _log.warning(
            "Model '%s' holds tensors that %s does not use: %s",
            located.source,
            cls.__name__,
            ", ".join(unused),
        )


@contextmanager
def _explained(located: Located, what: str) -> Iterator[None]:
    """Turn what transformers raises about files into ours."""
    try:
        yield
    except (OSError, ValueError, KeyError, RuntimeError, ImportError) as exc:
        raise CheckpointError(
            f"Model '{located.source}' in '{located.folder}' cannot be loaded as {what}: "
            f"{' '.join(str(exc).split())[:600]} Name another model, or restore its files."
        ) from exc


@contextmanager
def _quiet() -> Iterator[None]:
    """No progress bars of transformers: the run has its own."""
    was_shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if was_shown:
            transformers_logging.enable_progress_bar()
