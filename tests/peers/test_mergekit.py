"""Our results against those of mergekit 0.1.5 itself, on the same recipes and checkpoints."""

import runpy
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from merge_lib.mergekit import merge_mergekit

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]  # the first run makes mergekit's environment

RECIPES = runpy.run_path(str(Path(__file__).with_name("recipes.py")))
DETERMINISTIC, RANDOM = RECIPES["DETERMINISTIC"], RECIPES["RANDOM"]
# In bf16 many magnitudes are equal; which of those at the threshold are kept is up to mergekit's unstable sort.
CHOOSES_AMONG_EQUALS = (
    "ties",
    "ties_raw",
    "ties_rescale",
    "ties_gradient",
    "breadcrumbs",
    "breadcrumbs_ties",
    "sce",
)


@pytest.fixture(scope="session")
def results(run_mergekit, llamas, tmp_path_factory):
    """For each kind of checkpoint and recipe: mergekit's tensors and ours."""
    found = {}
    for kind in ("f32", "bf16"):
        texts, theirs = run_mergekit(kind, {**DETERMINISTIC, **RANDOM})
        models = {name: llamas / kind / name for name in ("base", "a", "b", "c")}
        for name in (*DETERMINISTIC, *RANDOM):
            out = tmp_path_factory.mktemp("ours") / name
            report = merge_mergekit(texts / f"{name}.yml", out, models=models)
            (file,) = (theirs / name).glob("model*.safetensors")
            found[kind, name] = load_file(file), load_file(report.path)
    return found


def steps(theirs: torch.Tensor, ours: torch.Tensor) -> torch.Tensor:
    """Differences in rounding steps of our dtype, at the tensor's largest entries."""
    step = torch.finfo(ours.dtype).eps * ours.double().abs().max()
    return (theirs.to(ours.dtype).double() - ours.double()).abs() / step


@pytest.mark.parametrize("name", DETERMINISTIC)
@pytest.mark.parametrize("kind", ["f32", "bf16"])
def test_deterministic_methods_agree(results, kind, name):
    theirs, ours = results[kind, name]
    assert set(theirs) == set(ours)
    apart = torch.cat([steps(theirs[key], ours[key]).reshape(-1) for key in sorted(ours)])
    if kind == "bf16" and name in CHOOSES_AMONG_EQUALS:
        assert (apart > 1).double().mean() < 0.01
    else:
        assert apart.max() <= 1, f"{int((apart > 1).sum())} of {apart.numel()}, at most {apart.max()} steps"


@pytest.mark.parametrize("name", RANDOM)
def test_random_methods_agree_in_distribution(results, llamas, name):
    """The same share is kept, to within chance, and what is kept has been scaled alike."""
    theirs, ours = results["f32", name]
    base = load_file(llamas / "f32" / "base" / "model.safetensors")
    shares, lengths = [], []
    for merged in (theirs, ours):
        change = torch.cat([(merged[key] - base[key]).reshape(-1) for key in sorted(base)]).double()
        shares.append((change != 0).double().mean().item())
        lengths.append(change.abs().sum().item())
    assert shares[0] == pytest.approx(0.5, abs=0.025)
    assert shares[1] == pytest.approx(0.5, abs=0.025)
    assert lengths[0] == pytest.approx(lengths[1], rel=0.04)
