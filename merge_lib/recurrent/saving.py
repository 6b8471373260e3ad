"""Rounds as plain values and tensors, so that a training loop can keep them beside its model and go on later."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from merge_lib.errors import CheckpointCorruptError
from merge_lib.recurrent.importance import Importance
from merge_lib.recurrent.rounds import Rounds
from merge_lib.types import StateDict

_COUNTS = ("inner_done", "outer_done", "fusions")
_LEARNERS = ("inner", "outer")


def flatten_rounds(rounds: Rounds) -> tuple[dict[str, int], dict[str, Tensor]]:
    """The counts, and the tensors as "part:parameter", such as "inner.mean:lora_A".

    Returns:
        What JSON and a safetensors file can hold.
    """
    parts = {"anchor": rounds.anchor, "after_inner": rounds.after_inner or {}}
    values = {name: getattr(rounds, name) for name in _COUNTS}
    for word in _LEARNERS:
        state: Importance = getattr(rounds, word)
        parts |= {f"{word}.mean": state.mean, f"{word}.uncertainty": state.uncertainty}
        values |= {f"{word}.updates": state.updates, f"{word}.skipped": state.skipped}
    tensors = {f"{part}:{name}": tensor for part, held in parts.items() for name, tensor in held.items()}
    return values, tensors


def restore_rounds(values: Mapping[str, Any], tensors: StateDict) -> Rounds:
    """The rounds that `flatten_rounds` took apart.

    Raises:
        CheckpointCorruptError: lists what is missing or too much.
    """
    held: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        part, _, name = key.partition(":")
        held.setdefault(part, {})[name] = tensor
    _check_whole(values, held)
    inner, outer = (
        Importance(
            held[f"{word}.mean"],
            held[f"{word}.uncertainty"],
            values[f"{word}.updates"],
            values[f"{word}.skipped"],
        )
        for word in _LEARNERS
    )
    counts = {name: values[name] for name in _COUNTS}
    return Rounds(held["anchor"], held.get("after_inner"), inner, outer, **counts)


def _check_whole(values: Mapping[str, Any], held: Mapping[str, Mapping[str, Tensor]]) -> None:
    counts = {*_COUNTS, *(f"{word}.{what}" for word in _LEARNERS for what in ("updates", "skipped"))}
    needed = {"anchor", *(f"{word}.{what}" for word in _LEARNERS for what in ("mean", "uncertainty"))}
    names = set(held.get("anchor", {}))
    wrong = [f"the value `{name}`" for name in counts ^ set(values)]
    wrong += [f"the part `{part}`" for part in (needed ^ set(held)) - {"after_inner"}]
    wrong += [f"'{name}' of `{part}`" for part in set(held) - {"anchor"} for name in names ^ set(held[part])]
    if wrong:
        raise CheckpointCorruptError(
            f"Saved rounds of Recurrent-KIF are not whole: missing, or there without reason, are "
            f"{', '.join(sorted(wrong))}. Restore the file, or begin the task again."
        )
