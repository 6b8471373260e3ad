"""Pickled checkpoints to safetensors, without running what a pickle may say."""

import json
import pickle
import re
import shutil
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from merge_lib.checkpoints.tied import preferred_name
from merge_lib.checkpoints.writer import WrittenCheckpoint, write_state_dict
from merge_lib.errors import CheckpointCorruptError, CheckpointError, suggest
from merge_lib.files.folders import INDEX, SINGLE, read_index, stays_inside

PICKLES = (".bin", ".pt", ".pth")
PICKLE_INDEX = "pytorch_model.bin.index.json"
_NAMED = {"pytorch_model.bin": SINGLE, "adapter_model.bin": "adapter_model.safetensors"}
_BESIDE = (".json", ".txt", ".model", ".md", ".jinja", ".tiktoken")  # configuration, tokenizer, model card
_BROKEN = (RuntimeError, EOFError, OSError, LookupError, ValueError, TypeError, AttributeError)


@dataclass(frozen=True)
class Conversion:
    """What was written.

    Attributes:
        path: the file or folder.
        files: the safetensors files in it, with their digests.
        tied: names that share a tensor with another one and were left out, and that other name.
        copied: files beside the weights that were copied.
    """

    path: Path
    files: tuple[WrittenCheckpoint, ...]
    tied: Mapping[str, str]
    copied: tuple[str, ...] = field(default=())


def convert(source: Path, out: Path, *, key: str | None = None) -> Conversion:
    """Write a pickled checkpoint as safetensors; nothing but tensors is unpickled.

    Args:
        source: a `.bin`, `.pt` or `.pth` file, or a model or adapter folder with such files.
        out: the `.safetensors` file to make, or the folder.
        key: where the state dict lies in a file that holds more than that.

    Returns:
        What was written.

    Raises:
        CheckpointError: the source is missing, needs code to be unpickled, holds other things than tensors, or
            `out` exists.
        CheckpointCorruptError: a file is not a whole pickle of torch.
    """
    source, out = Path(source), Path(out)
    if out.exists():
        raise CheckpointError(
            f"{out} exists already. A conversion overwrites nothing. Name a path that does not exist."
        )
    if source.is_dir():
        return _convert_folder(source, out, key)
    if out.suffix != ".safetensors":
        raise CheckpointError(
            f"The output {out} of the file {source} is not named as a safetensors file. Name it *.safetensors."
        )
    written, tied, _ = _convert_file(source, out, key)
    return Conversion(out, (written,), tied)


def _convert_folder(folder: Path, out: Path, key: str | None) -> Conversion:
    targets = _targets(folder)
    partial = out.with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    files, tied, weight_map = [], {}, {}
    try:
        for name, target in targets.items():
            written, dropped, names = _convert_file(folder / name, partial / target, key)
            files.append(WrittenCheckpoint(out / target, written.digest, written.size_bytes))
            tied |= dropped
            weight_map |= dict.fromkeys(names, target)
        if (folder / PICKLE_INDEX).exists():
            _write_index(partial / INDEX, weight_map, files)
        copied = _copy_beside(folder, partial)
        partial.replace(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return Conversion(out, tuple(files), tied, copied)


def _targets(folder: Path) -> dict[str, str]:
    """Each pickle with weights, and the name that its safetensors file takes."""
    index = read_index(folder / PICKLE_INDEX)
    if index is not None:
        names = sorted(set(index.values()))
        outside = [
            name for name in names if Path(name).is_absolute() or not stays_inside(folder, folder / name)
        ]
        missing = [name for name in names if name not in outside and not (folder / name).exists()]
        problems = [f"Shard '{name}' of {folder} leads outside of the folder." for name in outside]
        problems += [f"Shard '{name}' of {folder} is missing, but its index names it." for name in missing]
        if problems:
            raise CheckpointError("\n".join(problems) + "\nFetch the model again.")
        return {name: f"{Path(name).stem.replace('pytorch_model', 'model')}.safetensors" for name in names}
    found = sorted(path.name for path in folder.iterdir() if path.suffix in PICKLES)
    known = [name for name in _NAMED if name in found]
    chosen = known or found
    if len(chosen) != 1:
        raise CheckpointError(
            f"Folder {folder} has {len(chosen)} pickles that may be its weights "
            f"({', '.join(chosen) or 'none'}). One is needed, or a {PICKLE_INDEX}. Name the file itself."
        )
    return {chosen[0]: _NAMED.get(chosen[0], SINGLE)}


def _convert_file(
    source: Path, out: Path, key: str | None
) -> tuple[WrittenCheckpoint, dict[str, str], list[str]]:
    """The file, the names left out, and the names written."""
    state = _state_dict(_load(source), source, key)
    tied = _tied(state)
    kept = {name: tensor for name, tensor in sorted(state.items()) if name not in tied}
    lineage = {"kind": "conversion", "tied": tied} if tied else {"kind": "conversion"}
    return write_state_dict(out, kept, lineage=lineage), tied, list(kept)


def _load(path: Path) -> Any:
    """Unpickle tensors and plain values; refuse everything else by name."""
    if not path.exists():
        raise CheckpointError(f"Checkpoint {path} does not exist. Check the path.")
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=_is_zip(path))
    except pickle.UnpicklingError as exc:
        needed = _needed_code(path, str(exc))
        if not needed:
            raise _corrupt(path, exc) from exc
        raise CheckpointError(
            f"Checkpoint {path} needs code to be unpickled: {', '.join(needed)}. Only tensors and plain values "
            "are read, since a pickle can run anything. Load it where you trust it, and save its state dict alone."
        ) from exc
    except _BROKEN as exc:
        raise _corrupt(path, exc) from exc


