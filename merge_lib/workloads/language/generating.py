"""What a model answers when it is let speak: the most likely token at each step, many prompts at once.

An answer ends with the token that ends texts, or where one of the task's stop texts begins. Prompts of like length go
together. Which prompts are beside one another, and how far they are filled up, changes no answer (beyond ties that
rounding decides).
"""

from collections.abc import Sequence
from typing import Any

import torch

from merge_lib.workloads.language.encoding import Encoder, padded


def generate(
    model: Any,
    encoder: Encoder,
    prompts: Sequence[Sequence[int]],
    *,
    most: int,
    at_once: int,
    stop: Sequence[str] = (),
) -> list[str]:
    """The answer to each prompt, without white space around it.

    Args:
        model: of transformers, in evaluation mode.
        encoder: of the prompts.
        prompts: as tokens.
        most: tokens of an answer, the one that ends it among them.
        at_once: prompts in a batch.
        stop: texts of which the first one to occur ends the answer, itself left out.
    """
    from transformers import GenerationConfig

    settings = GenerationConfig(
        do_sample=False,
        num_beams=1,
        max_new_tokens=most,
        pad_token_id=encoder.filler,
        eos_token_id=encoder.end,
        decoder_start_token_id=encoder.start,
    )
    stopping = {"stop_strings": list(stop), "tokenizer": encoder.tokenizer} if stop else {}
    order = sorted(range(len(prompts)), key=lambda at: len(prompts[at]))
    found = [""] * len(prompts)
    for at in range(0, len(order), at_once):
        rows = order[at : at + at_once]
        tokens, is_token = padded([prompts[row] for row in rows], encoder.filler, left=encoder.is_causal)
        device = next(model.parameters()).device
        with torch.inference_mode():
            out = model.generate(
                input_ids=tokens.to(device),
                attention_mask=is_token.long().to(device),
                generation_config=settings,
                **stopping,
            )
        for row, said in zip(rows, out[:, tokens.shape[1] if encoder.is_causal else 0 :], strict=True):
            found[row] = _before(encoder.decode(said), stop)
    return found


def _before(text: str, stop: Sequence[str]) -> str:
    """What lies before the first stop text."""
    ends = [place for one in stop if (place := text.find(one)) >= 0]
    return text[: min(ends, default=len(text))].strip()
