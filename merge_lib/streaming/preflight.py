"""What a merge would do, from headers alone and without importing torch."""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from merge_lib.errors import MergeError
from merge_lib.spec import MergeSpec
from merge_lib.streaming.companions import companion_files
from merge_lib.streaming.devices import plan_for
from merge_lib.streaming.memory_bound import bound_memory, usable_threads
from merge_lib.streaming.planning import MergePlan, make_plan
from merge_lib.streaming.run import Asked, MergeOptions
from merge_lib.streaming.sharing import planned_bytes
from merge_lib.streaming.target import Target, check_apart, lay_out_result

_BYTES_PER_S = {True: 1.0e9, False: 0.2e9}  # compiled or not; a guess for a warm cache and two cores


@dataclass(frozen=True)
class Preview:
    """What a merge would do.

    Attributes:
        problems: everything that stands in its way, in words; empty where it could start.
        read_bytes: over all passes.
        estimated_s: a rough guess from the bytes.
        memory_bytes: the estimated resident size at the peak.
        arithmetic: "kernels", the device's name, or "torch: " and the reason.
    """

    problems: tuple[str, ...]
    tensors: int = 0
    merged: int = 0
    parameters: int = 0
    read_bytes: int = 0
    passes: int = 0
    write_bytes: int = 0
    shards: int = 0
    free_bytes: int = 0
    memory_bytes: int = 0
    estimated_s: float = 0.0
    arithmetic: str = ""
    copied_files: tuple[str, ...] = ()


@dataclass(frozen=True)
class Overview:
    """What several merges would do together.

    Attributes:
        problems: everything that stands in the way of any of them; empty where they could start.
        previews: by output, each merge that is left to do, by itself.
        finished: outputs that would be left as they are.
        read_bytes: over all passes, by all together.
        memory_bytes: the estimated resident size at the peak.
        estimated_s: a rough guess from the bytes.
    """

    problems: tuple[str, ...]
    previews: dict[str, Preview] = field(default_factory=dict)
    finished: tuple[str, ...] = ()
    read_bytes: int = 0
    write_bytes: int = 0
    free_bytes: int = 0
    memory_bytes: int = 0
    estimated_s: float = 0.0


def examine(spec: MergeSpec, out: Path, options: MergeOptions | None = None) -> Preview:
    """Look at every header, the output's place, the disk and the memory; write nothing."""
    return examine_plan(lambda: make_plan(spec), out, options)


def examine_plan(make: Callable[[], MergePlan], out: Path, options: MergeOptions | None = None) -> Preview:
    """As `examine`, whatever recipe the plan is made from."""
    options = options or MergeOptions()
    try:
        plan = plan_for(make, options.device)
    except MergeError as exc:
        return Preview(tuple(str(exc).splitlines()))
    target = Target(Path(out))
    problems = _refusal(partial(target.check, plan.sources))
    memory, too_small = _memory_for([plan], options)
    preview = _preview(plan, target, options)
    problems += [*too_small, *_too_large([preview], [target]), *preview.problems]
    return replace(preview, problems=tuple(problems), memory_bytes=memory)


def examine_all(asked: Sequence[Asked], options: MergeOptions | None = None) -> Overview:
    """What `merge_all` would do if it left finished merges as they are; writes nothing."""
    options = options or MergeOptions()
    problems: list[str] = []
    planned: list[tuple[MergePlan, Target]] = []
    for one in asked:
        found = _refusal(
            lambda one=one: planned.append((plan_for(one.make, options.device), Target(one.out)))
        )
        problems += [f"{one.out.name}: {line}" for text in found for line in text.splitlines()]
    problems += _refusal(partial(check_apart, [target for _, target in planned]))
    sources = [source for plan, _ in planned for source in plan.sources]
    finished, left = [], []
    for plan, target in planned:
        is_finished = False
        try:
            is_finished = target.check_all(plan, sources, leaves_finished=True) is not None
        except MergeError as exc:
            problems.append(str(exc))
        (finished if is_finished else left).append((plan, target))
    return _overview(left, [str(target.out) for _, target in finished], options, problems)


