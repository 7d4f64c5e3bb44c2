import math
from itertools import pairwise

import numpy as np
import pytest

from tune_newllm.data import toy


def test_entropy_rate_equals_that_of_the_chain():
    table = toy.transitions()
    states = list(table)
    matrix = np.array([[row.get(state, 0.0) for state in states] for row in table.values()])
    np.testing.assert_allclose(matrix.sum(1), 1)
    values, vectors = np.linalg.eig(matrix.T)
    stationary = np.real(vectors[:, np.argmax(np.real(values))])
    stationary /= stationary.sum()
    entropy = -np.sum(matrix * np.log(np.where(matrix > 0, matrix, 1)), axis=1)
    assert toy.entropy_rate() == pytest.approx(stationary @ entropy, rel=1e-12)


def test_an_exact_predictor_reaches_the_entropy_rate():
    table = toy.transitions()
    losses = []
    for sentence in toy.read()["train"]:
        words = [None, *sentence.split(), None]
        losses += [-math.log(table[last][word]) for last, word in pairwise(words)]
    error = np.std(losses) / math.sqrt(len(losses))
    assert error < 0.01
    assert np.mean(losses) == pytest.approx(toy.entropy_rate(), abs=4 * error)


def test_equal_calls_give_equal_sentences_and_splits_differ():
    first = toy.read()
    assert first == toy.read()
    assert {split: len(texts) for split, texts in first.items()} == toy.SENTENCES
    assert first["validation"] != first["test"]
    # Pinned, because every cached toy corpus and every figure quoted for it depends on the generator.
    assert first["train"][:2] == [
        "dor nax gim kul mep nax bal mep nax sot kul mep fen gim kul nax sot",
        "sot bal dor gim",
    ]
