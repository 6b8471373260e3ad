"""What the model hub reads of a model card: the header that says which models went into a merge."""

import json
import re
from collections.abc import Iterable
from pathlib import Path

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def front_matter(models: Iterable[Path], *, is_for_transformers: bool) -> list[str]:
    """The card's YAML header, as lines."""
    names = dict.fromkeys(hub_name(path) for path in models)
    library = ["library_name: transformers"] if is_for_transformers else []
    return [
        "---",
        "base_model:",
        *(f"- {json.dumps(name, ensure_ascii=False)}" for name in names),
        "base_model_relation: merge",
        *library,
        "tags:",
        "- merge",
        "- mergeline",
        "---",
    ]


def hub_name(path: Path) -> str:
    """A model's name on the hub: from the hub's cache, or as its configuration says; else its folder's or file's."""
    path = path.absolute()
    if path.parent.name == "snapshots" and path.parent.parent.name.startswith("models--"):
        return path.parent.parent.name.removeprefix("models--").replace("--", "/")
    told = _name_in(path / "config.json")
    return told if told is not None and _HUB_ID.fullmatch(told) else path.name.removesuffix(".safetensors")


def _name_in(config: Path) -> str | None:
    """What `transformers` notes of where it loaded a model from."""
    try:
        content = json.loads(config.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    name = content.get("_name_or_path") if isinstance(content, dict) else None
    return name if isinstance(name, str) else None
