import math

import pytest
import torch

from tune_newllm.artifacts.generate import NEVER_SAMPLED, Sampling, choose, generate, next_tokens
from tune_newllm.data.subwords import SubwordTokenizer
from tune_newllm.data.tokenizer import BOS, EOS
from tune_newllm.models import ModelConfig, build

GREEDY = Sampling(max_new_tokens=12, temperature=0)


def prefer(checkpoint, **logits):
    """Add to the logits of ids, so that they would win."""
    with torch.no_grad():
        for name, bonus in logits.items():
            checkpoint.model.output.bias[int(name.removeprefix("id"))] += bonus


def greedy_by_rereading(model, ids, count):
    """The likeliest allowed token each time, from a forward pass over the whole text."""
    ids = list(ids)
    for _ in range(count):
        logits, _ = model(torch.tensor([ids]))
        ids.append(int(logits[0, -1, EOS:].argmax()) + EOS)
    return ids


FAMILIES = {
    "context_vector": ModelConfig(embed_dim=8, hidden_dim=16, ctx_dim=8, num_layers=2),
    "gpt2": ModelConfig(family="gpt2", embed_dim=8, hidden_dim=16, num_layers=2, num_heads=2, num_positions=32),
    "fixed_point": ModelConfig(family="fixed_point", embed_dim=8, ctx_dim=8, num_layers=2, num_input_tokens=2),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_text_is_the_argmax_of_teacher_forced_logits(family):
    model = build(FAMILIES[family], 30, seed=0).eval()
    # Not the zeros that some begin with; and the end is never the likeliest.
    with torch.no_grad():
        weight, _ = model.head()
        weight.normal_(generator=torch.Generator().manual_seed(0))
        weight[EOS] = 0
    continued = [BOS, 5, 7, *next_tokens(model, [BOS, 5, 7], GREEDY)]
    with torch.no_grad():
        logits, _ = model(torch.tensor([continued]))
    logits[..., list(NEVER_SAMPLED)] = -torch.inf
    forced = logits[0].argmax(-1).tolist()[2:]
    assert continued[3:] == forced[:-1]
    assert len(continued) == 15


def test_greedy_text_is_that_of_full_passes(checkpoint):
    prefer(checkpoint, id0=9, id1=9, id2=9, id3=-99)
    ids = checkpoint.tokenizer.encode_prompt(checkpoint.tokenizer.decode([5, 7]))
    text = generate(checkpoint.model, checkpoint.tokenizer, checkpoint.tokenizer.decode([5, 7]), GREEDY)
    with torch.no_grad():
        assert text == checkpoint.tokenizer.decode(greedy_by_rereading(checkpoint.model, ids, 12), skip_special=True)
    assert len(text.split()) == 14


def test_reads_one_token_at_a_time_after_the_prompt(checkpoint, monkeypatch):
    prefer(checkpoint, id3=-99)
    lengths, features = [], checkpoint.model.features

    def counted(tokens_BT, state):
        lengths.append(tokens_BT.tolist()[0])
        return features(tokens_BT, state)

    monkeypatch.setattr(checkpoint.model, "features", counted)
    generate(checkpoint.model, checkpoint.tokenizer, checkpoint.tokenizer.decode([5, 7]), Sampling(5))
    # The prompt is not closed by EOS, after which a model has only seen padding.
    assert lengths[0] == [BOS, 5, 7]
    assert [len(each) for each in lengths] == [3, 1, 1, 1, 1]


def test_stops_where_the_model_ends_the_text(checkpoint):
    prefer(checkpoint, id3=99)
    assert generate(checkpoint.model, checkpoint.tokenizer, "The  Prompt", Sampling(5)) == "The Prompt"


def test_writes_special_tokens_only_when_asked(checkpoint):
    prefer(checkpoint, id0=50, id1=50, id2=50, id3=-99)
    ids = list(next_tokens(checkpoint.model, [BOS], Sampling(40, temperature=2)))
    assert len(ids) == 40
    assert min(ids) > EOS
    allowed = Sampling(40, temperature=2, allow_special=True)
    assert set(next_tokens(checkpoint.model, [BOS], allowed)) <= {0, 1, 2}
    assert "<UNK>" in generate(checkpoint.model, checkpoint.tokenizer, "", allowed)


def test_seed_decides_the_text(checkpoint):
    prefer(checkpoint, id3=-99)
    first, same, other = (
        generate(checkpoint.model, checkpoint.tokenizer, "", Sampling(30, seed=seed)) for seed in (1, 1, 2)
    )
    assert first == same
    assert first != other


def test_training_mode_is_given_back(checkpoint):
    checkpoint.model.train()
    generate(checkpoint.model, checkpoint.tokenizer, "", Sampling(3))
    assert checkpoint.model.training


def test_pieces_of_words_come_out_as_one_text():
    tokenizer = SubwordTokenizer.build(["Der Bär läuft über die Straße ."] * 3, 270)
    text = "Der Bär läuft"
    wanted = [*tokenizer.encode(" über Straße"), EOS][1:]

    class Recites(torch.nn.Module):
        """Predicts the wanted tokens one after the other, whatever it reads; its state counts them."""

        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.eye(len(tokenizer)))

        def features(self, tokens_BT, state):
            place = state or 0
            return torch.nn.functional.one_hot(torch.tensor([[wanted[place]]]), len(tokenizer)).float(), place + 1

        def head(self):
            return self.weight, None

    assert generate(Recites(), tokenizer, text, Sampling(60, temperature=0)) == "Der Bär läuft über Straße"


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
    sampling = Sampling(**({"temperature": 1.0} | options))
    generator = torch.Generator().manual_seed(0)
    draws = torch.tensor([choose(LOGITS, sampling, generator) for _ in range(2000)])
    shares = torch.bincount(draws, minlength=8) / 2000
    assert shares[:4].sum() == 0
    # Four standard deviations of a share of 0.5.
    torch.testing.assert_close(shares[4:], torch.tensor(expected, dtype=torch.float32), atol=0.045, rtol=0)


def test_empty_prompt_starts_a_text(checkpoint):
    assert checkpoint.tokenizer.encode_prompt("") == [BOS]
    assert generate(checkpoint.model, checkpoint.tokenizer, "", Sampling(3)) != ""
