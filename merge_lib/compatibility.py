"""Whether checkpoints can be merged: names, shapes and dtypes, all problems in one error."""

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, Protocol

from merge_lib.errors import CheckpointMismatchError, SpecError, suggest

if TYPE_CHECKING:  # headers alone are checked without torch
    import torch
    from torch import Tensor


class DescribedTensors(Protocol):
    """Names, shapes and element types; the types are torch's or, from a header, safetensors' names."""

    @property
    def label(self) -> str: ...  # noqa: D102
    @property
    def names(self) -> tuple[str, ...]: ...  # noqa: D102
    def shape(self, name: str) -> tuple[int, ...]: ...  # noqa: D102
    def dtype(self, name: str) -> Any: ...  # noqa: D102


class TensorSource(Protocol):
    """Named tensors that can be described without being read: an open checkpoint, or a state dict."""

    @property
    def label(self) -> str: ...  # noqa: D102
    @property
    def names(self) -> tuple[str, ...]: ...  # noqa: D102
    def shape(self, name: str) -> tuple[int, ...]: ...  # noqa: D102
    def dtype(self, name: str) -> "torch.dtype": ...  # noqa: D102
    def tensor(self, name: str) -> "Tensor": ...  # noqa: D102


def match_excluded(patterns: Sequence[str], names: Sequence[str]) -> tuple[str, ...]:
    """The names that are left as in the base.

    Raises:
        SpecError: a pattern that matches no tensor.
    """
    unmatched = [p for p in patterns if not any(fnmatchcase(name, p) for name in names)]
    if unmatched:
        problems = [
            f"`exclude` names '{p}', but the base has no such tensor: {suggest(p, names)}." for p in unmatched
        ]
        raise SpecError("\n".join(problems))
    return tuple(name for name in names if any(fnmatchcase(name, pattern) for pattern in patterns))


def check_compatible(
    base: DescribedTensors | None,
    experts: Sequence[DescribedTensors],
    excluded: Sequence[str],
    *,
    dtype_is_stated: bool = False,
) -> None:
    """Refuse experts that differ from the base, or from the first expert where there is no base.

    Floating dtypes may differ where the dtype of the result is stated.

    Raises:
        CheckpointMismatchError: lists every missing or extra tensor and every other shape or dtype.
    """
    first, rest = (experts[0], experts[1:]) if base is None else (base, experts)
    role = "expert" if base is None else "base"
    problems = [
        problem
        for expert in rest
        for problem in _differences(first, role, expert, frozenset(excluded), dtype_is_stated)
    ]
    if problems:
        raise CheckpointMismatchError(
            "\n".join(problems)
            + f"\nExperts must be fine-tuned from the same base. Check that these checkpoints "
            f"belong together ({len(problems)} differences), or list the tensors in `exclude` to leave them "
            "as in the base."
            + (" Floating dtypes may differ if `dtype` states the result's." if _name_dtype(problems) else "")
        )


def _name_dtype(problems: list[str]) -> bool:
    return any(" has dtype " in problem for problem in problems)


def _differences(
    first: DescribedTensors,
    role: str,
    expert: DescribedTensors,
    excluded: frozenset[str],
    dtype_is_stated: bool,
) -> list[str]:
    """What keeps one expert from being merged with the first checkpoint."""
    expected, got = set(first.names) - excluded, set(expert.names) - excluded
    problems = [
        f"Tensor '{name}' is missing in expert '{expert.label}' but is in {role} '{first.label}'."
        for name in sorted(expected - got)
    ]
    problems += [
        f"Tensor '{name}' is in expert '{expert.label}' but not in {role} '{first.label}'."
        for name in sorted(got - expected)
    ]
    for name in sorted(expected & got):
        problems += [
            f"Tensor '{name}' has {what} {theirs} in expert '{expert.label}' "
            f"but {ours} in {role} '{first.label}'."
            for what, theirs, ours in (
                ("shape", expert.shape(name), first.shape(name)),
                ("dtype", expert.dtype(name), first.dtype(name)),
            )
            if theirs != ours and not (what == "dtype" and dtype_is_stated and _are_floating(theirs, ours))
        ]
    return problems


def _are_floating(*dtypes: Any) -> bool:
    return all(
        dtype.startswith(("F", "BF")) if isinstance(dtype, str) else dtype.is_floating_point
        for dtype in dtypes
    )
