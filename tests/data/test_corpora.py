import json
import math
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tune_newllm.data import corpora, toy
from tune_newllm.data.config import CorpusConfig
from tune_newllm.data.corpora import default_cache, open_prepared, prepare
from tune_newllm.data.subwords import SubwordTokenizer
from tune_newllm.data.tokenizer import WordTokenizer
from tune_newllm.errors import CorpusError

TOY = CorpusConfig(name="toy", window=16)


@pytest.fixture
def prepared(tmp_path):
    return prepare(TOY, tmp_path / "cache")


def write_text_corpus(folder, words=("alpha beta gamma alpha beta delta", "alpha beta")):
    for split, text in zip(("train", "validation"), words, strict=True):
        (folder / f"{split}.txt").write_text(f"{text}\n")
    return CorpusConfig(
        name="text", train=str(folder / "train.txt"), validation=str(folder / "validation.txt"), vocab_size=6, window=4
    )


def test_windows_and_stats_by_hand(tmp_path):
    corpus = prepare(write_text_corpus(tmp_path), tmp_path / "cache")
    assert corpus.train.tolist() == [[2, 4, 5, 1], [1, 4, 5, 1], [1, 3, 0, 0]]
    assert corpus.validation.tolist() == [[2, 4, 5, 3]]
    assert corpus.test is None
    assert corpus.train.dtype == np.uint16
    assert corpus.stats["train"] == {
        "texts": 1, "words": 6, "tokens": 8, "windows": 3, "targets": 7, "unk_share": 2 / 7,
    }  # fmt: skip
    # Train targets 4 5 1 4 5 1 3 and one more of each of six ids: 3/13 for 4 and 5, 2/13 for EOS.
    assert corpus.stats["validation"]["unigram_ppl"] == pytest.approx((13**3 / (3 * 3 * 2)) ** (1 / 3))


def test_a_given_vocabulary_is_kept_and_cached_apart(tmp_path):
    config = write_text_corpus(tmp_path)
    learned = prepare(config, tmp_path / "cache")
    corpus = prepare(config, tmp_path / "cache", tokenizer=WordTokenizer(["beta", "delta", "zeta"]))
    assert corpus.train.tolist() == [[2, 1, 4, 1], [1, 1, 4, 5], [5, 3, 0, 0]]
    assert len(corpus.tokenizer) == 7
    assert prepare(config, tmp_path / "cache").fingerprint == learned.fingerprint != corpus.fingerprint


def test_pieces_by_hand(tmp_path):
    """Of `abab` the only pair that occurs twice is a b, which becomes the first piece after the bytes."""
    config = replace(write_text_corpus(tmp_path, ("abab", "Ab ab")), tokenizer="bpe", vocab_size=261)
    corpus = prepare(config, tmp_path / "cache")
    assert corpus.train.tolist() == [[2, 260, 260, 3]]
    assert corpus.tokenizer.encode("abab") == [2, 260, 260, 3]
    assert corpus.stats["validation"]["unk_share"] == 0
    assert (corpus.stats["validation"]["words"], corpus.stats["validation"]["tokens"]) == (2, 6)
    # Train targets 260 260 3 and one more of each of 261 ids; of A, b, space, ab and EOS three are not among them.
    assert corpus.stats["validation"]["unigram_ppl"] == pytest.approx((264**5 / (3 * 2)) ** (1 / 5))
    copy = open_prepared(shutil.copytree(corpus.folder, tmp_path / "copy"), verify=True)
    assert copy.tokenizer == corpus.tokenizer
    assert copy.tokenizer.kind == "bpe"


def test_texts_are_cut_to_so_many_tokens(tmp_path):
    config = replace(write_text_corpus(tmp_path), max_tokens=4)
    corpus = prepare(config, tmp_path / "cache")
    assert corpus.train.tolist() == [[2, 4, 5, 1]]
    assert corpus.validation.tolist() == [[2, 4, 5, 3]]
    assert corpus.stats["train"]["tokens"] == 4
    assert prepare(replace(config, max_tokens=9), tmp_path / "cache").stats["train"]["tokens"] == 8


