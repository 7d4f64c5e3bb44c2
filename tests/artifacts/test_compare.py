import dataclasses
import json
import math
import shutil
from pathlib import Path

import pytest
import torch

from tune_newllm.artifacts import compare
from tune_newllm.artifacts.checkpoint import load_checkpoint
from tune_newllm.artifacts.compare import corpus_of, evaluate_checkpoint, known_to_all, own_corpus
from tune_newllm.data.config import CorpusConfig
from tune_newllm.data.corpora import prepare
from tune_newllm.data.tokenizer import WordTokenizer
from tune_newllm.errors import CheckpointError, UsageError
from tune_newllm.training.run import Run


def by_hand(checkpoint, windows):
    """Loss, accuracy and known-word loss, one target at a time."""
    losses, hits, known = [], [], []
    for row in windows[:40].tolist():
        logits, _ = checkpoint.model(torch.tensor([row[:-1]]))
        for scores, target in zip(logits[0].double().log_softmax(-1), row[1:], strict=True):
            if target != 0:
                losses.append(-scores[target].item())
                hits.append(scores.argmax().item() == target)
                known += [losses[-1]] * (target != 1)
    return sum(losses) / len(losses), sum(hits) / len(hits), sum(known) / len(known), len(losses)


@pytest.mark.parametrize("split", ["validation", "test"])
def test_figures_agree_with_a_computation_by_hand(checkpoint, corpus, split):
    few = dataclasses.replace(corpus, validation=corpus.validation[:40], test=corpus.test[:40])
    with torch.no_grad():
        loss, acc, known, targets = by_hand(checkpoint, getattr(corpus, split))
    score = evaluate_checkpoint(checkpoint, split, few)
    assert score.loss == pytest.approx(loss, rel=1e-5)
    assert score.ppl == pytest.approx(math.exp(loss), rel=1e-5)
    assert score.ppl_known == pytest.approx(math.exp(known), rel=1e-5)
    assert (score.acc, score.targets) == (pytest.approx(acc), targets)
    assert score.tokens_per_s > 0


def test_prepares_the_corpus_of_the_configuration(checkpoint, corpus):
    assert evaluate_checkpoint(checkpoint).loss == evaluate_checkpoint(checkpoint, "test", corpus).loss


def test_a_model_with_words_of_its_own_is_measured_in_them(checkpoint):
    numbered = [checkpoint.tokenizer.decode([i]) for i in range(4, checkpoint.vocab_size)]
    own = WordTokenizer(numbered[::-1])
    moved = dataclasses.replace(checkpoint, tokenizer=own)
    assert evaluate_checkpoint(moved).loss > evaluate_checkpoint(checkpoint).loss + 0.1
    order = [0, 1, 2, 3, *range(checkpoint.vocab_size - 1, 3, -1)]
    with torch.no_grad():
        for weight in (checkpoint.model.embedding.weight, checkpoint.model.output.weight, checkpoint.model.output.bias):
            weight.copy_(weight[order].clone())
    original = load_checkpoint(checkpoint.folder)
    assert evaluate_checkpoint(moved).loss == pytest.approx(evaluate_checkpoint(original).loss, rel=1e-5)


def test_refuses_a_corpus_in_other_words(checkpoint):
    other = prepare(CorpusConfig(name="toy", window=16, vocab_size=6))
    with pytest.raises(CheckpointError, match="another vocabulary"):
        evaluate_checkpoint(checkpoint, "test", other)


def test_refuses_a_split_that_is_not_there(checkpoint, corpus):
    with pytest.raises(UsageError, match="no test split"):
        evaluate_checkpoint(checkpoint, "test", dataclasses.replace(corpus, test=None))


