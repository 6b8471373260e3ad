"""Adapters merged among themselves."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from merge_lib.checkpoints import (
    merge_adapter_factors,
    merge_adapters,
    open_checkpoint,
    read_state_dict,
    write_state_dict,
)
from merge_lib.errors import CheckpointError, CheckpointMismatchError, SpecError


def write_adapter(folder, tensors, **fields):
    folder.mkdir()
    config = {"peft_type": "LORA", "r": 1, "lora_alpha": 1, "target_modules": ["x"], **fields}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    save_file(
        {f"base_model.model.{name}": t for name, t in tensors.items()}, folder / "adapter_model.safetensors"
    )
    return folder


def factors(a, b, module="x"):
    return {f"{module}.lora_A.weight": torch.tensor(a), f"{module}.lora_B.weight": torch.tensor(b)}


@pytest.fixture
def two(tmp_path):
    """Updates 4 · e1 e1ᵀ (with scale 2) and 3 · e2 e2ᵀ."""
    one = write_adapter(tmp_path / "1", factors([[2.0, 0.0]], [[1.0], [0.0]]), lora_alpha=2)
    other = write_adapter(tmp_path / "2", factors([[0.0, 1.0]], [[0.0], [3.0]]))
    return [one, other]


@pytest.fixture
def base(tmp_path):
    return write_state_dict(tmp_path / "base", {"x.weight": torch.zeros(2, 2)}, lineage={}).path


def test_exact_at_the_sum_of_the_ranks(two, base, tmp_path):
    report = merge_adapters(two, tmp_path / "out", weights=[0.5, 1.0], rank=2)
    update = read_state_dict(tmp_path / "out", base=base)["x.weight"]
    torch.testing.assert_close(update, torch.diag(torch.tensor([2.0, 3.0])))
    assert report.relative_error < 1e-12
    assert (report.rank, report.path, list(report.errors)) == (2, tmp_path / "out", ["x"])


def test_a_lower_rank_keeps_what_is_largest_and_says_what_is_lost(two, base, tmp_path):
    report = merge_adapters(two, tmp_path / "out", weights=[1.0, 1.0], rank=1)
    update = read_state_dict(tmp_path / "out", base=base)["x.weight"]
    torch.testing.assert_close(update, torch.diag(torch.tensor([4.0, 0.0])))
    assert report.relative_error == pytest.approx(3 / 5)  # 3 lost of √(4² + 3²)
    assert report.errors == {"x": pytest.approx(3 / 5)}


def test_a_rank_above_what_a_module_can_have(two, base, tmp_path):
    merge_adapters(two, tmp_path / "out", weights=[1.0, 1.0], rank=5)
    assert load_file(tmp_path / "out" / "adapter_model.safetensors")[
        "base_model.model.x.lora_A.weight"
    ].shape == (5, 2)
    update = read_state_dict(tmp_path / "out", base=base)["x.weight"]
    torch.testing.assert_close(update, torch.diag(torch.tensor([4.0, 3.0])))


def test_a_module_that_one_adapter_lacks_counts_as_zero(two, tmp_path):
    base = write_state_dict(
        tmp_path / "b2", {"x.weight": torch.zeros(2, 2), "z.weight": torch.zeros(1, 2)}, lineage={}
    ).path
    three = write_adapter(tmp_path / "3", factors([[1.0, 1.0]], [[2.0]], "z"))
    report = merge_adapters([*two, three], tmp_path / "out", weights=[1.0, 1.0, 0.5], rank=2)
    state = read_state_dict(tmp_path / "out", base=base)
    torch.testing.assert_close(state["z.weight"], torch.ones(1, 2))
    assert report.relative_error < 1e-12


@pytest.mark.parametrize("rank", [6, 3])
def test_it_is_the_merge_of_what_peft_makes(tiny, rank, make_adapter, tmp_path):
    base = tiny.save(tiny.make(0), tmp_path / "base", save_original_format=False)
    paths, merged = [tmp_path / "1", tmp_path / "2"], []
    for i, path in enumerate(paths):
        options = {"r": 2 + 2 * i, "lora_alpha": 3, "target_modules": [tiny.query]}
        merged.append(make_adapter(tiny.load(base), path, seed=i, **options).state_dict())
    report = merge_adapters(paths, tmp_path / "out", weights=[0.25, 0.75], rank=rank)
    assert (report.relative_error < 1e-6) == (rank == 6)
    from peft import PeftModel

    loaded = PeftModel.from_pretrained(tiny.load(base), tmp_path / "out").merge_and_unload().eval()
    start = read_state_dict(base)
    lost = total = 0.0
    for name, tensor in start.items():
        exact = 0.25 * merged[0][name] + 0.75 * merged[1][name]
        lost += float((loaded.state_dict()[name] - exact).double().square().sum())
        total += float((exact - tensor).double().square().sum())
    assert (lost / total) ** 0.5 == pytest.approx(report.relative_error, abs=1e-5)
    assert tiny.run(loaded).isfinite().all()


def test_the_same_input_gives_the_same_bytes(two, tmp_path):
    for out in ("a", "b"):
        merge_adapters(two, tmp_path / out, weights=[1.0, 1.0], rank=2)
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_factors_are_merged_only_under_that_name(two, base, tmp_path):
    other = write_adapter(tmp_path / "o", factors([[0.0, 2.0]], [[0.0], [1.0]]), lora_alpha=2)
    written = merge_adapter_factors([two[0], other], tmp_path / "out", weights=[0.5, 0.5])
    update = read_state_dict(tmp_path / "out", base=base)["x.weight"]
    assert update.tolist() == [[1.0, 1.0], [1.0, 1.0]]  # 2 · [½; ½] [1 1], not diag(2, 2)
    assert written.path == tmp_path / "out" / "adapter_model.safetensors"
    with pytest.raises(CheckpointMismatchError, match="differ in modules, ranks or scales"):
        merge_adapter_factors(two, tmp_path / "no", weights=[0.5, 0.5])


def test_whole_tensors_are_copied_if_equal(two, base, tmp_path):
    for path, value in zip(two, (1.0, 1.0), strict=True):
        state = load_file(path / "adapter_model.safetensors")
        state["base_model.model.x.bias"] = torch.tensor([value])
        save_file(state, path / "adapter_model.safetensors")
    merge_adapters(two, tmp_path / "out", weights=[1.0, 1.0], rank=2)
    assert load_file(tmp_path / "out" / "adapter_model.safetensors")["base_model.model.x.bias"].item() == 1
    state["base_model.model.x.bias"] += 1
    save_file(state, path / "adapter_model.safetensors")
    with pytest.raises(
        CheckpointMismatchError, match=r"'x\.bias' is stored whole .*\nOnly factors can be merged"
    ):
        merge_adapters(two, tmp_path / "no", weights=[1.0, 1.0], rank=2)
    assert not (tmp_path / "no").exists()


@pytest.mark.parametrize(
    ("weights", "rank", "message"),
    [
        ([1.0], 1, "2 adapters and 1 weights"),
        ([1.0, float("nan")], 1, "not all finite"),
        ([1.0, 1.0], 0, "must be at least 1"),
    ],
)
def test_requests_that_make_no_sense(weights, rank, message, two, tmp_path):
    with pytest.raises(SpecError, match=message):
        merge_adapters(two, tmp_path / "out", weights=weights, rank=rank)


def test_adapters_of_different_bases(two, tmp_path):
    wide = write_adapter(tmp_path / "w", factors([[1.0, 0.0, 0.0]], [[1.0], [0.0]]))
    with pytest.raises(CheckpointMismatchError, match=r"'x\.weight' has another shape"):
        merge_adapters([two[0], wide], tmp_path / "out", weights=[1.0, 1.0], rank=1)
    turned = write_adapter(tmp_path / "t", factors([[1.0, 0.0]], [[1.0], [0.0]]), fan_in_fan_out=True)
    with pytest.raises(CheckpointMismatchError, match="differ in `fan_in_fan_out`"):
        merge_adapters([two[0], turned], tmp_path / "out", weights=[1.0, 1.0], rank=1)


def test_nothing_is_overwritten(two, tmp_path):
    with pytest.raises(CheckpointError, match="exists already"):
        merge_adapters(two, two[0], weights=[1.0, 1.0], rank=1)


def test_factors_that_are_not_finite(two, tmp_path):
    bad = write_adapter(tmp_path / "bad", factors([[float("nan"), 0.0]], [[1.0], [0.0]]))
    with pytest.raises(CheckpointError, match=r"Factors of 'x' in adapter .*bad have values"):
        merge_adapters([two[0], bad], tmp_path / "out", weights=[1.0, 1.0], rank=1)


def test_the_merged_adapter_says_what_it_is(two, base, tmp_path):
    merge_adapters(two, tmp_path / "out", weights=[1.0, 0.5], rank=1)
    with open_checkpoint(tmp_path / "out" / "adapter_model.safetensors") as reader:
        assert reader.lineage["weights"] == [1.0, 0.5]
        assert reader.lineage["space"] == "products"