def test_rows_of_a_stream_carry_on(tmp_path):
    """Of 5, 4 and 3 tokens rows of 4 complete 1, 2 and, padded, 4."""
    config = write_text_corpus(tmp_path, ("alpha beta gamma\nalpha beta\ngamma", "alpha"))
    corpus = prepare(replace(config, windowing="stream"), tmp_path / "cache")
    assert corpus.train.tolist() == [[2, 4, 5, 1], [1, 3, 2, 4], [4, 5, 3, 2], [2, 1, 3, 0]]
    assert corpus.train_ends.tolist() == [1, 2, 4]
    assert corpus.first(2).train.tolist() == corpus.train.tolist()[:2]
    assert corpus.stats["train"]["targets"] == corpus.stats["train"]["tokens"] - 1
    assert (corpus.carries, prepare(config, tmp_path / "cache").carries) == (True, False)


def test_new_words_are_numbered_after_the_given_ones(tmp_path):
    """Of `alpha beta gamma alpha beta delta`, beta is known, and alpha, twice there, is the first of the others."""
    config, given = write_text_corpus(tmp_path), WordTokenizer(["beta", "zeta"])
    corpora = [prepare(config, tmp_path / "cache", tokenizer=given, new_words=new) for new in (0, 2, 9)]
    assert [len(corpus.tokenizer) for corpus in corpora] == [6, 8, 9]
    assert corpora[1].tokenizer.decode(range(4, 8)) == "beta zeta alpha gamma"
    assert corpora[1].train.tolist() == [[2, 6, 4, 7], [7, 6, 4, 1], [1, 3, 0, 0]]
    assert [corpus.stats["train"]["unk_share"] for corpus in corpora] == [4 / 7, 1 / 7, 0]
    assert len({corpus.folder for corpus in corpora}) == 3
    with pytest.raises(CorpusError, match="new_words is for tokenizers of words, got 2"):
        prepare(config, tmp_path / "cache", tokenizer=SubwordTokenizer.build(["a"], 260), new_words=2)


def test_the_vocabulary_is_of_the_train_split_only(prepared):
    texts = toy.read()
    assert len(prepared.tokenizer) == 12
    counts = Counter(word for text in texts["train"] for word in text.split())
    assert prepared.tokenizer.decode(range(4, 12)).split() == [word for word, _ in counts.most_common()]
    assert prepared.tokenizer.decode(prepared.validation[0], skip_special=True) in texts["validation"][0]


def test_an_exact_predictor_of_the_windows_reaches_the_entropy_rate(prepared):
    words = {number: prepared.tokenizer.decode([number]) for number in range(12)} | {2: None, 3: None}
    table = toy.transitions()
    pairs = zip(prepared.train[:, :-1].ravel().tolist(), prepared.train[:, 1:].ravel().tolist(), strict=True)
    losses = [-math.log(table[words[last]][words[target]]) for last, target in pairs if target]
    assert len(losses) == prepared.stats["train"]["targets"]
    assert np.mean(losses) == pytest.approx(toy.entropy_rate(), rel=0.01)


def test_first_keeps_the_windows_of_the_first_texts(tmp_path):
    """Windows of 4 hold 3 targets: the texts of 3, 2 and 1 words give 2, 1 and 1."""
    config = write_text_corpus(tmp_path, ("alpha beta gamma\nalpha beta\ngamma", "alpha"))
    corpus = prepare(config, tmp_path / "cache")
    assert corpus.train_ends.tolist() == [2, 3, 4]
    for texts, windows in ((1, 2), (2, 3), (3, 4), (99, 4), (None, 4)):
        first = corpus.first(texts)
        assert first.train.tolist() == corpus.train.tolist()[:windows]
        assert isinstance(first.train, np.memmap)
        assert (first.fingerprint, first.validation.tolist()) == (corpus.fingerprint, corpus.validation.tolist())
    assert corpus.first(2).first(1).train.tolist() == corpus.train.tolist()[:2]
    assert corpus.first(2).train_ends.tolist() == [2, 3]


