"""Merging into a folder that transformers loads, or into one file: resumable, with the manifest last."""

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import xxhash

from merge_lib.errors import SpecError
from merge_lib.files.folders import INDEX
from merge_lib.files.hashes import FileHash
from merge_lib.files.layout import LINEAGE_KEY, NO_DIGEST, encode_header
from merge_lib.spec import MergeSpec
from merge_lib.streaming import manifest as texts
from merge_lib.streaming.companions import copy_companions
from merge_lib.streaming.devices import plan_for
from merge_lib.streaming.journal import Journal
from merge_lib.streaming.layout import Shard, index_of, lay_out, lay_out_shards
from merge_lib.streaming.leftovers import remove_journal, remove_others, take_back
from merge_lib.streaming.memory_bound import Bound, bound_memory, resident_bytes
from merge_lib.streaming.output import Output, explained, write_text
from merge_lib.streaming.planning import MergePlan, make_plan
from merge_lib.streaming.provenance import FileHashes, check_unchanged, complete_digests, known_by_key

JOURNAL = ".merge_journal.jsonl"
_HASH_BYTES = 1 << 20


@dataclass(frozen=True)
class MergeOptions:
    """How a merge is run; none of it changes a byte of the tensors, but a GPU may by one rounding step.

    Attributes:
        threads: None uses the cores that this process may use.
        memory_bytes: bound on the resident size; None uses pieces of the best size.
        max_shard_bytes: a folder's files are no larger, unless one tensor is.
        file_hashes: more hashes of whole files for the manifest; they take longer than the merge.
        progress: told the bytes that were read since the last call.
        device: "cpu" for the kernels; "cuda" or "cuda:1" for torch on a GPU; "torch:cpu" to check the latter.
    """

    threads: int | None = None
    memory_bytes: int | None = None
    max_shard_bytes: int = 5_000_000_000
    progress: Callable[[int], None] = lambda _read: None
    file_hashes: tuple[FileHash, ...] = ()
    device: str = "cpu"


@dataclass(frozen=True)
class StreamedMerge:
    """A merge that lies on the disk, whole.

    Attributes:
        continued: tensors that an interrupted run had finished.
        arithmetic: "kernels", the device's name, or "torch: " and the reason.
    """

    path: Path
    digest: str
    size_bytes: int
    elapsed_s: float
    tensors: int
    continued: int
    arithmetic: str


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

    def check(self, plan: MergePlan) -> None:
        """Refuse to write over inputs, finished merges and other people's files."""
        inputs = {
            file.resolve()
            for source in plan.sources
            for file in (source.path, *source.files, *([source.base] if source.base else []))
        }
        if self.out.resolve() in inputs or any(path.parent == self.out.resolve() for path in inputs):
            raise SpecError(f"The output {self.out} is or holds an input. Give the merge a path of its own.")
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

    def places(self, shards: Sequence[Shard]) -> list[Path]:
        """Where the shards will lie."""
        return [self.out] if self.is_file else [self.out / shard.file for shard in shards]

    def remove_journal(self) -> None:
        """Of a finished merge."""
        remove_journal(self.work, JOURNAL, is_folder_of_its_own=self.is_file)


def merge_to(spec: MergeSpec, out: Path, options: MergeOptions | None = None) -> StreamedMerge:
    """Merge checkpoints into a folder, or into one file where `out` ends in .safetensors.

    A run that was interrupted is continued by calling this again with the same arguments.

    Args:
        spec: what to merge and how.
        out: a folder that is empty, new or unfinished, or a file's path.
        options: threads, memory, shard size.

    Returns:
        Where the merge is and what it is.

    Raises:
        SpecError: the output would overwrite something, the memory is too small, or there is no such device.
        CheckpointError: a checkpoint is missing or damaged, does not match the others, or cannot be written.
        MethodInputError: an expert or the result is not finite.
    """
    return merge_planned(lambda: make_plan(spec), out, options)


def merge_planned(
    make: Callable[[], MergePlan], out: Path, options: MergeOptions | None = None
) -> StreamedMerge:
    """Do what a plan says; as `merge_to`, whatever recipe the plan is made from."""
    options = options or MergeOptions()
    started = perf_counter()
    plan, target = plan_for(make, options.device), Target(Path(out))
    if target.manifest.exists():
        target.remove_journal()  # where the run that finished was stopped before it could
    target.check(plan)
    threads = options.threads or len(os.sched_getaffinity(0))
    if plan.is_compiled:
        import merge_lib.streaming.executing  # noqa: F401 -- its memory is counted from here on
    bound = bound_memory(plan, threads, options.memory_bytes, resident_bytes())
    shards = lay_out_result(plan, target, options.max_shard_bytes)
    with explained(target.work):
        target.work.mkdir(parents=True, exist_ok=True)
        take_back(target.work, shards, target.places(shards))
        remove_others(target.work, shards)
    fingerprint = plan.fingerprint({shard.file: xxhash.xxh3_128_hexdigest(shard.header) for shard in shards})
    with (
        Journal(target.work / JOURNAL, fingerprint) as journal,
        Output(target.work, shards, continues=journal.continues) as output,
    ):
        earlier = _check_finished(plan, journal, output)
        with output.flushing():
            _execute(plan, bound, output, journal, options.progress)
        manifest = _manifest(plan, journal, shards, earlier)
        hashes = FileHashes(options.file_hashes, threads)
        hashes.add_inputs(manifest, plan.sources)
        check_unchanged(plan.sources)
        _finish(plan, target, shards, output, manifest, hashes)
    size = sum(shard.size_bytes for shard in shards)
    digest = manifest["output"]["digest"]
    elapsed_s = perf_counter() - started
    return StreamedMerge(target.out, digest, size, elapsed_s, len(plan.works), len(earlier), plan.arithmetic)


