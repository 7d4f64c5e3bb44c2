import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset

from tune_newllm.data.config import CorpusConfig
from tune_newllm.data.corpora import prepare
from tune_newllm.data.turns import text_of
from tune_newllm.errors import CorpusError

DIALOG = ["Say , Jim , how about it ? ", " You know that is tempting . ", "  ", " Come on . "]
MESSAGES = [{"content": "Name a fish.\n", "role": "user"}, {"content": "Cod.", "role": "assistant"}]
JOINED = "Say , Jim , how about it ? You know that is tempting . Come on ."
MARKED = "<|speaker1|> Say , Jim , how about it ? <|speaker2|> You know that is tempting . <|speaker2|> Come on ."


@pytest.mark.parametrize(
    ("value", "plain", "marked"),
    [
        (DIALOG, JOINED, MARKED),
        (MESSAGES, "Name a fish.\n\nCod.", "<|user|> Name a fish.\n\n<|assistant|> Cod."),
        ([{"role": "Tool call", "content": "x"}, {"role": "user", "content": None}], "x", "<|tool-call|> x"),
        ([], "", ""),
        (None, "", ""),
    ],
)
def test_turns_become_a_text(value, plain, marked):
    assert text_of(value, "plain") == plain
    assert text_of(value, "marked") == marked


@pytest.mark.parametrize(
    "value", [5, ["a", 5], [{"role": "user"}, "a"], [{"role": 1, "content": "a"}], {"content": "a"}]
)
def test_what_is_no_text_is_refused(value):
    with pytest.raises(ValueError, match=r"a string, a list of strings or a list of messages .*, got"):
        text_of(value, "plain")


def write(folder, name, column, value):
    """A file as of the hub, with its other columns; a folder where `name` has no ending."""
    row = {"dialog": {"dialog": value, "act": [3, 4, 2], "emotion": [0, 0, 4]},
           "messages": {"prompt": "Name a fish.", "prompt_id": "f0e3", "messages": value}}[column]  # fmt: skip
    path, table = folder / name, pa.Table.from_pylist([row, row])
    if path.suffix == ".parquet":
        pq.write_table(table, path)
    elif path.suffix == ".arrow":
        with pa.ipc.new_stream(path, table.schema) as sink:
            sink.write_table(table)
    elif path.suffix == ".jsonl":
        path.write_text("\n".join(json.dumps(row) for row in table.to_pylist()))
    elif path.suffix == ".json":
        path.write_text(json.dumps(table.to_pylist()))
    else:
        Dataset(table).save_to_disk(path)
    return str(path)


@pytest.mark.parametrize(("column", "value"), [("dialog", DIALOG), ("messages", MESSAGES)])
@pytest.mark.parametrize("name", ["a.parquet", "a.arrow", "a.jsonl", "a.json", "saved"])
def test_local_files_of_the_hubs_schema(tmp_path, name, column, value):
    path = write(tmp_path, name, column, value)
    corpora = {}
    for turns in ("plain", "marked"):
        config = CorpusConfig(name="text", train=path, validation=path, field=column, turns=turns, window=32)
        corpora[turns] = corpus = prepare(config, tmp_path / "cache")
        words = corpus.tokenizer.decode(corpus.train[0].tolist(), skip_special=True)
        assert words == " ".join(text_of(value, turns).lower().split())
        assert corpus.stats["validation"]["unk_share"] == 0
    assert len(corpora["marked"].tokenizer) == len(corpora["plain"].tokenizer) + 2


def test_marks_need_turns(tmp_path):
    (tmp_path / "a.txt").write_text("words\n")
    (tmp_path / "a.jsonl").write_text('{"text": "words"}\n')
    for name, message in (("a.txt", "lines of text: give one of .jsonl, .json"), ("a.jsonl", "row 1 .* turns: marked")):
        path = str(tmp_path / name)
        with pytest.raises(CorpusError, match=message):
            prepare(CorpusConfig(name="text", train=path, validation=path, turns="marked"), tmp_path / "cache")