def test_max_samples_is_all_that_is_prepared_and_learned_from(tmp_path):
    config = write_text_corpus(tmp_path, ("alpha beta alpha\nbeta gamma gamma gamma gamma", "alpha beta gamma"))
    whole = prepare(config, tmp_path / "cache")
    one = prepare(replace(config, max_samples=1), tmp_path / "cache")
    assert whole.tokenizer.decode([4, 5]) == "gamma alpha"
    assert one.tokenizer.decode([4, 5]) == "alpha beta"
    assert (one.stats["train"]["texts"], one.stats["validation"]["words"]) == (1, 3)
    assert one.train.tolist() == [[2, 4, 5, 4], [4, 3, 0, 0]]
    every = prepare(replace(config, max_samples=99), tmp_path / "cache")
    assert every.fingerprint == whole.fingerprint
    toys = [prepare(replace(TOY, max_samples=most), tmp_path / "cache") for most in (10, 20)]
    assert [len(corpus.train_ends) for corpus in toys] == [10, 20]
    assert toys[1].first(10).train.shape == toys[0].train.shape


def test_first_texts_without_a_window(tmp_path):
    config = write_text_corpus(tmp_path, ("= title =\na text of five words", "five words are just enough"))
    corpus = prepare(replace(config, windowing="original"), tmp_path / "cache")
    assert corpus.train_ends.tolist() == [0, 2]
    with pytest.raises(CorpusError, match=r"corpus\.max_samples must reach a text .* got 1"):
        corpus.first(1)


def test_windows_are_mapped_not_read(prepared):
    assert all(isinstance(array, np.memmap) for array in (prepared.train, prepared.validation, prepared.test))
    assert prepared.nbytes > prepared.train.nbytes


def test_a_copy_opens_elsewhere(prepared, tmp_path):
    shutil.copytree(prepared.folder, tmp_path / "copy")
    shutil.rmtree(prepared.folder.parent)
    copy = open_prepared(tmp_path / "copy")
    assert copy.fingerprint == prepared.fingerprint
    assert copy.stats == prepared.stats
    assert copy.tokenizer.encode("bal sot") == prepared.tokenizer.encode("bal sot")
    np.testing.assert_array_equal(copy.train[-1], copy.train[-1])


def test_it_is_prepared_once_per_content_vocabulary_and_windowing(tmp_path, monkeypatch):
    built = []
    real = corpora._write_windows
    monkeypatch.setattr(corpora, "_write_windows", lambda *args: built.append(args) or real(*args))
    config = write_text_corpus(tmp_path, ("alpha beta gamma alpha beta delta", "alpha beta alpha beta alpha"))
    first = prepare(config, tmp_path / "cache")
    assert prepare(config, tmp_path / "cache").folder == first.folder
    assert len(built) == 1
    prints = {first.fingerprint}
    fields = {"name": "text", "train": config.train, "validation": config.validation}
    others = ({"vocab_size": 7, "window": 4}, {"vocab_size": 6, "window": 5}, {"windowing": "original"},
              {"windowing": "stream", "window": 3}, {"tokenizer": "bpe"}, {"max_tokens": 3})  # fmt: skip
    for other in others:
        prints.add(prepare(CorpusConfig(**fields, **other), tmp_path / "cache").fingerprint)
    Path(config.train).write_text("alpha beta beta alpha\n")
    prints.add(prepare(config, tmp_path / "cache").fingerprint)
    assert len(built) == len(prints) == 8


def _truncate(path):
    path.write_bytes(path.read_bytes()[:-5])


