"""The exported model as transformers uses it."""

import json
import shutil
from dataclasses import replace

import pytest
import torch

from tune_newllm.artifacts.checkpoint import load_checkpoint, read_configuration
from tune_newllm.artifacts.export import export
from tune_newllm.models import ModelConfig
from tune_newllm.training.run import Run

PROMPTS = ["", "kul mep", "dor fen gim kul nax"]


@pytest.fixture(scope="module")
def load(exported):
    from transformers import AutoModelForCausalLM

    return lambda folder=exported[0], **options: AutoModelForCausalLM.from_pretrained(
        folder, trust_remote_code=True, **options
    )


@pytest.fixture
def model(load):
    """Never ends a text, so that lengths are known."""
    model = load()
    with torch.no_grad():
        model.model.output.bias[3] = -99
    return model


@pytest.fixture(scope="module")
def tokenizer(exported):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(exported[0], trust_remote_code=True)


def test_reads_one_token_per_step_after_the_prompt(model, tokenizer):
    lengths = []
    model.model.register_forward_pre_hook(lambda _, inputs: lengths.append(inputs[0].shape[1]))
    prompt = tokenizer(PROMPTS[2], return_tensors="pt")
    carried = model.generate(**prompt, max_new_tokens=6)
    assert lengths == [6, 1, 1, 1, 1, 1]
    reread = model.generate(**prompt, max_new_tokens=6, use_cache=False)
    assert lengths[6:] == [6, 7, 8, 9, 10, 11]
    assert torch.equal(carried, reread)


def test_never_writes_special_tokens(model, tokenizer):
    with torch.no_grad():
        model.model.output.bias[:3] = 99
    prompt = tokenizer(PROMPTS[1], return_tensors="pt")
    text = model.generate(**prompt, max_new_tokens=30, do_sample=True)
    assert text[0, 3:].min() > 3


def test_beams_carry_their_own_states(model, tokenizer):
    prompt = tokenizer(PROMPTS[1], return_tensors="pt")
    options = {"max_new_tokens": 8, "num_beams": 4, "num_return_sequences": 4}
    assert torch.equal(model.generate(**prompt, **options), model.generate(**prompt, **options, use_cache=False))


def test_prompts_padded_on_the_left_continue_as_if_alone(model, tokenizer):
    batch = tokenizer(PROMPTS, return_tensors="pt", padding=True)
    assert batch["attention_mask"].sum(1).tolist() == [1, 3, 6]
    together = model.generate(**batch, max_new_tokens=7)
    for prompt, row in zip(PROMPTS, together, strict=True):
        alone = model.generate(**tokenizer(prompt, return_tensors="pt"), max_new_tokens=7)
        assert torch.equal(row[6:], alone[0, -7:])
    final = model(**batch).state
    for prompt, state in zip(PROMPTS, final, strict=True):
        torch.testing.assert_close(model(**tokenizer(prompt, return_tensors="pt")).state[0], state)


def test_padding_behind_a_carried_state_leaves_it_alone(model, tokenizer):
    state = torch.randn(2, 8, generator=torch.Generator().manual_seed(0))
    ids = torch.tensor([[0, 0, 5], [5, 6, 7]])
    after = model(ids, attention_mask=ids > 0, state=state).state
    torch.testing.assert_close(after[0], model(ids[:1, 2:], state=state[:1]).state[0])
    torch.testing.assert_close(after[1], model(ids[1:], state=state[1:]).state[0])


def test_refuses_to_continue_after_right_padding(model, tokenizer):
    batch = tokenizer(PROMPTS, return_tensors="pt", padding=True, padding_side="right")
    with pytest.raises(ValueError, match="padding must stand to the left"):
        model.generate(**batch, max_new_tokens=3)
    scored = model(**batch)
    assert scored.state is None
    alone = model(**tokenizer(PROMPTS[1], return_tensors="pt")).logits[0]
    torch.testing.assert_close(scored.logits[1, :3], alone)