@pytest.mark.parametrize("name", ["best", "trials/t1"])
def test_a_sweeps_checkpoints_are_measured_on_its_own_data(name, checkpoint, corpus, tmp_path, monkeypatch):
    shutil.copytree(checkpoint.folder, tmp_path / name)
    shutil.copytree(corpus.folder, tmp_path / "data")
    inside = load_checkpoint(tmp_path / name)
    assert corpus_of(inside).folder == tmp_path / "data"
    # Also by a path that does not name the folders above.
    monkeypatch.chdir(tmp_path / name)
    assert corpus_of(load_checkpoint(Path())).folder == tmp_path / "data"
    # Data in other words than the checkpoint's, or damaged, are not what it was trained on.
    prepare(CorpusConfig(name="toy", window=16, vocab_size=6)).tokenizer.save(tmp_path / "data")
    assert corpus_of(inside).folder == corpus.folder
    (tmp_path / "data" / "meta.json").unlink()
    assert corpus_of(inside).folder == corpus.folder


def test_says_whether_it_is_the_corpus_of_the_training(checkpoint, corpus, copy_of_run):
    assert own_corpus(checkpoint).same
    words = [checkpoint.tokenizer.decode([i]) for i in range(4, checkpoint.vocab_size)]
    moved = dataclasses.replace(checkpoint, tokenizer=WordTokenizer(words[::-1]))
    assert not own_corpus(moved).same
    # A fingerprint beside the weights knows better than the words.
    known = load_checkpoint(copy_of_run)
    for fingerprint, same in ((corpus.fingerprint, True), ("of another text", False)):
        (copy_of_run / "provenance.json").write_text(json.dumps({"corpus_fingerprint": fingerprint}))
        assert own_corpus(known).same == same


def test_a_trial_on_fewer_samples_is_measured_in_the_words_of_its_sweep(checkpoint, tmp_path):
    few = dataclasses.replace(checkpoint.configuration.corpus, max_samples=5)
    prepared = prepare(dataclasses.replace(few, max_samples=300))
    run = Run(tmp_path / "trials/t1", dataclasses.replace(checkpoint.configuration, corpus=few), prepared)
    assert [result.step for result in run.epochs()] == [1]
    trial = load_checkpoint(run.folder)
    alone = evaluate_checkpoint(trial)
    assert not own_corpus(trial).same
    facts = {"fingerprint": prepared.fingerprint, "stats": prepared.stats}
    (tmp_path / "provenance.json").write_text(json.dumps({"data": facts}))
    assert corpus_of(trial).folder == prepared.folder
    assert own_corpus(trial).same
    assert evaluate_checkpoint(trial).loss == alone.loss


def test_what_began_as_another_checkpoint_is_measured_in_its_words_from_the_start(checkpoint, monkeypatch):
    training = dataclasses.replace(checkpoint.configuration.training, start="elsewhere")
    words = WordTokenizer([checkpoint.tokenizer.decode([i]) for i in range(checkpoint.vocab_size - 1, 3, -1)])
    begun = dataclasses.replace(
        checkpoint, tokenizer=words, configuration=dataclasses.replace(checkpoint.configuration, training=training)
    )
    given = []
    monkeypatch.setattr(compare, "prepare", lambda *args, **kw: given.append(kw["tokenizer"]) or prepare(*args, **kw))
    own = own_corpus(begun)
    # Nothing on record says that these are other texts, and no vocabulary is learned that nobody uses.
    assert (own.same, own.prepared.tokenizer, given) == (True, words, [words])


def test_perplexity_of_the_words_known_to_all(checkpoint, corpus):
    few = dataclasses.replace(corpus, validation=corpus.validation[:40])
    fewer = WordTokenizer([checkpoint.tokenizer.decode([i]) for i in (9, 4, 7)])
    known, others = known_to_all([checkpoint.tokenizer, fewer])
    assert known.nonzero().flatten().tolist() == [2, 3, 4, 7, 9]
    assert others.tolist() == [False, False, *[True] * 5]
    losses = []
    with torch.no_grad():
        for row in few.validation.tolist():
            scores = checkpoint.model(torch.tensor([row[:-1]]))[0][0].double().log_softmax(-1)
            losses += [-each[t].item() for each, t in zip(scores, row[1:], strict=True) if t in (2, 3, 4, 7, 9)]
    score = evaluate_checkpoint(checkpoint, "validation", few, known)
    assert score.ppl_known == pytest.approx(math.exp(sum(losses) / len(losses)), rel=1e-5)
    assert score.known_share == len(losses) / score.targets
    assert score.loss == evaluate_checkpoint(checkpoint, "validation", few).loss
