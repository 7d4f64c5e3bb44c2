import dataclasses
import math

import pytest
import torch

from tune_newllm.artifacts.checkpoint import load_checkpoint
from tune_newllm.artifacts.compare import evaluate_checkpoint
from tune_newllm.data.config import CorpusConfig
from tune_newllm.data.corpora import prepare
from tune_newllm.data.tokenizer import WordTokenizer
from tune_newllm.errors import CheckpointError, UsageError


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
