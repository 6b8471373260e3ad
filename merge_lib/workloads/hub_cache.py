"""Where the tools of the Hugging Face hub keep what they have fetched, read without them."""

import os
import re
from pathlib import Path
from typing import Literal

Kind = Literal["models", "datasets"]

NAME = re.compile(r"^[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?$")


def cache_place() -> Path:
    """The folder: $HF_HUB_CACHE, or `hub` in $HF_HOME."""
    home = Path(os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface")
    return Path(os.environ.get("HF_HUB_CACHE") or home / "hub")


def repository_place(kind: Kind, name: str) -> Path:
    """Where a model or data set of that name lies, if it was ever fetched."""
    return cache_place() / f"{kind}--{name.replace('/', '--')}"


def cached_snapshot(kind: Kind, name: str, revision: str = "main") -> Path | None:
    """The folder with the files of a revision, which may be a branch, a tag or a commit; None if there is none."""
    place = repository_place(kind, name)
    reference = place / "refs" / revision
    commit = reference.read_text(encoding="ascii").strip() if reference.is_file() else revision
    folder = place / "snapshots" / commit
    return folder if folder.is_dir() else None
