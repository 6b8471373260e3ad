"""A merge as a flat list of work, made from headers alone and checked before anything is written.

Whatever a recipe is written in, it becomes a `MergePlan`; `make_plan` makes it of our own.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from math import prod
from typing import TYPE_CHECKING, Any, Literal, NoReturn, Protocol, TypeVar

import xxhash

from merge_lib import registry
from merge_lib.calibration.sizes import observed_bytes
from merge_lib.compatibility import check_compatible, match_excluded
from merge_lib.errors import MergeError
from merge_lib.files.folders import Source
from merge_lib.files.headers import TensorHeader
from merge_lib.files.layout import DTYPE_BYTES, Shape
from merge_lib.spec import MergeSpec
from merge_lib.streaming.headers import FLOATING, read_source
from merge_lib.streaming.recorded import recipe_lines, recorded

if TYPE_CHECKING:
    from merge_lib.streaming.devices import Device
    from merge_lib.streaming.torch_route import Making

DTYPE_CODES = {
    **{"float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16"},
    **{"float8_e4m3fn": "F8_E4M3", "float8_e5m2": "F8_E5M2"},
}
T = TypeVar("T")
_IN_KERNELS = frozenset({"F32", "F16", "BF16"})
ROW_PIECE = 1 << 16  # elements that pieces of whole rows hold at most; fixed, as sums are by tiles of a piece
_PASSES = {  # of the methods with kernels; a test compares the names with those of `operations`
    **dict.fromkeys(("average", "dare", "ema", "linear", "magmax", "running_average", "task_arithmetic"), 1),
    **dict.fromkeys(("slerp", "ties", "mergekit.slerp", "mergekit.model_stock", "mergekit.ties"), 2),
    **dict.fromkeys(("mergekit.linear", "mergekit.passthrough", "mergekit.task_arithmetic"), 1),
    **dict.fromkeys(("mergekit.breadcrumbs", "mergekit.breadcrumbs_ties", "mergekit.dare_linear"), 2),
    **dict.fromkeys(("mergekit.dare_ties", "mergekit.della", "mergekit.della_linear"), 2),
    "mergekit.sce": 3,
}
KERNEL_METHODS = frozenset(_PASSES)


@dataclass(frozen=True)
class Work:
    """One tensor of the result and what it is made of.

    Attributes:
        kind: merged; copied from the base, which is excluded; or the same in all inputs but the first.
        inputs: of the base, or None without one, then of each expert; None where it lacks the tensor.
        method: a registered name, or `mergekit.` and one of mergekit's.
        params: the method's keywords for this tensor.
        arithmetic: the element type to which every operation rounds.
    """

    name: str
    kind: Literal["merge", "copy", "equal"]
    dtype: str
    shape: Shape
    inputs: tuple[TensorHeader | None, ...]
    method: str = ""
    params: Mapping[str, Any] = field(default_factory=dict)
    arithmetic: str = "F32"

    @property
    def count(self) -> int:
        """Elements of the result."""
        return prod(self.shape)

    @property
    def size_bytes(self) -> int:
        """Bytes of the result."""
        return self.count * DTYPE_BYTES[self.dtype]

    @property
    def read_bytes(self) -> int:
        """Bytes of all inputs."""
        return sum(header.size_bytes for header in self.inputs if header is not None)


class Reference(Protocol):
    """A recipe's torch functions: the slower route, and the messages of the faster."""

    def make(self, making: "Making") -> None:
        """Do everything that the journal does not have yet.

        Raises:
            NotFiniteError: a tensor is not finite; `refuse` says where.
        """
        ...

    def refuse(self, plan: "MergePlan", work: Work) -> NoReturn:
        """Say which input is not finite, or that the result is not."""
        ...


@dataclass(frozen=True)
class ConfigChange:
    """What the result's configuration says otherwise than the template's.

    Attributes:
        dtype: the element type as a configuration names it; None leaves it.
        layers: the template's layer that each layer of the result is like; None leaves their number.
    """

    dtype: str | None = None
    layers: tuple[int, ...] | None = None


