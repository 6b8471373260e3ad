"""Language models of checkpoints.

The model's folder is read once a process, and its tensors are never written to: a model of a checkpoint has the
checkpoint's tensors and shares all others with it.
"""

import copy
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from merge_lib.types import StateDict
from merge_lib.workloads.language.encoding import Encoder, Limits
from merge_lib.workloads.pretrained.config import TuningConfig
from merge_lib.workloads.pretrained.loading import load_model, load_tokenizer
from merge_lib.workloads.pretrained.locating import Located
from merge_lib.workloads.pretrained.tuning import overlay, places_of, prepare

CPU = torch.device("cpu")


@dataclass(frozen=True)
class LanguageModels:
    """A pretrained model, and how it is tuned.

    Attributes:
        located: its folder.
        tuning: what checkpoints hold.
        limits: on the lengths of texts.
    """

    located: Located
    tuning: TuningConfig
    limits: Limits
    _homes: dict[torch.device, nn.Module] = field(default_factory=dict, repr=False, compare=False)
    _reading: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)

    @cached_property
    def encoder(self) -> Encoder:
        """The model's tokenizer."""
        start = self._config.decoder_start_token_id if self._config.is_encoder_decoder else None
        return Encoder(load_tokenizer(self.located), start, self.limits)

    def fresh(
        self, *, seed: int, start: StateDict | None = None, called: str = "The state dict"
    ) -> nn.Module:
        """A model of its own, ready to be trained.

        Args:
            seed: of new adapters.
            start: a checkpoint's tensors; None: as in the folder.
            called: what messages call them.

        Raises:
            CheckpointMismatchError: they are not of this model.
            CheckpointCorruptError: they are not finite.
        """
        model = prepare(self._load(), self.tuning, seed=seed)
        if start is not None:
            overlay(model, start, called=called, tuning=self.tuning)
        return model

    def reading(
        self, tensors: StateDict, *, called: str = "The state dict", device: torch.device = CPU
    ) -> nn.Module:
        """A model in evaluation mode with a checkpoint's tensors, which it shares if it can; not to be trained.

        Raises:
            CheckpointMismatchError: they are not of this model.
            CheckpointCorruptError: they are not finite.
        """
        home = self._home(device)
        places = places_of(home, tensors, called=called, tuning=self.tuning)
        instead = {
            id(place): nn.Parameter(tensors[name].detach().to(device, place.dtype), requires_grad=False)
            for name, place in places.items()
        }
        return _sharing(home, instead).eval()

    def observed(self, tensors: StateDict) -> nn.Module:
        """As `reading`, with copies of the checkpoint's tensors as its only parameters; all others are buffers."""
        home = self._home(CPU)
        places = places_of(home, tensors, called="The state dict", tuning=self.tuning)
        own = {id(place): nn.Parameter(tensors[name].float().clone()) for name, place in places.items()}
        model = _sharing(home, own).eval()
        kept = {id(parameter) for parameter in own.values()}
        for module in model.modules():
            for name, parameter in list(module._parameters.items()):
                if parameter is not None and id(parameter) not in kept:
                    del module._parameters[name]
                    module.register_buffer(name, parameter.detach(), persistent=False)
        return model

    def _home(self, device: torch.device) -> nn.Module:
        """The model of the folder on a device, with adapters if checkpoints hold factors; never written to."""
        with self._reading:
            if device not in self._homes:
                lora = self.tuning.lora
                model = self._load()
                if lora is not None and lora.space == "factor":
                    prepare(model, self.tuning, seed=0)
                self._homes[device] = model.requires_grad_(False).to(device)
            return self._homes[device]

    def _load(self) -> nn.Module:
        """The model as in the folder, answering greedily whatever its own generation settings say."""
        from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, GenerationConfig

        cls = AutoModelForSeq2SeqLM if self._config.is_encoder_decoder else AutoModelForCausalLM
        model = load_model(self.located, cls)
        model.generation_config = GenerationConfig()
        return model

    @cached_property
    def _config(self) -> Any:
        from transformers import AutoConfig

        return AutoConfig.from_pretrained(self.located.folder, local_files_only=True)


def _sharing(model: nn.Module, instead: Mapping[int, Tensor]) -> nn.Module:
    """A copy of the modules with the same tensors, but for those whose id has another one."""
    tensors = [*model.parameters(), *model.buffers()]
    return copy.deepcopy(model, {id(tensor): instead.get(id(tensor), tensor) for tensor in tensors})
