"""A tokenizer whose tokens are bytes, as transformers loads it from a folder.

Token 0 fills texts up, 1 ends them, 2 is unknown and never occurs; byte n is token n + 3, as ByT5 has it.
"""

from typing import Literal

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

FILLER, END, UNKNOWN = "<pad>", "</s>", "<unk>"
SPECIALS = (FILLER, END, UNKNOWN)
SIZE = len(SPECIALS) + 256

Architecture = Literal["t5", "llama"]


def byte_tokenizer(architecture: Architecture) -> PreTrainedTokenizerFast:
    """The tokenizer; of a T5 it ends each text that it is given, as T5's own does."""
    characters = _byte_characters()
    vocabulary = {word: at for at, word in enumerate([*SPECIALS, *characters])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    if architecture == "t5":
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"$A {END}", pair=f"$A {END} $B {END}", special_tokens=[(END, SPECIALS.index(END))]
        )
    side = "right" if architecture == "t5" else "left"
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=FILLER, eos_token=END, unk_token=UNKNOWN, padding_side=side
    )


def _byte_characters() -> list[str]:
    """The character that stands for each byte, as in GPT-2: itself if it is visible, else one from U+0100 on."""
    visible = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = iter(range(256, 512))
    return [chr(byte if byte in visible else next(others)) for byte in range(256)]
