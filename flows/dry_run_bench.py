"""How long `mergeline merge --dry-run` takes on the headers of large models."""

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from time import perf_counter

from flows.process_cost import ROOT, ProcessError, mergeline
from flows.synthetic import Llama
from merge_lib.files.folders import INDEX
from merge_lib.streaming.layout import index_of, lay_out_shards

LIMIT_S = 1.0
LARGE = Llama(width=4096, layers=32)  # 6.0 G parameters
EXPERTS = 3


@dataclass(frozen=True)
class DryRun:
    """Whole processes, from their start to their end."""

    tensors: int
    parameters: int
    read_bytes: int
    median_s: float


def make_headers(folder: Path, llama: Llama, models: int) -> list[Path]:
    """Model folders with headers and holes: as large as they say, and almost nothing on the disk."""
    tensors = {name: ("BF16", shape) for name, shape in llama.shapes().items()}
    shards = lay_out_shards(tensors, 5_000_000_000, {"format": "pt"})
    made = [folder / f"large{place}" for place in range(models)]
    for model in made:
        model.mkdir(parents=True, exist_ok=True)
        (model / "config.json").write_text(json.dumps(llama.config()), encoding="utf-8")
        if len(shards) > 1:
            (model / INDEX).write_text(index_of(shards), encoding="utf-8")
        for shard in shards:
            with (model / shard.file).open("wb") as file:
                file.write(shard.header)
                file.truncate(shard.size_bytes)
    return made


def measure_dry_run(folder: Path, rounds: int, llama: Llama = LARGE) -> DryRun:
    """The median over the rounds; the first, which fills the cache, does not count."""
    base, *experts = make_headers(folder, llama, EXPERTS + 1)
    recipe = folder / "large.yaml"
    listed = "".join(f"- {expert}\n" for expert in experts)
    recipe.write_text(f"method: ties\nbase: {base}\nexperts:\n{listed}", encoding="utf-8")
    command = mergeline("merge", str(recipe), "--out", str(folder / "merged"), "--dry-run", "--json")
    seconds = []
    for _ in range(rounds + 1):
        started = perf_counter()
        ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        seconds.append(perf_counter() - started)
    return _told(ended, median(seconds[1:]))


def _told(ended: subprocess.CompletedProcess[str], median_s: float) -> DryRun:
    """What it saw; a full disk is a problem that it tells, and no failure of the measurement."""
    if ended.returncode not in (0, 2) or not ended.stdout:
        raise ProcessError(f"The dry run ended with status {ended.returncode}: {ended.stderr.strip()[-600:]}")
    preview = json.loads(ended.stdout)
    if not preview["tensors"]:
        raise ProcessError(f"The dry run saw no tensors: {' '.join(preview['problems'])}")
    return DryRun(preview["tensors"], preview["parameters"], preview["read_bytes"], median_s)
