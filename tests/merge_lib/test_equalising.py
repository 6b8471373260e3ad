import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import merge_lib
from merge_lib import MergeSpec, merge_checkpoints, registry
from merge_lib.checkpoints import read_state_dict
from merge_lib.errors import MethodInputError, SpecError
from merge_lib.layer_scales import LayerScales
from merge_lib.ops.lengths import Lengths, squared_norms
from merge_lib.streaming.planning import make_plan
from merge_lib.streaming.run import MergeOptions, merge_to

NAMES = ("layers.0.weight", "layers.1.weight", "steps")


def state(*values):
    tensors = {
        name: torch.tensor([value], dtype=torch.float64) for name, value in zip(NAMES, values, strict=False)
    }
    return {**tensors, "steps": torch.tensor([7])}


# norms 5 and 15, mean 10: the factors are 2 and ⅔
BASE, SHORT, LONG, STILL = state(1, 1), state(4, 5), state(10, 13), state(1, 1)


def merged(method="task_arithmetic", experts=(SHORT, LONG), base=BASE, **options):
    result = merge_lib.merge(method, list(experts), base, equalise="norms", **options)
    return [result[name].item() for name in NAMES[:2]]


def test_all_task_vectors_get_the_mean_norm():
    # (3, 4)·2 + (9, 12)·⅔
    assert merged(scale=1.0) == pytest.approx([1 + 6 + 6, 1 + 8 + 8])


def test_what_did_not_move_stays_and_does_not_count():
    assert merged(experts=(SHORT, STILL, LONG), scale=1.0) == pytest.approx([13, 17])
    assert merged(experts=(STILL, STILL), scale=1.0) == [1.0, 1.0]


def test_one_expert_comes_back_as_it_is():
    assert merged(experts=(LONG,), scale=1.0) == [10.0, 13.0]


def test_excluded_tensors_have_no_say():
    # norms 3 and 9, mean 6
    result = merge_lib.merge(
        "task_arithmetic", [SHORT, LONG], BASE, equalise="norms", exclude=("layers.1.*",), scale=1.0
    )
    assert result["layers.0.weight"].item() == pytest.approx(1 + 6 + 6)
    assert result["layers.1.weight"].item() == 1.0


@given(values=st.lists(st.floats(-9, 9), min_size=6, max_size=6), power=st.integers(-6, 6))
def test_the_length_of_one_expert_no_longer_weighs_against_the_others(values, power):
    vectors = torch.tensor(values, dtype=torch.float64).reshape(3, 2)
    lengths = Lengths.of_squares([squared_norms(vectors)], 3)
    for row, norm in zip(lengths.equalised(vectors), lengths.norms, strict=True):
        assert float(row.norm()) == pytest.approx(lengths.mean if norm else 0.0)
    vectors[0] *= 2.0**power
    longer = Lengths.of_squares([squared_norms(vectors)], 3)
    if lengths.mean and longer.mean:  # the same directions, another common length
        torch.testing.assert_close(
            longer.equalised(vectors) / longer.mean,
            lengths.equalised(torch.tensor(values, dtype=torch.float64).reshape(3, 2)) / lengths.mean,
        )


@pytest.mark.parametrize("info", registry.methods(), ids=lambda info: info.name)
def test_every_method_takes_it_or_refuses_it(info, make_models, merge_with_data):
    base, experts = make_models()
    if info.receives == "experts" or info.is_fitted:
        with pytest.raises(SpecError, match=f"`equalise` .* method '{info.name}'"):
            merge_lib.merge(info.name, experts, base, equalise="norms")
        return
    equal = merge_with_data(info.name, experts, base, equalise="norms")
    names = [name for name, tensor in base.items() if tensor.is_floating_point()]
    squares = [
        squared_norms(torch.stack([expert[name] - base[name] for expert in experts])) for name in names
    ]
    factors = Lengths.of_squares(squares, len(experts)).factors
    scaled = [
        {name: base[name] + factor * (tensor - base[name]) if name in names else tensor for name, tensor in one.items()}
        for factor, one in zip(factors, experts, strict=True)
    ]  # fmt: skip
    by_hand = merge_with_data(info.name, scaled, base)
    for name in names:
        torch.testing.assert_close(equal[name], by_hand[name], rtol=1e-7, atol=1e-9)


