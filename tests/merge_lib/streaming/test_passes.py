"""What a dry run says of reading is what is read."""

from dataclasses import replace

import pytest
import torch

from merge_lib import MergeSpec, registry
from merge_lib.checkpoints import write_state_dict
from merge_lib.streaming.planning import make_plan
from merge_lib.streaming.preflight import examine_plan
from merge_lib.streaming.run import MergeOptions, merge_planned

PASSES = [  # method, parameters, passes in float32
    ("adamerging", {}, 1),
    ("adamerging", {"density": 0.5}, 3),
    ("average", {}, 1),
    ("condu", {}, 2),
    ("consensus", {}, 1),
    ("consensus", {"combine": "ties"}, 3),
    ("emr", {}, 1),
    ("emr", {"task": 0}, 2),
    ("knots", {"trim": "model"}, 3),
    ("knots", {"trim": "tensor"}, 1),
    ("localize_and_stitch", {}, 3),
    ("neuromerging", {"density": 0.5}, 4),
    ("neuromerging", {"density": 0.5, "compensate": False}, 3),
    ("neuromerging", {"density": 1}, 1),
    ("opcm", {}, 2),
    ("pcb", {}, 5),
    ("pcb", {"density": 1}, 4),
    ("tall_masks", {}, 1),
    ("tall_masks", {"combine": "ties"}, 3),
    ("ties", {}, 3),
    ("ties", {"density": 1}, 1),
    ("ties", {"trim": "tensor"}, 1),
    ("tsv", {}, 1),
]
SHAPES = {
    "blocks.0.weight": (6, 5),
    "blocks.1.weight": (40, 30),
    "norm.bias": (7,),
    "empty": (0, 3),
    "one": (),
}


@pytest.fixture
def make_spec(tmp_path, data_files):
    """A merge of three experts, of floating tensors only."""

    def make(method, dtype=torch.float32, **beside):
        generator = torch.Generator().manual_seed(2)
        paths = []
        for place in range(4):
            model = {name: torch.randn(shape, generator=generator) for name, shape in SHAPES.items()}
            paths.append(tmp_path / f"model{place}.safetensors")
            write_state_dict(paths[-1], {name: one.to(dtype) for name, one in model.items()}, lineage={})
        data = data_files(method, model, 3)
        return MergeSpec(method=method, base=paths[0], experts=paths[1:], **data, **beside)

    return make


def foretold_and_read(spec, folder):
    """Passes and bytes that a dry run of the torch route tells, and bytes that the merge reads."""

    def make():
        return replace(make_plan(spec), why_torch="the test asks for it")

    told: list[int] = []
    preview = examine_plan(make, folder / "out.safetensors")
    merge_planned(make, folder / "out.safetensors", MergeOptions(threads=1, progress=told.append))
    assert not preview.problems
    return preview.passes, preview.read_bytes, sum(told)


@pytest.mark.parametrize(("method", "params", "passes"), PASSES)
def test_all_passes_are_foretold(method, params, passes, make_spec, tmp_path):
    found, foretold, read = foretold_and_read(make_spec(method, params=params), tmp_path)
    assert found == passes
    assert foretold == read


def test_doubles_take_more_passes(make_spec, tmp_path):
    found, foretold, read = foretold_and_read(make_spec("ties", torch.float64), tmp_path)
    assert (found, foretold) == (5, read)


def test_layer_scales_that_follow_from_the_merge_take_one_more(make_spec, tmp_path):
    spec = make_spec("tsv", layer_scales={"shallow": "auto", "slope": 0.5})
    found, foretold, read = foretold_and_read(spec, tmp_path)
    assert (found, foretold) == (2, read)
    assert make_plan(make_spec("tsv", layer_scales={"shallow": 1.0})).passes == 1


def test_every_method_that_looks_at_the_whole_model_is_here():
    assert {name for name, *_ in PASSES} >= {one.name for one in registry.methods() if one.scope == "model"}
