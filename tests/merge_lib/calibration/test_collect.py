import json

import pytest
import torch
from torch.nn import functional

from merge_lib.calibration.collect import Calibration, collect
from merge_lib.calibration.store import MANIFEST, ObservationFolder, Observations
from merge_lib.errors import CheckpointCorruptError, DataError, SpecError

DATA = {"data": "hash of data", "model": "digest"}


def gather(kind, state, probe, out, **options):
    asked = {"examples": 5, "batch_size": 2, **options}
    return collect(Calibration(kind, **asked), state, probe, "a", out, **DATA)


def images(probe, count=5):
    return torch.cat([b.inputs for b in probe.batches("a", split="train", count=count, seed=0, size=9)])


def test_features_are_what_the_layer_multiplies(state, probe, tmp_path):
    folder = gather("features", state, probe, tmp_path)
    module = probe.module(state)
    shown = images(probe)
    with torch.no_grad():
        maps = module.conv(shown)
        hidden = torch.tanh(module.grouped(maps))
        normed = module.batch(hidden)
        tokens = module.group(normed).flatten(2).transpose(1, 2)
        scaled = module.norm(tokens)
        last = module.rms(scaled)
    patches = functional.unfold(shown, 3, stride=2, padding=1).transpose(1, 2).reshape(-1, 18)
    torch.testing.assert_close(folder.value("conv.weight"), patches)
    torch.testing.assert_close(folder.value("head.weight"), last.reshape(-1, 4))
    kernel = state["conv.weight"].reshape(4, 18)
    rows = maps.movedim(1, -1).reshape(-1, 4)
    torch.testing.assert_close(patches @ kernel.T + state["conv.bias"], rows)
    for name, before, after in [
        ("norm", tokens, scaled),
        ("group", normed.movedim(1, -1), module.group(normed).movedim(1, -1)),
        ("batch", hidden.movedim(1, -1), normed.movedim(1, -1)),
        ("rms", scaled, last),
    ]:
        assert before.shape == after.shape
        found = folder.value(f"{name}.weight") * state[f"{name}.weight"] + state.get(f"{name}.bias", 0.0)
        torch.testing.assert_close(found, after.reshape(-1, 4), rtol=1e-4, atol=1e-5)
    assert folder.manifest.counts["head.weight"] == 5 * 9
    assert "grouped.weight" not in folder.manifest.counts  # kernels in groups are not observed
    assert "unused.weight" not in folder.manifest.counts  # the data never reached it
    assert folder.value("unused.weight") is None


def test_gram_matrices_are_the_mean_of_the_products(state, probe, tmp_path):
    rows = gather("features", state, probe, tmp_path / "rows")
    gram = gather("gram", state, probe, tmp_path / "gram")
    for name in ("conv.weight", "head.weight"):
        x = rows.value(name).double()
        torch.testing.assert_close(gram.value(name), (x.T @ x / len(x)).float(), rtol=1e-5, atol=1e-6)
    z = rows.value("norm.weight").double()
    torch.testing.assert_close(gram.value("norm.weight"), z.square().mean(0).float(), rtol=1e-5, atol=1e-6)


def test_little_memory_takes_more_passes_and_gives_the_same(state, probe, tmp_path):
    gather("gram", state, probe, tmp_path / "at once")
    once = len(probe.calls)
    gather("gram", state, probe, tmp_path / "in groups", memory_bytes=1)
    assert len(probe.calls) - once > once
    files = sorted(path.name for path in (tmp_path / "at once").iterdir())
    assert files == sorted(path.name for path in (tmp_path / "in groups").iterdir())
    for name in files:
        assert (tmp_path / "at once" / name).read_bytes() == (tmp_path / "in groups" / name).read_bytes()


def test_rows_are_chosen_at_even_distances(state, probe, tmp_path):
    all_rows = gather("features", state, probe, tmp_path / "all").value("head.weight")
    some = gather("features", state, probe, tmp_path / "some", rows=3)
    assert torch.equal(some.value("head.weight"), all_rows[[0, 15, 30]])
    assert some.manifest.counts["head.weight"] == 3


def test_fisher_is_the_expectation_over_the_model_s_own_answers(state, probe, tmp_path):
    folder = gather("fisher", state, probe, tmp_path)
    module = probe.module(state)
    expected = {name: torch.zeros_like(p, dtype=torch.float64) for name, p in module.named_parameters()}
    for image in images(probe):
        for answer in range(3):
            module.zero_grad()
            log_p = module(image[None])[0].log_softmax(-1)[answer]
            log_p.backward()
            for name, parameter in module.named_parameters():
                if parameter.grad is not None:
                    expected[name] += float(log_p.detach().exp()) * parameter.grad.double() ** 2
    total = 0.0
    for name, value in expected.items():
        torch.testing.assert_close(folder.value(name), (value / 5).float(), rtol=1e-3, atol=1e-7)
        total += float((folder.value(name).double() ** 2).sum())
    assert folder.manifest.norm == pytest.approx(total**0.5)
    assert folder.value("unused.weight").abs().max() == 0
    assert folder.manifest.counts["head.weight"] == 5


def test_observations_of_all_experts(state, probe, tmp_path):
    for expert in range(2):
        gather("fisher", state, probe, tmp_path / str(expert), seed=expert)
    source = Observations.open("fisher", [tmp_path / "0", tmp_path / "1"])
    observed = source.observed("head.weight")
    assert [tuple(value.shape) for value in observed.values] == [(3, 4), (3, 4)]
    assert observed.counts == (5, 5)
    assert observed.norms == tuple(folder.manifest.norm for folder in source.folders)
    assert source.observed("no such tensor") is None
    with pytest.raises(SpecError, match="holds observations of kind 'fisher', but the method needs 'gram'"):
        Observations.open("gram", [tmp_path / "0"])


def test_a_finished_folder_is_left_alone(state, probe, tmp_path):
    gather("gram", state, probe, tmp_path)
    calls = len(probe.calls)
    again = gather("gram", state, probe, tmp_path)
    assert len(probe.calls) == calls
    assert again.manifest == ObservationFolder(tmp_path).manifest


def test_counts_begin_at_one():
    with pytest.raises(SpecError, match=r"`examples` is 0, `rows` is -1, `batch_size` is 0, but each must"):
        Calibration("features", 0, rows=-1, batch_size=0)


def test_what_is_refused(state, probe, tmp_path):
    with pytest.raises(DataError, match="Task 'empty' has no examples in its train split"):
        collect(Calibration("gram", 3), state, probe, "empty", tmp_path / "none", **DATA)
    with pytest.raises(CheckpointCorruptError, match=r"no readable observations\.json"):
        ObservationFolder(tmp_path / "none")
    folder = gather("gram", state, probe, tmp_path / "torn")
    (tmp_path / "torn" / "head.weight.safetensors").write_bytes(b"torn")
    with pytest.raises(CheckpointCorruptError, match=r"observations of 'head\.weight' in .* cannot be read"):
        folder.value("head.weight")


def test_names_cannot_leave_the_folder(state, probe, tmp_path):
    folder = gather("gram", state, probe, tmp_path / "in")
    counts = {**folder.manifest.counts, "../out.weight": 1}
    fields = json.loads((tmp_path / "in" / MANIFEST).read_text())
    (tmp_path / "in" / MANIFEST).write_text(json.dumps({**fields, "counts": counts}))
    (tmp_path / "out.weight.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointCorruptError, match=r"%2Fout\.weight|cannot be read"):
        ObservationFolder(tmp_path / "in").value("../out.weight")
