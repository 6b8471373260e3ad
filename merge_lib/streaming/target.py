"""Where the results of merges go, and what may not be written over."""

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from merge_lib.errors import SpecError
from merge_lib.files.folders import Source
from merge_lib.files.layout import LINEAGE_KEY, NO_DIGEST
from merge_lib.files.remembered import known_digests
from merge_lib.streaming import manifest as texts
from merge_lib.streaming.layout import Shard, lay_out, lay_out_shards
from merge_lib.streaming.planning import MergePlan

JOURNAL = ".merge_journal.jsonl"


@dataclass(frozen=True)
class Target:
    """Where a result goes: a folder, or one file with a folder of unfinished work beside it."""

    out: Path

    @property
    def is_file(self) -> bool:
        """One safetensors file instead of a folder."""
        return self.out.suffix == ".safetensors"

    @property
    def work(self) -> Path:
        """Where the unfinished shards and the journal are."""
        return self.out.with_name(f".{self.out.name}.unfinished") if self.is_file else self.out

    @property
    def manifest(self) -> Path:
        """The file whose presence means that the merge is finished."""
        return self.out.with_suffix(".merge_manifest.json") if self.is_file else self.out / texts.MANIFEST

    def places(self, shards: Sequence[Shard]) -> list[Path]:
        """Where the shards will lie."""
        return [self.out] if self.is_file else [self.out / shard.file for shard in shards]

    def remove_journal(self) -> None:
        """Remove what a finished merge no longer needs."""
        if not self.is_file:
            (self.work / JOURNAL).unlink(missing_ok=True)
        elif self.work.exists():
            shutil.rmtree(self.work)

    def tidy(self) -> None:
        """Remove the journal of a merge that is finished, where its run was stopped before it could."""
        if self.manifest.exists():
            self.remove_journal()

    def check(self, sources: Sequence[Source]) -> None:
        """Refuse to write over inputs, finished merges and other people's files."""
        self.check_inputs(sources)
        if self.manifest.exists():
            raise SpecError(
                f"{self.out} holds a finished merge ({self.manifest.name} is there). Name another path, or remove it."
            )
        if not self.out.exists() or (self.work / JOURNAL).exists():
            return
        if not self.out.is_dir() or any(self.out.iterdir()):
            raise SpecError(
                f"The output {self.out} exists and is no unfinished merge. Name an empty or a new folder, or a "
                "file that ends in .safetensors."
            )

    def check_all(
        self, plan: MergePlan, sources: Sequence[Source], *, leaves_finished: bool
    ) -> dict[str, Any] | None:
        """As `check`, for one of several merges; the manifest of a merge that is finished and may be left as it is.

        Args:
            plan: the merge.
            sources: the inputs of all of them.
            leaves_finished: a merge that is finished is no reason to refuse.
        """
        manifest = self.finished(plan) if leaves_finished else None
        if manifest is None:
            self.check(sources)
        else:
            self.check_inputs(sources)
        return manifest

    def check_inputs(self, sources: Sequence[Source]) -> None:
        """Refuse to write over inputs."""
        inputs = {
            file.resolve()
            for source in sources
            for file in (source.path, *source.files, *([source.base] if source.base else []))
        }
        if self.out.resolve() in inputs or any(path.parent == self.out.resolve() for path in inputs):
            raise SpecError(f"The output {self.out} is or holds an input. Give the merge a path of its own.")

    def finished(self, plan: MergePlan) -> dict[str, Any] | None:
        """The manifest of this very merge, if it is finished.

        Raises:
            SpecError: what is finished there is another merge, as far as its recipe and remembered digests say.
        """
        if not self.manifest.exists():
            return None
        try:
            manifest = json.loads(self.manifest.read_text(encoding="utf-8"))
            differences = [*_differences(manifest, plan), *self._missing(manifest)]
        except (OSError, ValueError, LookupError, TypeError, AttributeError) as exc:
            raise SpecError(
                f"{self.manifest} cannot be read: {exc}. Remove the merge, or name another path."
            ) from exc
        if differences:
            raise SpecError(
                f"{self.out} holds a finished merge with {' and '.join(differences)}. Name another path, or remove it."
            )
        return manifest

    def _missing(self, manifest: Mapping[str, Any]) -> Iterator[str]:
        """Files of a finished merge that are not what its manifest says."""
        for name, size_bytes in manifest["output"]["size_bytes"].items():
            path = self.out if self.is_file else self.out / name
            if not path.is_file() or path.stat().st_size != size_bytes:
                yield f"a file {name} that is missing or has another size"


