"""What interrupted runs leave beside the files of a merge."""

from collections.abc import Sequence
from pathlib import Path

from merge_lib.files.folders import INDEX
from merge_lib.streaming.companions import COPIED
from merge_lib.streaming.layout import Shard
from merge_lib.streaming.manifest import CARD
from merge_lib.streaming.output import PARTIAL


def take_back(folder: Path, shards: Sequence[Shard], targets: Sequence[Path]) -> None:
    """Call shards unfinished again that a run has named before it was stopped."""
    for shard, target in zip(shards, targets, strict=True):
        unfinished = folder / (shard.file + PARTIAL)
        is_ours = target.is_file() and target.stat().st_size == shard.size_bytes
        if is_ours and not unfinished.exists():
            target.replace(unfinished)


def remove_others(folder: Path, shards: Sequence[Shard]) -> None:
    """Remove what runs with another recipe or layout have left, and what is written anew at the end in any case."""
    kept = {shard.file + PARTIAL for shard in shards}
    for pattern in ("*" + PARTIAL, "model*.safetensors", INDEX, CARD, *COPIED):
        for path in folder.glob(pattern):
            if path.name not in kept and path.is_file():
                path.unlink()
