"""Where observations of a tensor lie, and how large they are, without reading them."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from urllib.parse import quote


def file_of(name: str) -> str:
    """The file of a tensor's observation; no name leaves the folder."""
    return f"{quote(name, safe='')}.safetensors"


def observed_bytes(folders: Sequence[Path], names: Iterable[str]) -> dict[str, int]:
    """Bytes of the observations of each tensor, of all experts together.

    Args:
        folders: one for each expert.
        names: of the tensors; those without observations are left out.
    """
    if not folders:
        return {}
    sizes = {name: sum(_size(folder / file_of(name)) for folder in folders) for name in names}
    return {name: size for name, size in sizes.items() if size}


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
