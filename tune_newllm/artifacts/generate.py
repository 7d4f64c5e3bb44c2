"""Text from a model, one word at a time; the carried state makes each word cost the same however long the text is."""

from collections.abc import Iterator

import torch
from torch import Tensor

from tune_newllm.data.tokenizer import BOS, EOS, PAD, UNK, WordTokenizer
from tune_newllm.models import LanguageModel

NEVER_SAMPLED = (PAD, UNK, BOS)


def generate(
    model: LanguageModel,
    tokenizer: WordTokenizer,
    prompt: str,
    max_new_tokens: int = 60,
    temperature: float = 0.8,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int = 0,
) -> str:
    """The prompt and its continuation; equal arguments give equal text. Arguments as `words` takes them."""
    continuation = words(model, tokenizer, prompt, max_new_tokens, temperature, top_k, top_p, seed)
    return " ".join([*prompt.split(), *continuation])


@torch.no_grad()
def words(
    model: LanguageModel,
    tokenizer: WordTokenizer,
    prompt: str,
    max_new_tokens: int = 60,
    temperature: float = 0.8,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int = 0,
) -> Iterator[str]:
    """Continue a text word by word, until the model ends it; `<PAD>`, `<UNK>` and `<BOS>` are never chosen.

    Args:
        model: in evaluation mode.
        tokenizer: the one it was trained with.
        prompt: text to continue, may be empty.
        max_new_tokens: most words to add.
        temperature: divides the logits; 0 takes the likeliest word.
        top_k: choose among the k likeliest words only.
        top_p: choose among the fewest likeliest words whose probabilities reach p together.
        seed: of the draws.
    """
    generator = torch.Generator().manual_seed(seed)
    device = next(model.parameters()).device
    ids, state = tokenizer.encode_prompt(prompt), None
    for _ in range(max_new_tokens):
        logits_BTV, state = model(torch.tensor([ids], device=device), state)
        ids = [_choose(logits_BTV[0, -1].float().cpu(), temperature, top_k, top_p, generator)]
        if ids == [EOS]:
            return
        yield tokenizer.decode(ids)


def _choose(
    logits_V: Tensor, temperature: float, top_k: int | None, top_p: float | None, generator: torch.Generator
) -> int:
    logits_V[list(NEVER_SAMPLED)] = -torch.inf
    if temperature == 0:
        return int(logits_V.argmax())
    sorted_V, ids_V = (logits_V / temperature).sort(descending=True)
    probabilities_V = sorted_V[:top_k].softmax(0)
    if top_p is not None:
        # A word stays if those before it do not reach p yet; so the likeliest always stays.
        probabilities_V[probabilities_V.cumsum(0) - probabilities_V >= top_p] = 0
    return int(ids_V[torch.multinomial(probabilities_V, 1, generator=generator)])
