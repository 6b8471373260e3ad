"""Prompts and answers as tokens, and what the loss is taken of."""

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from merge_lib.errors import SpecError
from merge_lib.workloads.language.encoding import IGNORED, Encoded, Encoder, Limits, padded
from merge_lib.workloads.language.lessons import TextLesson
from merge_lib.workloads.language.snapshots import Wording
from merge_lib.workloads.language.tokens import SIZE, byte_tokenizer

LIMITS = Limits(prompt=64, target=16, too_long="error")
EXAMPLES = [Encoded([5, 6, 7], [8, 1]), Encoded([9], [10, 11, 12, 1])]
TO_COME = torch.Generator()


def word_tokenizer(end="</s>"):
    """Words with the space before them as one token, as many tokenizers of causal models have it."""
    words = ["<pad>", "</s>", "Answer", "\u0120yes", "yes", "\u0120no", "\u0120", "no"]
    tokenizer = Tokenizer(models.WordLevel({word: at for at, word in enumerate(words)}, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token=end)


def test_bytes_survive_the_tokenizer():
    tokenizer = byte_tokenizer("llama")
    text = "Größe: 5 €\n<b>\x07"
    ids = tokenizer(text)["input_ids"]
    assert ids == [byte + 3 for byte in text.encode()]
    assert tokenizer.decode(ids) == text
    assert len(tokenizer) == SIZE


def test_only_an_encoder_is_told_where_a_prompt_ends():
    t5, llama = (Encoder(byte_tokenizer(name), start, LIMITS) for name, start in (("t5", 0), ("llama", None)))
    assert t5.tokens("ab") == [100, 101, 1]
    assert llama.tokens("ab") == [100, 101]
    assert t5.answer(Wording(), "ab") == llama.answer(Wording(), "ab") == (100, 101, 1)


@pytest.mark.parametrize("template", ["{input}Answer ", "{input}Answer"])
def test_a_space_before_the_answer_is_a_part_of_its_first_word(template):
    encoder = Encoder(word_tokenizer(), None, LIMITS)
    wording = Wording(template=template)
    assert encoder.tokens(encoder.opening(wording.prompt(""))) == [2]
    expected = {"{input}Answer ": (3, 1), "{input}Answer": (4, 1)}[template]
    assert encoder.answer(wording, "yes") == expected


def test_a_tokenizer_must_be_able_to_end_a_text():
    with pytest.raises(SpecError, match="no token that ends a text"):
        _ = Encoder(word_tokenizer(end=None), None, LIMITS).end


def test_padding_is_left_or_right():
    for left, expected in ((True, [[5, 6], [0, 7]]), (False, [[5, 6], [7, 0]])):
        tokens, is_token = padded([[5, 6], [7]], 0, left=left)
        assert tokens.tolist() == expected
        assert is_token.tolist() == [[token != 0 for token in row] for row in expected]


def test_a_causal_model_is_told_the_next_token_of_answers_alone():
    batch = TextLesson(EXAMPLES, filler=0, start=None).batch(torch.tensor([0, 1]), TO_COME)
    assert batch["input_ids"].tolist() == [[5, 6, 7, 8], [9, 10, 11, 12]]
    assert batch["labels"].tolist() == [[IGNORED, IGNORED, 8, 1], [10, 11, 12, 1]]
    assert batch["attention_mask"].tolist() == [[1] * 4] * 2


def test_a_decoder_sees_the_answer_so_far():
    batch = TextLesson(EXAMPLES, filler=0, start=2).batch(torch.tensor([1, 0]), TO_COME)
    assert batch["input_ids"].tolist() == [[9, 0, 0], [5, 6, 7]]
    assert batch["attention_mask"].tolist() == [[1, 0, 0], [1, 1, 1]]
    assert batch["decoder_input_ids"].tolist() == [[2, 10, 11, 12], [2, 8, 0, 0]]
    assert batch["labels"].tolist() == [[10, 11, 12, 1], [8, 1, IGNORED, IGNORED]]


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_the_loss_is_the_mean_over_tokens_of_answers(make_models, architecture, smoothing):
    """So it does not depend on how long prompts are, or how examples are put together."""
    models = make_models(architecture)
    model = models.fresh(seed=0).eval()
    lesson = TextLesson(EXAMPLES, models.encoder.filler, models.encoder.start, smoothing)
    both = lesson.batch(torch.tensor([0, 1]), TO_COME)
    single = [lesson.batch(torch.tensor([row]), TO_COME) for row in (0, 1)]
    assert [lesson.units(batch) for batch in (both, *single)] == [6, 2, 4]
    with torch.no_grad():
        losses = [float(lesson.loss(model, batch)) for batch in (both, *single)]
    assert losses[0] == pytest.approx((2 * losses[1] + 4 * losses[2]) / 6, rel=1e-5)
