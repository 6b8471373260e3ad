"""What checkpoints bring to a merge, from their headers alone."""

import re
from collections import Counter
from pathlib import Path

from merge_lib.files.folders import Source, is_adapter, read_stored

FLOATING = frozenset({"F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2"})


def read_source(path: Path, base: Path | None = None) -> Source:
    """Read the headers of a file or of a folder's shards; an adapter is shown folded into the base.

    Raises:
        CheckpointError: nothing is there that could be merged.
        CheckpointCorruptError: a header lies about its file, or the index about its shards.
    """
    path = Path(path)
    stored = None if is_adapter(path) else read_stored(path)
    if stored is None or _needs_view(stored):
        from merge_lib.streaming.views import source_of_view  # imports torch

        return source_of_view(path, base)
    return stored


def _needs_view(source: Source) -> bool:
    """Whether tensors have scales, or may be one tensor under two names."""
    if any(tensor.dtype.startswith("F8_") for tensor in source.tensors.values()):
        return True
    config = source.path / "config.json"
    if not source.path.is_dir() or not config.exists():
        return False
    text = config.read_text(encoding="utf-8", errors="replace")
    if not re.search(r'"tie_word_embeddings"\s*:\s*true', text):
        return False
    sizes = {int(size) for size in re.findall(r'"vocab_size"\s*:\s*(\d+)', text)}
    matrices = (t for t in source.tensors.values() if len(t.shape) == 2 and t.shape[0] in sizes)
    return any(count > 1 for count in Counter((t.dtype, t.shape) for t in matrices).values())
