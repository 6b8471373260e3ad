"""A merge as a flat list of work, made from headers alone and checked before anything is written."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Any, Literal

import xxhash

from merge_lib import registry
from merge_lib.compatibility import check_compatible, match_excluded
from merge_lib.errors import MergeError
from merge_lib.files.folders import Source
from merge_lib.files.headers import TensorHeader
from merge_lib.files.layout import DTYPE_BYTES, Shape
from merge_lib.spec import MergeSpec
from merge_lib.streaming.headers import FLOATING, read_source

OUT_DTYPES = {
    **{"float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16"},
    **{"float8_e4m3fn": "F8_E4M3", "float8_e5m2": "F8_E5M2"},
}
_IN_KERNELS = frozenset({"F32", "F16", "BF16"})
_KERNEL_METHODS = frozenset(
    {"average", "dare", "ema", "linear", "magmax", "running_average", "slerp", "task_arithmetic", "ties"}
)


@dataclass(frozen=True)
class Work:
    """One tensor of the result and what it is made of.

    Attributes:
        kind: merged; copied from the base, which is excluded; or the same in all experts.
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


@dataclass(frozen=True)
class MergePlan:
    """What will be done.

    Attributes:
        base: None where the recipe has none.
        is_compiled: the arithmetic runs in kernels, else in torch.
        why_torch: the reason for the slower route, in words.
    """

    spec: MergeSpec
    base: Source | None
    experts: tuple[Source, ...]
    works: tuple[Work, ...]
    is_compiled: bool
    why_torch: str

    @property
    def sources(self) -> tuple[Source, ...]:
        """The base, if there is one, and the experts."""
        return self.experts if self.base is None else (self.base, *self.experts)

    @property
    def passes(self) -> int:
        """How often the inputs are read."""
        params, method = self.spec.params, self.spec.method
        if method == "ties" and params["density"] < 1 and (self.is_compiled or params["trim"] == "model"):
            return 3
        return 2 if self.is_compiled and method == "slerp" and len(self.experts) == 2 else 1

    @property
    def tensors(self) -> dict[str, tuple[str, Shape]]:
        """Dtype and shape of every tensor of the result."""
        return {work.name: (work.dtype, work.shape) for work in self.works}

    @property
    def recipe(self) -> dict[str, Any]:
        """The recipe without paths, as it is recorded."""
        spec = self.spec
        recipe = {
            "method": spec.method,
            "params": spec.params,
            "seed": spec.seed,
            "exclude": list(spec.exclude),
        }
        return recipe if spec.dtype is None else {**recipe, "dtype": spec.dtype}

    def fingerprint(self, outputs: Mapping[str, Any]) -> str:
        """Changes with the recipe, the input files and the layout of the result."""
        files = [[_state(file) for file in source.files] for source in self.sources]
        told = json.dumps([self.recipe, self.base is not None, files, outputs], sort_keys=True)
        return xxhash.xxh3_128_hexdigest(told.encode())


def make_plan(spec: MergeSpec) -> MergePlan:
    """Read all headers and check them.

    Raises:
        MergeError: everything that is wrong, in one error.
    """
    sources, problems = [], []
    for path in (spec.base, *spec.experts):
        try:
            sources.append(None if path is None else read_source(path, spec.base))
        except MergeError as exc:
            problems.append(exc)
    _raise_all(problems)
    base, experts = sources[0], tuple(sources[1:])
    names = sorted({name for source in sources if source is not None for name in source.names})
    excluded = frozenset(match_excluded(spec.exclude, names))
    check_compatible(base, experts, tuple(excluded), dtype_is_stated=spec.dtype is not None)
    like = base or experts[0]
    works = tuple(_work(name, spec, sources, like, excluded) for name in like.names)
    why_torch = _why_torch(spec, works, sources)
    return MergePlan(spec, base, experts, works, not why_torch, why_torch)


def _work(
    name: str, spec: MergeSpec, sources: list[Source | None], like: Source, excluded: frozenset[str]
) -> Work:
    inputs = tuple(None if source is None else source.tensors.get(name) for source in sources)
    dtype, shape = like.dtype(name), like.shape(name)
    if name in excluded:
        return Work(name, "copy", dtype, shape, inputs)
    if dtype not in FLOATING:
        return Work(name, "equal", dtype, shape, inputs)
    out = OUT_DTYPES.get(spec.dtype or "", dtype)
    return Work(name, "merge", out, shape, inputs, spec.method, spec.params)


def _why_torch(spec: MergeSpec, works: tuple[Work, ...], sources: list[Source | None]) -> str:
    """The reason for which kernels cannot be used; empty where they can."""
    info = registry.get(spec.method)
    is_own = info.module.startswith(("merge_lib.methods.", "merge_lib.continual."))
    if not is_own or spec.method not in _KERNEL_METHODS:
        return f"method '{spec.method}' has no kernel"
    if spec.method == "slerp" and len(spec.experts) > 2:
        return "slerp of more than two experts has no kernel"
    if any(source.dtype(name) == "F64" for source in sources if source for name in source.names):
        return "a tensor is F64, so the arithmetic is float64"
    if any(h.path is None for source in sources if source for h in source.tensors.values()):
        return "tensors must be computed before they are merged"
    used = {h.dtype for work in works if work.kind == "merge" for h in work.inputs if h}
    used |= {work.dtype for work in works if work.kind == "merge"}
    others = sorted(used - _IN_KERNELS)
    return f"kernels do not read {', '.join(others)}" if others else ""


def _state(file: Any) -> list[Any]:
    """What changes when a file does."""
    found = file.stat()
    return [str(file.resolve()), found.st_size, found.st_mtime_ns, found.st_ino]


def _raise_all(problems: list[MergeError]) -> None:
    """One error of the kind of the first that tells all of them."""
    if problems:
        raise type(problems[0])("\n".join(str(problem) for problem in problems)) from problems[0]
