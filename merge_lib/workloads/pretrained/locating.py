"""Finding a pretrained model: a folder, or a name on the Hugging Face hub.

A name is looked for in the hub's ordinary cache, and fetched into it where there is a network. A model that is whole
in the cache is used as it is: the network is not asked.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from merge_lib.errors import CheckpointError
from merge_lib.files.folders import INDEX, SINGLE, read_index
from merge_lib.files.hashes import hash_inputs
from merge_lib.files.headers import FileState
from merge_lib.workloads.hub_cache import NAME, cache_place, cached_snapshot, repository_place

Part = Literal["model", "tokenizer", "images"]

CONFIG = "config.json"
PICKLE, PICKLE_INDEX = "pytorch_model.bin", "pytorch_model.bin.index.json"
WEIGHTS = ((SINGLE, INDEX), (PICKLE, PICKLE_INDEX))  # whichever is there first
TOKENIZERS = (  # the files of one line are enough
    ("tokenizer.json",),
    ("vocab.json", "merges.txt"),
    ("spiece.model",),
    ("tokenizer.model",),
    ("sentencepiece.bpe.model",),
    ("vocab.txt",),
)
TOKENIZER_CONFIG = "tokenizer_config.json"
IMAGES = ("preprocessor_config.json", "processor_config.json")
BESIDE = (".json", ".txt", ".model", ".jinja", ".tiktoken")  # configuration, tokenizer, chat template
SHA256_DIGITS = 64


@dataclass(frozen=True)
class Located:
    """A pretrained model on this machine.

    Attributes:
        folder: with config.json and weights.
        source: the name or folder it was asked for by.
        revision: the commit, of a model of the hub.
        digest: of all files that decide what is loaded, the same for a folder and for the hub's cache.
    """

    folder: Path
    source: str
    revision: str | None
    digest: str


def locate(source: str, root: Path, *, parts: Sequence[Part] = ("model",)) -> Located:
    """Find a model, or fetch it.

    Args:
        source: a folder, relative to `root` or not, or a name on the hub, which may say a revision: "name@revision".
        root: the project's folder.
        parts: what must be there: "model" (config.json and weights), "tokenizer", "images" (how images are prepared).

    Returns:
        Where it is, whole.

    Raises:
        CheckpointError: it is not here and cannot be fetched; says which files are missing and where they may be put.
    """
    folder = root / Path(source).expanduser()
    if folder.is_dir():
        if missing := missing_files(folder, parts):
            raise CheckpointError(
                f"Model folder '{folder}' lacks {', '.join(missing)}. A model is what `save_pretrained` writes. Put "
                "these files there, or name another folder or a model of the hub."
            )
        return Located(folder, source, None, folder_digest(folder))
    name, _, revision = source.partition("@")
    if not NAME.match(name) or Path(source).is_absolute():
        raise CheckpointError(
            f"Model '{source}' is neither a folder ('{folder}' does not exist) nor a name on the Hugging Face hub, "
            "such as 'openai/clip-vit-base-patch16'. Correct the path, or run the data stages if one makes it."
        )
    return _of_hub(source, name, revision or "main", folder, parts)


def missing_files(folder: Path | None, parts: Sequence[Part]) -> list[str]:
    """What the folder lacks of a model, as messages say it."""
    missing = []
    if "model" in parts:
        missing += [] if _has(folder, CONFIG) else [CONFIG]
        missing += _missing_weights(folder)
    if "tokenizer" in parts and not _has_tokenizer(folder):
        missing.append(
            f"{TOKENIZERS[0][0]} (or {' or '.join(' with '.join(names) for names in TOKENIZERS[1:])})"
        )
    if "images" in parts and not any(_has(folder, name) for name in IMAGES):
        missing.append(f"{IMAGES[0]} (or {IMAGES[1]})")
    return missing


def weight_files(folder: Path) -> tuple[str, ...]:
    """Names of the files with the weights, and of their index; none where there are no weights."""
    for single, index in WEIGHTS:
        if (folder / single).exists():
            return (single,)
        if (shards := read_index(folder / index)) is not None:
            return (index, *sorted(set(shards.values())))
    return ()


def files_beside(folder: Path) -> tuple[str, ...]:
    """Names of the files with configuration, tokenizer and the like, sorted."""
    found = (path for path in folder.iterdir() if path.suffix in BESIDE and path.is_file())
    return tuple(sorted(path.name for path in found if not path.name.endswith(".index.json")))


def folder_digest(folder: Path) -> str:
    """128 bits over the names and bytes of weights, configuration and tokenizer; large files are hashed once."""
    names = sorted({*weight_files(folder), *files_beside(folder)})
    hashes = {name: _known_sha256(folder / name) for name in names}
    unknown = {folder / name: FileState.of(folder / name) for name, known in hashes.items() if known is None}
    found = hash_inputs(unknown, ("sha256",), threads=2)
    listing = [[name, known or found[folder / name]["sha256"]] for name, known in hashes.items()]
    return f"sha256:{hashlib.sha256(json.dumps(listing).encode()).hexdigest()[:32]}"


def _of_hub(source: str, name: str, revision: str, folder: Path, parts: Sequence[Part]) -> Located:
    """The model in the hub's cache, fetched if it is not whole."""
    found, reason = cached_snapshot("models", name, revision), None
    if missing_files(found, parts):
        reason = _fetch(name, revision)
        found = cached_snapshot("models", name, revision)
    if found is None or missing_files(found, parts):
        raise CheckpointError(_not_here(source, name, revision, found, folder, parts, reason))
    return Located(found, source, found.name, folder_digest(found))