def _flip(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("file", "damage"),
    [
        ("train.npy", _truncate),
        ("train.npy", _flip),
        ("test.npy", Path.unlink),
        ("train_ends.npy", _truncate),
        ("train_ends.npy", lambda path: np.save(path, np.arange(5))),
        ("tokenizer.json", Path.unlink),
        ("meta.json", _truncate),
        ("meta.json", Path.unlink),
    ],
)
def test_a_damaged_cache_is_prepared_anew(prepared, file, damage):
    damage(prepared.folder / file)
    if damage is not _flip:
        with pytest.raises(CorpusError, match="is damaged"):
            open_prepared(prepared.folder)
    again = prepare(TOY, prepared.folder.parent)
    assert again.fingerprint == prepared.fingerprint
    assert corpora._fingerprint(again.folder) == again.fingerprint


def test_a_folder_of_a_newer_format_is_refused(prepared):
    meta = json.loads((prepared.folder / "meta.json").read_text())
    (prepared.folder / "meta.json").write_text(json.dumps({**meta, "format": 99}))
    with pytest.raises(CorpusError, match="format 99"):
        open_prepared(prepared.folder)


def test_a_failure_leaves_nothing_behind(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(corpora, "_unigram_ppl", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            prepare(TOY, tmp_path)
    assert [path for path in tmp_path.iterdir() if path.suffix != ".lock"] == []
    assert prepare(TOY, tmp_path).stats["test"]["texts"] == toy.SENTENCES["test"]


PREPARE_SLOWLY = """
import sys, time
from pathlib import Path
from tune_newllm.data import corpora
real = corpora._write_windows
def slow(*args):
    print("built", flush=True)
    time.sleep(0.5)
    return real(*args)
corpora._write_windows = slow
print(corpora.prepare(corpora.CorpusConfig(name="toy", window=16), Path(sys.argv[1])).fingerprint)
"""


def test_processes_that_ask_at_once_share_one_preparation(tmp_path):
    command = [sys.executable, "-c", PREPARE_SLOWLY, str(tmp_path)]
    askers = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    lines = [line for asker in askers for line in asker.communicate(timeout=60)[0].split()]
    assert lines.count("built") == 1
    assert len(set(lines)) == 2
    assert len([path for path in tmp_path.iterdir() if path.is_dir()]) == 1


def test_without_locks_the_first_rename_wins(tmp_path, monkeypatch):
    """Another process finishes while this one is still writing, on a disk that knows no locks."""

    class NoLock:
        def __init__(self, path):
            pass

        def acquire(self):
            raise NotImplementedError

        def release(self):
            pass

    real = corpora._write_windows
    inner = []

    def overtaken(*args):
        if not inner:
            inner.append(None)
            inner.append(prepare(TOY, tmp_path))
            inner.append(inner[1].folder.stat().st_ino)
        return real(*args)

    monkeypatch.setattr(corpora, "FileLock", NoLock)
    monkeypatch.setattr(corpora, "_write_windows", overtaken)
    assert prepare(TOY, tmp_path).fingerprint == inner[1].fingerprint
    assert [path.name for path in tmp_path.iterdir()] == [inner[1].folder.name]
    assert inner[1].folder.stat().st_ino == inner[2], "the folder that others may have open was replaced"


def test_unknown_corpus_names_the_nearest(tmp_path):
    with pytest.raises(
        CorpusError, match="'python_docs': did you mean python-docs\\? known are python-docs, text, toy, wikitext-2"
    ):
        prepare(CorpusConfig(name="python_docs"), tmp_path)


def test_empty_after_windowing(tmp_path):
    config = write_text_corpus(tmp_path)
    files = {"train": config.train, "validation": config.validation}
    with pytest.raises(CorpusError, match=r"corpus\.validation: no text is long enough"):
        prepare(CorpusConfig(name="text", windowing="original", **files), tmp_path / "cache")


def test_a_cache_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CorpusError, match="set TUNE_NEWLLM_CACHE"):
        prepare(TOY, tmp_path / "file" / "cache")


def test_default_cache(monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    monkeypatch.delenv("TUNE_NEWLLM_CACHE", raising=False)
    assert default_cache() == Path("/xdg/tune_newllm")
    monkeypatch.setenv("TUNE_NEWLLM_CACHE", "/own")
    assert default_cache() == Path("/own")
