"""A fixed-point model from a run's folder: measured, continued, exported; killed in phase one and taken up again."""

import json

import pytest
import torch

from tune_newllm.artifacts.checkpoint import load_checkpoint
from tune_newllm.artifacts.compare import evaluate_checkpoint
from tune_newllm.artifacts.export import export
from tune_newllm.artifacts.generate import Sampling, generate
from tune_newllm.data.config import CorpusConfig
from tune_newllm.data.corpora import prepare
from tune_newllm.models import ModelConfig
from tune_newllm.training import fixed_point as phases
from tune_newllm.training.config import Configuration, TrainingConfig
from tune_newllm.training.fixed_point_config import FixedPointConfig
from tune_newllm.training.run import Run

CONFIGURATION = Configuration(
    CorpusConfig(name="toy", vocab_size=100, window=16, windowing="stream"),
    ModelConfig(family="fixed_point", embed_dim=8, ctx_dim=8, num_layers=2, num_input_tokens=3),
    TrainingConfig(
        lr=1e-2,
        epochs=2,
        device="cpu",
        precision="fp32",
        micro_batch=64,
        fixed_point=FixedPointConfig(max_iterations=3, min_iterations=2, batch_tokens=500),
    ),
)


@pytest.fixture(scope="module")
def corpus():
    return prepare(CONFIGURATION.corpus)


@pytest.fixture(scope="module")
def run(corpus, tmp_path_factory):
    run = Run(tmp_path_factory.mktemp("run"), CONFIGURATION, corpus)
    list(run.epochs())
    return run


def test_a_checkpoint_gives_the_loss_that_training_saw(run, corpus):
    """In which every row goes on where the one before ends, as in training."""
    score = evaluate_checkpoint(load_checkpoint(run.folder), "validation", corpus)
    assert score.loss == pytest.approx(min(each.val_loss for each in run.history), abs=1e-4)


def test_transformers_writes_what_the_checkpoint_writes(run, corpus, tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    export(run.folder, tmp_path / "exported", corpus=corpus, provenance={})
    ours = load_checkpoint(run.folder)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "exported", trust_remote_code=True)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "exported", trust_remote_code=True)
    words = ours.tokenizer.decode(range(4, 9)).split()
    prompts = [" ".join(words[:1]), " ".join(words[1:])]
    inputs = tokenizer(prompts, return_tensors="pt", padding=True)
    written = theirs.generate(
        input_ids=inputs.input_ids, attention_mask=inputs.attention_mask, do_sample=False, max_new_tokens=9
    )
    for prompt, ids in zip(prompts, written, strict=True):
        text = ours.tokenizer.decode(ids.tolist(), skip_special=True)
        assert text == generate(ours.model, ours.tokenizer, prompt, Sampling(max_new_tokens=9, temperature=0))


def test_transformers_reads_on_by_the_same_tokens_in_half_precision(run, corpus, tmp_path):
    """Where ids above 256 are no numbers: the state must not hold them in the weights' precision."""
    from transformers import AutoModelForCausalLM

    export(run.folder, tmp_path / "exported", corpus=corpus, provenance={})
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "exported", trust_remote_code=True, dtype=torch.bfloat16)
    many = 50_260
    model.model.embedding = torch.nn.Embedding(many, 8, dtype=torch.bfloat16)
    model.model.drawn_embedding = model.model.embedding.weight.detach().clone()
    model.config.vocab_size = many
    ids = torch.tensor([[50_257, 40_001, 33_333, 50_259, 30_001]])
    whole = model(ids).logits
    state, steps = None, []
    for token in ids.T:
        output = model(token[:, None], state=state)
        state = output.state
        steps.append(output.logits)
    torch.testing.assert_close(torch.cat(steps, 1), whole)
    left_padded = model(torch.cat([torch.zeros_like(ids), ids], 1), attention_mask=torch.tensor([[0] * 5 + [1] * 5]))
    torch.testing.assert_close(left_padded.logits[:, 5:], whole)


def test_a_run_that_is_killed_in_phase_one_begins_it_again(run, corpus, tmp_path, monkeypatch):
    class Killed(BaseException):
        pass

    def killed(*_):
        raise Killed

    other = Run(tmp_path / "run", CONFIGURATION, corpus)
    with monkeypatch.context() as patch:
        patch.setattr(phases.checks, "identity", killed)
        with pytest.raises(Killed):
            list(other.epochs())
    again = Run(tmp_path / "run", CONFIGURATION, corpus)
    assert [each.val_loss for each in again.epochs()] == [each.val_loss for each in run.history]
    records = [json.loads((each.folder / phases.RECORD).read_text()) for each in (run, again)]
    for record in records:
        for row in record["iterations"]:
            del row["seconds"]
    assert records[0] == records[1]
    assert torch.equal(*(load_checkpoint(each.folder).model.token_layers[1].mix.weight for each in (run, again)))
