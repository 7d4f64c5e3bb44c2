"""The hub's corpora under their real names, from a small hub of our own, in a process that knows no other hub."""

import io
import json
import os
import re
import shutil
import subprocess
import sys
import time

import pandas as pd
import pytest
from hub_server import Hub

ANSWERS = """
import json, sys
from pathlib import Path
from tune_newllm.data.corpora import CorpusConfig, CorpusError, prepare
for line in sys.stdin:
    try:
        corpus = prepare(CorpusConfig(**json.loads(line)), progress=True)
        words = [corpus.tokenizer.decode(row, skip_special=True) for row in corpus.train.tolist()]
        held_out = {split: stats["texts"] for split, stats in corpus.stats.items() if split != "train"}
        answer = {"folder": corpus.folder.name, "fingerprint": corpus.fingerprint, "words": words, "held_out": held_out}
        answer |= {"first": corpus.train[0].tolist(), "kind": corpus.tokenizer.kind, "notes": corpus.notes}
        answer["validation"] = corpus.validation.tolist()
    except CorpusError as error:
        answer = {"refused": str(error)}
    print(json.dumps(answer), flush=True)
"""

WIKITEXT_CARD = """---
configs:
- config_name: wikitext-103-raw-v1
  data_files:
  - {split: test, path: wikitext-103-raw-v1/test-*}
  - {split: train, path: wikitext-103-raw-v1/train-*}
  - {split: validation, path: wikitext-103-raw-v1/validation-*}
- config_name: wikitext-2-raw-v1
  data_files:
  - {split: test, path: wikitext-2-raw-v1/test-*}
  - {split: train, path: wikitext-2-raw-v1/train-*}
  - {split: validation, path: wikitext-2-raw-v1/validation-*}
---
"""


def parquet(**columns):
    file = io.BytesIO()
    pd.DataFrame(columns).to_parquet(file, index=False)
    return file.getvalue()


def wikitext(word="knight"):
    """As in Salesforce/wikitext: one string column, headings, paragraphs and empty rows between them."""
    rows = {
        "train": ["", " = Valkyria = \n", " \n", f" A {word} rode . \n", f" The {word} fell . \n"],
        "validation": ["", f" The {word} rode . \n", ""],
        "test": [" = Homarus = \n", " The end . \n"],
    }
    files = {"README.md": WIKITEXT_CARD.encode()}
    for configuration in ("wikitext-2-raw-v1", "wikitext-103-raw-v1"):
        for split, texts in rows.items():
            files[f"{configuration}/{split}-00000-of-00001.parquet"] = parquet(text=texts)
    return files


ULTRACHAT_CARD = """---
configs:
- config_name: default
  data_files:
  - {split: train_sft, path: data/train_sft-*}
  - {split: test_sft, path: data/test_sft-*}
  - {split: train_gen, path: data/train_gen-*}
  - {split: test_gen, path: data/test_gen-*}
---
"""


def dailydialog():
    """As in OpenRL/daily_dialog: lists of utterances, and a label for each."""
    said = {"train": ["Hello , Jim . ", " Fine ! "], "validation": ["Bye ."], "test": ["Well ?", "Well ."]}
    return {
        f"data/{split}-00000-of-00001-66dc7d981b70c918.parquet": parquet(
            dialog=[turns] * 2, act=[[1] * len(turns)] * 2, emotion=[[0] * len(turns)] * 2
        )
        for split, turns in said.items()
    }


def ultrachat():
    """As in HuggingFaceH4/ultrachat_200k, with 250 conversations held out; each is its number, asked and answered."""
    files = {"README.md": ULTRACHAT_CARD.encode()}
    for split, count in (("train_sft", 5), ("test_sft", 250), ("train_gen", 1), ("test_gen", 1)):
        prompts = [f"{split}{number}" for number in range(count)]
        messages = [[{"content": p, "role": "user"}, {"content": f"{p}!", "role": "assistant"}] for p in prompts]
        files[f"data/{split}-00000-of-00001-0d0e.parquet"] = parquet(
            prompt=prompts, prompt_id=prompts, messages=messages
        )
    return files


def chats():
    """A train split only, the conversations a list of objects without roles, the rest strings, one with gaps."""
    messages = [[{"from": "user", "content": "hello"}]] * 4
    prompts = ["one two", None, " three ", "four"]
    return {
        "data/train-00000-of-00001.parquet": parquet(prompt=prompts, messages=messages, score=range(4), id=list("abcd"))
    }


