"""The end of a merge: flushed, named, with all that belongs to it, and the manifest last."""

from typing import Any

from merge_lib.files.folders import INDEX
from merge_lib.files.layout import encode_header
from merge_lib.streaming import manifest as texts
from merge_lib.streaming.companions import copy_companions
from merge_lib.streaming.journal import Notes
from merge_lib.streaming.layout import Shard, index_of
from merge_lib.streaming.output import Output, write_text
from merge_lib.streaming.planning import MergePlan
from merge_lib.streaming.provenance import FileHashes, complete_digests
from merge_lib.streaming.target import Digests, Target, lineage_header


def describe_merge(
    plan: MergePlan, notes: Notes, shards: tuple[Shard, ...], earlier: frozenset[str] = frozenset()
) -> dict[str, Any]:
    """What will be recorded of the merge; what this run has digested of the inputs is remembered.

    Args:
        plan: the merge.
        notes: with every tensor finished.
        shards: the files of the result.
        earlier: tensors that another run has finished.
    """
    taken, fresh = {}, {}
    for work in plan.works:
        for header, digest in zip(work.inputs, notes.finished[work.name]["inputs"], strict=True):
            if header is not None and digest is not None:
                (taken if work.name in earlier else fresh)[header.key] = digest
    inputs = [texts.input_entry(source, complete_digests(source, taken, fresh)) for source in plan.sources]
    results = {name: line["output"] for name, line in notes.finished.items()}
    output = texts.output_entry(plan.works, results, shards)
    base, experts = (None, inputs) if plan.base is None else (inputs[0], inputs[1:])
    return texts.make_manifest(plan, base, experts, output)


def finish(
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
        headers = [encode_header(shards[0].tensors, lineage_header(plan, Digests.of(manifest)))]
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
