"""The kernels of mergekit's variants against the torch functions: the same bytes."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from merge_lib.mergekit.plan import plan_recipe
from merge_lib.mergekit.recipe import parse_recipe
from merge_lib.streaming import memory_bound, operations
from merge_lib.streaming.planning import KERNEL_METHODS, MergePlan
from merge_lib.streaming.run import MergeOptions, merge_planned

BF16, F16, F32 = torch.bfloat16, torch.float16, torch.float32
ONE = ("slerp", "passthrough")
RECIPES = [
    ("linear", "", "weight: 0.3"),
    ("linear", "normalize: false", "weight: 0.45"),
    ("passthrough", "", "scale: 0.7"),
    ("slerp", "t: 0.3", ""),
    ("task_arithmetic", "lambda: 0.7", "weight: 0.4"),
    ("task_arithmetic", "normalize: true", "weight: 0.4"),
    ("model_stock", "", ""),
    ("ties", "", "{weight: 0.4, density: 0.37}"),
    ("ties", "{rescale: true, normalize: false, lambda: 1.3}", "{weight: 0.4, density: 0.01}"),
    ("ties", "", "weight: -0.4"),
    ("breadcrumbs", "", "{weight: 0.4, density: 0.8, gamma: 0.05}"),
    ("breadcrumbs", "rescale: true", "{weight: 0.4, density: 0.98, gamma: 0.1}"),
    ("breadcrumbs_ties", "", "{weight: 0.4, density: 0.3, gamma: 0.2}"),
    ("breadcrumbs", "", "{weight: 0.4, density: 0.5, gamma: 1.0}"),
    ("dare_linear", "", "{weight: 0.4, density: 0.5}"),
    ("dare_ties", "rescale: false", "{weight: 0.4, density: 0.123}"),
    ("della", "", "{weight: 0.4, density: 0.5, epsilon: 0.2}"),
    ("della_linear", "{normalize: true, lambda: 0.5}", "{weight: 0.4, density: 0.7}"),
    ("della", "", "{weight: 0.4, density: 1.0}"),
    ("sce", "select_topk: 0.2", ""),
    ("sce", "select_topk: 1.0", ""),
]
DTYPES = [((BF16,), ""), ((F16,), ""), ((F32,), ""), ((F32,), "bfloat16"), ((BF16, F16, F32), "float32")]


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch):
    monkeypatch.setattr(memory_bound, "CHUNK", 4096)
    monkeypatch.setattr(memory_bound, "DEVICE_CHUNK", 3072)


def planned(
    method: str, shared: str, own: str, base: Path, experts: tuple[Path, ...], dtype: str
) -> MergePlan:
    def block(text: str) -> str:
        return f"parameters: {text if text.startswith('{') else '{' + text + '}'}" if text else ""

    models = "\n".join(f"  - {{model: {str(path)!r}, {block(own)}}}" for path in experts)
    needs_base = method not in ("linear", "passthrough")
    lines = [
        f"merge_method: {method}",
        f"models:\n{models}",
        block(shared),
        f"dtype: {dtype}" if dtype else "",
    ]
    lines += [f"base_model: {base}"] if needs_base else []
    return plan_recipe(parse_recipe("\n".join(lines)), base.parent, seed=3)


def test_the_plan_knows_which_methods_have_kernels():
    assert operations.METHODS == KERNEL_METHODS


@pytest.mark.parametrize(("method", "shared", "own"), RECIPES)
@pytest.mark.parametrize(("dtypes", "dtype"), DTYPES)
@pytest.mark.parametrize("count", [1, 2, 4])
def test_kernels_give_the_bytes_of_the_torch_functions(
    method, shared, own, dtypes, dtype, count, make_checkpoints, tmp_path
):
    if (count > 1 and method in ONE) or (count == 1 and method == "model_stock"):
        count = 3 - count if count < 3 else 1 if method in ONE else 2
    base, experts = make_checkpoints(count, dtypes)
    plan = planned(method, shared, own, base, experts, dtype)
    assert plan.is_compiled
    compiled = merge_planned(lambda: plan, tmp_path / "kernels", MergeOptions(threads=2))
    in_torch = replace(plan, why_torch="it is the reference")
    reference = merge_planned(lambda: in_torch, tmp_path / "torch")
    assert compiled.digest == reference.digest
    files = [folder / "model.safetensors" for folder in (compiled.path, reference.path)]
    assert files[0].read_bytes() == files[1].read_bytes()


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize(("dtypes", "dtype"), DTYPES)
def test_a_device_gives_what_the_kernels_give(
    recipe, dtypes, dtype, device, make_checkpoints, assert_as_on_the_cpu, tmp_path
):
    method, shared, own = recipe
    base, experts = make_checkpoints(1 if method in ONE else 3, dtypes)
    plan = planned(method, shared, own, base, experts, dtype)
    kernels = merge_planned(lambda: plan, tmp_path / "kernels", MergeOptions(threads=2))
    there = merge_planned(lambda: plan, tmp_path / "device", MergeOptions(threads=2, device=device))
    assert there.arithmetic.startswith("torch on the CPU" if device == "torch:cpu" else "cuda (")
    assert_as_on_the_cpu(there.path / "model.safetensors", kernels.path / "model.safetensors")