def gpt2():
    """As GPT-2's own file, with the first of its pieces only: `!` is 0, and the one that ends a text is the last."""
    alphabet = ["!", *(letter for letter in map(chr, range(34, 127))), "Ġ"]
    pieces = [*alphabet, "to", "Ġb", "Ġbe", "<|endoftext|>"]
    model = {"type": "BPE", "vocab": {piece: i for i, piece in enumerate(pieces)}, "merges": ["t o", "Ġ b", "Ġb e"]}
    ending = {"id": len(pieces) - 1, "content": pieces[-1], "single_word": False, "lstrip": False, "rstrip": False,
              "normalized": True, "special": True}  # fmt: skip
    return {"tokenizer.json": json.dumps({"version": "1.0", "added_tokens": [ending], "model": model}).encode()}


class Asker:
    """A process that prepares corpora, with caches of its own."""

    def __init__(self, folder, **environment):
        caches = {"HF_HOME": str(folder / "hf"), "TUNE_NEWLLM_CACHE": str(folder / "prepared")}
        self.folder = folder
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
        self._process = subprocess.Popen(
            [sys.executable, "-c", ANSWERS], text=True, cwd=folder, env=inherited | caches | environment,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    def __call__(self, name, **fields):
        self._process.stdin.write(json.dumps({"name": name, "window": 8, **fields}) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def forget(self):
        shutil.rmtree(self.folder / "hf")

    def close(self):
        """What it said on stderr."""
        return self._process.communicate(timeout=60)[1]


@pytest.fixture(scope="module")
def hub():
    hub = Hub()
    hub.repositories = {
        "Salesforce/wikitext": wikitext(),
        "someone/chats": chats(),
        "OpenRL/daily_dialog": dailydialog(),
        "HuggingFaceH4/ultrachat_200k": ultrachat(),
        "someone/scripted": {"scripted.py": b"", "data.txt": b"words"},
        "someone/secret": {"README.md": b""},
    }
    hub.models = {"openai-community/gpt2": gpt2()}
    hub.gated = {"someone/secret"}
    yield hub
    hub.close()


@pytest.fixture(scope="module")
def ask(hub, tmp_path_factory):
    asker = Asker(tmp_path_factory.mktemp("asker"), HF_ENDPOINT=hub.address)
    yield asker
    assert asker.close() == ""


def test_wikitext_is_downloaded_once_and_stays_as_it_was(hub, ask):
    hub.repositories["Salesforce/wikitext"] = wikitext()
    first = ask("wikitext-2")
    assert first["words"] == ["= valkyria =", "a knight rode .", "the knight fell ."]
    assert first["held_out"] == {"validation": 1, "test": 2}
    assert first["folder"].startswith("wikitext-2-")

    asked = len(hub.requests)
    hub.repositories["Salesforce/wikitext"] = wikitext("horse")
    assert ask("wikitext-2") == first
    sliced = ask("wikitext-2", train="train[3:]", validation="validation+test", max_samples=1)
    assert sliced["words"] == ["a knight rode ."]
    assert sliced["held_out"] == {"validation": 3, "test": 2}
    assert len(hub.requests) == asked

    ask.forget()
    (ask.folder / "hf/datasets/Salesforce___wikitext/wikitext-2-raw-v1/0.0.0/abc.incomplete").mkdir(parents=True)
    changed = ask("wikitext-2")
    assert changed["words"][1] == "a horse rode ."
    assert changed["folder"] != first["folder"]
    hub.repositories["Salesforce/wikitext"] = wikitext()
    ask.forget()
    assert ask("wikitext-2") == first


def test_any_dataset_with_its_own_splits_and_field(ask):
    slices = {"train": "train[:3]", "validation": "train[3:]", "field": "prompt"}
    corpus = ask("hf:someone/chats", **slices)
    assert corpus["words"] == ["one two", "three"]
    assert corpus["held_out"] == {"validation": 1}
    assert corpus["folder"].startswith("hf-someone-chats-")


def test_dialogues_under_names_of_our_own(ask):
    plain = ask("dailydialog", window=16)
    assert plain["words"] == ["hello , jim . fine !"] * 2
    assert plain["held_out"] == {"validation": 2, "test": 2}
    marked = ask("dailydialog", turns="marked", window=16)
    assert marked["words"] == ["<|speaker1|> hello , jim . <|speaker2|> fine !"] * 2
    assert ask("hf:OpenRL/daily_dialog", field="dialog", window=16)["fingerprint"] == plain["fingerprint"]


def test_what_is_held_out_of_ultrachat_does_not_depend_on_the_amount_of_data(ask):
    """The second hundred is the test split; with GPT-2's pieces, which no corpus changes, even the ids are equal."""
    few, all_of_them = (ask("ultrachat", max_samples=most, tokenizer="gpt2") for most in (2, None))
    assert ask("ultrachat", max_samples=2)["words"] == [f"train_sft{n} train_sft{n}!" for n in range(2)]
    assert few["held_out"] == all_of_them["held_out"] == {"validation": 100, "test": 100}
    assert few["validation"] == all_of_them["validation"]
    assert len(few["words"]) < len(all_of_them["words"])


@pytest.mark.parametrize(
    ("name", "fields", "message"),
    [
        ("hf:Salesforce/wikitext", {}, "several configurations, name one as in hf:Salesforce/wikitext:wikitext-103-"),
        ("hf:Salesforce/wikitext:wikitext-2", {}, "no configuration wikitext-2.*did you mean wikitext-2-raw-v1"),
        ("hf:someone/chat", {}, "there is none that you may read: check http.*/datasets/someone/chat; for a private"),
        ("hf:someone/secret", {}, "gated: accept its terms at http.*/datasets/someone/secret, then log in"),
        ("hf:someone/scripted", {}, "made by a script.*give its files to the corpus text"),
        ("hf:wikitext", {}, "OWNER/NAME:CONFIG, got 'hf:wikitext': did you mean wikitext-2"),
        ("wikitext", {}, "no corpus 'wikitext': did you mean wikitext-2"),
        ("WikiText103", {}, "did you mean wikitext-103"),
        ("someone/chats", {}, "did you mean hf:someone/chats"),
        ("hf:someone/chats", {"field": "prompt"}, r'corpus.validation: .*known are train; .*: "train\[95%:\]"'),
        ("hf:someone/chats", {"train": "train[200%:]"}, r"corpus.train: 'train\[200%:\]' is no slice"),
        ("hf:someone/chats", {"validation": "train", "field": "messages"}, "a list or an object: known are prompt, id"),
        ("hf:someone/chats", {"validation": "train", "field": "score"}, "got score, which holds int64: known"),
        ("hf:someone/chats", {"validation": "train", "field": "promt"}, "which it has not: did you mean prompt"),
        ("hf:someone/chats", {"validation": "train[1:2]", "field": "prompt"}, r"train\[1:2\] of .* holds no text"),
    ],
)  # fmt: skip
def test_refusals_are_one_line_that_says_what_to_do(ask, name, fields, message):
    refused = ask(name, **fields)["refused"]
    assert re.search(message, refused), refused
    assert "\n" not in refused


def test_without_a_network_what_is_not_in_the_cache_is_refused_at_once(tmp_path):
    """The hub falls silent between two questions; an address that never answers would cost its two seconds."""
    hub = Hub()
    hub.repositories["Salesforce/wikitext"] = wikitext()
    ask = Asker(tmp_path, HF_ENDPOINT=hub.address)
    known = ask("wikitext-2")
    for hub.answers, why in (0, "it answers 403, not as a hub"), (1, ""), (3, ""):
        began = time.monotonic()
        refused = ask("wikitext-103")["refused"]
        assert time.monotonic() - began < 5
        assert "\n" not in refused
        assert re.search(f"is out of reach .*{why}.*python-docs needs no network", refused), refused
    hub.close()
    assert ask("wikitext-2") == known
    began = time.monotonic()
    refused = ask("wikitext-103")["refused"]
    assert time.monotonic() - began < 3
    for part in ("wikitext-103 is not in the cache", str(tmp_path / "hf"), "run once with a network", "field: text",
                 "Connection refused", "python-docs needs no network"):  # fmt: skip
        assert part in refused
    assert ask.close() == ""


def test_offline_mode_asks_nobody(hub, tmp_path):
    ask = Asker(tmp_path, HF_ENDPOINT=hub.address, HF_HUB_OFFLINE="1")
    asked = len(hub.requests)
    assert "offline mode is set" in ask("wikitext-2")["refused"]
    learned = ask("toy", tokenizer="gpt2")
    assert len(hub.requests) == asked
    assert learned["kind"] == "bpe"
    assert learned["fingerprint"] == ask("toy", tokenizer="bpe")["fingerprint"]
    (note,) = learned["notes"]
    assert re.search(r"GPT-2's pieces .*out of reach \(offline mode is set\)\. In their place 1000 pieces", note), note
    assert note in ask.close()


def test_gpt2s_pieces_keep_their_order_after_the_special_tokens(hub, ask, tmp_path):
    for split in ("train", "validation"):
        (tmp_path / f"{split}.txt").write_text("to be <|endoftext|>\n")
    files = {"train": str(tmp_path / "train.txt"), "validation": str(tmp_path / "validation.txt")}
    corpus = ask("text", tokenizer="gpt2", window=10, max_tokens=5, **files)
    assert (corpus["kind"], corpus["notes"]) == ("gpt2", [])
    assert corpus["first"] == [2, 4 + 95, 4 + 97, 4 + 94, 4 + ord("<") - 33, 0, 0, 0, 0, 0]
    asked = len(hub.requests)
    assert ask("text", tokenizer="gpt2", window=10, max_tokens=5, **files) == corpus
    assert len(hub.requests) == asked