def _fetch(name: str, revision: str) -> str | None:
    """Fetch what can be loaded into the hub's cache; why it could not be fetched, or None."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HTTPError, RevisionResolutionError

    beside = [f"*{ending}" for ending in BESIDE]
    fetch = {"revision": revision, "cache_dir": cache_place(), "ignore_patterns": ["*/*"]}
    try:
        place = Path(snapshot_download(name, allow_patterns=[*beside, "model*.safetensors"], **fetch))
        if not weight_files(place):
            snapshot_download(name, allow_patterns=["pytorch_model*.bin"], **fetch)
    except (HTTPError, RevisionResolutionError, OSError, ValueError) as exc:
        return f"{type(exc).__name__}: {' '.join(str(exc).split())[:300]}"
    return None


def _not_here(
    source: str,
    name: str,
    revision: str,
    found: Path | None,
    folder: Path,
    parts: Sequence[Part],
    reason: str | None,
) -> str:
    place = found or repository_place("models", name) / "snapshots" / "by-hand"
    reference = repository_place("models", name) / "refs" / revision
    named = "" if found else f" (with the one word `by-hand` in the file '{reference}')"
    why = f"The hub could not be asked ({reason})" if reason else "The hub does not have them"
    return (
        f"Model '{source}' is not whole on this machine. Missing: {', '.join(missing_files(found, parts))}. {why}. "
        f"With a network, `hf download {name} --revision {revision}` fetches it. Without one, put these files into "
        f"'{place}'{named}, or into a folder such as '{folder}' or any other, and name the folder as the model."
    )


def _has(folder: Path | None, name: str) -> bool:
    return folder is not None and (folder / name).is_file()


def _has_tokenizer(folder: Path | None) -> bool:
    """Whether there is a vocabulary, or a tokenizer that works on bytes and has none."""
    if any(all(_has(folder, name) for name in names) for names in TOKENIZERS):
        return True
    about = folder / TOKENIZER_CONFIG if folder is not None else None
    return about is not None and about.is_file() and "ByT5Tokenizer" in about.read_text(encoding="utf-8")


def _missing_weights(folder: Path | None) -> list[str]:
    """Weights that are not there: all of them, or shards that the index names."""
    names = weight_files(folder) if folder is not None else ()
    if folder is None or not names:
        return [f"{SINGLE} (or {INDEX} with its shards, or {PICKLE})"]
    return [name for name in names if not (folder / name).is_file()]


def _known_sha256(path: Path) -> str | None:
    """The hash by which the hub's cache names a large file; None elsewhere."""
    target = path.resolve()
    return target.name if target.parent.name == "blobs" and len(target.name) == SHA256_DIGITS else None