def test_labels_give_the_mean_loss_of_the_next_tokens(model):
    ids = torch.tensor([[2, 5, 6, 7], [2, 8, 3, 0]])
    labels = ids.masked_fill(ids == 0, -100)
    output = model(ids, labels=labels)
    scores = output.logits.double().log_softmax(-1)
    by_hand = [-scores[b, t, ids[b, t + 1]].item() for b, t in [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1)]]
    assert output.loss.item() == pytest.approx(sum(by_hand) / 5, rel=1e-5)
    loss, logits = model(ids, labels=labels, use_cache=False, return_dict=False)
    assert (loss, logits.shape) == (output.loss, output.logits.shape)


def test_trains(model):
    ids = torch.tensor([[2, 5, 6, 7]])
    output = model.train()(ids, labels=ids)
    output.loss.backward()
    assert output.state is None
    assert all(parameter.grad is not None for parameter in model.model.layers.parameters())


def test_loads_in_half_precision(load, model):
    half = load(dtype=torch.bfloat16)
    ids = torch.tensor([[2, 5, 6, 7]])
    output = half(ids)
    assert (output.logits.dtype, output.state.dtype) == (torch.bfloat16, torch.float32)
    torch.testing.assert_close(output.state, model(ids).state, atol=0.1, rtol=0)


def test_saves_and_loads_again(model, load, tmp_path):
    model.save_pretrained(tmp_path / "saved")
    again = load(tmp_path / "saved")
    ids = torch.tensor([[2, 5, 6, 7]])
    assert all(map(torch.equal, again.state_dict().values(), model.state_dict().values()))
    # Not equal to the bit: products round by where a file's tensors lie in memory.
    torch.testing.assert_close(again(ids).logits, model(ids).logits, rtol=1e-5, atol=1e-6)


def test_two_exports_of_one_name_keep_their_own_code(exported, load, tmp_path):
    other = shutil.copytree(exported[0], tmp_path / exported[0].name)
    code = other / "recurrence.py"
    code.write_text(code.read_text().replace("LIMIT = 10.0", "LIMIT = 0.5"))
    ids = torch.tensor([[2, 5, 6, 7]])
    states = [load(folder)(ids).state.abs().max() for folder in (exported[0], other, exported[0])]
    assert states[1] == 0.5
    assert states[0] == states[2] > 0.5


def test_a_residual_tied_model_is_the_same_in_transformers(run, corpus, load, tokenizer, tmp_path):
    model_config = ModelConfig(embed_dim=12, hidden_dim=24, ctx_dim=8, num_layers=3, ffn="residual", tied=True)
    configuration = replace(read_configuration(run), model=model_config)
    list(Run(tmp_path / "run", configuration, corpus).epochs())
    export(tmp_path / "run", tmp_path / "export", corpus=corpus, provenance={})
    ids = torch.tensor([[2, 5, 6, 7]])
    expected = load_checkpoint(tmp_path / "run").model(ids)[0]
    model = load(tmp_path / "export")
    card = (tmp_path / "export" / "README.md").read_text()
    assert "3 residual layers" in card
    assert "tied output" in card
    model.save_pretrained(tmp_path / "saved")
    for again in (model, load(tmp_path / "saved"), load(tmp_path / "export", tie_word_embeddings=True)):
        torch.testing.assert_close(again(ids).logits, expected)
    prompt = tokenizer(PROMPTS[1], return_tensors="pt")
    assert torch.equal(
        model.generate(**prompt, max_new_tokens=6), model.generate(**prompt, max_new_tokens=6, use_cache=False)
    )


def test_an_export_that_knows_no_variants_is_plain_and_untied(exported, load, tmp_path):
    older = shutil.copytree(exported[0], tmp_path / "older")
    content = json.loads((older / "config.json").read_text())
    assert (content.pop("ffn"), content.pop("tied")) == ("plain", False)
    (older / "config.json").write_text(json.dumps(content))
    ids = torch.tensor([[2, 5, 6, 7]])
    assert torch.equal(load(older)(ids).logits, load()(ids).logits)
