"""What is written beside the shards: configuration, tokenizer, model card, and last the manifest."""

import json
import os
import platform
import shutil
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import xxhash

from merge_lib.errors import CheckpointCorruptError
from merge_lib.files.folders import Source
from merge_lib.streaming.hub_card import front_matter
from merge_lib.streaming.layout import Shard
from merge_lib.streaming.output import write_text
from merge_lib.streaming.planning import MergePlan, Work

MANIFEST = "merge_manifest.json"
CARD = "README.md"
_COPIED = (
    "config.json", "generation_config.json", "tokenizer*", "special_tokens_map.json", "added_tokens.json",
    "vocab.*", "merges.txt", "spiece.model", "chat_template.*", "preprocessor_config.json",
    "processor_config.json", "image_processor_config.json", "video_preprocessor_config.json",
)  # fmt: skip


def describe(dtype: str, shape: Sequence[int], digest: str) -> str:
    """A tensor's entry in a checkpoint's digest, as `merge_lib.checkpoints.digest` has it."""
    return f"{dtype} {list(shape)} {digest}"


def combine(tensors: Mapping[str, str]) -> str:
    """The digest of a checkpoint from those of its tensors."""
    listing = json.dumps(sorted(tensors.items()), separators=(",", ":"))
    return f"xxh3:{xxhash.xxh3_128_hexdigest(listing.encode())}"


def input_entry(source: Source, digests: Mapping[str, str]) -> dict[str, Any]:
    """What the manifest says of an input: its name without the path, and all digests."""
    tensors = {name: describe(h.dtype, h.shape, digests[name]) for name, h in sorted(source.tensors.items())}
    return {"name": source.path.name, "digest": combine(tensors), "tensors": tensors}


def output_entry(
    works: Sequence[Work], digests: Mapping[str, str], shards: Sequence[Shard]
) -> dict[str, Any]:
    """What the manifest says of the result."""
    tensors = {work.name: describe(work.dtype, work.shape, digests[work.name]) for work in works}
    files = {shard.file: shard.size_bytes for shard in shards}
    return {"digest": combine(tensors), "size_bytes": files, "tensors": tensors}


def make_manifest(
    plan: MergePlan, base: dict[str, Any] | None, experts: list[dict[str, Any]], output: dict[str, Any]
) -> dict[str, Any]:
    """The manifest's values, all of which JSON has."""
    return {
        "format": 1,
        "recipe": plan.recipe,
        "base": base,
        "experts": experts,
        "output": output,
        "arithmetic": "kernels" if plan.is_compiled else f"torch: {plan.why_torch}",
        "versions": versions(with_torch=not plan.is_compiled),
    }


def manifest_text(manifest: Mapping[str, Any]) -> str:
    """The same inputs, recipe and versions give the same text."""
    return json.dumps(manifest, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def versions(*, with_torch: bool) -> dict[str, str]:
    """Of everything that the bytes could depend on."""
    packages = ["mergeline", "numpy", "torch" if with_torch else "numba"]
    return {"python": platform.python_version(), **{name: _version(name) for name in packages}}


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # run from its sources
        return "unknown"


def companion_files(plan: MergePlan) -> list[Path]:
    """Configuration and tokenizer files of the base, or of the first expert where there is no base."""
    folder = plan.sources[0].path
    if not folder.is_dir():
        return []
    found = {path for pattern in _COPIED for path in folder.glob(pattern) if path.is_file()}
    for path in found:
        if not path.resolve().is_relative_to(folder.resolve()) and not _is_cache_link(folder, path):
            raise CheckpointCorruptError(
                f"'{path}' is a link that leaves its folder, to {path.resolve()}. Only files of the checkpoint "
                "are copied. Replace the link by the file."
            )
    return sorted(found)


def _is_cache_link(folder: Path, path: Path) -> bool:
    """Whether a link is one of the hub's cache, where snapshots point to blobs."""
    return (
        folder.parent.name == "snapshots"
        and path.resolve().parent == folder.parent.parent.resolve() / "blobs"
    )


def copy_companions(plan: MergePlan, out: Path) -> None:
    """Copy those files; the configuration says the element type of the result where the recipe does."""
    for path in companion_files(plan):
        is_computed = any(header.path is None for header in plan.sources[0].tensors.values())
        if path.name == "config.json" and (plan.spec.dtype is not None or is_computed):
            write_text(out / path.name, _adjusted(path, plan.spec.dtype, is_computed=is_computed))
        else:
            shutil.copyfile(path, out / path.name)
            _flush(out / path.name)


def _adjusted(path: Path, dtype: str | None, *, is_computed: bool) -> str:
    """The configuration with the result's element type; weights that had scales are no longer quantised."""
    config = json.loads(path.read_text(encoding="utf-8"))
    if is_computed:
        config.pop("quantization_config", None)
    if dtype is None:
        return json.dumps(config, indent=2) + "\n"
    keys = [key for key in ("dtype", "torch_dtype") if key in config] or ["dtype"]
    return json.dumps({**config, **dict.fromkeys(keys, dtype)}, indent=2) + "\n"


def _flush(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def card_text(plan: MergePlan, manifest: Mapping[str, Any]) -> str:
    """The model card: what was merged, how, and how to make it again."""
    recipe, base = manifest["recipe"], manifest["base"]
    lines = [*front_matter(source.path for source in plan.sources), f"# Merged by {recipe['method']}", ""]
    lines += [f"`{key}`: `{value}`  " for key, value in sorted(recipe["params"].items())]
    lines += ["", "| role | name | digest of the tensors |", "|---|---|---|"]
    rows = [("base", base)] if base else []
    rows += [("expert", entry) for entry in manifest["experts"]]
    lines += [f"| {role} | {entry['name']} | `{entry['digest']}` |" for role, entry in rows]
    lines += [
        f"| result | | `{manifest['output']['digest']}` |",
        "",
        "Make it again with `mergeline merge`:",
        "",
    ]
    lines += ["```yaml", *_recipe_lines(plan), "```", "", f"Every tensor's digest is in `{MANIFEST}`.", ""]
    return "\n".join(lines)


def _recipe_lines(plan: MergePlan) -> list[str]:
    """The recipe as YAML, which JSON values are."""
    spec = plan.spec
    lines = [f"method: {spec.method}", f"params: {json.dumps(spec.params, sort_keys=True)}"]
    if spec.base is not None:
        lines.append(f"base: {json.dumps(spec.base.name)}")
    lines.append(f"experts: {json.dumps([path.name for path in spec.experts])}")
    lines.append(f"seed: {spec.seed}")
    if spec.exclude:
        lines.append(f"exclude: {json.dumps(list(spec.exclude))}")
    if spec.dtype is not None:
        lines.append(f"dtype: {spec.dtype}")
    return lines
