import contextlib
import dataclasses
import json
import math
import shutil
import weakref
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from tune_newllm.artifacts import evaluation, speed
from tune_newllm.artifacts.checkpoint import load_checkpoint
from tune_newllm.artifacts.compare import evaluate_checkpoint
from tune_newllm.artifacts.evaluation import Asked, _beginnings, evaluate_all
from tune_newllm.artifacts.export import export
from tune_newllm.artifacts.generate import Sampling, generate
from tune_newllm.data.config import CorpusConfig
from tune_newllm.data.corpora import prepare
from tune_newllm.data.tokenizer import WordTokenizer
from tune_newllm.errors import UsageError
from tune_newllm.models import ModelConfig, build
from tune_newllm.training.checkpoints import WEIGHTS
from tune_newllm.training.config import Configuration, TrainingConfig
from tune_newllm.training.run import Run
from tune_newllm.training.weights import save_weights

GREEDY = Sampling(5, temperature=0)


@pytest.fixture(scope="module")
def pieces(place):
    """A run on the same texts by pieces of words."""
    config = CorpusConfig(name="toy", window=16, vocab_size=270, tokenizer="bpe")
    training = TrainingConfig(epochs=1, batch_size=64, lr=3e-3, precision="fp32", device="cpu", micro_batch=64)
    model = ModelConfig(family="gpt2", embed_dim=8, hidden_dim=16, num_layers=1, num_heads=2, num_positions=16)
    list(Run(place / "pieces", Configuration(config, model, training), prepare(config)).epochs())
    return place / "pieces"


def evaluated(folders, **changes):
    asked = {"corpora": [], "split": "validation", "prompts": ["ba"], "sampling": GREEDY, "speed": False}
    return evaluate_all(folders, **(asked | {"device": "cpu"} | changes))


def test_what_is_gathered_is_json_and_what_the_parts_say(run, checkpoint, corpus):
    found = evaluated([run])
    assert json.loads(json.dumps(found)) == found
    score = dataclasses.asdict(evaluate_checkpoint(checkpoint, "validation", corpus))
    row = found["scores"][0]
    assert {key: row[key] for key in score if key != "tokens_per_s"} == {
        key: score[key] for key in score if key != "tokens_per_s"
    }
    assert found["texts"][0]["text"] == generate(checkpoint.model, checkpoint.tokenizer, "ba", GREEDY)
    assert found["checkpoints"][0]["parameters"] == sum(each.numel() for each in checkpoint.model.parameters())
    assert (found["passes"], found["readings"]) == ([], [])


def test_models_with_other_vocabularies_compare_by_words(run, pieces, corpus):
    found = evaluated([run, pieces])
    assert (found["same_vocabulary"], found["same_texts"]) == (False, True)
    words = corpus.stats["validation"]["words"]
    for row, folder in zip(found["scores"], (run, pieces), strict=True):
        score = evaluate_checkpoint(load_checkpoint(folder), "validation")
        assert row["nats_per_word"] == pytest.approx(score.loss * score.targets / words)
        assert row["bits_per_word"] == pytest.approx(row["nats_per_word"] / math.log(2))
    # The texts are the same, whatever numbers they are written in.
    assert prepare(load_checkpoint(pieces).configuration.corpus).stats["validation"]["words"] == words
    assert found["scores"][0]["targets"] < found["scores"][1]["targets"]


def test_no_figure_per_word_where_tokens_are_left_out_or_read_twice(checkpoint):
    asked = checkpoint.configuration.corpus
    for change in ({"max_tokens": 9}, {"windowing": "original"}):
        cut = prepare(dataclasses.replace(asked, **change), tokenizer=checkpoint.tokenizer)
        assert evaluate_checkpoint(checkpoint, "validation", cut).bits_per_word is None


def test_all_are_measured_on_the_corpora_asked_for_in_their_own_words(run, pieces, tmp_path):
    texts = {"old.txt": "ba de ba de\n" * 30, "new.txt": "fi go hu ki\n" * 30}
    for name, text in texts.items():
        (tmp_path / name).write_text(text)

    def asked(name):
        file = str(tmp_path / name)
        config = CorpusConfig(name="text", train=file, validation=file, test=file, window=16)
        return Asked(name, lambda _: config)

    found = evaluated([run, pieces], corpora=[asked("old.txt"), asked("new.txt")])
    assert [(row["checkpoint"], row["corpus"]) for row in found["scores"]] == [
        (checkpoint, corpus) for checkpoint in ("run", "pieces") for corpus in ("old.txt", "new.txt")
    ]
    by_hand = prepare(asked("new.txt").config(None), tokenizer=load_checkpoint(run).tokenizer)
    assert found["scores"][1]["loss"] == evaluate_checkpoint(load_checkpoint(run), "validation", by_hand).loss


def test_beginnings_of_texts_are_continued_where_no_prompt_is_given(run, corpus):
    found = evaluated([run], prompts=[])
    texts = [corpus.tokenizer.decode(row[1:5].tolist(), skip_special=True) for row in corpus.validation if row[0] == 2]
    assert found["prompts"] == list(dict.fromkeys(texts))[:3]
    assert [row["prompt"] for row in found["texts"]] == found["prompts"]


@pytest.mark.parametrize(("others", "texts"), [([[2, 4, 5, 6, 7]], ["a b c d"]), ([], ["b c d"])])
def test_beginnings_have_no_unknown_word_where_others_are_there(others, texts):
    windows = np.array([[2, 1, 5, 6, 7], *others])
    corpus = SimpleNamespace(test=None, validation=windows, tokenizer=WordTokenizer("abcd"))
    assert _beginnings(corpus, "validation") == texts


