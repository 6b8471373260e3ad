"""How fast merges are, as ratios to the floor: one read of every input byte, one write of every output byte."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from time import perf_counter

import numpy as np

from merge_lib import registry
from merge_lib.spec import MergeSpec
from merge_lib.streaming.layout import lay_out
from merge_lib.streaming.run import MergeOptions, merge_to

METHODS = ("average", "linear", "slerp", "task_arithmetic", "magmax", "dare", "ties")
_BLOCK = 1 << 20


@dataclass(frozen=True)
class MergeTimes:
    """One method beside the floor of the same bytes, medians over the rounds."""

    method: str
    inputs: int
    read_bytes: int
    write_bytes: int
    floor_s: float
    merge_s: float

    @property
    def ratio(self) -> float:
        """How many floors the merge takes."""
        return self.merge_s / self.floor_s


def llama_shapes(parameters: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a Llama of about that many parameters: 12 layers, grouped queries."""
    layers, vocabulary = 12, 32_000
    width = 64
    while _parameters(layers, vocabulary, width + 64) <= parameters:
        width += 64
    inner = width * 11 // 4
    shapes: dict[str, tuple[int, ...]] = {
        "lm_head.weight": (vocabulary, width),
        "model.embed_tokens.weight": (vocabulary, width),
        "model.norm.weight": (width,),
    }
    blocks = {
        "input_layernorm": (width,),
        "mlp.down_proj": (width, inner),
        "mlp.gate_proj": (inner, width),
        "mlp.up_proj": (inner, width),
        "post_attention_layernorm": (width,),
        "self_attn.k_proj": (width // 4, width),
        "self_attn.o_proj": (width, width),
        "self_attn.q_proj": (width, width),
        "self_attn.v_proj": (width // 4, width),
    }
    for layer in range(layers):
        shapes |= {f"model.layers.{layer}.{name}.weight": shape for name, shape in blocks.items()}
    return shapes


def _parameters(layers: int, vocabulary: int, width: int) -> int:
    inner = width * 11 // 4
    return 2 * vocabulary * width + layers * (2 * width * width + width * width // 2 + 3 * inner * width)


def make_checkpoints(folder: Path, size_bytes: int, experts: int) -> tuple[Path, tuple[Path, ...]]:
    """A base and experts near it, bfloat16, the same for the same size; files that are there are kept."""
    tensors = {name: ("BF16", shape) for name, shape in llama_shapes(size_bytes // 2).items()}
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"model{place}.safetensors" for place in range(experts + 1)]
    for place, path in enumerate(paths):
        shard = lay_out(path.name, tensors, {"format": "pt"})
        if path.exists() and path.stat().st_size == shard.size_bytes:
            continue
        with path.open("wb") as file:
            file.write(shard.header)
            for index, (_, _, shape, _) in enumerate(shard.tensors):
                count = int(np.prod(shape))
                values = 0.02 * np.random.default_rng(index).standard_normal(count, np.float32)
                if place:
                    values += 0.002 * np.random.default_rng((index, place)).standard_normal(count, np.float32)
                (values.view(np.uint32) >> 16).astype("<u2").tofile(file)
    return paths[0], tuple(paths[1:])


def measure_floor(inputs: Sequence[Path], out: Path, write_bytes: int) -> float:
    """Seconds for reading the files and writing as many bytes as the result has, flushed."""
    buffer = bytearray(_BLOCK)
    started = perf_counter()
    for path in inputs:
        with path.open("rb", buffering=0) as file:
            while file.readinto(buffer):
                pass
    with out.open("wb", buffering=0) as file:
        for start in range(0, write_bytes, _BLOCK):
            file.write(memoryview(buffer)[: min(_BLOCK, write_bytes - start)])
        os.fsync(file.fileno())
    elapsed = perf_counter() - started
    out.unlink()
    return elapsed


def forget(paths: Sequence[Path]) -> None:
    """Drop the files from the page cache, as far as the system allows."""
    for path in paths:
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def measure(
    folder: Path,
    methods: Sequence[str],
    size_bytes: int,
    experts: int,
    rounds: int,
    *,
    is_cold: bool,
    threads: int,
) -> list[MergeTimes]:
    """Time each method and its floor in turn, so that both see the same machine."""
    base, all_experts = make_checkpoints(folder / f"inputs-{size_bytes}", size_bytes, experts)
    specs = [_spec(method, base, all_experts) for method in methods]
    times: dict[str, list[tuple[float, float]]] = {method: [] for method in methods}
    out = folder / "merged.safetensors"
    for round_ in range(rounds + 1):  # the first compiles kernels and fills the cache, and does not count
        for spec in specs:
            inputs = [*([spec.base] if spec.base else []), *spec.experts]
            if is_cold:
                forget(inputs)
            floor_s = measure_floor(inputs, folder / "floor.bytes", base.stat().st_size)
            if is_cold:
                forget(inputs)
            started = perf_counter()
            merge_to(spec, out, MergeOptions(threads=threads))
            merge_s = perf_counter() - started
            out.unlink()
            out.with_suffix(".merge_manifest.json").unlink()
            if round_:
                times[spec.method].append((floor_s, merge_s))
    size = base.stat().st_size
    return [
        MergeTimes(
            spec.method,
            (inputs := len(spec.experts) + (spec.base is not None)),
            inputs * size,
            size,
            median(floor for floor, _ in times[spec.method]),
            median(merge for _, merge in times[spec.method]),
        )
        for spec in specs
    ]


def _spec(method: str, base: Path, experts: tuple[Path, ...]) -> MergeSpec:
    info = registry.get(method)
    chosen = experts[:2] if method in ("linear", "slerp") else experts
    return MergeSpec(method=method, base=base if info.needs_base else None, experts=chosen)
