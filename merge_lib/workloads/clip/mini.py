"""The mini-CLIP: transformers' CLIP, tiny, trained on rendered characters and captions of them.

Legend: b pictures and as many captions, s side of a picture, l tokens.
Reference: Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", ICML 2021,
arXiv:2103.00020. Differs from it: a caption counts as right for every picture of the batch that it is true of.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor, nn
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, CLIPTokenizer

from merge_lib.ops.cores import one_core
from merge_lib.workloads.clip.mini_config import MiniParams, Sizes
from merge_lib.workloads.clip.pictures import Normal, pixels
from merge_lib.workloads.clip.scenes import all_captions, captions_of, scenes_of
from merge_lib.workloads.clip.tokens import make_tokenizer
from merge_lib.workloads.protocol import Progress
from merge_lib.workloads.training.loop import train
from merge_lib.workloads.vision.data import DIGITS_WHITE
from merge_lib.workloads.vision.glyphs import CHUNK, CLASSES, FONTS, Variation, distance_maps, render

LENGTH = 16  # tokens of a text
MOST_SEED = 2**31


@dataclass(frozen=True)
class Pictures:
    """What the mini-CLIP is trained on, and how captions tell it; a lesson of the training loop."""

    images: UInt8[np.ndarray, "n s s"]
    scenes: Tensor  # [n, aspects]
    tokenizer: CLIPTokenizer
    normal: Normal

    @property
    def size(self) -> int:
        """How many pictures there are."""
        return len(self.images)

    def batch(self, rows: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        """Pictures, and a caption of each."""
        rng = np.random.default_rng(int(torch.randint(MOST_SEED, (), generator=generator)))
        scenes = self.scenes[rows]
        texts, told = captions_of(scenes.numpy(), rng)
        ids = self.tokenizer(texts, padding="max_length", return_tensors="pt").input_ids
        shown = pixels(self.images[rows.numpy()], DIGITS_WHITE, self.normal)
        longest = int((ids != self.tokenizer.pad_token_id).sum(1).max()) + 1  # padding is the end's own token
        return {
            "pixel_values": shown,
            "input_ids": ids[:, :longest],
            "scenes": scenes,
            "told": torch.from_numpy(told),
        }

    def loss(self, model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        """Each picture finds its captions, each caption its pictures."""
        found = model(input_ids=batch["input_ids"], pixel_values=batch["pixel_values"])
        is_true = true_of(batch["told"], batch["scenes"])
        return 0.5 * (_found(found.logits_per_image, is_true) + _found(found.logits_per_text, is_true.T))

    def units(self, batch: dict[str, Tensor]) -> int:
        """Pictures."""
        return len(batch["scenes"])


def make_mini(folder: Path, wanted: MiniParams, *, progress: Progress | None = None) -> None:
    """Train a mini-CLIP and write it as `save_pretrained` does, with its tokenizer and image processor.

    Args:
        folder: that it is written to.
        wanted: sizes, pictures and training.
        progress: told how many steps of how many are made.
    """
    side = wanted.sizes.image_size
    with one_core():
        tokenizer = make_tokenizer(all_captions(), length=LENGTH)
        lesson = lesson_of(wanted, tokenizer)
        model = initial_model(wanted.sizes, tokenizer, wanted.seed)
        generator = torch.Generator().manual_seed(wanted.seed)
        train(model, lesson, wanted, generator=generator, progress=progress)
    model.eval().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    sides = {"height": side, "width": side}
    CLIPImageProcessorPil(size={"shortest_edge": side}, crop_size=sides).save_pretrained(folder)


def true_of(told: Int64[Tensor, "c aspects"], scenes: Int64[Tensor, "p aspects"]) -> Bool[Tensor, "p c"]:
    """Whether a caption (column), which tells -1 where it tells nothing, is true of a picture (row)."""
    return ((told < 0) | (told == scenes[:, None])).all(2)


def _found(logits: Float[Tensor, "b b"], is_true: Bool[Tensor, "b b"]) -> Tensor:
    """Mean cross-entropy of each row, whose right answers share the probability."""
    wanted = is_true / is_true.sum(1, keepdim=True)
    return -(wanted * logits.log_softmax(1)).sum(1).mean()


def lesson_of(wanted: MiniParams, tokenizer: CLIPTokenizer) -> Pictures:
    """Rendered characters, and what each shows."""
    rng = np.random.default_rng(wanted.seed)
    characters = rng.permutation(np.arange(wanted.count) % len(CLASSES))
    fonts = rng.integers(len(FONTS), size=wanted.count)
    maps, size = distance_maps(), wanted.sizes.image_size
    drawn = [
        render(
            maps[fonts[at : at + CHUNK], characters[at : at + CHUNK]], rng, size=size, variation=Variation()
        )
        for at in range(0, wanted.count, CHUNK)
    ]
    scenes = torch.from_numpy(scenes_of(fonts, characters))
    return Pictures(np.concatenate(drawn), scenes, tokenizer, Normal())


def initial_model(sizes: Sizes, tokenizer: CLIPTokenizer, seed: int, *, length: int = LENGTH) -> CLIPModel:
    """A model with random weights, for texts of at most `length` tokens."""
    both = {
        "hidden_size": sizes.width,
        "intermediate_size": 2 * sizes.width,
        "num_attention_heads": sizes.heads,
        "projection_dim": sizes.width,
    }
    ends = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    text = {
        "vocab_size": len(tokenizer),
        "max_position_embeddings": length,
        "num_hidden_layers": sizes.text_depth,
        **ends,
    }
    vision = {
        "image_size": sizes.image_size,
        "patch_size": sizes.patch_size,
        "num_hidden_layers": sizes.depth,
    }
    config = CLIPConfig(text_config=both | text, vision_config=both | vision, projection_dim=sizes.width)
    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(seed)
        return CLIPModel(config)
