"""Models of checkpoints: with the checkpoint's tensors, and all others shared with the model of the folder.

The folder is read once a process, and its tensors are never written to.
"""

import copy
import threading
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from merge_lib.checkpoints.adapters import PREFIX
from merge_lib.types import StateDict
from merge_lib.workloads.pretrained.adapters import NAME, adapted_layers
from merge_lib.workloads.pretrained.config import Precision, TuningConfig
from merge_lib.workloads.pretrained.tuning import overlay, places_of, prepare

CPU = torch.device("cpu")
DTYPES: dict[Precision, torch.dtype] = {
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}


class PretrainedModels:
    """A pretrained model, and how it is tuned.

    Args:
        load: reads the model of the folder in the `dtype` that it is given.
        tuning: what checkpoints hold.
        precision: of models that are read; those that are trained or observed are in fp32.
    """

    def __init__(
        self, load: Callable[..., nn.Module], tuning: TuningConfig, precision: Precision = "fp32"
    ) -> None:
        self.tuning, self.precision = tuning, precision
        self._load = load
        self._homes: dict[tuple[torch.device, Precision], nn.Module] = {}
        self._reading = threading.Lock()

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
        model = prepare(copy.deepcopy(self._home(CPU)), self.tuning, seed=seed)
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
        home = self._home(device, self.precision)
        places = places_of(home, tensors, called=called, tuning=self.tuning)
        instead = {
            id(place): nn.Parameter(tensors[name].detach().to(device, place.dtype), requires_grad=False)
            for name, place in places.items()
        }
        return _sharing(home, instead).eval()

    def observed(self, tensors: StateDict) -> nn.Module:
        """As `reading`; its only parameters are copies of the checkpoint's tensors, under the checkpoint's names."""
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
        return _named_as_stored(model)

    def _home(self, device: torch.device, precision: Precision = "fp32") -> nn.Module:
        """The model of the folder on a device, with adapters if checkpoints hold factors; never written to."""
        with self._reading:
            if (device, precision) not in self._homes:
                lora = self.tuning.lora
                model = self._load(dtype=DTYPES[precision])
                if lora is not None and lora.space == "factor":
                    prepare(model, self.tuning, seed=0)
                self._homes[device, precision] = model.requires_grad_(False).to(device)
            return self._homes[device, precision]


class _Factor(nn.Linear):
    """One factor of the one adapter of a layer, in the place of peft's dictionary of all adapters."""

    def __init__(self, weight: nn.Parameter) -> None:
        nn.Module.__init__(self)
        self.out_features, self.in_features = weight.shape
        self.weight, self.bias = weight, None

    def __getitem__(self, _: str) -> "_Factor":
        return self

    def keys(self) -> tuple[str]:
        """Of the adapters: there is one."""
        return (NAME,)


class _Within(nn.Module):
    """A model under the names that adapters' checkpoints have."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        place: nn.Module = self
        *outer, last = PREFIX.strip(".").split(".")
        for name in outer:
            setattr(place, name, nn.Module())
            place = getattr(place, name)
        setattr(place, last, model)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The model's."""
        return self.get_submodule(PREFIX.strip("."))(*args, **kwargs)


def _named_as_stored(model: nn.Module) -> nn.Module:
    """The model, whose parameters have the names that they have in checkpoints."""
    layers = adapted_layers(model)
    for layer in layers.values():
        layer.lora_A = _Factor(layer.lora_A[NAME].weight)
        layer.lora_B = _Factor(layer.lora_B[NAME].weight)
    return _Within(model).eval() if layers else model


def _sharing(model: nn.Module, instead: Mapping[int, Tensor]) -> nn.Module:
    """A copy of the modules with the same tensors, but for those whose id has another one."""
    tensors = [*model.parameters(), *model.buffers()]
    return copy.deepcopy(model, {id(tensor): instead.get(id(tensor), tensor) for tensor in tensors})
