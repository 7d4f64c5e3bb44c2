import pytest
import torch

from tune_newllm.models import ModelConfig, build
from tune_newllm.models.vocabulary_rows import with_new_rows

SIZES = {"embed_dim": 8, "hidden_dim": 16, "ctx_dim": 8, "num_layers": 2}
CONFIGS = {
    "context_vector": ModelConfig(**SIZES),
    "tied": ModelConfig(**SIZES, tied=True),
    "gpt2": ModelConfig(**SIZES, family="gpt2"),
    "fixed_point": ModelConfig(**SIZES, family="fixed_point"),
}


def grown(config, model, entries, seed=3):
    larger = build(config, entries, seed=seed)
    shapes = {name: tensor.shape for name, tensor in larger.state_dict().items()}
    larger.load_state_dict(with_new_rows(model.state_dict(), shapes, seed))
    return larger.eval()


@pytest.mark.parametrize("name", CONFIGS)
def test_old_words_keep_their_logits_and_new_ones_get_likely_rows(name):
    config = CONFIGS[name]
    model = build(config, 60, seed=1).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)) * 0.3 + 0.1)
    larger = grown(config, model, 560)
    tokens_BT = torch.randint(0, 60, (2, 7), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        logits_BTV = larger(tokens_BT)[0]
        torch.testing.assert_close(logits_BTV[..., :60], model(tokens_BT)[0])
    assert logits_BTV.isfinite().all()
    for weights in (larger.head()[0], *(p for n, p in larger.named_parameters() if "embedding" in n or "wte" in n)):
        # Standard errors of mean and deviation over 500 rows and 56 words.
        torch.testing.assert_close(weights[60:].mean(0), weights[4:60].mean(0), atol=0.06, rtol=0)
        torch.testing.assert_close(weights[60:].std(0), weights[4:60].std(0), atol=0.05, rtol=0)
    if (bias := larger.head()[1]) is not None:
        torch.testing.assert_close(bias[60:], bias[4:60].mean().expand(500))


def test_new_rows_come_of_the_seed_alone():
    config = CONFIGS["context_vector"]
    model = build(config, 60, seed=1)
    first, same, other = (grown(config, model, 62, seed) for seed in (3, 3, 4))
    assert torch.equal(first.head()[0], same.head()[0])
    assert torch.equal(first.head()[0][:60], other.head()[0][:60])
    assert not torch.equal(first.head()[0][60:], other.head()[0][60:])