@dataclass(frozen=True)
class MergePlan:
    """What will be done.

    Attributes:
        method: what messages call the merge.
        params: the method's keywords where they are the same for every tensor.
        seed: of random draws.
        recipe: as it is recorded, without paths.
        recipe_lines: the recipe as YAML, without paths.
        base: None where the recipe has none.
        template: whose configuration and tokenizer the result takes over.
        reference: loads the torch functions.
        why_torch: why the arithmetic is not in kernels, in words; empty where it is.
        variant: whose mathematics they are, where they are not those of the papers.
        device: what merges, where it is not the kernels on the CPU.
        observed_bytes: of the observations of each tensor, where the method takes them.
        fitted_bytes: of what was learned before the merge.
    """

    method: str
    params: Mapping[str, Any]
    seed: int
    recipe: Mapping[str, Any]
    recipe_lines: tuple[str, ...]
    base: Source | None
    experts: tuple[Source, ...]
    works: tuple[Work, ...]
    template: Source
    config: ConfigChange
    reference: Callable[[], Reference]
    why_torch: str
    variant: str = ""
    device: "Device | None" = None
    observed_bytes: Mapping[str, int] = field(default_factory=dict)
    fitted_bytes: int = 0

    @property
    def is_compiled(self) -> bool:
        """The arithmetic runs in kernels, else in torch."""
        return not self.why_torch

    @property
    def arithmetic(self) -> str:
        """The route, as it is reported."""
        if self.device is not None:
            return self.device.label
        return "kernels" if self.is_compiled else f"torch: {self.why_torch}"

    @property
    def sources(self) -> tuple[Source, ...]:
        """The base, if there is one, and the experts."""
        return self.experts if self.base is None else (self.base, *self.experts)

    @property
    def passes(self) -> int:
        """How often the inputs are read."""
        if self.is_compiled:
            return 1 if self.method == "ties" and self.params["density"] == 1 else _PASSES[self.method]
        bits = max((DTYPE_BYTES[work.arithmetic] * 8 for work in self.works), default=32)
        looks = 0 if self.variant else registry.get(self.method).passes_before(self.params, bits)
        scales = self.recipe.get("layer_scales", {}).get("shallow") == "auto"
        return 1 + looks + ("equalise" in self.recipe) + scales

    @property
    def read_bytes(self) -> int:
        """Bytes of all passes; while experts are folded in one by one, the base is read beside each."""
        total = self.passes * sum(work.read_bytes for work in self.works)
        if self.is_compiled or self.variant or self.base is None:
            return total
        info = registry.get(self.method)
        if (info.kind, info.scope) != ("continual", "model"):
            return total
        base = sum(work.inputs[0].size_bytes for work in self.works if work.inputs[0] is not None)
        return total + (len(self.experts) - 1) * base

    @property
    def threshold_share(self) -> float | None:
        """The share of entries that a threshold over the whole model keeps; None where there is none."""
        if self.method != "ties" or self.params["trim"] != "model" or self.params["density"] == 1:
            return None
        return self.params["density"]

    @property
    def tensors(self) -> dict[str, tuple[str, Shape]]:
        """Dtype and shape of every tensor of the result."""
        return {work.name: (work.dtype, work.shape) for work in self.works}

    @property
    def recorded(self) -> dict[str, Any]:
        """What the manifest says of the recipe."""
        named = {"variant": self.variant, "seed": self.seed} if self.variant else {}
        return {"recipe": dict(self.recipe), **named}

    def fingerprint(self, outputs: Mapping[str, Any]) -> str:
        """Changes with the recipe, the input files, the layout of the result and the device."""
        files = [
            [[str(path.resolve()), *state.identity] for path, state in source.states.items()]
            for source in self.sources
        ]
        places = {h.key: place for place, source in enumerate(self.sources) for h in source.tensors.values()}
        made_of = [
            [work.name, work.params, [header and (places[header.key], header.name) for header in work.inputs]]
            for work in self.works
        ]
        told = [
            self.recorded,
            self.base is not None,
            files,
            made_of,
            outputs,
            self.device and self.arithmetic,
        ]
        return xxhash.xxh3_128_hexdigest(json.dumps(told, sort_keys=True).encode())


