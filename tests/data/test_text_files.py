import gzip
import json

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, DatasetDict

from tune_newllm.data.config import CorpusConfig
from tune_newllm.data.text_files import digest, read
from tune_newllm.errors import CorpusError


def config(train, validation="v.txt", **fields):
    return CorpusConfig(name="text", train=train, validation=validation, **fields)


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "v.txt").write_text("a validation line\n")


TEXTS = ["one two", "ein\u2028ä Wort", "three"]


def write_every_kind(folder):
    """The same texts, a blank one and a null in each kind of file, in rows under `said`; gives the files' names."""
    lines = "\ufeff one two\r\n\r\n  \nein\u2028ä Wort\nthree"
    rows = [{"said": text, "id": 1} for text in [*TEXTS, "  ", None]]
    json_lines = "\n".join(map(json.dumps, rows)) + "\n\n"
    (folder / "a.txt").write_bytes(lines.encode())
    (folder / "a.txt.gz").write_bytes(gzip.compress(lines.encode()))
    (folder / "a.jsonl").write_text(json_lines)
    (folder / "a.jsonl.gz").write_bytes(gzip.compress(json_lines.encode()))
    (folder / "lines.json").write_text(f"\n{json_lines}")
    (folder / "list.json").write_text("\n" + json.dumps(rows, indent=1))
    table = pa.Table.from_pylist(rows)
    pd.DataFrame(rows).to_parquet(folder / "a.parquet")
    for name, writer in (("file.arrow", pa.ipc.new_file), ("stream.arrow", pa.ipc.new_stream)):
        with writer(folder / name, table.schema) as sink:
            sink.write_table(table, max_chunksize=2)
    Dataset.from_list(rows).save_to_disk(folder / "saved", num_shards=2)
    return sorted(path.name for path in folder.iterdir() if path.name != "v.txt")


def test_every_kind_of_file(tmp_path):
    names = write_every_kind(tmp_path)
    assert len(names) == 10
    for name in names:
        assert read(config(name, test=["a.txt", str(tmp_path / "v.txt")], field="said"), progress=False) == {
            "train": TEXTS,
            "validation": ["a validation line"],
            "test": [*TEXTS, "a validation line"],
        }, name


def test_max_samples_counts_the_texts_of_all_train_files(tmp_path):
    (tmp_path / "a.txt").write_text("one\n\ntwo\n")
    for most, train in (
        (1, ["one"]),
        (3, ["one", "two", "a validation line"]),
        (9, ["one", "two", "a validation line"]),
    ):
        texts = read(config(["a.txt", "v.txt"], test=["a.txt", "v.txt"], max_samples=most), progress=False)
        assert texts["train"] == train
        assert len(texts["test"]) == 3


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.csv", "a", "t.csv must end in one of .txt, .jsonl, .json, .parquet, .arrow"),
        ("t.txt", None, "there is no file t.txt: check the path"),
        ("t.txt", "\n \n", "t.txt holds no text"),
        ("t.txt", b"\xff\xfea", r"cannot read t.txt \(invalid start byte, not UTF-8\)"),
        ("t.jsonl", '{"text": "a"}\n{"txt": "b"}', "row 2 has no field text, only txt"),
        ("t.jsonl", '{"text": 5}', "row 1 needs in the field text a string, .* got 5"),
        ("t.jsonl", '["a"]', "row 1 is not a JSON object"),
        ("t.jsonl", "text", "line 1 is not JSON"),
        ("t.jsonl", r'{"text": "\ud800"}', "row 1 holds half a surrogate pair"),
        ("t.json", "\n[1]", "row 1 is not a JSON object"),
        ("t.json", '[{"text": "a"},', "the list is not JSON"),
        ("t.json", '{"text": "a"}\n{"text": "b"', "line 2 is not JSON"),
        ("t.txt.gz", "no gzip at all", "cannot read t.txt.gz .Not a gzipped file"),
        ("t.txt.gz", gzip.compress(b"some words" * 99)[:-9], "cannot read t.txt.gz .Compressed file ended"),
        ("t.parquet.gz", "", "t.parquet.gz must end in one of"),
        ("t.arrow", "no arrow at all", "cannot read t.arrow"),
        ("t.arrow", "", "cannot read t.arrow"),
        ("t.parquet", "no parquet at all", "cannot read t.parquet"),
        ("t.parquet", pd.DataFrame({"txt": ["a"], "n": [1]}), "no field text, only txt, n"),
        ("t.parquet", pd.DataFrame({"text": [b"a"]}), "row 1 needs in the field text a string, .* got b'a'"),
        ("t.parquet", pa.table([["a"], ["b"]], names=["text", "text"]), "2 fields are called text"),
        ("t.json", "[" * 100_000, "the list is nested too deeply"),
        ("t.jsonl", '{"text":' * 100_000, "line 1 is nested too deeply"),
    ],
)
def test_faults_are_named_in_one_line(tmp_path, name, content, message):
    path = tmp_path / name
    if isinstance(content, pd.DataFrame):
        content.to_parquet(path)
    elif isinstance(content, pa.Table):
        pq.write_table(content, path)
    elif content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(CorpusError, match=message) as caught:
        _ = digest(config(name)), read(config(name), progress=False)
    assert str(caught.value).startswith("corpus.train: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("function", [digest, lambda config: read(config, progress=False)])
def test_a_folder_must_hold_one_dataset(tmp_path, function):
    (tmp_path / "t.txt").mkdir()
    with pytest.raises(CorpusError, match=r"cannot read t\.txt \(a folder without a dataset\)"):
        function(config("t.txt"))
    DatasetDict(test=Dataset.from_dict({"text": ["a"]}), train=Dataset.from_dict({"text": ["a"]})).save_to_disk("both")
    with pytest.raises(CorpusError, match=r"cannot read both \(a folder of test, train\): .* name another"):
        function(config("both"))
    Dataset.from_dict({"text": ["a"]}).save_to_disk("none")
    state = tmp_path / "none/state.json"
    state.write_text(json.dumps(json.loads(state.read_text()) | {"_data_files": []}))
    with pytest.raises(CorpusError, match=r"cannot read none \(a dataset without rows\)"):
        function(config("none"))


def test_digest_depends_on_contents_not_on_names(tmp_path):
    (tmp_path / "a.txt").write_text("some words")
    (tmp_path / "b.txt").write_text("some words")
    (tmp_path / "c.txt").write_text("other words")
    assert digest(config("a.txt")) == digest(config("b.txt"))
    assert digest(config("a.txt")) != digest(config("c.txt"))
    assert digest(config("a.txt")) != digest(config("a.txt", test="a.txt"))
    assert digest(config("a.txt")) != digest(config("a.txt", field="other"))
    assert digest(config(["a.txt", "c.txt"])) != digest(config(["c.txt", "a.txt"]))
