import json

import pandas as pd
import pytest

from tune_newllm.data.config import CorpusConfig
from tune_newllm.data.text_files import digest, read
from tune_newllm.errors import CorpusError


def config(train, validation="v.txt", **fields):
    return CorpusConfig(name="text", train=train, validation=validation, **fields)


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "v.txt").write_text("a validation line\n")


def test_the_three_kinds_of_file(tmp_path):
    texts = ["one two", "ein\u2028ä Wort", "three"]
    (tmp_path / "a.txt").write_bytes("\ufeff one two\r\n\r\n  \nein\u2028ä Wort\nthree".encode())
    (tmp_path / "a.jsonl").write_text(
        "\n".join(json.dumps({"text": text, "id": 1}) for text in [*texts, "  "]) + "\n\n"
    )
    pd.DataFrame({"id": range(4), "text": [*texts, ""]}).to_parquet(tmp_path / "a.parquet")
    for name in ("a.txt", "a.jsonl", "a.parquet"):
        assert read(config(name, test=["a.txt", str(tmp_path / "v.txt")]), progress=False) == {
            "train": texts,
            "validation": ["a validation line"],
            "test": [*texts, "a validation line"],
        }


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.csv", "a", "t.csv must end in one of .txt, .jsonl, .parquet"),
        ("t.txt", None, "there is no file t.txt: check the path"),
        ("t.txt", "\n \n", "t.txt holds no text"),
        ("t.txt", b"\xff\xfea", r"cannot read t.txt \(invalid start byte, not UTF-8\)"),
        ("t.jsonl", '{"text": "a"}\n{"txt": "b"}', "row 2 needs a string in the field text, got None"),
        ("t.jsonl", '{"text": 5}', "row 1 needs a string in the field text, got 5"),
        ("t.jsonl", '["a"]', "line 1 is not a JSON object"),
        ("t.jsonl", "text", "line 1 is not JSON"),
        ("t.jsonl", r'{"text": "\ud800"}', "row 1 holds half a surrogate pair"),
        ("t.parquet", "no parquet at all", "cannot read t.parquet"),
        ("t.parquet", pd.DataFrame({"txt": ["a"], "n": [1]}), "no field text, only txt, n"),
        ("t.parquet", pd.DataFrame({"text": [b"a"]}), "row 1 needs a string in the field text, got b'a'"),
        ("t.parquet", pd.DataFrame({"text": ["a", None]}), "row 2 needs a string in the field text, got None"),
    ],
)
def test_faults_are_named_in_one_line(tmp_path, name, content, message):
    path = tmp_path / name
    if isinstance(content, pd.DataFrame):
        content.to_parquet(path)
    elif content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(CorpusError, match=message) as caught:
        _ = digest(config(name)), read(config(name), progress=False)
    assert str(caught.value).startswith("corpus.train: ")
    assert "\n" not in str(caught.value)


def test_a_folder_is_no_file(tmp_path):
    (tmp_path / "t.txt").mkdir()
    for function in (digest, lambda config: read(config, progress=False)):
        with pytest.raises(CorpusError, match=r"cannot read t\.txt \(Is a directory\)"):
            function(config("t.txt"))


def test_digest_depends_on_contents_not_on_names(tmp_path):
    (tmp_path / "a.txt").write_text("some words")
    (tmp_path / "b.txt").write_text("some words")
    (tmp_path / "c.txt").write_text("other words")
    assert digest(config("a.txt")) == digest(config("b.txt"))
    assert digest(config("a.txt")) != digest(config("c.txt"))
    assert digest(config("a.txt")) != digest(config("a.txt", test="a.txt"))
    assert digest(config(["a.txt", "c.txt"])) != digest(config(["c.txt", "a.txt"]))
