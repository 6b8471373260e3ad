import pytest
import torch
from pydantic import ValidationError

import merge_lib
from merge_lib import MergeSpec, merge_checkpoints
from merge_lib.checkpoints import read_state_dict
from merge_lib.errors import SpecError
from merge_lib.layer_scales import LayerScales
from merge_lib.streaming.planning import make_plan
from merge_lib.streaming.run import MergeOptions, merge_to

NAMES = ("stem.weight", "layers.0.weight", "layers.1.weight", "layers.2.bias", "steps")


def state(*values):
    tensors = {
        name: torch.tensor([value], dtype=torch.float64) for name, value in zip(NAMES, values, strict=False)
    }
    return {**tensors, "steps": torch.tensor([7])}


BASE, FIRST, SECOND = state(0, 0, 0, 0), state(1, 2, 3, 4), state(-1, 2, 1, 0)


def merged(method="task_arithmetic", scales=None, **params):
    result = merge_lib.merge(method, [FIRST, SECOND], BASE, layer_scales=scales, **params)
    return [result[name].item() for name in NAMES]


def test_lines_grows_with_depth():
    # Σ τ = (0, 4, 4, 4); depths none, 0, ½, 1
    assert merged(scales=LayerScales(shallow=0.5, slope=1.0), scale=1.0) == [0.0, 2.0, 4.0, 6.0, 7]


def test_the_automatic_shallow_factor_is_the_ratio_of_the_norms():
    # ‖Σ τ‖₁ = 12; the merge is a quarter of the sum, so α = 12 / 3 / 2 = 2
    assert merged(scales=LayerScales(), scale=0.25) == [0.0, 2.0, 2.0, 2.0, 7]
    assert merged(scales=LayerScales(slope=2.0), scale=0.25) == [0.0, 2.0, 3.0, 4.0, 7]


def test_a_factor_for_each_block():
    scales = LayerScales(shallow=5.0, blocks=(1.0, 0.5, 0.0))
    assert merged("magmax", scales, scale=1.0) == [-5.0, 2.0, 1.5, 0.0, 7]


def test_methods_on_experts_are_scaled_around_the_base():
    base = {name: tensor + 1 for name, tensor in BASE.items()}
    experts = [{name: tensor + 1 for name, tensor in expert.items()} for expert in (FIRST, SECOND)]
    result = merge_lib.merge("average", experts, base, layer_scales=LayerScales(shallow=1.0, slope=1.0))
    assert [result[name].item() for name in NAMES[:4]] == [1.0, 3.0, 4.0, 5.0]


def test_a_merge_that_moved_nothing_stays_at_the_base():
    result = merge_lib.merge("task_arithmetic", [BASE, BASE], BASE, layer_scales=LayerScales())
    assert all(torch.equal(result[name], BASE[name]) for name in NAMES)


def test_what_is_refused():
    with pytest.raises(ValidationError, match="`blocks` takes no `slope`"):
        LayerScales(shallow=1.0, slope=1.0, blocks=(1.0,))
    with pytest.raises(SpecError, match=r"has 2 factors, but the model's stacks have 3 blocks"):
        merged(scales=LayerScales(shallow=1.0, blocks=(1.0, 1.0)))
    with pytest.raises(SpecError, match="needs a model with numbered blocks"):
        merge_lib.merge("average", [{"w": torch.ones(1)}], {"w": torch.ones(1)}, layer_scales=LayerScales())
    with pytest.raises(SpecError, match="works on the merged task vector"):
        merge_lib.merge("average", [FIRST], layer_scales=LayerScales())


def test_files_get_the_same_and_say_so(on_disk, tmp_path):
    base, experts = on_disk((BASE, [FIRST, SECOND]))
    scales = LayerScales(slope=1.0)
    spec = MergeSpec(method="ties", base=base, experts=experts, layer_scales=scales)
    in_memory = merge_lib.merge("ties", [FIRST, SECOND], BASE, layer_scales=scales)
    out = tmp_path / "out.safetensors"
    merge_checkpoints(spec, out)
    streamed = merge_to(spec, tmp_path / "streamed.safetensors", MergeOptions())
    assert streamed.arithmetic == "torch: layer scales have no kernel"
    for path in (out, streamed.path):
        found = read_state_dict(path)
        assert all(torch.equal(found[name], in_memory[name]) for name in NAMES)
    plan = make_plan(spec)
    assert plan.recipe["layer_scales"] == {"shallow": "auto", "slope": 1.0, "blocks": []}
    assert 'layer_scales: {"shallow": "auto", "slope": 1.0, "blocks": []}' in plan.recipe_lines