def test_names_are_as_short_as_keeps_them_apart(run, tmp_path):
    folders = [shutil.copytree(run, tmp_path / name / "best") for name in ("a", "b")]
    found = evaluated(folders)
    assert [row["name"] for row in found["checkpoints"]] == ["a/best", "b/best"]
    assert [row["name"] for row in evaluated([run])["checkpoints"]] == ["run"]


def test_each_own_corpus_is_no_comparison_where_they_differ(run, pieces, place):
    config = CorpusConfig(name="toy", window=16, vocab_size=60, max_tokens=12)
    training = TrainingConfig(epochs=1, batch_size=64, precision="fp32", device="cpu", micro_batch=64)
    shape = ModelConfig(embed_dim=8, hidden_dim=8, ctx_dim=8, num_layers=1)
    list(Run(place / "cut", Configuration(config, shape, training), prepare(config)).epochs())
    assert not evaluated([run, place / "cut"])["same_texts"]


def other_texts(place, text):
    """A run on this text, which a relative path of every such run names."""
    place.mkdir()
    (place / "text.txt").write_text(text * 30)
    config = CorpusConfig(name="text", train="text.txt", validation="text.txt", window=16, vocab_size=20)
    training = TrainingConfig(epochs=1, batch_size=64, precision="fp32", device="cpu", micro_batch=64)
    shape = ModelConfig(embed_dim=8, hidden_dim=8, ctx_dim=8, num_layers=1)
    with contextlib.chdir(place):
        corpus = prepare(config)
        list(Run(place / "trials" / "t", Configuration(config, shape, training), corpus).epochs())
    shutil.copytree(corpus.folder, place / "data")
    return place / "trials" / "t"


def test_texts_are_compared_by_what_they_hold(tmp_path):
    first = other_texts(tmp_path / "a", "ba de fi go\n")
    assert evaluated([first, other_texts(tmp_path / "b", "ba de fi go\n")])["same_texts"]
    other = other_texts(tmp_path / "c", "go fi de ba\n")
    assert not evaluated([first, other])["same_texts"]
    # Of what an older version prepared only the number of texts and words is known.
    meta = tmp_path / "c" / "data" / "meta.json"
    content = json.loads(meta.read_text())
    del content["text_hashes"]
    meta.write_text(json.dumps(content))
    assert evaluated([first, other])["same_texts"]


def test_the_split_is_test_where_there_is_one(run, tmp_path):
    assert [row["split"] for row in evaluated([run], split=None)["scores"]] == ["test"]
    untested = other_texts(tmp_path / "a", "ba de\n")
    assert [row["split"] for row in evaluated([run, untested], split=None)["scores"]] == ["test", "validation"]
    with pytest.raises(UsageError, match=f"the corpus of {untested} has no test split"):
        evaluated([run, untested], split="test")


def test_only_one_checkpoint_is_in_memory(run, pieces, monkeypatch):
    models = []

    def load(*args):
        assert all(model() is None for model in models)
        loaded = load_checkpoint(*args)
        models.append(weakref.ref(loaded.model))
        return loaded

    monkeypatch.setattr(evaluation, "load_checkpoint", load)
    evaluated([run, pieces, run])
    assert len(models) == 3


def test_int8_is_compared_with_what_it_was_made_from(run, corpus, copy_of_run, tmp_path):
    other = load_checkpoint(copy_of_run)
    with torch.no_grad():
        other.model.output.bias.add_(torch.linspace(0, 3, other.vocab_size))
    save_weights(other.model.state_dict(), copy_of_run / WEIGHTS)
    export(run, tmp_path / "small", corpus=corpus, provenance={}, int8="weights")
    found = evaluated([copy_of_run, run, tmp_path / "small"])
    ppl = [row["ppl"] for row in found["scores"]]
    assert found["int8"] == [
        {"checkpoint": "small", "made_from": "run", "change": ppl[2] / ppl[1] - 1, "verdict": "ok"}
    ]
    assert abs(found["int8"][0]["change"]) < 0.03 < ppl[0] / ppl[1] - 1
    assert evaluated([copy_of_run, tmp_path / "small"])["int8"] == []
    # An export of an older version does not say what it was made from.
    summary = json.loads((tmp_path / "small" / "summary.json").read_text())
    del summary["int8"]["fp32_weights"]
    (tmp_path / "small" / "summary.json").write_text(json.dumps(summary))
    assert evaluated([run, tmp_path / "small"])["int8"] == []


def test_speed_is_measured_on_demand(run, monkeypatch):
    monkeypatch.setattr(speed, "LENGTHS", (16,))
    monkeypatch.setattr(speed, "_SECONDS", 0)
    found = evaluated([run], speed=True)
    assert [row["checkpoint"] for row in found["passes"]] == ["run"] * 2
    assert [(row["batch"], row["context"]) for row in found["readings"]] == [(1, 16), (32, 16)]


def test_a_stream_has_figures_per_word_too(checkpoint):
    asked = dataclasses.replace(checkpoint.configuration.corpus, windowing="stream")
    stream = prepare(asked, tokenizer=checkpoint.tokenizer)
    shape = ModelConfig(family="fixed_point", embed_dim=8, ctx_dim=8, num_layers=1)
    model = build(shape, checkpoint.vocab_size, seed=0).eval()
    score = evaluate_checkpoint(dataclasses.replace(checkpoint, model=model), "validation", stream)
    assert score.targets == stream.stats["validation"]["tokens"] - 1
    assert score.nats_per_word == pytest.approx(score.loss * score.targets / stream.stats["validation"]["words"])
