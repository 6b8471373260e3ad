"""What is told of a merge: the model card, and the manifest, which is written last."""

import json
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import xxhash

from merge_lib.files.folders import Source
from merge_lib.streaming.companions import CONFIG, folder_of
from merge_lib.streaming.hub_card import front_matter
from merge_lib.streaming.layout import Shard
from merge_lib.streaming.planning import MergePlan, Work

MANIFEST = "merge_manifest.json"
CARD = "README.md"


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
    return {"name": source.name, "digest": combine(tensors), "tensors": tensors}


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
        **plan.recorded,
        "base": base,
        "experts": experts,
        "output": output,
        "arithmetic": plan.arithmetic,
        "versions": versions(plan),
    }


def manifest_text(manifest: Mapping[str, Any]) -> str:
    """The same inputs, recipe and versions give the same text."""
    return json.dumps(manifest, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def versions(plan: MergePlan) -> dict[str, str]:
    """Of everything that the bytes could depend on."""
    packages = ["mergeline", "numpy", *(["numba"] if plan.is_compiled else [])]
    packages += ["torch"] if plan.device is not None or not plan.is_compiled else []
    return {"python": platform.python_version(), **{name: _version(name) for name in packages}}


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # run from its sources
        return "unknown"


def card_text(plan: MergePlan, manifest: Mapping[str, Any]) -> str:
    """The model card: what was merged, how, and how to make it again."""
    base = manifest["base"]
    models = [path for source in plan.sources for path in (source.base, source.path) if path is not None]
    has_config = (folder_of(plan.template) / CONFIG).is_file()
    lines = [*front_matter(models, is_for_transformers=has_config), f"# Merged by {plan.method}", ""]
    if plan.params:
        lines += [*(f"`{key}`: `{value}`  " for key, value in sorted(plan.params.items())), ""]
    lines += ["| role | name | digest of the tensors |", "|---|---|---|"]
    rows = [("base", base)] if base else []
    rows += [("expert", entry) for entry in manifest["experts"]]
    lines += [f"| {role} | {entry['name']} | `{entry['digest']}` |" for role, entry in rows]
    seed = f" with `--seed {plan.seed}`" if plan.variant and plan.seed else ""
    lines += [
        f"| result | | `{manifest['output']['digest']}` |",
        "",
        f"Make it again with `mergeline merge`{seed}:",
        "",
    ]
    lines += ["```yaml", *plan.recipe_lines, "```", "", f"Every tensor's digest is in `{MANIFEST}`.", ""]
    return "\n".join(lines)
