"""`evaluate`, `export` and `generate` on checkpoints of single runs."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from tune_newllm.cli.checkpoints import export, generate
from tune_newllm.cli.evaluation import evaluate
from tune_newllm.cli.training import train
from tune_newllm.errors import CorpusError, TuneError

SPEC = """\
corpus: {{name: text, train: {name}.txt, validation: {name}.txt, test: {name}.txt, window: 16, vocab_size: 40}}
model: {{embed_dim: 8, hidden_dim: 16, ctx_dim: 8, num_layers: 1}}
training: {{epochs: 4, batch_size: 8, lr: 2e-2, precision: fp32, micro_batch: 64, device: cpu}}
method: random
parameters: {{training.lr: {{values: [2e-2]}}}}
run_cap: 1
"""
DIALOGUES = """\
corpus: {name: text, train: talk.jsonl, validation: talk.jsonl, field: dialog, turns: marked, window: 16}
model: {embed_dim: 8, hidden_dim: 16, ctx_dim: 8, num_layers: 1}
training: {start: before, new_words: 4, epochs: 1, batch_size: 8, precision: fp32, micro_batch: 64, device: cpu}
"""
TALK = [["ba de fi", "oh ba go", "hu hu de"], ["go fi de", "oh oh ba"]]
TEXTS = {"old": "ba de fi go ba de fi go hu\n", "new": "go ba go ba fi fi de de de\n"}


def call(command, *args):
    """What a command prints on stdout and on stderr."""
    ended = CliRunner().invoke(command, [*map(str, args)], standalone_mode=False)
    if ended.exception:
        raise ended.exception
    return ended.stdout, ended.stderr


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Two corpora, a model of the first, and the same model trained on with the second or with dialogues."""
    folder = tmp_path_factory.mktemp("forgetting")
    for name, text in TEXTS.items():
        (folder / f"{name}.txt").write_text(text * 60)
        (folder / f"{name}.yaml").write_text(SPEC.format(name=name))
    (folder / "talk.jsonl").write_text("\n".join(json.dumps({"dialog": turns}) for turns in TALK * 10))
    (folder / "talk.yaml").write_text(DIALOGUES)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        call(train, "old.yaml", "--to", "before")
        call(train, "new.yaml", "--from", "before", "--to", "after")
        call(train, "talk.yaml", "--to", "talk")
    return folder


@pytest.fixture(autouse=True)
def here(place, monkeypatch):
    monkeypatch.chdir(place)


def test_forgetting_shows_in_a_column_for_each_corpus():
    asked = ("before", "after", "--corpus", "old.yaml", "--corpus", "new.yaml")
    out, _ = call(evaluate, *asked, "--prompt", "ba de")
    ppl = {
        (row["checkpoint"], row["corpus"]): row["ppl"]
        for row in json.loads(call(evaluate, *asked, "--json")[0])["scores"]
    }
    assert ppl["after", "old"] > 1.5 * ppl["before", "old"]
    assert ppl["after", "new"] < ppl["before", "new"] / 1.5
    table = out.split("perplexity, and how far it is from the first one's\n")[1].splitlines()
    assert table[0].split() == ["old", "new"]
    assert table[1].split()[0] == "before"
    assert table[2].startswith("after")
    assert table[2].count(" %)") == 2
    assert "'ba de'" in out
    assert max(map(len, out.splitlines()[3:])) <= 100


def test_a_corpus_by_its_file_is_cut_as_the_training_was(place):
    row = json.loads(call(evaluate, "before", "--corpus", "new.txt", "--json")[0])["scores"][0]
    other = json.loads(call(evaluate, "before", "--corpus", "new.yaml", "--json")[0])["scores"][0]
    assert (row["corpus"], row["window"]) == ("new.txt", 16)
    assert row["loss"] == other["loss"]
    with pytest.raises(TuneError, match="there is no corpus 'mew'"):
        call(evaluate, "before", "--corpus", "mew")


