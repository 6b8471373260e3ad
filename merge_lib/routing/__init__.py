"""Routing: which of several models answers an input, as ConDU chooses by prototypes of the tasks.

`RoutingSettings` says how; `Poll` collects the votes of models that are given one after another; `route` does all of
it for models in memory. A workload takes part by an `Encoder` (`Routing`). Importing this
package loads no torch.
"""

from typing import Any

from merge_lib.routing.settings import PrototypeImages, RoutingSettings

_HOMES = {
    "BaseView": "view",
    "Encoder": "encoder",
    "Poll": "polling",
    "Routed": "polling",
    "Routing": "encoder",
    "prototypes": "prototypes",
    "route": "polling",
}

__all__ = [
    "BaseView",
    "Encoder",
    "Poll",
    "PrototypeImages",
    "Routed",
    "Routing",
    "RoutingSettings",
    "prototypes",
    "route",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
