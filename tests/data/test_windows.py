import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tune_newllm.data import windows
from tune_newllm.data.tokenizer import BOS, EOS, PAD, WordTokenizer
from tune_newllm.data.windows import cut

WORDS = st.lists(st.integers(4, 60_000), max_size=40)
TEXTS = st.lists(WORDS.map(lambda words: [BOS, *words, EOS]), max_size=8)


@settings(deadline=None)
@given(TEXTS, st.integers(2, 20))
def test_complete_makes_every_token_a_target_exactly_once(texts, window):
    targets, last = [], None
    for row in cut(texts, "complete", window, dtype=np.uint16).tolist():
        length = row.index(PAD) if PAD in row else window
        assert length >= 2
        assert not any(row[length:])
        if row[0] == BOS:
            targets.append([])
        else:
            assert row[0] == last
        targets[-1] += row[1:length]
        last = row[length - 1]
    assert targets == [text[1:] for text in texts]


@settings(deadline=None)
@given(TEXTS, st.integers(2, 20), st.integers(1, 20))
def test_original_against_the_rule_spelt_out(texts, window, stride):
    expected = []
    for text in texts:
        if len(text) - 2 < 5:
            continue
        if len(text) <= window:
            expected.append(text + [PAD] * (window - len(text)))
            continue
        start = 0
        while start + window <= len(text):
            expected.append(text[start : start + window])
            start += stride
    assert cut(texts, "original", window, stride).tolist() == expected


def test_slices_do_not_show(monkeypatch):
    texts = [[BOS, *range(4, 4 + size), EOS] for size in range(30)]
    whole = cut(texts, "complete", 6)
    monkeypatch.setattr(windows, "_ROWS_AT_ONCE", 7)
    np.testing.assert_array_equal(cut(texts, "complete", 6), whole)


def test_half_a_window_is_the_default_stride():
    text = [[BOS, *range(4, 30), EOS]]
    np.testing.assert_array_equal(cut(text, "original", 8), cut(text, "original", 8, stride=4))


@pytest.mark.skipif("TUNE_NEWLLM_WIKITEXT2" not in os.environ, reason="TUNE_NEWLLM_WIKITEXT2 names no folder")
@pytest.mark.parametrize(
    ("file", "texts", "skipped", "short", "long", "tokens", "longest", "dropped", "rows"),
    [
        ("valid.txt", 2461, 65, 1059, 1337, 218_459, 431, 20_174, 5272),
        ("test.txt", 2891, 180, 1204, 1507, 246_181, 483, 23_020, 5920),
    ],
)
def test_wikitext_2_table(file, texts, skipped, short, long, tokens, longest, dropped, rows):
    """The counts of the original research, recomputed from the windows alone where they show in them."""
    lines = (Path(os.environ["TUNE_NEWLLM_WIKITEXT2"]) / file).read_text(encoding="utf-8").split("\n")
    kept = [line.strip() for line in lines if line.strip()]
    tokenizer = WordTokenizer.build(kept, 1000)
    ids = [tokenizer.encode(text) for text in kept]
    result = cut(ids, "original", 64, 32)
    first = result[:, 0] == BOS
    covered = np.count_nonzero(result[first]) + 32 * np.count_nonzero(~first)
    long_enough = [text for text in ids if len(text) >= 7]
    assert (len(kept), len(kept) - first.sum(), len(result)) == (texts, skipped, rows)
    assert sum(map(len, long_enough)) == tokens
    assert tokens - covered == dropped
    assert max(map(len, ids)) == longest
    assert sum(len(text) <= 64 for text in long_enough) == short
    assert first.sum() == short + long
