"""One of our merges of float32 files, as FusionBench's driver makes its own; prints one line of JSON."""

import json
import sys
import time
from pathlib import Path

import merge_lib.streaming.executing
import merge_lib.streaming.torch_route  # noqa: F401 -- imports are not timed
from merge_lib.spec import MergeSpec
from merge_lib.streaming.memory_bound import resident_bytes
from merge_lib.streaming.run import MergeOptions, merge_to


def main() -> None:
    """Merge what the first argument asks for into the second."""
    asked, out = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")), Path(sys.argv[2])
    before, started = resident_bytes(), time.perf_counter()
    base, experts = Path(asked["base"]), tuple(map(Path, asked["experts"]))
    merge_to(
        MergeSpec(method=asked["method"], params=asked["params"], base=base, experts=experts),
        out,
        MergeOptions(),
    )
    elapsed = time.perf_counter() - started
    peak = next(
        int(line.split()[1]) * 1024
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        if line.startswith("VmHWM:")
    )
    sys.stdout.write(json.dumps({"seconds": elapsed, "peak_bytes": peak - before}) + "\n")


if __name__ == "__main__":
    main()