def lay_out_result(plan: MergePlan, target: Target, max_shard_bytes: int) -> tuple[Shard, ...]:
    """The shards of a folder, or the one file with its lineage."""
    if not target.is_file:
        return lay_out_shards(plan.tensors, max_shard_bytes, {"format": "pt"})
    metadata = _metadata(plan, None, [], NO_DIGEST)
    return (lay_out(target.out.name, plan.tensors, metadata),)


def _metadata(plan: MergePlan, base: str | None, experts: list[str], digest: str) -> dict[str, str]:
    """The lineage in the header of a single file, as `merge_checkpoints` writes it."""
    lineage = {
        **(plan.recorded if plan.variant else plan.recipe),
        "kind": "merge",
        "base": None if plan.base is None else base or NO_DIGEST,
        "experts": experts or [NO_DIGEST] * len(plan.experts),
        "digest": digest,
    }
    return {"format": "pt", LINEAGE_KEY: json.dumps(lineage, sort_keys=True, separators=(",", ":"))}


def _check_finished(plan: MergePlan, journal: Journal, output: Output) -> frozenset[str]:
    """Forget tensors of an earlier run whose bytes did not reach the disk; name the others."""
    buffer = memoryview(bytearray(_HASH_BYTES))
    sizes = {work.name: work.size_bytes for work in plan.works}
    for name, line in list(journal.finished.items()):
        digest = xxhash.xxh3_128()
        for start in range(0, sizes[name], _HASH_BYTES):
            view = buffer[: min(_HASH_BYTES, sizes[name] - start)]
            output.read(name, start, view)
            digest.update(view)
        if digest.hexdigest() != line["output"]:
            del journal.finished[name]
    return frozenset(journal.finished)


def _execute(
    plan: MergePlan, bound: Bound, output: Output, journal: Journal, progress: Callable[[int], None]
) -> None:
    if not plan.is_compiled:
        from merge_lib.streaming.torch_route import run_in_torch

        run_in_torch(plan, output, journal, progress)
        return
    from merge_lib.streaming.executing import Executor, Run
    from merge_lib.streaming.scanning import Inputs, NotFiniteError

    files = (file for source in plan.sources for file in source.files)
    with Inputs(files, progress) as inputs:
        try:
            known = known_by_key(plan.sources)
            Executor([Run(plan, output, journal)], bound, inputs, known).run()
        except NotFiniteError as exc:
            from merge_lib.streaming.torch_route import explain_not_finite

            explain_not_finite(exc.plan or plan, exc.name)


def _manifest(
    plan: MergePlan, journal: Journal, shards: tuple[Shard, ...], earlier: frozenset[str]
) -> dict[str, Any]:
    """What will be recorded of the merge; what this run has digested of the inputs is remembered."""
    taken, fresh = {}, {}
    for work in plan.works:
        for header, digest in zip(work.inputs, journal.finished[work.name]["inputs"], strict=True):
            if header is not None and digest is not None:
                (taken if work.name in earlier else fresh)[header.key] = digest
    inputs = [texts.input_entry(source, complete_digests(source, taken, fresh)) for source in plan.sources]
    results = {name: line["output"] for name, line in journal.finished.items()}
    output = texts.output_entry(plan.works, results, shards)
    base, experts = (None, inputs) if plan.base is None else (inputs[0], inputs[1:])
    return texts.make_manifest(plan, base, experts, output)


def _finish(
    plan: MergePlan,
    target: Target,
    shards: tuple[Shard, ...],
    output: Output,
    manifest: dict[str, Any],
    hashes: FileHashes,
) -> None:
    """Flush and name the shards, write what belongs to them, and last the manifest."""
    headers, targets = [shard.header for shard in shards], target.places(shards)
    if target.is_file:
        base = manifest["base"] and manifest["base"]["digest"]
        experts = [entry["digest"] for entry in manifest["experts"]]
        metadata = _metadata(plan, base, experts, manifest["output"]["digest"])
        headers = [encode_header(shards[0].tensors, metadata)]
    output.complete(headers)
    hashes.add_outputs(manifest, dict(zip(targets, output.paths, strict=True)))
    output.name(targets)
    if not target.is_file:
        if len(shards) > 1:
            write_text(target.out / INDEX, index_of(shards))
        copy_companions(plan, target.out)
        write_text(target.out / texts.CARD, texts.card_text(plan, manifest))
    write_text(target.manifest, texts.manifest_text(manifest))
    target.remove_journal()
