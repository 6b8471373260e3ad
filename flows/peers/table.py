"""What was measured, as lines of text and as JSON."""

import platform
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from flows.peers.bench import START_UP, Line
from flows.peers.environment import PEERS
from flows.process_cost import Cost
from tasks.slots import available_cores

_HEAD = (
    "ours s",
    "theirs s",
    "times",
    "ours cpu",
    "theirs",
    "ours MB",
    "theirs",
    "share",
    "ours rss",
    "theirs",
)
_WIDTHS = (8, 10, 8, 10, 8, 9, 8, 7, 10, 8)
NOTES = (
    "Medians of whole processes, start-up included. cpu: user and system seconds. MB: the peak of anonymous memory,",
    "seen every 5 ms; rss counts mapped pages of files too. Inputs are in the page cache. Ours flushes what it wrote.",
)


def machine() -> dict[str, Any]:
    """Processor, cores and versions, as a table of times needs beside it."""
    return {
        "cpu": _processor(),
        "cores": available_cores(),
        "python": platform.python_version(),
        "torch": version("torch"),
        "mergeline": version("mergeline"),
        **{peer.name: peer.version for peer in PEERS.values()},
    }


def _processor() -> str:
    described = Path("/proc/cpuinfo")
    lines = described.read_text(encoding="utf-8").splitlines() if described.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def table(lines: Sequence[Line]) -> Iterator[str]:
    """A heading and a line for each method, peer by peer; then what a side could not do."""
    for peer in dict.fromkeys(line.peer for line in lines):
        yield f"beside {peer}".ljust(18) + "".join(map(str.rjust, _HEAD, _WIDTHS))
        yield from (_row(line) for line in lines if line.peer == peer)
    yield from (f"{line.peer}, {line.method}: {line.refused}" for line in lines if line.refused)


def _row(line: Line) -> str:
    if line.refused:
        return f"{line.method:<18}could not be compared, see below"
    ours, theirs = line.our_cost, line.their_cost
    cells = (
        f"{ours.wall_s:.2f}",
        f"{theirs.wall_s:.2f}",
        f"{line.times_faster:.1f}",
        f"{ours.cpu_s:.2f}",
        f"{theirs.cpu_s:.2f}",
        f"{ours.anon_bytes / 1e6:.0f}",
        f"{theirs.anon_bytes / 1e6:.0f}",
        f"{line.memory_share:.2f}",
        f"{ours.rss_bytes / 1e6:.0f}",
        f"{theirs.rss_bytes / 1e6:.0f}",
    )
    return f"{line.method:<18}" + "".join(map(str.rjust, cells, _WIDTHS))


def record(lines: Sequence[Line], **setting: Any) -> dict[str, Any]:
    """Machine, setting, and for each case every round, the medians and the two ratios."""
    return {"machine": machine(), **setting, "cases": [_case(line) for line in lines]}


def _case(line: Line) -> dict[str, Any]:
    told: dict[str, Any] = {"peer": line.peer, "method": line.method, "is_merge": line.method != START_UP}
    if line.refused:
        return {**told, "refused": line.refused}
    ratios = {"times_faster": line.times_faster, "memory_share": line.memory_share}
    sides = {"ours": (line.ours, line.our_cost), "theirs": (line.theirs, line.their_cost)}
    return {**told, **ratios, **{side: _rounds(*costs) for side, costs in sides.items()}}


def _rounds(rounds: Sequence[Cost], medians: Cost) -> dict[str, Any]:
    return {"median": asdict(medians), "rounds": [asdict(cost) for cost in rounds]}
