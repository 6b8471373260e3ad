"""What data said before a merge: what a method is told of it, tensor by tensor."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from threading import Lock
from typing import TYPE_CHECKING, Protocol

from merge_lib.errors import MethodInputError
from merge_lib.registry import MethodInfo

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Observed:
    """What each expert's calibration data showed of one tensor.

    Attributes:
        values: one for each expert, in spec order. Features: the layer's inputs [n_t, in] for a matrix or a
            kernel (unfolded patches), its normalised and unscaled activations [n_t, d] for a scale. Gram: the
            mean of x·xᵀ over those rows, [in, in]; of a scale the mean square, [d]. Fisher: [*shape].
        counts: rows, or examples, that each value comes from.
        norms: of fisher, the 2-norm of each expert's values over the whole model; otherwise empty.
    """

    values: "tuple[Tensor, ...]"
    counts: tuple[int, ...]
    norms: tuple[float, ...] = ()


class ObservationSource(Protocol):
    """Where the engine asks for observations, tensor by tensor."""

    def observed(self, name: str) -> Observed | None:
        """Of the tensor of that name; None where the data never reached it, or none are collected for its role."""
        ...


class LastObserved:
    """Observations of which the last few tensors' are kept, for several pieces of one tensor.

    Args:
        source: where they come from.
        keep: of how many tensors.
    """

    def __init__(self, source: ObservationSource, keep: int) -> None:
        self._source, self._keep = source, keep
        self._lock = Lock()
        self._last: dict[str, Observed | None] = {}

    def observed(self, name: str) -> Observed | None:
        """Of one tensor."""
        with self._lock:
            if name not in self._last:
                while len(self._last) >= self._keep:
                    del self._last[next(iter(self._last))]
                self._last[name] = self._source.observed(name)
            return self._last[name]


@dataclass(frozen=True)
class Learned:
    """What data said before a merge.

    Attributes:
        observations: of methods that take `observed`.
        fitted: by tensor name, of methods that take `fitted`.
    """

    observations: ObservationSource | None = None
    fitted: "Mapping[str, Tensor]" = field(default_factory=dict)


NOTHING_LEARNED = Learned()


def check_learned(method: MethodInfo, learned: Learned) -> None:
    """Refuse a method that needs data and was given nothing from it.

    Raises:
        MethodInputError: says what is missing.
    """
    takes = method.implementation.takes
    missing = [
        word
        for word, given in (("observed", learned.observations is not None), ("fitted", bool(learned.fitted)))
        if word in takes and not given
    ]
    if missing:
        what = {"observed": f"observations of kind {method.observation}", "fitted": "fitted values"}
        raise MethodInputError(
            f"Method '{method.name}' needs data ({method.data}), but no {what[missing[0]]} were given. "
            "Collect it (`mergeline observe`, merge_lib.fitting), or run the method in a study, which does."
        )