def make_plan(spec: MergeSpec) -> MergePlan:
    """Read all headers and check them.

    Raises:
        MergeError: everything that is wrong, in one error.
    """
    opening = [partial(read_source, path, spec.base) for path in spec.experts]
    base, *experts = gather([lambda: spec.base and read_source(spec.base), *opening])
    sources = [source for source in (base, *experts) if source is not None]
    excluded = frozenset(
        match_excluded(spec.exclude, sorted({n for source in sources for n in source.names}))
    )
    check_compatible(base, experts, tuple(excluded), dtype_is_stated=spec.dtype is not None)
    is_wide = any(header.dtype == "F64" for source in sources for header in source.tensors.values())
    works = tuple(
        _work(name, spec, (base, *experts), excluded, "F64" if is_wide else "F32")
        for name in sources[0].names
    )
    return MergePlan(
        method=spec.method,
        params=spec.params,
        seed=spec.seed,
        recipe=recorded(spec),
        recipe_lines=tuple(recipe_lines(spec)),
        base=base,
        experts=tuple(experts),
        works=works,
        template=sources[0],
        config=ConfigChange(spec.dtype),
        reference=lambda: _load_reference(spec),
        why_torch=_why_torch(spec) or why_torch(works, sources),
        observed_bytes=observed_bytes(spec.observations, [work.name for work in works]),
        fitted_bytes=spec.fitted.stat().st_size if spec.fitted is not None else 0,
    )


def gather(calls: Iterable[Callable[[], T]]) -> list[T]:
    """What the calls give.

    Raises:
        MergeError: everything that any of them raised, in one error of the first one's kind.
    """
    found, problems = [], []
    for call in calls:
        try:
            found.append(call())
        except MergeError as exc:
            problems.append(exc)
    if problems:
        raise type(problems[0])("\n".join(str(problem) for problem in problems)) from problems[0]
    return found


def why_torch(works: Sequence[Work], sources: Sequence[Source]) -> str:
    """The reason for which kernels cannot be used; empty where they can."""
    merges = [work for work in works if work.kind == "merge"]
    for method in sorted({work.method for work in merges}):
        if method not in KERNEL_METHODS or not _is_own(method):
            return f"method '{method}' has no kernel"
    if any(work.method == "slerp" and len(work.inputs) > 3 for work in merges):
        return "slerp of more than two experts has no kernel"
    if any(work.params.get("filter_wise") for work in merges):
        return "model_stock by rows has no kernel"
    if any(work.arithmetic == "F64" for work in works):
        return "a tensor is F64, so the arithmetic is float64"
    if any(source.is_computed for source in sources):
        return "tensors must be computed before they are merged"
    used = {h.dtype for work in merges for h in work.inputs if h} | {work.dtype for work in merges}
    others = sorted(used - _IN_KERNELS)
    return f"kernels do not read {', '.join(others)}" if others else ""


def _why_torch(spec: MergeSpec) -> str:
    """What around the method has no kernel; empty where nothing is."""
    if spec.layer_scales is not None:
        return "layer scales have no kernel"
    return "equalised task vectors have no kernel" if spec.equalise is not None else ""


def _work(
    name: str,
    spec: MergeSpec,
    sources: Sequence[Source | None],
    excluded: frozenset[str],
    arithmetic: str,
) -> Work:
    inputs = tuple(None if source is None else source.tensors.get(name) for source in sources)
    like = inputs[0] or inputs[1]
    if name in excluded:
        return Work(name, "copy", like.dtype, like.shape, inputs)
    if like.dtype not in FLOATING:
        return Work(name, "equal", like.dtype, like.shape, inputs)
    out = DTYPE_CODES.get(spec.dtype or "", like.dtype)
    return Work(name, "merge", out, like.shape, inputs, spec.method, spec.params, arithmetic)


def _is_own(method: str) -> bool:
    """Whether a method is the library's, not one of the user's."""
    own = ("merge_lib.methods.", "merge_lib.continual.")
    return method.startswith("mergekit.") or registry.get(method).module.startswith(own)


def _load_reference(spec: MergeSpec) -> Reference:
    from merge_lib.streaming.torch_route import OwnReference  # imports torch

    return OwnReference(spec)