def test_int8_from_a_run_is_measured_beside_it_and_goes_on_with_texts(tmp_path):
    out, _ = call(export, "before", "--int8", "--to", tmp_path / "small")
    assert "int8: " in out
    assert "MiB of weights, validation perplexity" in out
    run, small = (json.loads((Path(name) / "provenance.json").read_text()) for name in ("before", tmp_path / "small"))
    assert run.items() <= small.items()
    page = tmp_path / "page.html"
    out, _ = call(evaluate, "before", tmp_path / "small", "--html", page)
    assert "int8 takes small from" in out
    assert page.exists()
    text, _ = call(generate, tmp_path / "small", "--prompt", "ba de", "--temperature", "0", "--tokens", "4")
    assert text.startswith("ba de")


def test_export_of_a_run_takes_no_trial(tmp_path):
    with pytest.raises(TuneError, match="leave --trial out"):
        call(export, "before", "--trial", "t0000", "--to", tmp_path / "small")


def test_int8_is_of_one_kind(tmp_path):
    with pytest.raises(TuneError, match="give one of them"):
        call(export, "before", "--int8", "--int8-dynamic", "--to", tmp_path / "small")


def scores(*asked):
    return json.loads(call(evaluate, *asked, "--prompt", "ba", "--json")[0])["scores"]


def test_fine_tuning_is_measured_as_the_documents_say():
    """The dialogues have no test split, and new words that the first model does not know."""
    out, warned = call(evaluate, "before", "talk", "--corpus", "talk.yaml", "--corpus", "old.yaml")
    assert out.startswith("On the validation split of talk ")
    assert "\nOn the test split of old before has" in out
    assert "\nvalidation split, talk\n" in out
    assert "perplexity of the words known to all, and how far it is from the first one's\n" in out
    assert warned == ""
    with pytest.raises(TuneError, match=r"^talk has no test split: leave --split out"):
        call(evaluate, "before", "talk", "--corpus", "old.yaml", "--corpus", "talk.yaml", "--split", "test")


def test_a_model_that_was_trained_on_from_another_gives_no_warning():
    assert call(evaluate, "after")[1] == ""


def test_corpora_of_one_name_keep_apart(place):
    for name, text in TEXTS.items():
        (place / f"in_{name}").mkdir()
        (place / f"in_{name}" / "test.txt").write_text(text * 60)
    asked = ("in_old/test.txt", "in_new/test.txt", "in_old/test.txt")
    apart = scores("before", *(word for name in asked for word in ("--corpus", name)))
    assert [row["corpus"] for row in apart] == ["in_old/test.txt", "in_new/test.txt"]
    by_name = scores("before", "--corpus", "old.txt", "--corpus", "new.txt")
    assert [row["loss"] for row in apart] == [row["loss"] for row in by_name]
    assert [row["corpus"] for row in scores("before", "--corpus", "old.txt", "--corpus", "old.yaml")] == [
        "old.txt", "old"
    ]  # fmt: skip


def test_turns_and_field_are_those_of_the_corpus_asked_for(place):
    talk = [row["loss"] for row in scores("before", "talk", "--corpus", "talk.jsonl")]
    assert talk == [row["loss"] for row in scores("before", "talk", "--corpus", "talk.yaml")]
    assert scores("before", "--corpus", "talk.jsonl")[0]["loss"] != talk[0]
    (place / "plain.jsonl").write_text('{"text": "ba de fi"}\n')
    (place / "plain.txt").write_text("ba de fi\n")
    lines, rows = (scores("talk", "--corpus", f"plain.{kind}")[0]["loss"] for kind in ("txt", "jsonl"))
    assert lines == rows
    assert scores("talk", "--corpus", "toy")[0]["corpus"] == "toy"
    (place / "odd.jsonl").write_text('{"words": "ba de fi"}\n')
    for text, why in (("text", "needs train and validation"), ("odd.jsonl", "no field text, only words")):
        with pytest.raises(CorpusError, match=why):
            call(evaluate, "talk", "--corpus", text)


@pytest.mark.parametrize(
    ("asked", "temperature"), [((), 0.0), (("--top-k", 5), 0.8), (("--seed", 0), 0.8), (("--temperature", 2), 2.0)]
)
def test_texts_are_drawn_where_it_is_asked_for(asked, temperature, monkeypatch):
    asked_for = []
    monkeypatch.setattr("tune_newllm.artifacts.evaluation.generate", lambda *args: asked_for.append(args[-1]) or "")
    call(evaluate, "before", "--prompt", "ba", *asked)
    assert asked_for[0].temperature == temperature