def _overview(
    left: Sequence[tuple[MergePlan, Target]], finished: list[str], options: MergeOptions, problems: list[str]
) -> Overview:
    plans, targets = [plan for plan, _ in left], [target for _, target in left]
    previews = [_preview(plan, target, options) for plan, target in left]
    memory, too_small = _memory_for(plans, options) if plans else (0, [])
    problems += [
        *too_small,
        *_too_large(previews, targets),
        *(text for one in previews for text in one.problems),
    ]
    read = planned_bytes([plan for plan in plans if plan.is_compiled])
    read += sum(
        preview.read_bytes for plan, preview in zip(plans, previews, strict=True) if not plan.is_compiled
    )
    alone = sum(preview.read_bytes for preview in previews)
    return Overview(
        problems=tuple(dict.fromkeys(problems)),
        previews={str(target.out): preview for target, preview in zip(targets, previews, strict=True)},
        finished=tuple(finished),
        read_bytes=read,
        write_bytes=sum(preview.write_bytes for preview in previews),
        free_bytes=min((preview.free_bytes for preview in previews), default=0),
        memory_bytes=memory,
        estimated_s=round(sum(one.estimated_s for one in previews) - (alone - read) / _BYTES_PER_S[True], 1),
    )


def _refusal(check: Callable[[], Any]) -> list[str]:
    """What a check says against a merge."""
    try:
        check()
    except MergeError as exc:
        return [str(exc)]
    return []


def _memory_for(plans: Sequence[MergePlan], options: MergeOptions) -> tuple[int, list[str]]:
    """The estimated peak, or why the bound is too small."""
    threads = usable_threads(options.threads)
    try:
        return bound_memory(plans, threads, options.memory_bytes).process_bytes, []
    except MergeError as exc:
        return 0, [str(exc)]


def _too_large(previews: Sequence[Preview], targets: Sequence[Target]) -> list[str]:
    """Whether results do not fit on the disk of the first of them."""
    if not previews:
        return []
    free = previews[0].free_bytes
    written = sum(preview.write_bytes for preview in previews)
    files = (file for target in targets for file in target.work.glob("*.partial"))
    claimed = sum(file.stat().st_blocks * 512 for file in files)
    if written <= free + claimed:
        return []
    subject = "The result needs" if len(previews) == 1 else "The results need"
    return [
        f"{subject} {written / 1e9:.2f} GB, but the disk of {targets[0].out} has {free / 1e9:.2f} GB "
        "free. Free some space or write elsewhere."
    ]


def _preview(plan: MergePlan, target: Target, options: MergeOptions) -> Preview:
    """Of one merge by itself, without what it shares with others."""
    shards = lay_out_result(plan, target, options.max_shard_bytes)
    written = sum(shard.size_bytes for shard in shards)
    copied: list[str] = []
    problems: list[str] = []
    if not target.is_file:
        problems = _refusal(lambda: copied.extend(path.name for path in companion_files(plan)))
    return Preview(
        problems=tuple(problems),
        tensors=len(plan.works),
        merged=sum(work.kind == "merge" for work in plan.works),
        parameters=sum(work.count for work in plan.works),
        read_bytes=plan.read_bytes,
        passes=plan.passes,
        write_bytes=written,
        shards=len(shards),
        free_bytes=shutil.disk_usage(_existing(target.out)).free,
        estimated_s=round((plan.read_bytes + written) / _BYTES_PER_S[plan.is_compiled], 1),
        arithmetic=plan.arithmetic,
        copied_files=tuple(copied),
    )


def _existing(path: Path) -> Path:
    """The nearest folder above that exists."""
    path = path.absolute()
    while not path.exists():
        path = path.parent
    return path