def test_layer_scales_go_around_it():
    scales = LayerScales(shallow=1.0, slope=1.0)
    assert merged(scale=1.0, layer_scales=scales) == pytest.approx([1 + 12, 1 + 2 * 16])


def test_norms_that_leave_the_finite_numbers_are_refused():
    huge = state(1e200, 0)
    with pytest.raises(
        MethodInputError, match=r"task vectors of experts 1 \(from 0\) left the finite numbers"
    ):
        merged(experts=(SHORT, huge))
    with pytest.raises(MethodInputError, match="task vectors of experts 0"):
        Lengths.of_squares([(1e308,), (1e308,)], 1)
    assert Lengths.of_squares([], 2) == Lengths((0.0, 0.0), 0.0)


def test_files_get_the_same_and_say_so(on_disk, tmp_path):
    base, experts = on_disk((BASE, [SHORT, LONG]))
    spec = MergeSpec(method="ties", base=base, experts=experts, equalise="norms")
    in_memory = merge_lib.merge("ties", [SHORT, LONG], BASE, equalise="norms")
    out = tmp_path / "out.safetensors"
    merge_checkpoints(spec, out)
    streamed = merge_to(spec, tmp_path / "streamed.safetensors", MergeOptions())
    assert streamed.arithmetic == "torch: equalised task vectors have no kernel"
    for path in (out, streamed.path):
        found = read_state_dict(path)
        assert all(torch.equal(found[name], in_memory[name]) for name in NAMES)
    plan = make_plan(spec)
    assert plan.recipe["equalise"] == "norms"
    assert plan.passes == 6  # norms, four for the threshold of doubles, the merge
    assert 'equalise: "norms"' in plan.recipe_lines
    plain = MergeSpec(method="ties", base=base, experts=experts)
    assert "equalise" not in make_plan(plain).recipe


def test_merges_of_one_reading_keep_their_lengths_apart(on_disk, tmp_path):
    base, experts = on_disk((BASE, [SHORT, LONG, STILL]))
    specs = [
        MergeSpec(method="magmax", base=base, experts=experts, equalise="norms"),
        MergeSpec(method="magmax", base=base, experts=experts),
        MergeSpec(method="opcm", base=base, experts=experts[1:], equalise="norms"),
    ]
    outs = [tmp_path / f"{place}.safetensors" for place in range(3)]
    merge_lib.merge_many(specs, outs)
    for spec, out in zip(specs, outs, strict=True):
        alone = tmp_path / f"alone_{out.name}"
        merge_checkpoints(spec, alone)
        together, apart = read_state_dict(out), read_state_dict(alone)
        assert all(torch.equal(together[name], apart[name]) for name in NAMES)


def test_a_state_that_grows_cannot_know_all_norms(on_disk, tmp_path):
    base, experts = on_disk((BASE, [SHORT, LONG]))
    spec = MergeSpec(method="opcm", base=base, experts=experts, equalise="norms")
    with pytest.raises(SpecError, match="`equalise` needs all experts at once"):
        merge_lib.fold_experts(spec, tmp_path / "state.safetensors")
    spec = MergeSpec(method="opcm", base=base, experts=experts, layer_scales=LayerScales())
    with pytest.raises(SpecError, match="`layer_scales` needs all experts at once"):
        merge_lib.fold_experts(spec, tmp_path / "state.safetensors")


def test_what_is_refused():
    with pytest.raises(SpecError, match="method 'average' works on weights"):
        merge_lib.merge("average", [SHORT], BASE, equalise="norms")
    with pytest.raises(SpecError, match="for which method 'adamerging' learns"):
        merge_lib.merge("adamerging", [SHORT], BASE, equalise="norms")
    with pytest.raises(SpecError, match="method 'linear' works on weights"):
        MergeSpec(method="linear", base="b", experts=["e"], equalise="norms")
    with pytest.raises(SpecError, match="`equalise`"):
        MergeSpec(method="ties", base="b", experts=["e"], equalise="length")
    with pytest.raises(SpecError, match="no base is given"):
        merge_lib.merge("ties", [SHORT], equalise="norms")
