"""What a few unlabelled inputs say of a merge: how far its outputs and its layers' outputs move from the expert's.

No label is looked at. p are the softmax probabilities of the answers that the task allows.

| feature | definition |
|---|---|
| agreement | share of the inputs for which merge and expert give the same answer |
| base agreement | the same of base and expert |
| expert's confidence | mean of the expert's greatest probability |
| merge's confidence | mean of the merge's greatest probability |
| answer kept | mean probability that the merge gives to the expert's answer |
| probability shift | mean of ½ Σ |p_merge − p_expert|, from 0 to 1 |
| logit shift | ‖l_merge − l_expert‖ / ‖l_expert‖, logits less their mean over answers |
| movement (region) | ‖o_merge − o_expert‖ / ‖o_expert‖, all outputs o of the layers that hold matrices, as ln(1 + x) |
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from merge_lib.errors import DataError
from merge_lib.forecast.features import Features
from merge_lib.forecast.regions import REGIONS, Part, region_of
from merge_lib.layers import describe_layers
from merge_lib.ops.cores import one_core
from merge_lib.probe import Batch, Probe, Split
from merge_lib.types import StateDict

INPUT_NAMES = (
    "agreement",
    "base agreement",
    "expert's confidence",
    "merge's confidence",
    "answer kept",
    "probability shift",
    "logit shift",
    *(f"movement ({region})" for region in REGIONS),
)


@dataclass(frozen=True)
class Asked:
    """Which inputs are shown.

    Attributes:
        examples: of each task, drawn with the seed.
        split: of the data.
        batch_size: examples at once.
    """

    examples: int = 64
    split: Split = "validation"
    seed: int = 0
    batch_size: int = 64


@dataclass(frozen=True)
class _Answers:
    """What a model makes of a task's inputs.

    Attributes:
        logits: [inputs, answers].
        outputs: of each region's layers, flat.
    """

    logits: Tensor
    outputs: Mapping[Part, Tensor]


class Examiner:
    """Shows each task's inputs to base, expert and merges; what base and expert answer is kept.

    Args:
        probe: the workload.
        tasks: the task of each expert.
        base: state dict.
        experts: state dicts.
        asked: which inputs.

    Raises:
        DataError: a task has no examples in the split.
    """

    def __init__(
        self,
        probe: Probe,
        tasks: Sequence[str],
        base: StateDict,
        experts: Sequence[StateDict],
        asked: Asked = Asked(),
    ) -> None:
        self.probe, self.tasks = probe, tuple(tasks)
        self.batches = [_batches(probe, task, asked) for task in tasks]
        with one_core():
            self.experts = [self._answers(state, task) for task, state in enumerate(experts)]
            self.bases = [self._answers(base, task) for task in range(len(tasks))]

    def examine(self, merged: Sequence[StateDict]) -> list[Features]:
        """The features of a merge, one row for each task.

        Args:
            merged: one state dict, or one for each task of methods that give a model for each.
        """
        with one_core():
            answers = [
                self._answers(merged[min(task, len(merged) - 1)], task) for task in range(len(self.tasks))
            ]
        return [
            _compare(expert, base, merge)
            for expert, base, merge in zip(self.experts, self.bases, answers, strict=True)
        ]

    @torch.no_grad()
    def _answers(self, state: StateDict, task: int) -> _Answers:
        module = self.probe.module(state)
        outputs: dict[Part, list[Tensor]] = {}
        handles = _listen(module, outputs)
        logits = [self.probe.logits(module, batch, self.tasks[task]) for batch in self.batches[task]]
        for handle in handles:
            handle.remove()
        flat = {region: torch.cat(parts) for region, parts in outputs.items()}
        return _Answers(torch.cat(logits).double(), flat)


def _batches(probe: Probe, task: str, asked: Asked) -> list[Batch]:
    found = list(
        probe.batches(task, split=asked.split, count=asked.examples, seed=asked.seed, size=asked.batch_size)
    )
    if not found:
        raise DataError(
            f"Task '{task}' has no examples in its {asked.split} split, but a forecast with inputs needs some. Name "
            "another split, or leave the inputs out."
        )
    return found


def _listen(module: nn.Module, outputs: dict[Part, list[Tensor]]) -> list:  # type: ignore[type-arg]
    """Keep the outputs of all modules that hold a matrix or kernel of their own."""
    shapes = {name: tuple(value.shape) for name, value in module.named_parameters()}
    layers = describe_layers(shapes)
    handles = []
    for path, child in module.named_modules():
        names = [f"{path}.{name}" if path else name for name, _ in child.named_parameters(recurse=False)]
        matrices = [name for name in names if name in layers and len(shapes[name]) > 1]
        if matrices and not list(child.children()):
            region = region_of(layers[matrices[0]])
            handles.append(child.register_forward_hook(_keeper(outputs.setdefault(region, []))))
    return handles


def _keeper(kept: list[Tensor]):  # type: ignore[no-untyped-def]
    def keep(_module: nn.Module, _inputs: object, output: object) -> None:
        if isinstance(output, Tensor):
            kept.append(output.detach().reshape(-1).float())

    return keep


def _compare(expert: _Answers, base: _Answers, merge: _Answers) -> Features:
    """The features of one task."""
    before, after = expert.logits.softmax(1), merge.logits.softmax(1)
    answers = before.argmax(1)
    same = (after.argmax(1) == answers).double().mean()
    old, new = (one.logits - one.logits.mean(1, keepdim=True) for one in (expert, merge))
    values = {
        "agreement": same,
        "base agreement": (base.logits.argmax(1) == answers).double().mean(),
        "expert's confidence": before.amax(1).mean(),
        "merge's confidence": after.amax(1).mean(),
        "answer kept": after.gather(1, answers[:, None]).mean(),
        "probability shift": (after - before).abs().sum(1).mean() / 2,
        "logit shift": _over((new - old).norm(), old.norm()).log1p(),
    }
    moved = {region: _movement(expert, merge, region) for region in REGIONS}
    mean = torch.stack(list(moved.values()))
    known = mean[mean.isfinite()]
    fallback = known.mean() if len(known) else torch.tensor(0.0)
    for region, value in moved.items():
        values[f"movement ({region})"] = value if value.isfinite() else fallback
    return {name: float(values[name]) for name in INPUT_NAMES}


def _movement(expert: _Answers, merge: _Answers, region: Part) -> Tensor:
    """How far the outputs of a region moved; NaN where it has none."""
    if region not in expert.outputs:
        return torch.tensor(torch.nan)
    old, new = expert.outputs[region].double(), merge.outputs[region].double()
    return _over((new - old).norm(), old.norm()).log1p()


def _over(part: Tensor, whole: Tensor) -> Tensor:
    return part / whole if whole > 0 else torch.zeros_like(part)