def _is_zip(path: Path) -> bool:
    """Files of the newer format are mapped, and read tensor by tensor."""
    with path.open("rb") as file:
        return file.read(4) == b"PK\x03\x04"


def _needed_code(path: Path, message: str) -> list[str]:
    try:
        return sorted(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    except (*_BROKEN, pickle.UnpicklingError):  # the older format can only be asked for its first one
        return sorted(set(re.findall(r"GLOBAL (\S+)", message)))


def _corrupt(path: Path, exc: Exception) -> CheckpointCorruptError:
    reason = (str(exc).splitlines() or [""])[0]
    return CheckpointCorruptError(
        f"Checkpoint {path} is not a whole pickle of torch ({type(exc).__name__}: {reason}). It is truncated, "
        "damaged or of another format. Fetch it again."
    )


def _state_dict(content: Any, path: Path, key: str | None) -> dict[str, Tensor]:
    """The named tensors of a file; whatever else is in it is refused by name."""
    where = str(path)
    if key is not None:
        if not isinstance(content, Mapping) or key not in content:
            keys = map(str, content) if isinstance(content, Mapping) else ()
            raise CheckpointError(f"Checkpoint {path} has no key '{key}': {suggest(key, keys)}.")
        content, where = content[key], f"{path}, key '{key}',"
    if not isinstance(content, Mapping):
        raise CheckpointError(
            f"Checkpoint {where} holds {type(content).__name__} and not a state dict. Save that."
        )
    others = [str(name) for name, value in content.items() if not _is_plain(name, value)]
    if others:
        nested = [str(name) for name, value in content.items() if isinstance(value, Mapping) and value]
        hint = f" Say where the state dict is: --key {nested[0]}" if nested else ""
        raise CheckpointError(
            f"Checkpoint {where} holds more than dense tensors: {', '.join(others[:10])}"
            f"{' and more' if len(others) > 10 else ''}. Only named tensors can be stored.{hint}"
        )
    return {name: tensor.detach() for name, tensor in content.items()}


def _is_plain(name: Any, value: Any) -> bool:
    return (
        isinstance(name, str)
        and isinstance(value, Tensor)
        and value.layout == torch.strided
        and not value.is_quantized
    )


def _tied(state: Mapping[str, Tensor]) -> dict[str, str]:
    """Names that are the same elements of the same memory as another one, and the one that is kept."""
    groups: dict[Any, list[str]] = defaultdict(list)
    for name in sorted(state):
        tensor = state[name]
        if tensor.numel():
            place = (tensor.data_ptr(), tensor.dtype, tuple(tensor.shape), tensor.stride())
            groups[place].append(name)
    kept = {preferred_name(names): names for names in groups.values()}
    return {name: first for first, names in kept.items() for name in names if name != first}


def _write_index(path: Path, weight_map: Mapping[str, str], files: list[WrittenCheckpoint]) -> None:
    content = {
        "metadata": {"total_size": sum(file.size_bytes for file in files)},
        "weight_map": dict(sorted(weight_map.items())),
    }
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _copy_beside(folder: Path, out: Path) -> tuple[str, ...]:
    """Configuration, tokenizer and the like; no code, no other weights, no index of pickles."""
    chosen = sorted(
        path.name
        for path in folder.iterdir()
        if path.is_file() and path.suffix in _BESIDE and not path.name.endswith(".index.json")
    )
    for name in chosen:
        shutil.copyfile(folder / name, out / name)
    return tuple(chosen)
