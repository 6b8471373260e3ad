"""Where this user's things that can be made again are kept: digests of inputs, machine code."""

import os
from pathlib import Path

VARIABLE = "MERGELINE_CACHE"  # another folder than ~/.cache/mergeline


def cache_folder() -> Path:
    """$MERGELINE_CACHE, or `mergeline` in the user's cache folder."""
    if own := os.environ.get(VARIABLE):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")) / "mergeline"  # noqa: PTH111
