import pytest
from pydantic import TypeAdapter, ValidationError

from tune_newllm.data.config import CorpusConfig


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"vocab_size": 4}, "vocab_size must be at least 5"),
        ({"window": 1}, "window must be at least 2"),
        ({"windowing": "sliding"}, "windowing must be complete, original or stream"),
        ({"stride": 32}, "stride goes with windowing: original only"),
        ({"stride": 8, "windowing": "stream"}, "got 8 with stream"),
        ({"tokenizer": "chars"}, "tokenizer must be words, bpe or gpt2, got 'chars'"),
        ({"tokenizer": "bpe", "vocab_size": 259}, "vocab_size must be at least 260 with tokenizer bpe .* got 259"),
        ({"max_tokens": 1}, "max_tokens must be at least 2"),
        ({"stride": 65, "windowing": "original"}, "between 1 and window \\(64\\), got 65"),
        ({"stride": 0, "windowing": "original"}, "between 1 and window"),
        ({"name": "text", "train": "a.txt"}, "got no validation"),
        ({"name": "text"}, "got no train and no validation"),
        ({"test": "a.txt"}, "test goes with name: text or a dataset of the hub only, got test with name 'python-docs'"),
        ({"name": "toy", "field": "words"}, "field goes with name: text or a dataset of the hub only"),
        ({"name": "toy", "turns": "marked"}, "turns goes with name: text or a dataset of the hub only"),
        ({"name": "dailydialog", "turns": "tagged"}, "turns must be plain or marked, got 'tagged'"),
        ({"name": "wikitext-2", "train": ["train", "test"]}, "train must be one split .* join splits by \\+"),
        ({"max_samples": 0}, "max_samples must be at least 1, got 0"),
    ],
)
def test_rules(fields, message):
    with pytest.raises(ValueError, match=message):
        CorpusConfig(**fields)


def test_unknown_keys_are_refused_where_pydantic_reads_it():
    with pytest.raises(ValidationError, match="vocabsize"):
        TypeAdapter(CorpusConfig).validate_python({"name": "toy", "vocabsize": 10})


def test_several_files_per_split():
    config = CorpusConfig(name="text", train=["a.txt", "b.jsonl"], validation="c.parquet")
    assert config.train == ["a.txt", "b.jsonl"]
