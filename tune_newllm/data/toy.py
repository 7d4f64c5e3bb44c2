"""Generated sentences whose entropy rate is known exactly, so that a test can tell how well a model could do.

A Markov chain over eight made-up words. From every word the chain goes to three others with probability 1/2, 1/4 and
1/8 and ends the sentence with 1/8; the first word is any of the eight with equal probability.
"""

import math
import random
from collections.abc import Iterator

WORDS = ("bal", "dor", "fen", "gim", "kul", "mep", "nax", "sot")
SENTENCES = {"train": 2000, "validation": 300, "test": 300}
_SEEDS = {"train": 1, "validation": 2, "test": 3}
_STEPS = (1, 2, 5)
_WEIGHTS = (4, 2, 1, 1)


def transitions() -> dict[str | None, dict[str | None, float]]:
    """Probability of each next word given the last one; None is the sentence's begin as a key, its end as a value."""
    table: dict[str | None, dict[str | None, float]] = {None: {word: 1 / len(WORDS) for word in WORDS}}
    for number, word in enumerate(WORDS):
        successors = [*(WORDS[(number + step) % len(WORDS)] for step in _STEPS), None]
        table[word] = {next_: weight / sum(_WEIGHTS) for next_, weight in zip(successors, _WEIGHTS, strict=True)}
    return table


def entropy_rate() -> float:
    """Nats per target, EOS included: the lowest expected loss any model can reach.

    A sentence has 8 words in the mean, hence 9 targets. The first costs log2(8) = 3 bits, each other one
    1/2 * 1 + 1/4 * 2 + 2 * 1/8 * 3 = 1.75 bits.
    """
    return (3 + 8 * 1.75) / 9 * math.log(2)


def digest() -> str:
    """What the sentences depend on."""
    return repr((transitions(), SENTENCES, _SEEDS))


def read() -> dict[str, list[str]]:
    """The sentences of each split."""
    table = transitions()
    return {
        split: [" ".join(_sentence(table, source)) for _ in range(SENTENCES[split])]
        for split, source in ((split, random.Random(seed)) for split, seed in _SEEDS.items())
    }


def _sentence(table: dict[str | None, dict[str | None, float]], source: random.Random) -> Iterator[str]:
    word = None
    while True:
        word = source.choices(list(table[word]), list(table[word].values()))[0]
        if word is None:
            return
        yield word
