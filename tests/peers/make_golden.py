"""Make the golden files again: mergekit's own results, and the tiny checkpoints that they are of.

    python tests/peers/make_golden.py

from the repository's root, in this project's environment. mergekit is installed from the package index into an
environment of its own under the user's cache folder (a minute, once); it is never a dependency. Of each result
of a deterministic method five tensors are kept, of a random one all.
"""

import json
import runpy
import subprocess
import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from flows.peers.environment import MERGEKIT, make_interpreter, own_variables

HERE = Path(__file__).parent
GOLDEN = HERE / "golden"
HIDDEN, LAYERS, VOCABULARY, INNER, KEYS = 16, 4, 32, 24, 8
KEPT = (
    "model.embed_tokens.weight",
    "model.norm.weight",
    "model.layers.1.self_attn.q_proj.weight",
    "model.layers.2.self_attn.o_proj.weight",
    "model.layers.2.mlp.up_proj.weight",
)
DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16}
CONFIG = {
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
}


def make_models() -> dict[str, torch.Tensor]:
    """A base and three experts of the Llama architecture, as `model/tensor`."""
    generator = torch.Generator().manual_seed(0)
    base = {name: 0.3 * torch.randn(shape, generator=generator) for name, shape in shapes().items()}
    found = {f"base/{name}": tensor for name, tensor in base.items()}
    for model in "abc":
        for name, tensor in base.items():
            found[f"{model}/{name}"] = tensor + 0.05 * torch.randn(tensor.shape, generator=generator)
    return found


def write_models(tensors: dict[str, torch.Tensor], root: Path, kind: str) -> dict[str, Path]:
    """The models as folders, stored in one dtype."""
    folders = {name: root / kind / name for name in ("base", "a", "b", "c")}
    for model, folder in folders.items():
        folder.mkdir(parents=True)
        own = {
            name.removeprefix(f"{model}/"): tensor.to(DTYPES[kind])
            for name, tensor in tensors.items()
            if name.startswith(f"{model}/")
        }
        save_file(own, folder / "model.safetensors", metadata={"format": "pt"})
        (folder / "config.json").write_text(
            json.dumps({**CONFIG, "torch_dtype": str(DTYPES[kind]).removeprefix("torch.")})
        )
    return folders


def shapes() -> dict[str, tuple[int, ...]]:
    """Names and shapes of a model."""
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


def main() -> None:
    """Write the three golden files."""
    recipes = runpy.run_path(str(HERE / "recipes.py"))
    python, tensors = make_interpreter(MERGEKIT), make_models()
    GOLDEN.mkdir(exist_ok=True)
    save_file(tensors, GOLDEN / "models.safetensors")
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        (root / "recipes").mkdir()
        for name, text in (recipes["DETERMINISTIC"] | recipes["RANDOM"]).items():
            (root / "recipes" / f"{name}.yml").write_text(text)
        for kind in DTYPES:
            write_models(tensors, root, kind)
            command = [python, HERE / "run_mergekit.py", root / kind, root / "recipes", root / "out" / kind]
            subprocess.run(command, env=own_variables(), check=True)
            kept = {}
            for name in (*recipes["DETERMINISTIC"], *(recipes["RANDOM"] if kind == "f32" else ())):
                (file,) = (root / "out" / kind / name).glob("model*.safetensors")
                for key, tensor in load_file(file).items():
                    if key in KEPT or name in recipes["RANDOM"]:
                        kept[f"{name}/{key}"] = tensor
            save_file(kept, GOLDEN / f"{kind}.safetensors")


if __name__ == "__main__":
    main()
