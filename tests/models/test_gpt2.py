import re
from dataclasses import replace

import pytest
import torch
from torch.nn import functional

from tune_newllm.data.config import CorpusConfig
from tune_newllm.models import ModelConfig, build, parameter_count
from tune_newllm.training.config import Configuration, TrainingConfig
from tune_newllm.training.optim import build_optimizers

ORIGINAL = ModelConfig(family="gpt2", hidden_dim=1024, tied=True, dropout=0.1)
SMALL = ModelConfig(family="gpt2", embed_dim=12, hidden_dim=20, num_layers=2, num_heads=3, num_positions=16)
VOCAB = 40


def tokens(batch, length, seed=0):
    return torch.randint(4, VOCAB, (batch, length), generator=torch.Generator().manual_seed(seed))


def spread(config, vocab_size=VOCAB):
    """A model in float64 whose weights, biases and gains are all away from their special initial values."""
    model, generator = build(config, vocab_size, seed=0).double().eval(), torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.5, generator=generator)
    return model


def transformers_own(model, config, **changes):
    """GPT2LMHeadModel with the same weights."""
    from transformers import GPT2Config, GPT2LMHeadModel

    settings = GPT2Config(
        vocab_size=VOCAB,
        n_positions=config.num_positions,
        n_embd=config.embed_dim,
        n_layer=config.num_layers,
        n_head=config.num_heads,
        n_inner=config.hidden_dim,
        tie_word_embeddings=config.tied,
        **{"attn_implementation": "eager", "resid_pdrop": 0, "embd_pdrop": 0, "attn_pdrop": 0, **changes},
    )
    assert settings.activation_function == "gelu_new"
    own = GPT2LMHeadModel(settings).double().eval()
    missing, unexpected = own.load_state_dict(model.state_dict(), strict=False)
    assert (missing, unexpected) == (["lm_head.weight"] if config.tied else [], [])
    own.tie_weights()
    return own


@pytest.mark.parametrize(
    ("change", "published"),
    [
        ({}, 5_011_456),
        ({"embed_dim": 768, "hidden_dim": 3072, "num_layers": 12, "num_heads": 12}, 85_873_152),
        # As large as the baseline of New-LLM with its 2,739,432.
        ({"num_layers": 3, "hidden_dim": 1088}, 2_740_672),
    ],
    ids=["original", "GPT-2 small", "size of the baseline"],
)
def test_parameter_counts_are_the_published_ones(change, published):
    config = replace(ORIGINAL, **change)
    with torch.device("meta"):
        model = build(config, 1000, seed=0)
    assert sum(parameter.numel() for parameter in model.parameters()) == published
    assert parameter_count(config, 1000) == published


@pytest.mark.parametrize("tied", [True, False])
def test_agrees_with_transformers_own_model_forward_and_backward(tied):
    config, text = replace(SMALL, tied=tied), tokens(3, 15)
    model = spread(config)
    own = transformers_own(model, config)
    ours, theirs = model(text)[0], own(text).logits
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)
    for logits in (ours, theirs):
        logits.sin().sum().backward()
    gradients = dict(own.named_parameters())
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients[name].grad, rtol=1e-8, atol=1e-8)


def test_first_weights_are_distributed_as_transformers_draws_them():
    from transformers import GPT2LMHeadModel

    config = replace(ORIGINAL, tied=False)
    model = build(config, 1000, seed=0)
    torch.manual_seed(0)
    own = dict(GPT2LMHeadModel(model.transformer.config).named_parameters())
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1:
            assert torch.equal(parameter, own[name]), name
        else:
            assert parameter.std().item() == pytest.approx(own[name].std().item(), rel=0.03), name
            assert abs(parameter.mean().item()) < 4e-4, name
    assert all(torch.equal(a, b) for a, b in zip(build(config, 1000, 0).parameters(), model.parameters(), strict=True))
    init = replace(config, init="original")
    assert torch.equal(build(init, 1000, 0).transformer.wte.weight, model.transformer.wte.weight)


