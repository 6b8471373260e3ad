"""One merge by FusionBench's functions, of float32 files: run by the interpreter of its own environment.

Arguments: a JSON file with `method`, `base` and `experts`, and where the result goes. Prints one line of JSON: seconds
from the reading to the writing, and the bytes that this took beyond the imports.
"""

import contextlib
import io
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from fusion_bench.method.emr_merging.utils import emr_merge
from fusion_bench.method.isotropic_merging.iso_utils import iso_c, iso_cts
from fusion_bench.method.magmax.magmax import magmax_merge
from fusion_bench.method.simple_average import simple_average
from fusion_bench.method.task_arithmetic.task_arithmetic import task_arithmetic_merge
from fusion_bench.method.task_singular_vector.utils.TSVM_utils import compute_and_sum_svd_mem_reduction
from fusion_bench.method.ties_merging.ties_merging_utils import (
    state_dict_to_vector,
    ties_merging,
    vector_to_state_dict,
)
from fusion_bench.method.wudi.wudi import wudi_merging
from fusion_bench.utils.state_dict_arithmetic import state_dict_add, state_dict_mul, state_dict_sub
from safetensors.torch import load_file, save_file
from torch import Tensor

StateDict = dict[str, Tensor]
Merge = Callable[[StateDict, list[StateDict]], StateDict]


class Held:
    """A state dict where FusionBench wants a module."""

    def __init__(self, tensors: StateDict) -> None:
        self.tensors = tensors

    def state_dict(self, keep_vars: bool = False) -> StateDict:  # noqa: ARG002 -- as a module has it
        """What is held."""
        return self.tensors

    def load_state_dict(self, tensors: StateDict) -> None:
        """Hold something else."""
        self.tensors = tensors


def ties(base: StateDict, experts: list[StateDict]) -> StateDict:
    """The largest fifth of the whole model, the mean of what agrees in sign."""
    flat_base = state_dict_to_vector(base)
    flat = torch.vstack([state_dict_to_vector(expert) for expert in experts]) - flat_base
    merged = ties_merging(flat, reset_thresh=20, merge_func="mean")
    return vector_to_state_dict(flat_base + merged, base)


def from_vectors(scale: float, merge: Callable[[list[StateDict]], StateDict]) -> Merge:
    """A function of task vectors, whose result is scaled and added to the base."""

    def run(base: StateDict, experts: list[StateDict]) -> StateDict:
        vectors = [state_dict_sub(expert, base) for expert in experts]
        return state_dict_add(base, state_dict_mul(merge(vectors), scale))

    return run


def from_modules(merge: Callable[..., Any], scale: float) -> Merge:
    """A function of modules."""

    def run(base: StateDict, experts: list[StateDict]) -> StateDict:
        return merge(Held(base), [Held(expert) for expert in experts], scale).state_dict()

    return run


METHODS: dict[str, Merge] = {
    "average": lambda _base, experts: simple_average(experts),
    "task_arithmetic": from_modules(task_arithmetic_merge, 0.3),
    "magmax": from_modules(magmax_merge, 0.5),
    "ties": ties,
    "iso_c": from_vectors(1.0, lambda vectors: iso_c(vectors, accelerator="cpu")),
    "iso_cts": from_vectors(1.0, lambda vectors: iso_cts(vectors, 0.8, accelerator="cpu")),
    "tsv": from_vectors(
        1.0, lambda vectors: compute_and_sum_svd_mem_reduction(vectors, accelerator=torch.device("cpu"))
    ),
    "wudi": from_vectors(1.0, lambda vectors: wudi_merging(vectors, accelerator="cpu", iter_num=300)),
    "emr": from_vectors(1.0, lambda vectors: emr_merge(vectors)[0]),
}


def status(word: str) -> int:
    """Bytes, as the system tells of this process."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(word):
            return int(line.split()[1]) * 1024
    return 0


def main() -> None:
    """Merge what the first argument asks for into the second."""
    asked, out = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")), sys.argv[2]
    before, started = status("VmRSS:"), time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        base, *experts = (load_file(path) for path in (asked["base"], *asked["experts"]))
        merged = METHODS[asked["method"]](base, experts)
        save_file({name: tensor.detach().contiguous() for name, tensor in merged.items()}, out)
    elapsed = time.perf_counter() - started
    sys.stdout.write(json.dumps({"seconds": elapsed, "peak_bytes": status("VmHWM:") - before}) + "\n")


if __name__ == "__main__":
    main()
