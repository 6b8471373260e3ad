"""The tokenizer of the mini-CLIP: byte-pair encoding as CLIP's, with the words of the captions in its vocabulary."""

import json
from collections.abc import Iterable

from tokenizers import trainers
from tokenizers.pre_tokenizers import ByteLevel
from transformers import CLIPTokenizer

START, END = "<|startoftext|>", "<|endoftext|>"
WORD_END = "</w>"
MOST_TOKENS = 4096  # far more than the words of the captions need


def make_tokenizer(texts: Iterable[str], *, length: int) -> CLIPTokenizer:
    """A tokenizer in which every word of the texts is one token and any other text is spelt in bytes.

    Args:
        texts: lower-case, words between spaces.
        length: tokens that a text has at most, with the two that begin and end it.
    """
    learner = CLIPTokenizer().backend_tokenizer
    trainer = trainers.BpeTrainer(
        vocab_size=MOST_TOKENS,
        min_frequency=1,
        special_tokens=[START, END],
        initial_alphabet=_byte_letters(),
        end_of_word_suffix=WORD_END,
        show_progress=False,
    )
    learner.train_from_iterator(sorted(texts), trainer)
    learned = json.loads(learner.to_str())["model"]
    merges = [tuple(merge) for merge in learned["merges"]]
    letters = _byte_letters()
    words = dict.fromkeys(["".join(merge) for merge in merges])
    tokens = [*letters, *(f"{letter}{WORD_END}" for letter in letters), *words, START, END]
    vocabulary = {token: index for index, token in enumerate(dict.fromkeys(tokens))}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=length)


def _byte_letters() -> list[str]:
    """The letter that stands for each byte in byte-level encodings."""
    return sorted(ByteLevel.alphabet())
