"""Text from a model, one token at a time; the carried state spares it reading again what is there."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from tune_newllm.data.tokenizer import BOS, EOS, PAD, UNK, Tokenizer
from tune_newllm.models import LanguageModel

NEVER_SAMPLED = (PAD, UNK, BOS)
"""What no text to be read holds, so that a model is not let choose it."""


@dataclass(frozen=True)
class Sampling:
    """How a text is continued.

    Args:
        max_new_tokens: most tokens to add.
        temperature: divides the logits; 0 takes the likeliest token.
        top_k: choose among the k likeliest tokens only.
        top_p: choose among the fewest likeliest tokens whose probabilities reach p together.
        seed: of the draws; equal seeds give equal text.
        allow_special: let `<PAD>`, `<UNK>` and `<BOS>` be chosen.
    """

    max_new_tokens: int = 60
    temperature: float = 0.8
    top_k: int | None = None
    top_p: float | None = None
    seed: int = 0
    allow_special: bool = False


def generate(model: LanguageModel, tokenizer: Tokenizer, prompt: str, sampling: Sampling) -> str:
    """The prompt and its continuation, which ends where the model ends the text.

    Args:
        model: its training mode is restored.
        tokenizer: the one it was trained with.
        prompt: text to continue, may be empty.
        sampling: how.
    """
    ids = tokenizer.encode_prompt(prompt)
    continuation = tokenizer.decode(next_tokens(model, ids, sampling), skip_special=not sampling.allow_special)
    if tokenizer.kind == "words":
        return " ".join([*prompt.split(), *([continuation] if continuation else [])])
    return prompt + continuation


@torch.no_grad()
def next_tokens(model: LanguageModel, ids: Sequence[int], sampling: Sampling) -> Iterator[int]:
    """Continue a text token by token, until the model chooses EOS.

    Args:
        model: its training mode is restored.
        ids: what is there, without EOS at its end: after that there is nothing to continue.
        sampling: how.
    """
    generator = torch.Generator().manual_seed(sampling.seed)
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    try:
        unread, state = list(ids), None
        for _ in range(sampling.max_new_tokens):
            features_TBF, state = model.features(torch.tensor([unread], device=device), state)
            logits_V = F.linear(features_TBF[-1], *model.head())[0]
            unread = [choose(logits_V.float().cpu(), sampling, generator)]
            if unread == [EOS]:
                return
            yield unread[0]
    finally:
        model.train(was_training)


def choose(logits_V: Tensor, sampling: Sampling, generator: torch.Generator) -> int:
    """The next token's id by the model's logits for it."""
    if not sampling.allow_special:
        logits_V = logits_V.index_fill(0, torch.tensor(NEVER_SAMPLED), -torch.inf)
    if sampling.temperature == 0:
        return int(logits_V.argmax())
    sorted_V, ids_V = (logits_V / sampling.temperature).sort(descending=True)
    probabilities_V = sorted_V[: sampling.top_k].softmax(0)
    if sampling.top_p is not None:
        # A token stays if those before it do not reach p yet; so the likeliest always stays.
        probabilities_V[probabilities_V.cumsum(0) - probabilities_V >= sampling.top_p] = 0
    return int(ids_V[torch.multinomial(probabilities_V, 1, generator=generator)])