@pytest.mark.parametrize("positions", [1, 2, 7, 16])
def test_past_its_positions_half_a_window_is_read_again(positions):
    """Against transformers' own model, which reads the window of every single token from its begin."""
    config = replace(SMALL, num_positions=positions)
    model, text = spread(config), tokens(2, 3 * positions + 2)
    own, kept = transformers_own(model, config), positions // 2
    with torch.no_grad():
        expected = []
        for place in range(text.shape[1]):
            windows = max(0, (place - kept) // (positions - kept))
            begin = windows * (positions - kept)
            assert place < positions or kept <= place - begin < positions
            expected.append(own(text[:, begin : place + 1]).logits[:, -1])
        whole = torch.stack(expected, dim=1)
        torch.testing.assert_close(model(text)[0], whole, rtol=1e-9, atol=1e-9)
        for cuts in ((positions,), (positions // 2 + 1, 2 * positions), range(1, text.shape[1])):
            state, parts = None, []
            for piece in torch.tensor_split(text, list(cuts), dim=1):
                part, state = model(piece, state)
                parts.append(part)
            torch.testing.assert_close(torch.cat(parts, dim=1), whole, rtol=1e-9, atol=1e-9)
        # Also where keys and values were not kept.
        _, state = model.train()(text[:, : positions + 1])
        torch.testing.assert_close(model.eval()(text[:, positions + 1 :], state)[0], whole[:, positions + 1 :])


def test_a_token_that_is_passed_on_costs_one_reading_until_the_window_is_full():
    model, lengths, state = build(SMALL, VOCAB, seed=0).eval(), [], None
    model.transformer.wte.register_forward_pre_hook(lambda _, inputs: lengths.append(inputs[0].shape[1]))
    for token in tokens(1, 26).split(1, dim=1):
        _, state = model(token, state)
    # From the 17th and the 25th on, 8 tokens again.
    assert lengths == [1] * 16 + [9] + [1] * 7 + [9, 1]


def test_dropout_is_that_of_transformers_with_the_state_of_the_models_own_generator():
    config = replace(SMALL, dropout=0.3)
    model, text = spread(config).train(), tokens(3, 15)
    own = transformers_own(model, config, resid_pdrop=0.3, embd_pdrop=0.3, attn_pdrop=0.3, attn_implementation="sdpa")
    torch.manual_seed(9)
    theirs = [own.train()(text).logits for _ in range(2)]
    torch.manual_seed(1)
    before = torch.get_rng_state()
    model.dropout_generator = torch.Generator().manual_seed(9)
    for each in theirs:
        torch.testing.assert_close(model(text)[0], each, rtol=1e-9, atol=1e-9)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_global_generator_is_as_before_when_a_pass_fails():
    model = build(replace(SMALL, dropout=0.3), VOCAB, seed=0)
    model.dropout_generator, before = torch.Generator().manual_seed(9), torch.get_rng_state()
    with pytest.raises(IndexError):
        model(torch.full((1, 3), VOCAB))
    assert torch.equal(torch.get_rng_state(), before)


def test_padding_to_the_right_needs_no_mask():
    model, text = spread(SMALL), tokens(3, 9)
    own = transformers_own(model, SMALL)
    padded = functional.pad(text, (0, 6))
    with torch.no_grad():
        masked = own(padded, attention_mask=(padded != 0).long()).logits[:, :9]
        torch.testing.assert_close(model(padded)[0][:, :9], masked, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_stays_close_to_full_precision(dtype):
    model, text = build(replace(SMALL, embed_dim=48, hidden_dim=96, dropout=0.2), VOCAB, seed=0), tokens(8, 17)

    def run(enabled):
        model.zero_grad()
        model.dropout_generator = torch.Generator().manual_seed(3)
        with torch.autocast("cpu", dtype, enabled=enabled):
            logits, _ = model(text[:, :-1])
        functional.cross_entropy(logits.float().flatten(0, 1), text[:, 1:].flatten()).backward()
        return logits.float(), torch.cat([parameter.grad.flatten() for parameter in model.parameters()])

    (half, half_gradient), (full, full_gradient) = run(enabled=True), run(enabled=False)
    assert half_gradient.dtype == torch.float32
    assert (half - full).abs().mean() < 0.03 * full.abs().mean()
    assert functional.cosine_similarity(half_gradient, full_gradient, dim=0) > 0.99


def test_muon_takes_the_blocks_matrices_and_nothing_else():
    model = build(SMALL, VOCAB, seed=0)
    names = {parameter: name for name, parameter in model.named_parameters()}
    muon, adam = build_optimizers(TrainingConfig(optimizer="muon", weight_decay=0.1), model)
    hidden = {names[each] for group in muon.param_groups for each in group["params"]}
    blocks = ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
    assert hidden == {f"transformer.h.{layer}.{name}.weight" for layer in (0, 1) for name in blocks}
    decayed, spared = ({names[each] for each in group["params"]} for group in adam.param_groups)
    assert decayed == {"transformer.wte.weight", "transformer.wpe.weight", "lm_head.weight"}
    assert len(hidden | decayed | spared) == len(names)


def test_refuses_heads_that_do_not_divide_the_embedding_and_windows_longer_than_its_positions():
    with pytest.raises(ValueError, match=r"num_heads must divide model\.embed_dim \(12\).* got 5"):
        replace(SMALL, num_heads=5)
    assert Configuration(CorpusConfig(window=17), SMALL).corpus.window == 17
    message = "window must be at most 17 in the family gpt2, one more than model.num_positions, got 18: set"
    with pytest.raises(ValueError, match=re.escape(message) + " model.num_positions to 17 or more"):
        Configuration(CorpusConfig(window=18), SMALL)
