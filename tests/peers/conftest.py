"""mergekit in an environment of its own, outside the repository and never a dependency."""

import json
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

MERGEKIT = "mergekit==0.1.5"
HIDDEN, LAYERS, VOCABULARY, INNER, KEYS = 16, 4, 32, 24, 8


@pytest.fixture(scope="session")
def mergekit_python() -> Path:
    """The interpreter of an environment with mergekit; made once, from the package index, and kept."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mergeline" / "peers"
    folder = cache / f"{MERGEKIT}-torch-{torch.__version__.partition('+')[0]}"
    python, done = folder / "bin" / "python", folder / "complete"
    if not done.exists():
        shutil.rmtree(folder, ignore_errors=True)
        venv.create(folder, with_pip=True)
        for wanted in (
            f"torch=={torch.__version__.partition('+')[0]}",
            MERGEKIT,
        ):  # torch first: no GPU build
            subprocess.run([python, "-m", "pip", "install", "--quiet", wanted], check=True, cwd=folder)
        done.touch()
    return python


@pytest.fixture(scope="session")
def llamas(tmp_path_factory) -> Path:
    """Folders f32 and bf16, in each a tiny base and three experts of the Llama architecture."""
    root = tmp_path_factory.mktemp("models")
    generator = torch.Generator().manual_seed(0)
    base = {name: 0.3 * torch.randn(shape, generator=generator) for name, shape in _shapes().items()}
    models = {"base": base}
    for name in "abc":
        models[name] = {k: v + 0.05 * torch.randn(v.shape, generator=generator) for k, v in base.items()}
    for kind, dtype in (("f32", torch.float32), ("bf16", torch.bfloat16)):
        for name, tensors in models.items():
            folder = root / kind / name
            folder.mkdir(parents=True)
            stored = {key: tensor.to(dtype) for key, tensor in tensors.items()}
            save_file(stored, folder / "model.safetensors", metadata={"format": "pt"})
            (folder / "config.json").write_text(json.dumps(_config(str(dtype).removeprefix("torch."))))
    return root


@pytest.fixture(scope="session")
def run_mergekit(mergekit_python, llamas, tmp_path_factory):
    """Run mergekit on recipes by name, for one kind of checkpoints; gives the folder of the results."""

    def run(kind: str, recipes: dict[str, str]) -> tuple[Path, Path]:
        root = tmp_path_factory.mktemp(kind)
        (root / "recipes").mkdir()
        for name, text in recipes.items():
            (root / "recipes" / f"{name}.yml").write_text(text)
        script = Path(__file__).with_name("run_mergekit.py")
        command = [mergekit_python, script, llamas / kind, root / "recipes", root / "out"]
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
        return root / "recipes", root / "out"

    assert sys.platform != "win32"  # the interpreter's place
    return run


def _shapes() -> dict[str, tuple[int, ...]]:
    found: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (VOCABULARY, HIDDEN)}
    found |= {"model.norm.weight": (HIDDEN,), "lm_head.weight": (VOCABULARY, HIDDEN)}
    parts = {
        "self_attn.q_proj": (HIDDEN, HIDDEN),
        "self_attn.k_proj": (KEYS, HIDDEN),
        "self_attn.v_proj": (KEYS, HIDDEN),
        "self_attn.o_proj": (HIDDEN, HIDDEN),
        "mlp.gate_proj": (INNER, HIDDEN),
        "mlp.up_proj": (INNER, HIDDEN),
        "mlp.down_proj": (HIDDEN, INNER),
        "input_layernorm": (HIDDEN,),
        "post_attention_layernorm": (HIDDEN,),
    }
    return found | {f"model.layers.{n}.{part}.weight": s for n in range(LAYERS) for part, s in parts.items()}


def _config(dtype: str) -> dict[str, object]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": HIDDEN,
        "intermediate_size": INNER,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 8,
        "vocab_size": VOCABULARY,
        "tie_word_embeddings": False,
        "torch_dtype": dtype,
    }
