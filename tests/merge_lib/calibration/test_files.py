"""Merging files by methods that need data: recipes name what was collected or learned."""

import json

import pytest
import torch
from torch import nn

import merge_lib
from merge_lib import MergeSpec, merge_checkpoints
from merge_lib.calibration.collect import Calibration, collect
from merge_lib.calibration.fitted import read_fitted, read_fitted_lineage, write_fitted
from merge_lib.calibration.store import open_learned
from merge_lib.checkpoints import read_state_dict, write_state_dict
from merge_lib.errors import CheckpointCorruptError, SpecError
from merge_lib.probe import Batch
from merge_lib.streaming.planning import make_plan
from merge_lib.streaming.run import MergeOptions, merge_to


class Probe:
    def module(self, state):
        module = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 2))
        module.load_state_dict(state)
        return module.eval()

    def batches(self, task, *, split, count, seed, size):
        generator = torch.Generator().manual_seed(len(task))
        yield Batch(torch.randn(count, 3, generator=generator), torch.zeros(count, dtype=torch.int64))

    def logits(self, module, batch, task):
        return module(batch.inputs)


@pytest.fixture
def models(tmp_path):
    states = []
    for seed in range(3):
        torch.manual_seed(seed)
        module = Probe().module(nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 2)).state_dict())
        states.append({name: tensor.clone() for name, tensor in module.state_dict().items()})
    paths = [tmp_path / f"{place}.safetensors" for place in range(3)]
    for path, state in zip(paths, states, strict=True):
        write_state_dict(path, state, lineage={"kind": "test"})
    return states, paths


def observe(kind, states, folder, examples=5):
    return tuple(
        collect(
            Calibration(kind, examples),
            state,
            Probe(),
            "t" * place,
            folder / f"{kind}{place}",
            data="d",
            model="m",
        ).folder
        for place, state in enumerate(states, 1)
    )


@pytest.mark.parametrize(
    ("method", "kind"), [("cat", "features"), ("lot", "features"), ("regmean", "gram"), ("fisher", "fisher")]
)
def test_recipes_name_the_observations(method, kind, models, tmp_path):
    states, (base, *experts) = models
    folders = observe(kind, states[1:], tmp_path)
    spec = MergeSpec(method=method, base=base, experts=tuple(experts), observations=folders)
    learned = open_learned(method, folders, None)
    in_memory = merge_lib.merge(method, states[1:], states[0], learned=learned)
    merge_checkpoints(spec, tmp_path / "file")
    streamed = merge_to(spec, tmp_path / "folder", MergeOptions())
    for path in (tmp_path / "file", streamed.path / "model.safetensors"):
        found = read_state_dict(path)
        assert all(torch.equal(found[name], in_memory[name]) for name in in_memory)
    recorded = json.loads((streamed.path / "merge_manifest.json").read_text())["recipe"]["observations"]
    assert [one["task"] for one in recorded] == ["t", "tt"]
    assert recorded[0]["data"] == "d"
    other = merge_lib.merge(method, states[1:], states[0], learned=open_learned(method, folders[::-1], None))
    assert any(not torch.equal(other[name], in_memory[name]) for name in in_memory)


def test_recipes_name_what_was_fitted(models, tmp_path):
    states, (base, *experts) = models
    fitted = {name: torch.tensor([0.25, 0.5]) for name in states[0]}
    write_fitted(tmp_path / "fitted", fitted, {"method": "adamerging", "tasks": ["a", "b"]})
    spec = MergeSpec(method="adamerging", base=base, experts=tuple(experts), fitted=tmp_path / "fitted")
    merge_checkpoints(spec, tmp_path / "out")
    found = read_state_dict(tmp_path / "out")
    for name, tensor in states[0].items():
        expected = tensor + 0.25 * (states[1][name] - tensor) + 0.5 * (states[2][name] - tensor)
        torch.testing.assert_close(found[name], expected)
    assert make_plan(spec).recipe["fitted"] == {"method": "adamerging", "tasks": ["a", "b"]}
    assert torch.equal(read_fitted(tmp_path / "fitted")["0.bias"], fitted["0.bias"])


def test_what_a_recipe_lacks_is_told(models, tmp_path):
    _, (base, *experts) = models
    inputs = {"base": base, "experts": tuple(experts)}
    with pytest.raises(
        SpecError, match="'cat' takes a folder of observations of kind 'features' for each expert, but 0 were"
    ):
        MergeSpec(method="cat", **inputs)
    with pytest.raises(SpecError, match="'ties' takes no observations, but 1 were given"):
        MergeSpec(method="ties", observations=(tmp_path,), **inputs)
    with pytest.raises(SpecError, match="'adamerging' learns from data first, but `fitted` names no file"):
        MergeSpec(method="adamerging", **inputs)
    with pytest.raises(SpecError, match="'ties' learns nothing, but `fitted` is given"):
        MergeSpec(method="ties", fitted=tmp_path, **inputs)


def test_what_cannot_be_used_is_told_before_the_merge(models, tmp_path):
    states, (base, *experts) = models
    inputs = {"base": base, "experts": tuple(experts)}
    grams = observe("gram", states[1:], tmp_path)
    with pytest.raises(SpecError, match="holds observations of kind 'gram', but the method needs 'features'"):
        make_plan(MergeSpec(method="cat", observations=grams, **inputs))
    with pytest.raises(CheckpointCorruptError, match=r"has no readable observations\.json"):
        make_plan(MergeSpec(method="regmean", observations=(tmp_path, tmp_path), **inputs))
    (tmp_path / "torn").write_bytes(b"no")
    for path in (tmp_path / "torn", base):
        with pytest.raises(CheckpointCorruptError, match="is not a readable file of fitted values"):
            make_plan(MergeSpec(method="adamerging", fitted=path, **inputs))
    with pytest.raises(CheckpointCorruptError, match="is not a readable file"):
        read_fitted_lineage(tmp_path / "none")
