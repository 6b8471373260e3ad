"""Merges without kernels, piece by piece on several threads: the bytes of whole tensors on one."""

from dataclasses import replace

import pytest
import torch

from merge_lib import MergeSpec, merge_checkpoints, registry
from merge_lib.checkpoints import write_state_dict
from merge_lib.errors import CheckpointMismatchError, MethodInputError
from merge_lib.streaming import cutting
from merge_lib.streaming.cutting import Cutting
from merge_lib.streaming.memory_bound import resident_bytes
from merge_lib.streaming.planning import make_plan
from merge_lib.streaming.run import MergeOptions, merge_planned

SHAPES = {
    "blocks.0.attn.weight": (24, 384),
    "blocks.1.mlp.weight": (5, 1100),
    "blocks.1.mlp.bias": (5000,),
    "conv.weight": (6, 3, 3, 3),
    "embed.weight": (130, 40),
    "empty": (0, 4),
    "norm.weight": (2050,),
    "temperature": (),
}
VARIANTS = [
    *((name, {}) for name in registry.names()),
    ("breadcrumbs", {"trim": "tensor"}),
    ("condu", {"drift": False, "task": 1}),
    ("consensus", {"combine": "ties"}),
    ("emr", {"task": 2}),
    ("emr", {"task": 0, "rescaler": "official"}),
    ("ties", {"trim": "tensor"}),
    ("tall_masks", {"task": 1, "combine": "ties"}),
]
COUNT = 3
WAYS = ((1, 1024, None), (3, 1024, 130 << 20), (2, 4096, None))  # threads, elements of a piece, bytes beside


def checkpoints(folder, dtype, count=COUNT, *, same_steps=True):
    generator = torch.Generator().manual_seed(3)
    base = {name: torch.randn(shape, generator=generator) for name, shape in SHAPES.items()}
    models = [base]
    for _ in range(count):
        models.append(
            {
                name: tensor + 0.1 * torch.randn(tensor.shape, generator=generator)
                for name, tensor in base.items()
            }
        )
    paths = []
    for place, model in enumerate(models):
        steps = torch.arange(5000) + (0 if same_steps else place)
        paths.append(folder / f"model{place}.safetensors")
        tensors = {name: tensor.to(dtype) for name, tensor in model.items()}
        write_state_dict(paths[-1], {**tensors, "steps": steps}, lineage={})
    return models[0], paths[0], tuple(paths[1:])


def merge_in_pieces(spec, out, monkeypatch, *, threads=2, elements=1024, beside_bytes=None):
    """By the torch route, whatever the method."""
    monkeypatch.setattr(cutting, "BEST", elements * len(spec.experts))
    monkeypatch.setattr(cutting, "LEAST", 1024)
    memory = None if beside_bytes is None else max(resident_bytes(), 300 << 20) + beside_bytes
    made = merge_planned(
        lambda: replace(make_plan(spec), why_torch="the test asks for it"),
        out,
        MergeOptions(threads=threads, memory_bytes=memory),
    )
    out.with_suffix(".merge_manifest.json").unlink()
    return made.path.read_bytes()


@pytest.mark.parametrize(("name", "params"), VARIANTS)
def test_pieces_threads_and_memory_change_no_byte(name, params, data_files, tmp_path, monkeypatch):
    base, base_path, experts = checkpoints(tmp_path, torch.float32)
    spec = MergeSpec(
        method=name, params=params, base=base_path, experts=experts, seed=7, **data_files(name, base, COUNT)
    )
    expected = merge_checkpoints(spec, tmp_path / "whole.safetensors").path.read_bytes()
    for place, (threads, elements, beside) in enumerate(WAYS):
        out = tmp_path / f"{place}.safetensors"
        found = merge_in_pieces(
            spec, out, monkeypatch, threads=threads, elements=elements, beside_bytes=beside
        )
        assert found == expected


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
@pytest.mark.parametrize("name", ["consensus", "della", "neuromerging", "opcm", "ema", "iso_c"])
def test_other_element_types_and_names_left_out(name, dtype, tmp_path, monkeypatch):
    _, base_path, experts = checkpoints(tmp_path, dtype)
    spec = MergeSpec(
        method=name,
        base=base_path,
        experts=experts,
        exclude=("embed.*", "blocks.1.mlp.bias"),
        dtype="float32",
    )
    expected = merge_checkpoints(spec, tmp_path / "whole.safetensors").path.read_bytes()
    assert merge_in_pieces(spec, tmp_path / "pieces.safetensors", monkeypatch) == expected


@pytest.mark.parametrize("name", ["task_arithmetic", "consensus", "tsv"])
@pytest.mark.parametrize("scales", [{"slope": 0.5}, {"shallow": 0.3, "blocks": (0.2, 0.9)}])
def test_layer_scales_see_the_whole_model(name, scales, tmp_path, monkeypatch):
    _, base_path, experts = checkpoints(tmp_path, torch.float32)
    scales = {"shallow": "auto", **scales}
    spec = MergeSpec(method=name, base=base_path, experts=experts, layer_scales=scales)
    expected = merge_checkpoints(spec, tmp_path / "whole.safetensors").path.read_bytes()
    assert merge_in_pieces(spec, tmp_path / "pieces.safetensors", monkeypatch) == expected


def test_what_needs_all_of_a_tensor_is_not_cut(tmp_path, monkeypatch):
    _, base_path, experts = checkpoints(tmp_path, torch.float32)
    monkeypatch.setattr(cutting, "LEAST", 1024)

    def cuts(**asked):
        plan = make_plan(MergeSpec(base=base_path, experts=experts, **asked))
        (work,) = [work for work in plan.works if work.name == "blocks.0.attn.weight"]
        return [part.shape for part in Cutting.of(plan, 2048).parts(work)]

    assert cuts(method="consensus") == [(2048,)] * 4 + [(1024,)]
    assert cuts(method="della") == [(5, 384)] * 4 + [(4, 384)]
    assert cuts(method="breadcrumbs", params={"trim": "tensor"}) == [(24, 384)]
    assert cuts(method="ties", params={"trim": "tensor"}) == [(24, 384)]
    assert cuts(method="tsv") == [(24, 384)]


def test_a_value_that_is_not_finite_is_named(tmp_path, monkeypatch):
    _, base_path, experts = checkpoints(tmp_path, torch.float32)
    broken = {name: torch.zeros(shape) for name, shape in SHAPES.items()}
    broken["blocks.1.mlp.bias"][4000:4002] = float("nan")
    write_state_dict(experts[1], {**broken, "steps": torch.arange(5000)}, lineage={})
    spec = MergeSpec(method="consensus", base=base_path, experts=experts)
    with pytest.raises(MethodInputError, match="has 2 of 5000 values that are NaN or infinite"):
        merge_in_pieces(spec, tmp_path / "out.safetensors", monkeypatch)


def test_integers_that_differ_are_refused(tmp_path, monkeypatch):
    _, base_path, experts = checkpoints(tmp_path, torch.float32, same_steps=False)
    spec = MergeSpec(method="consensus", base=base_path, experts=experts)
    with pytest.raises(CheckpointMismatchError, match=r"Tensor 'steps' .* differs between experts"):
        merge_in_pieces(spec, tmp_path / "out.safetensors", monkeypatch)
