"""How likely a model finds answers to prompts.

The score of an answer with tokens a_1 … a_t, of which the last ends the text, is Σ_i log p(a_i | prompt, a_1 … a_i-1).
As the end is counted, answers of any lengths are scored by one distribution, and need no division by their lengths.

A prompt goes through the model once, whatever the number of answers. Answers of equal length go together, so that none
of them is filled up.

Legend: b prompts, s tokens of the longest prompt, c answers, g answers to a prompt at once, t tokens of an answer.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from merge_lib.probe import Model

Inputs = Mapping[
    str, Tensor
]  # `input_ids` and `attention_mask` [b, s]; for causal models filled up on the left
Continued = Callable[[Int64[Tensor, "b g t"]], Float[Tensor, "b g t"]]
"""From answers to the logarithm of each of their tokens' probabilities, after the prompt and the tokens before."""


def continuing(
    model: Model, inputs: Inputs, *, start: int | None, dtype: torch.dtype = torch.float32
) -> Continued:
    """Show the prompts to a model, and be ready to ask it about answers.

    Args:
        model: of transformers, or called as one; what comes out is differentiable in its parameters.
        inputs: the prompts.
        start: the token that a decoder begins with; None: the model is causal.
        dtype: of the model.
    """
    return _causal(model, inputs, dtype) if start is None else _decoding(model, inputs, start, dtype)


def answer_scores(
    told: Continued, answers: Sequence[Sequence[int]], *, prompts: int, device: torch.device
) -> Float[Tensor, "b c"]:
    """Logarithms of the probabilities of the same answers to each prompt.

    Args:
        told: of `continuing`.
        answers: c lists of tokens.
        prompts: how many there are.
        device: of the model.
    """
    lengths = torch.tensor([len(answer) for answer in answers])
    found, order = [], []
    for length in lengths.unique().tolist():
        members = (lengths == length).nonzero().squeeze(1)
        tokens = torch.tensor([list(answers[at]) for at in members.tolist()], device=device)
        found.append(told(tokens.expand(prompts, -1, -1)).sum(-1))  # [b, g]
        order.append(members)
    return torch.cat(found, 1)[:, torch.cat(order).argsort()]


def target_scores(
    told: Continued, targets: Int64[Tensor, "b t"], is_token: Bool[Tensor, "b t"]
) -> Float[Tensor, " b"]:
    """Logarithm of the probability of each prompt's own answer."""
    return (told(targets[:, None])[:, 0] * is_token).sum(-1)


def _causal(model: Model, inputs: Inputs, dtype: torch.dtype) -> Continued:
    is_token = inputs["attention_mask"].bool()
    s = is_token.shape[1]
    causal = torch.ones(s, s, dtype=torch.bool, device=is_token.device).tril()
    first = model(
        input_ids=inputs["input_ids"],
        attention_mask=_mask(is_token[:, None, None] & causal, dtype),  # [b, 1, s, s]
        position_ids=(is_token.long().cumsum(1) - 1).clamp(min=0),
        use_cache=True,
        logits_to_keep=1,
    )
    lengths = is_token.long().sum(1)

    def told(answers: Int64[Tensor, "b g t"]) -> Float[Tensor, "b g t"]:
        _, g, t = answers.shape
        opening = _of_tokens(first.logits[:, -1:].expand(-1, g, -1), answers[..., 0])  # [b, g]
        if t == 1:
            return opening[..., None]
        seen = torch.cat(
            [is_token[:, None].expand(-1, t - 1, -1), _past(is_token, t - 1)], 2
        )  # [b, t-1, s+t-1]
        out = model(
            input_ids=answers[..., :-1].flatten(0, 1),
            attention_mask=_mask(seen.repeat_interleave(g, 0)[:, None], dtype),
            position_ids=(lengths[:, None] + torch.arange(t - 1, device=lengths.device)).repeat_interleave(
                g, 0
            ),
            past_key_values=_repeated(first.past_key_values, g),
            use_cache=True,
        )
        rest = _of_tokens(out.logits.unflatten(0, (-1, g)), answers[..., 1:])
        return torch.cat([opening[..., None], rest], -1)

    return told


def _decoding(model: Model, inputs: Inputs, start: int, dtype: torch.dtype) -> Continued:
    is_token = inputs["attention_mask"].bool()
    mask = _mask(is_token[:, None, None], dtype)  # [b, 1, 1, s]
    begun = torch.full_like(inputs["input_ids"][:, :1], start)
    first = model(
        input_ids=inputs["input_ids"], attention_mask=mask, decoder_input_ids=begun, use_cache=False
    )

    def told(answers: Int64[Tensor, "b g t"]) -> Float[Tensor, "b g t"]:
        g = answers.shape[1]
        before = torch.cat([torch.full_like(answers[..., :1], start), answers[..., :-1]], -1)
        out = model(
            encoder_outputs=(first.encoder_last_hidden_state.repeat_interleave(g, 0),),
            attention_mask=mask.repeat_interleave(g, 0),
            decoder_input_ids=before.flatten(0, 1),
            use_cache=False,
        )
        return _of_tokens(out.logits.unflatten(0, (-1, g)), answers)

    return told


def _past(is_token: Bool[Tensor, "b s"], t: int) -> Bool[Tensor, "b t t"]:
    """Which of t further tokens see which."""
    return torch.ones(t, t, dtype=torch.bool, device=is_token.device).tril().expand(len(is_token), -1, -1)


def _mask(is_seen: Tensor, dtype: torch.dtype) -> Tensor:
    """What is added to the attention's scores; the sum is finite, so a row that sees nothing stays finite, too."""
    added = torch.zeros(is_seen.shape, dtype=dtype, device=is_seen.device)
    return added.masked_fill(~is_seen, torch.finfo(dtype).min / 2)


def _of_tokens(logits: Float[Tensor, "*n v"], tokens: Int64[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    return logits.float().log_softmax(-1).gather(-1, tokens[..., None]).squeeze(-1)


def _repeated(cache: Any, times: int) -> Any:
    """What was remembered of each prompt, once for each of its answers."""
    again = type(cache)()
    for layer, seen in enumerate(cache.layers):
        again.update(seen.keys.repeat_interleave(times, 0), seen.values.repeat_interleave(times, 0), layer)
    return again
