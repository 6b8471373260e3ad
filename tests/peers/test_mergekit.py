"""Our results against those of mergekit 0.1.5 itself, kept in golden files; see make_golden.py."""

import runpy
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from merge_lib.mergekit import merge_mergekit

HERE = Path(__file__).parent
RECIPES = runpy.run_path(str(HERE / "recipes.py"))
GOLDEN = runpy.run_path(str(HERE / "make_golden.py"))
DETERMINISTIC, RANDOM = RECIPES["DETERMINISTIC"], RECIPES["RANDOM"]

# In bf16 many magnitudes are equal: which of those at the threshold mergekit keeps is up to its unstable sort.
EQUALS = {"ties", "ties_raw", "ties_rescale", "ties_gradient", "breadcrumbs", "breadcrumbs_ties", "sce"}
SMALL_SHARE = 0.015
STEPS = {
    "slerp": 3,
    "slerp_gradient": 3,
    "slices_slerp": 3,
    "karcher": 6,
}  # in float32: sums over a tensor are added in another order


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    root, tensors = tmp_path_factory.mktemp("models"), load_file(HERE / "golden" / "models.safetensors")
    return {kind: GOLDEN["write_models"](tensors, root, kind) for kind in GOLDEN["DTYPES"]}


@pytest.fixture(scope="module")
def golden():
    return {kind: load_file(HERE / "golden" / f"{kind}.safetensors") for kind in GOLDEN["DTYPES"]}


@pytest.fixture
def merge(models, tmp_path):
    def run(kind, text):
        (tmp_path / "recipe.yml").write_text(text)
        done = merge_mergekit(tmp_path / "recipe.yml", tmp_path / "out", models=models[kind])
        return load_file(done.path / "model.safetensors")

    return run


def steps(theirs: torch.Tensor, ours: torch.Tensor) -> torch.Tensor:
    """Differences in rounding steps of our dtype, at the tensor's largest entry."""
    step = torch.finfo(ours.dtype).eps * ours.double().abs().max().clamp(min=1e-30)
    return ((theirs.to(ours.dtype).double() - ours.double()).abs() / step).reshape(-1)


@pytest.mark.parametrize("name", DETERMINISTIC)
@pytest.mark.parametrize("kind", ["f32", "bf16"])
def test_deterministic_methods_agree(merge, golden, kind, name):
    ours = merge(kind, DETERMINISTIC[name])
    theirs = {
        key.removeprefix(f"{name}/"): tensor
        for key, tensor in golden[kind].items()
        if key.startswith(f"{name}/")
    }
    assert len(theirs) == len(GOLDEN["KEPT"])
    apart = torch.cat([steps(theirs[key], ours[key]) for key in sorted(theirs)])
    far = apart > (STEPS.get(name, 1) if kind == "f32" else 1)
    allowed = SMALL_SHARE if kind == "bf16" and name in EQUALS | {"arcee_fusion"} else 0
    assert far.double().mean() <= allowed, f"{int(far.sum())} of {far.numel()}, up to {apart.max():.1f} steps"


@pytest.mark.parametrize("name", RANDOM)
def test_random_methods_agree_in_distribution(merge, golden, models, name):
    """The same share is kept, to within chance, and what is kept has been scaled alike."""
    base = load_file(models["f32"]["base"] / "model.safetensors")
    ours = merge("f32", RANDOM[name])
    theirs = {key: golden["f32"][f"{name}/{key}"] for key in base}
    shares, lengths = [], []
    for merged in (theirs, ours):
        change = torch.cat([(merged[key] - base[key]).reshape(-1) for key in sorted(base)]).double()
        shares.append((change != 0).double().mean().item())
        lengths.append(change.abs().sum().item())
    assert shares == pytest.approx([0.5, 0.5], abs=0.025)
    assert lengths[0] == pytest.approx(lengths[1], rel=0.04)
