"""What a merge would do, from headers alone and without importing torch."""

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from merge_lib.errors import MergeError
from merge_lib.spec import MergeSpec
from merge_lib.streaming.companions import companion_files
from merge_lib.streaming.memory_bound import bound_memory
from merge_lib.streaming.planning import MergePlan, make_plan
from merge_lib.streaming.run import MergeOptions
from merge_lib.streaming.target import Target, lay_out_result

_BYTES_PER_S = {True: 1.0e9, False: 0.2e9}  # compiled or not; a guess for a warm cache and two cores


@dataclass(frozen=True)
class Preview:
    """What a merge would do.

    Attributes:
        problems: everything that stands in its way, in words; empty where it could start.
        read_bytes: over all passes.
        estimated_s: a rough guess from the bytes.
        memory_bytes: the estimated resident size at the peak.
        arithmetic: "kernels", or "torch: " and the reason.
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


def examine(spec: MergeSpec, out: Path, options: MergeOptions | None = None) -> Preview:
    """Look at every header, the output's place, the disk and the memory; write nothing."""
    return examine_plan(lambda: make_plan(spec), out, options)


def examine_plan(make: Callable[[], MergePlan], out: Path, options: MergeOptions | None = None) -> Preview:
    """As `examine`, whatever recipe the plan is made from."""
    options = options or MergeOptions()
    try:
        plan = make()
    except MergeError as exc:
        return Preview(tuple(str(exc).splitlines()))
    problems: list[str] = []
    target = Target(Path(out))
    memory = 0
    threads = options.threads or len(os.sched_getaffinity(0))
    try:
        target.check(plan.sources)
    except MergeError as exc:
        problems.append(str(exc))
    try:
        memory = bound_memory([plan], threads, options.memory_bytes).process_bytes
    except MergeError as exc:
        problems.append(str(exc))
    return _preview(plan, target, options, memory, problems)


def _preview(
    plan: MergePlan, target: Target, options: MergeOptions, memory: int, problems: list[str]
) -> Preview:
    shards = lay_out_result(plan, target, options.max_shard_bytes)
    written = sum(shard.size_bytes for shard in shards)
    free = shutil.disk_usage(_existing(target.out)).free
    claimed = sum(file.stat().st_blocks * 512 for file in target.work.glob("*.partial"))
    if written > free + claimed:
        problems.append(
            f"The result needs {written / 1e9:.2f} GB, but the disk of {target.out} has {free / 1e9:.2f} GB "
            "free. Free some space or write elsewhere."
        )
    read = sum(work.read_bytes for work in plan.works) * plan.passes
    try:
        copied = tuple(path.name for path in companion_files(plan)) if not target.is_file else ()
    except MergeError as exc:
        copied = ()
        problems.append(str(exc))
    return Preview(
        problems=tuple(problems),
        tensors=len(plan.works),
        merged=sum(work.kind == "merge" for work in plan.works),
        parameters=sum(work.count for work in plan.works),
        read_bytes=read,
        passes=plan.passes,
        write_bytes=written,
        shards=len(shards),
        free_bytes=free,
        memory_bytes=memory,
        estimated_s=round((read + written) / _BYTES_PER_S[plan.is_compiled], 1),
        arithmetic=plan.arithmetic,
        copied_files=copied,
    )


def _existing(path: Path) -> Path:
    """The nearest folder above that exists."""
    path = path.absolute()
    while not path.exists():
        path = path.parent
    return path
