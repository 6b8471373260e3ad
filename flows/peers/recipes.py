"""The recipes on which we are compared: one text for mergekit and us, the same mathematics for sd-mecha and us."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

MANY = "many"  # linear, of 3,600 small tensors
_WEIGHTS = (0.3, 0.5, 0.2)


@dataclass(frozen=True)
class _Mergekit:
    """How a method of mergekit is asked for: parameters of each expert and of the whole merge."""

    own: dict[str, float] = field(default_factory=dict)
    shared: dict[str, Any] = field(default_factory=dict)
    has_base: bool = True
    has_weights: bool = True


_MERGEKIT = {
    "linear": _Mergekit(has_base=False),
    "task_arithmetic": _Mergekit(),
    "model_stock": _Mergekit(has_weights=False),
    "dare_linear": _Mergekit({"density": 0.5}),
    "dare_ties": _Mergekit({"density": 0.5}),
    "ties": _Mergekit({"density": 0.2}),
    "della": _Mergekit({"density": 0.5, "epsilon": 0.1}),
    "breadcrumbs": _Mergekit({"density": 0.5, "gamma": 0.01}),
    "sce": _Mergekit(shared={"select_topk": 0.2}, has_weights=False),
}
MERGEKIT_METHODS = ("passthrough", "slerp", *_MERGEKIT, MANY)


@dataclass(frozen=True)
class _SdMecha:
    """Our parameters and those of sd-mecha; where ours is a recipe of mergekit's, they go into that."""

    ours: dict[str, Any]
    theirs: dict[str, Any]
    has_base: bool = False
    experts: int | None = None  # all
    as_mergekit: bool = False


_SD_MECHA = {
    "linear": _SdMecha({"position": 0.4}, {"alpha": 0.4}, experts=2),
    "average": _SdMecha({}, {}),
    "slerp": _SdMecha({"position": 0.4}, {"alpha": 0.4}, experts=2),
    "task_arithmetic": _SdMecha({"scale": 0.3}, {"scale": 0.3}, has_base=True),
    # theirs also divides by how many kept the entry
    "dare": _SdMecha(
        {"density": 0.5, "scale": 0.3}, {"probability": 0.5, "alpha": 0.3, "seed": 0}, has_base=True
    ),
    # signs elected by the sums, as in the paper, not by counting
    "ties": _SdMecha(
        {"density": 0.2, "trim": "tensor"}, {"k": 0.2, "scale": 1.0, "vote_sgn": True}, has_base=True
    ),
    "model_stock": _SdMecha({"filter_wise": True}, {}, as_mergekit=True),
    # in 1.1.8 `apply_stock` is what leaves the factor of model stock out
    "dare_ties": _SdMecha({}, {"probability": 0.5, "seed": 0, "apply_stock": True}, as_mergekit=True),
}
SD_MECHA_METHODS = (*_SD_MECHA, MANY)


def mergekit_yaml(method: str, base: Path, experts: Sequence[Path], **shared: Any) -> str:
    """The recipe that mergekit and we read: bfloat16, all experts but for passthrough (one) and slerp (one).

    Args:
        method: one of `MERGEKIT_METHODS`.
        base: its folder; SLERP goes from it to the first expert.
        experts: their folders.
        shared: more parameters of the whole merge.
    """
    method = "linear" if method == MANY else method
    if method == "passthrough":
        return _yaml({"merge_method": method, "models": [{"model": str(experts[0])}], "dtype": "bfloat16"})
    if method == "slerp":
        models = [{"model": str(model)} for model in (base, experts[0])]
        body = {"models": models, "base_model": str(base), "parameters": {"t": 0.4}}
        return _yaml({"merge_method": method, **body, "dtype": "bfloat16"})
    how = _MERGEKIT[method]
    parameters = {**how.shared, **shared}
    models = [_weighted(how, place, expert) for place, expert in enumerate(experts)]
    return _yaml(
        {
            "merge_method": method,
            "models": models,
            **({"base_model": str(base)} if how.has_base else {}),
            **({"parameters": parameters} if parameters else {}),
            "dtype": "bfloat16",
        }
    )


def _weighted(how: _Mergekit, place: int, expert: Path) -> dict[str, Any]:
    weight = {"weight": _WEIGHTS[place % len(_WEIGHTS)]} if how.has_weights else {}
    parameters = {**weight, **how.own}
    return {"model": str(expert), **({"parameters": parameters} if parameters else {})}


def sd_mecha_pair(method: str, base: Path, experts: Sequence[Path]) -> tuple[str, dict[str, Any]]:
    """Our recipe, and the plan for sd-mecha's driver, of the same merge.

    Model stock and DARE with TIES are mergekit's variants on both sides; DARE is the nearest that both have.
    """
    method = "linear" if method == MANY else method
    how = _SD_MECHA[method]
    chosen = experts[: how.experts]
    files = [str(model / "model.safetensors") for model in (base, *chosen)]
    plan = {"method": method, "models": files, "params": how.theirs}
    if how.as_mergekit:
        return mergekit_yaml(method, base, chosen, **how.ours), plan
    recipe = {"method": method, "params": how.ours, "experts": [str(expert) for expert in chosen]}
    return _yaml({**recipe, **({"base": str(base)} if how.has_base else {})}), plan


def _yaml(content: dict[str, Any]) -> str:
    stream = StringIO()
    YAML().dump(content, stream)
    return stream.getvalue()