def check_apart(targets: Sequence[Target]) -> None:
    """Refuse results that would be written over or into one another."""
    resolved = [target.out.resolve() for target in targets]
    problems = [
        f"The output {target.out} is used by another merge, or lies in its output. Give every merge its own path."
        for target, path in zip(targets, resolved, strict=True)
        if resolved.count(path) > 1 or set(path.parents) & set(resolved)
    ]
    if problems:
        raise SpecError("\n".join(dict.fromkeys(problems)))


def lay_out_result(plan: MergePlan, target: Target, max_shard_bytes: int) -> tuple[Shard, ...]:
    """The shards of a folder, or the one file with its lineage."""
    if not target.is_file:
        return lay_out_shards(plan.tensors, max_shard_bytes, {"format": "pt"})
    return (lay_out(target.out.name, plan.tensors, lineage_header(plan)),)


@dataclass(frozen=True)
class Digests:
    """Of a base, if there is one, of the experts, and of the result."""

    base: str | None
    experts: list[str]
    output: str

    @classmethod
    def of(cls, manifest: Mapping[str, Any]) -> "Digests":
        """Those that a manifest tells."""
        base, experts = manifest["base"], manifest["experts"]
        return cls(
            base and base["digest"], [entry["digest"] for entry in experts], manifest["output"]["digest"]
        )


def lineage_header(
    plan: MergePlan, digests: Digests | None = None, more: Mapping[str, Any] | None = None
) -> dict[str, str]:
    """The lineage in the header of a single file, as `merge_checkpoints` writes it.

    Args:
        plan: the merge.
        digests: None holds their places.
        more: JSON values that are told beside.
    """
    if digests is None:
        digests = Digests(plan.base and NO_DIGEST, [NO_DIGEST] * len(plan.experts), NO_DIGEST)
    lineage = {
        **(more or {}),
        **(plan.recorded if plan.variant else plan.recipe),
        "kind": "merge",
        "base": digests.base,
        "experts": digests.experts,
        "digest": digests.output,
    }
    told = json.dumps(lineage, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return {"format": "pt", LINEAGE_KEY: told}


def _differences(manifest: dict[str, Any], plan: MergePlan) -> Iterator[str]:
    """What a finished merge has otherwise than a plan."""
    recorded = json.loads(json.dumps(plan.recorded))
    if any(manifest.get(key) != value for key, value in recorded.items()) or (
        manifest.get("variant", "") != plan.variant
    ):
        yield "another recipe"
    entries = [entry for entry in (manifest["base"], *manifest["experts"]) if entry is not None]
    same_number = len(entries) == len(plan.sources)
    if not same_number or any(
        _is_other(entry, source) for entry, source in zip(entries, plan.sources, strict=True)
    ):
        yield "other inputs"


def _is_other(entry: dict[str, Any], source: Source) -> bool:
    """Whether an input's name, tensors, or a digest that is remembered differ."""
    told = entry["tensors"]
    described = {
        name: texts.describe(header.dtype, header.shape, digest)
        for name, digest in known_digests(source).items()
        if (header := source.tensors[name])
    }
    return (
        entry["name"] != source.name
        or told.keys() != source.tensors.keys()
        or any(told[name] != text for name, text in described.items())
    )
