import math

import pytest
import torch

from tune_newllm.artifacts.generate import _choose, generate, words
from tune_newllm.data.tokenizer import BOS, EOS


def prefer(checkpoint, **logits):
    """Add to the logits of ids, so that they would win."""
    with torch.no_grad():
        for name, bonus in logits.items():
            checkpoint.model.output.bias[int(name.removeprefix("id"))] += bonus


def greedy_by_rereading(checkpoint, prompt, count):
    """The likeliest allowed word each time, from a forward pass over the whole text."""
    ids = checkpoint.tokenizer.encode_prompt(prompt)
    for _ in range(count):
        logits, _ = checkpoint.model(torch.tensor([ids]))
        ids.append(int(logits[0, -1, EOS:].argmax()) + EOS)
        if ids[-1] == EOS:
            break
    return checkpoint.tokenizer.decode(ids, skip_special=True)


def test_greedy_text_is_that_of_full_passes(checkpoint):
    prefer(checkpoint, id0=9, id1=9, id2=9, id3=-99)
    prompt = checkpoint.tokenizer.decode([5, 7])
    text = generate(checkpoint.model, checkpoint.tokenizer, prompt, 12, temperature=0)
    assert text == greedy_by_rereading(checkpoint, prompt, 12)
    assert len(text.split()) == 14


def test_reads_one_token_per_word_after_the_prompt(checkpoint):
    prefer(checkpoint, id3=-99)
    lengths = []
    checkpoint.model.register_forward_pre_hook(lambda _, inputs: lengths.append(inputs[0].shape[1]))
    list(words(checkpoint.model, checkpoint.tokenizer, checkpoint.tokenizer.decode([5, 7]), 5))
    assert lengths == [3, 1, 1, 1, 1]


def test_stops_where_the_model_ends_the_text(checkpoint):
    prefer(checkpoint, id3=99)
    assert generate(checkpoint.model, checkpoint.tokenizer, "The  Prompt", 5) == "The Prompt"


def test_never_writes_special_tokens(checkpoint):
    prefer(checkpoint, id0=50, id1=50, id2=50, id3=-99)
    text = list(words(checkpoint.model, checkpoint.tokenizer, "", 40, temperature=2))
    assert len(text) == 40
    assert not {word for word in text if word.startswith("<")}


def test_seed_decides_the_text(checkpoint):
    prefer(checkpoint, id3=-99)
    first, same, other = (generate(checkpoint.model, checkpoint.tokenizer, "", 30, seed=seed) for seed in (1, 1, 2))
    assert first == same
    assert first != other


# Special words that would win if they were allowed to, no end, and four words of these probabilities.
LOGITS = torch.tensor([9, 9, 9, -torch.inf, *map(math.log, (0.3, 0.05, 0.5, 0.15))])


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [0.3, 0.05, 0.5, 0.15]),
        ({"temperature": 0.5}, [0.2466, 0.0068, 0.6849, 0.0616]),
        ({"temperature": 0}, [0, 0, 1, 0]),
        ({"top_k": 2}, [0.375, 0, 0.625, 0]),
        ({"top_p": 0.75}, [0.375, 0, 0.625, 0]),
        ({"top_p": 0.81}, [0.3158, 0, 0.5263, 0.1579]),
        ({"top_p": 0.01}, [0, 0, 1, 0]),
        ({"top_k": 2, "top_p": 0.6}, [0, 0, 1, 0]),
        ({"top_k": 50}, [0.3, 0.05, 0.5, 0.15]),
    ],
)
def test_draws_follow_the_probabilities(options, expected):
    options = {"temperature": 1.0, "top_k": None, "top_p": None} | options
    generator = torch.Generator().manual_seed(0)
    draws = torch.tensor([_choose(LOGITS.clone(), **options, generator=generator) for _ in range(2000)])
    shares = torch.bincount(draws, minlength=8) / 2000
    assert shares[:4].sum() == 0
    # Four standard deviations of a share of 0.5.
    torch.testing.assert_close(shares[4:], torch.tensor(expected, dtype=torch.float32), atol=0.045, rtol=0)


def test_empty_prompt_starts_a_text(checkpoint):
    assert checkpoint.tokenizer.encode_prompt("") == [BOS]
    assert generate(checkpoint.model, checkpoint.tokenizer, "", 3) != ""
