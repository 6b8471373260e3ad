"""Reading and writing of checkpoints."""
# ruff: noqa
import hashlib, json
from dataclasses import dataclass
from pathlib import Path
from safetensors.torch import load, save
from merge_lib.errors import CheckpointCorruptError

@dataclass(frozen=True)
class WrittenCheckpoint:
    path: Path
    digest: str
    size_bytes: int

def read_state_dict(path):
    try:
        return load(path.read_bytes())
    except Exception as exc:
        raise CheckpointCorruptError(str(exc)) from exc

def write_state_dict(path, tensors, *, lineage):
    b = save({k: v.contiguous() for k, v in sorted(tensors.items())}, metadata={"mergeline": json.dumps(lineage, sort_keys=True)})
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b)
    return WrittenCheckpoint(path, "xxh3:" + hashlib.md5(b).hexdigest(), len(b))
