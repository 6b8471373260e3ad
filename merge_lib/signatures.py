"""The signature of a method's function: what it says, and what it may not be."""

import inspect
from collections.abc import Callable
from typing import Any

from merge_lib.errors import SpecError

_BESIDE_TENSORS = {"base", "layer", "statistics", "observed", "fitted"}
_BESIDE_STATE = {"state", "base", "layer", "shared"}


def split_signature(
    function: Callable[..., Any], name: str
) -> tuple[tuple[str, ...], dict[str, inspect.Parameter]]:
    """Names of the positional arguments, and the keyword-only ones."""
    parameters = inspect.signature(function).parameters
    keywords = {key: p for key, p in parameters.items() if p.kind is inspect.Parameter.KEYWORD_ONLY}
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    if any(p.kind in variadic for p in parameters.values()):
        raise SpecError(
            f"Method '{name}' takes *args or **kwargs. Name every parameter: the signature is the schema."
        )
    return tuple(key for key in parameters if key not in keywords), keywords


def check_positional(name: str, takes: tuple[str, ...], *, continual: bool) -> None:
    """Refuse a method whose positional arguments the engine could not fill in."""
    tensors = {"expert", "task_vector"} if continual else {"experts", "task_vectors"}
    others = _BESIDE_STATE if continual else _BESIDE_TENSORS
    if len(tensors & set(takes)) != 1 or set(takes) - tensors - others:
        raise SpecError(
            f"Method '{name}' takes the positional arguments {', '.join(takes) or 'none'}. It must take one "
            f"of {' or '.join(sorted(tensors))}, and beside it only {', '.join(sorted(others))}; "
            "put parameters behind a `*`."
        )


def check_scope(name: str, takes: tuple[str, ...], *, scope: str, whole: object | None) -> None:
    """Refuse a method that says one thing of its scope and does another."""
    if (whole is not None) != (scope == "model") or bool({"statistics", "shared"} & set(takes)) != (
        whole is not None
    ):
        raise SpecError(
            f"Method '{name}' has scope '{scope}'. A method with scope 'model', and no other, declares "
            "`statistics=` and takes `statistics` as a positional argument; a continual one `shared`."
        )


def check_data(
    name: str,
    takes: tuple[str, ...],
    *,
    data: str,
    observation: str | None,
    fit: Callable[..., Any] | None,
) -> None:
    """Refuse a method that does not say which data it needs."""
    declared_needs = {"observed": observation is not None, "fitted": fit is not None}
    wrong = [word for word, given in declared_needs.items() if (word in takes) != given]
    if wrong or (data != "none") != any(declared_needs.values()):
        raise SpecError(
            f"Method '{name}' needs the data '{data}'. A method that takes `observed` declares `observation=`, one "
            "that takes `fitted` declares `fit=`; those, and no others, declare `data=`."
        )
