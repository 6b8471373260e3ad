"""Generated answers and log-likelihoods: what they are, and that neither padding nor batches change them."""

import math

import pytest
import torch

from merge_lib.workloads.language.encoding import padded
from merge_lib.workloads.language.generating import generate
from merge_lib.workloads.language.ranking import answer_scores, continuing, target_scores

PROMPTS = ["copying ab =", "x", "counting aabbccdd =", "moods daf ner kug ="]
ANSWERS = ["ab", "b", "glad", "none", ""]
CPU = torch.device("cpu")


@pytest.fixture
def asked(make_models, architecture):
    """A model with random weights, its encoder, prompts and answers as tokens."""
    models = make_models(architecture)
    model = models.fresh(seed=0).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # far from uniform, so that differences would show
            parameter.mul_(3.0)
    encoder = models.encoder
    return (
        model,
        encoder,
        [encoder.tokens(text) for text in PROMPTS],
        [[*encoder.tokenizer(text, add_special_tokens=False)["input_ids"], encoder.end] for text in ANSWERS],
    )


def one_by_one(model, encoder, prompt, answer):
    """Σ log p of an answer's tokens, from one forward pass without padding."""
    with torch.no_grad():
        if encoder.is_causal:
            logits = model(input_ids=torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1]
        else:
            before = torch.tensor([[encoder.start, *answer[:-1]]])
            logits = model(input_ids=torch.tensor([prompt]), decoder_input_ids=before).logits[0]
    return float(logits.log_softmax(-1)[torch.arange(len(answer)), answer].sum())


def inputs_of(encoder, prompts):
    tokens, is_token = padded(prompts, encoder.filler, left=encoder.is_causal)
    return {"input_ids": tokens, "attention_mask": is_token.long()}


def spoken(model, encoder, prompt, most):
    """The greedy answer, from one whole forward pass for each token."""
    said: list[int] = []
    while len(said) < most and said[-1:] != [encoder.end]:
        with torch.no_grad():
            if encoder.is_causal:
                logits = model(input_ids=torch.tensor([prompt + said]), use_cache=False).logits
            else:
                before = torch.tensor([[encoder.start, *said]])
                logits = model(input_ids=torch.tensor([prompt]), decoder_input_ids=before).logits
        said.append(int(logits[0, -1].argmax()))
    return encoder.decode(torch.tensor(said))


def test_scores_of_a_batch_are_those_of_single_prompts(asked):
    model, encoder, prompts, answers = asked
    with torch.no_grad():
        told = continuing(model, inputs_of(encoder, prompts), start=encoder.start)
        found = answer_scores(told, answers, prompts=len(prompts), device=CPU)
    expected = [[one_by_one(model, encoder, prompt, answer) for answer in answers] for prompt in prompts]
    torch.testing.assert_close(found, torch.tensor(expected), atol=2e-4, rtol=1e-4)
    assert found.std() > 0.5


def test_each_prompt_may_have_an_answer_of_its_own(asked):
    model, encoder, prompts, answers = asked
    own = answers[: len(prompts)]
    targets, is_token = padded(own, encoder.filler, left=False)
    with torch.no_grad():
        told = continuing(model, inputs_of(encoder, prompts), start=encoder.start)
        found = target_scores(told, targets, is_token)
    expected = [one_by_one(model, encoder, *pair) for pair in zip(prompts, own, strict=True)]
    torch.testing.assert_close(found, torch.tensor(expected), atol=2e-4, rtol=1e-4)


def test_scores_of_all_answers_of_two_tokens_are_a_distribution(asked):
    """With the token that ends it, an answer's score is the probability of this answer and no other."""
    model, encoder, prompts, _ = asked
    vocabulary = model.config.vocab_size
    others = [[first] for first in range(vocabulary) if first != encoder.end]
    with torch.no_grad():
        told = continuing(model, inputs_of(encoder, prompts[:1]), start=encoder.start)
        ended = answer_scores(told, [[encoder.end]], prompts=1, device=CPU).exp().sum()
        begun = answer_scores(told, others, prompts=1, device=CPU).exp().sum()
    assert math.isclose(float(ended + begun), 1.0, rel_tol=1e-4)


@pytest.mark.parametrize("at_once", [1, 3, 8])
def test_batches_and_padding_change_no_generated_answer(asked, at_once):
    model, encoder, prompts, _ = asked
    found = generate(model, encoder, prompts, most=6, at_once=at_once)
    assert found == [spoken(model, encoder, prompt, 6) for prompt in prompts]
    assert len(set(found)) > 1


def test_an_answer_ends_where_a_stop_text_begins(asked):
    model, encoder, prompts, _ = asked
    whole = generate(model, encoder, prompts, most=6, at_once=2)
    stop = whole[0][1:2]
    found = generate(model, encoder, prompts, most=6, at_once=2, stop=[stop])
    assert found == [text.partition(stop)[0].strip() for text in whole]
    assert found != whole
