import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tune_newllm.data import windows
from tune_newllm.data.config import CorpusConfig
from tune_newllm.data.text_files import read
from tune_newllm.data.tokenizer import BOS, EOS, PAD, WordTokenizer
from tune_newllm.data.windows import cut, pieces

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


@settings(deadline=None)
@given(TEXTS, st.integers(2, 20))
def test_stream_reads_the_texts_one_after_another(texts, window):
    """Rows that overlap by one token give the stream back, and only the last may be padded."""
    stream = [token for text in texts for token in text]
    rows = cut(texts, "stream", window, dtype=np.uint16)
    assert [token for row in rows.tolist() for token in row[1:] if token] == stream[1:]
    assert np.array_equal(rows[1:, 0], rows[:-1, -1])
    assert rows[:-1].all()
    per_text = pieces(texts, "stream", window)
    assert (len(per_text), per_text.sum()) == (len(texts), len(rows))
    for number in range(1, len(texts)):
        whole = cut(texts[:number], "stream", window)
        complete = rows[: per_text[:number].sum()]
        assert np.array_equal(complete, whole[: len(complete)])
        assert len(whole) - len(complete) <= 1


def test_slices_do_not_show(monkeypatch):
    texts = [[BOS, *range(4, 4 + size), EOS] for size in range(30)]
    whole = cut(texts, "complete", 6)
    monkeypatch.setattr(windows, "_ROWS_AT_ONCE", 7)
    np.testing.assert_array_equal(cut(texts, "complete", 6), whole)


def test_half_a_window_is_the_default_stride():
    text = [[BOS, *range(4, 30), EOS]]
    np.testing.assert_array_equal(cut(text, "original", 8), cut(text, "original", 8, stride=4))


@settings(deadline=None)
@given(TEXTS, st.integers(2, 20), st.sampled_from(["complete", "original"]))
def test_pieces_add_up_to_the_windows_of_each_text(texts, window, windowing):
    assert pieces(texts, windowing, window).tolist() == [len(cut([text], windowing, window)) for text in texts]


def wikitext_2(file):
    """The texts of one file, by the rules of the original: one per line, blank ones dropped."""
    if "TUNE_NEWLLM_WIKITEXT2" not in os.environ:
        pytest.skip("TUNE_NEWLLM_WIKITEXT2 names no folder")
    path = Path(os.environ["TUNE_NEWLLM_WIKITEXT2"]) / file
    if not path.exists():
        pytest.skip(f"TUNE_NEWLLM_WIKITEXT2 has no {file}")
    config = CorpusConfig(name="text", train=str(path), validation=str(path))
    return read(config, progress=False)["train"]


@pytest.mark.parametrize(
    ("file", "texts", "rows"), [("train.txt", 23_767, 51_026), ("valid.txt", 2461, 5272), ("test.txt", 2891, 5920)]
)
def test_wikitext_2_counts(file, texts, rows):
    kept = wikitext_2(file)
    ids = list(map(WordTokenizer.build(kept, 1000).encode, kept))
    assert (len(kept), len(cut(ids, "original", 64, 32))) == (texts, rows)


@pytest.mark.parametrize(
    ("file", "skipped", "short", "long", "tokens", "longest", "dropped"),
    [
        ("valid.txt", 65, 1059, 1337, 218_459, 431, 20_174),
        ("test.txt", 180, 1204, 1507, 246_181, 483, 23_020),
    ],
)
def test_wikitext_2_table(file, skipped, short, long, tokens, longest, dropped):
    """The counts of the original research, recomputed from the windows alone where they show in them."""
    kept = wikitext_2(file)
    tokenizer = WordTokenizer.build(kept, 1000)
    ids = [tokenizer.encode(text) for text in kept]
    result = cut(ids, "original", 64, 32)
    first = result[:, 0] == BOS
    covered = np.count_nonzero(result[first]) + 32 * np.count_nonzero(~first)
    long_enough = [text for text in ids if len(text) >= 7]
    assert len(kept) - first.sum() == skipped
    assert sum(map(len, long_enough)) == tokens
    assert tokens - covered == dropped
    assert max(map(len, ids)) == longest
    assert sum(len(text) <= 64 for text in long_enough) == short
    assert first.sum() == short + long
