"""Which methods a recipe may name, with their parameters as mergekit spells them; imports no torch."""

from dataclasses import dataclass
from typing import Any, Literal

Kind = Literal["number", "integer", "boolean"]


@dataclass(frozen=True)
class Parameter:
    """One parameter: of the whole merge, or one value per model."""

    name: str
    kind: Kind = "number"
    default: float | bool | None = None  # None: required
    low: float = float("-inf")
    high: float = float("inf")
    keyword: str = ""  # what the function calls it, where that differs

    @property
    def argument(self) -> str:
        """Name of the function's argument."""
        return self.keyword or self.name

    def accepts(self, value: Any) -> bool:
        """Whether an evaluated value is of the right kind and in range."""
        if self.kind == "boolean" or isinstance(value, bool):
            return self.kind == "boolean" and isinstance(value, bool)
        whole = self.kind != "integer" or float(value).is_integer()
        return isinstance(value, int | float) and whole and self.low <= value <= self.high

    @property
    def domain(self) -> str:
        """The allowed values in words."""
        if self.kind == "boolean":
            return "true or false"
        article = "an" if self.kind == "integer" else "a"
        limits = f" in [{self.low:g}, {self.high:g}]" if self.low > float("-inf") else ""
        return f"{article} {self.kind}{limits}"


@dataclass(frozen=True)
class Signature:
    """One of mergekit's methods."""

    name: str
    function: str  # module.name below merge_lib.mergekit.methods
    base: Literal["required", "optional", "a model"]  # "a model": merged like the others
    fewest: int  # models beside the base
    most: int | None
    shared: tuple[Parameter, ...] = ()
    per_model: tuple[Parameter, ...] = ()
    elect: bool | None = None  # the function's `elect`, where it has one
    randomised: bool = False

    @property
    def parameters(self) -> dict[str, Parameter]:
        """All parameters by name."""
        return {parameter.name: parameter for parameter in (*self.shared, *self.per_model)}


_WEIGHT = Parameter("weight")
_DENSITY = Parameter("density", default=1.0, low=0, high=1)
_GAMMA = Parameter("gamma", default=0.01, low=0, high=1)
_EPSILON = Parameter("epsilon", default=0.15, low=0, high=1)
_T = Parameter("t")


def _family(
    name: str,
    function: str,
    *per_model: Parameter,
    normalize: bool,
    rescale: bool | None = None,
    elect: bool | None = None,
) -> Signature:
    """A descendant of task arithmetic."""
    shared = [
        Parameter("normalize", "boolean", default=normalize),
        Parameter("lambda", default=1.0, keyword="scale"),
    ]
    if rescale is not None:
        shared.append(Parameter("rescale", "boolean", default=rescale))
    return Signature(
        name,
        f"task_vectors.{function}",
        "required",
        1,
        None,
        tuple(shared),
        (_WEIGHT, *per_model),
        elect,
        randomised=function in ("dare", "della"),
    )


_ALL = (
    Signature(
        "linear", "linear.linear", "a model", 1, None, (Parameter("normalize", "boolean", True),), (_WEIGHT,)
    ),
    Signature("passthrough", "linear.passthrough", "a model", 1, 1, (), (Parameter("scale", default=1.0),)),
    Signature("slerp", "spherical.slerp", "required", 1, 1, (_T,)),
    Signature(
        "nuslerp",
        "spherical.nuslerp",
        "optional",
        2,
        2,
        (
            Parameter("nuslerp_flatten", "boolean", True, keyword="flatten"),
            Parameter("nuslerp_row_wise", "boolean", False, keyword="row_wise"),
        ),
        (_WEIGHT,),
    ),
    Signature(
        "multislerp",
        "spherical.multislerp",
        "optional",
        2,
        None,
        (Parameter("normalize_weights", "boolean", True),),
        (_WEIGHT,),
    ),
    Signature(
        "karcher",
        "spherical.karcher",
        "a model",
        1,
        None,
        (Parameter("max_iter", "integer", 10, low=1), Parameter("tol", default=1e-5, low=0)),
    ),
    _family("task_arithmetic", "task_arithmetic", normalize=False),
    _family("ties", "ties", _DENSITY, normalize=True, rescale=False),
    _family("dare_linear", "dare", _DENSITY, normalize=False, rescale=True, elect=False),
    _family("dare_ties", "dare", _DENSITY, normalize=False, rescale=True, elect=True),
    _family("della", "della", _DENSITY, _EPSILON, normalize=True, rescale=True, elect=True),
    _family("della_linear", "della", _DENSITY, _EPSILON, normalize=False, rescale=True, elect=False),
    _family("breadcrumbs", "breadcrumbs", _DENSITY, _GAMMA, normalize=False, rescale=False, elect=False),
    _family("breadcrumbs_ties", "breadcrumbs", _DENSITY, _GAMMA, normalize=False, rescale=False, elect=True),
    Signature(
        "model_stock",
        "towards.model_stock",
        "required",
        2,
        None,
        (Parameter("filter_wise", "boolean", False),),
    ),
    Signature("nearswap", "towards.nearswap", "required", 1, 1, (_T,)),
    Signature("arcee_fusion", "towards.arcee_fusion", "required", 1, 1),
    Signature("sce", "sce.sce", "required", 1, None, (Parameter("select_topk", "number", 1.0, 0, 1),)),
)
SIGNATURES = {signature.name: signature for signature in _ALL}
IGNORED = frozenset({"int8_mask"})  # how mergekit stores its masks; changes no result
