"""Checkpoints of `transformers` in, merges out that it loads and runs."""

import shutil

import torch

import merge_lib
from merge_lib.checkpoints import open_checkpoint, read_state_dict
from merge_lib.streaming.run import MergeOptions, merge_to


def test_a_merge_of_sharded_models_loads_and_runs(tiny, tmp_path):
    models = [tiny.make(seed) for seed in range(3)]
    folders = [tiny.save(model, tmp_path / str(i)) for i, model in enumerate(models)]
    with open_checkpoint(folders[0]) as reader:
        assert len(reader.shards) > 1
    spec = merge_lib.MergeSpec(
        method="task_arithmetic", base=folders[0], experts=tuple(folders[1:]), params={"scale": 0.5}
    )
    out = tmp_path / "merged"
    merge_to(spec, out, MergeOptions(max_shard_bytes=5_000))
    assert len(list(out.glob("*.safetensors"))) > 1
    merged = tiny.load(out)
    states = [model.state_dict() for model in models]
    for name, value in merged.state_dict().items():
        base, one, other = (state[name] for state in states)
        if value.is_floating_point():
            torch.testing.assert_close(value, base + 0.5 * (one - base) + 0.5 * (other - base))
        else:
            assert torch.equal(value, base)
    answer = tiny.run(merged)
    assert answer.isfinite().all()
    assert not torch.equal(answer, tiny.run(models[0]))


def test_what_a_folder_holds_is_what_the_model_held(tiny, tmp_path):
    model = tiny.make(0)
    state = read_state_dict(tiny.save(model, tmp_path / "m", save_original_format=False))
    held = model.state_dict()
    assert all(torch.equal(tensor, held[name]) for name, tensor in state.items())
    kept = {tensor.data_ptr() for tensor in held.values()}
    assert len(state) == len(kept)  # tied tensors once


def test_an_untied_head_of_another_tool_is_merged_once(tiny_llama, tmp_path):
    """Some tools store the tied head under both names."""
    from safetensors.torch import load_file, save_file

    folders = []
    for i in range(2):
        folder = tmp_path / str(i)
        tiny_llama.make(i).save_pretrained(folder)
        folders.append(folder)
    state = load_file(folders[1] / "model.safetensors")
    state["lm_head.weight"] = state["model.embed_tokens.weight"].clone()
    save_file(state, folders[1] / "model.safetensors", metadata={"format": "pt"})
    spec = merge_lib.MergeSpec(method="average", experts=tuple(folders))
    merge_lib.merge_checkpoints(spec, tmp_path / "out" / "model.safetensors")
    shutil.copy(folders[0] / "config.json", tmp_path / "out")
    assert "lm_head.weight" not in read_state_dict(tmp_path / "out")
    merged = tiny_llama.load(tmp_path / "out")
    assert merged.lm_head.weight is merged.model.embed_tokens.weight
