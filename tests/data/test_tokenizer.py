import tempfile
import unicodedata
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from tune_newllm.data.tokenizer import BOS, EOS, UNK, WordTokenizer
from tune_newllm.errors import CheckpointError


def test_ids_follow_count_then_first_appearance():
    tokenizer = WordTokenizer.build(["b a\u2003B\n", "c a d"], vocab_size=7)
    assert len(tokenizer) == 7
    # b and a: twice each, b came first; c and d: once each, only c fits.
    assert tokenizer.encode(" D c\tA b") == [BOS, UNK, 6, 5, 4, EOS]
    assert tokenizer.encode_prompt("a") == [BOS, 5]
    assert tokenizer.encode("") == [BOS, EOS]


def test_decode_joins_by_one_space():
    tokenizer = WordTokenizer.build(["the cat"], vocab_size=100)
    assert len(tokenizer) == 6
    ids = tokenizer.encode("The  dog")
    assert tokenizer.decode(ids) == "<BOS> the <UNK> <EOS>"
    assert tokenizer.decode(ids, skip_special=True) == "the"


def test_what_looks_like_a_special_token_is_a_word():
    assert WordTokenizer.build(["<unk> a"], vocab_size=9).encode("<unk> <UNK> <BOS>") == [BOS, 4, 4, UNK, EOS]


def test_load_gives_what_was_saved(tmp_path):
    tokenizer = WordTokenizer.build(['ß ΟΔΟΣ \x1f"quoted" \\ \u00ad'], vocab_size=50)
    tokenizer.save(tmp_path)
    text = 'ΟΔΟΣ "QUOTED" ß new \\'
    assert WordTokenizer.load(tmp_path).encode(text) == tokenizer.encode(text)


@pytest.mark.parametrize("content", [None, "", "[]", '{"model": {"vocab": {"a": 0}}}', '{"model": {}}'])
def test_a_damaged_file_is_named(tmp_path, content):
    if content is not None:
        (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"tokenizer\.json"):
        WordTokenizer.load(tmp_path)


# Characters that this Python's Unicode tables do not know yet may be lower-cased by the other side's newer ones.
KNOWN = st.characters(exclude_categories=["Cs", "Cn"]).filter(lambda char: unicodedata.category(char) != "Cn")
TRICKY = st.sampled_from("Σσςİı ẞßǅ'\u0301.aA \t\x1c\x1f\x85\xa0\u180e\u200b\u2028\u3000<>")


@settings(max_examples=150, deadline=None)
@given(st.text(KNOWN | TRICKY), st.text(KNOWN | TRICKY))
@example("ΟΔΟΣ Σ ΔΣ' ΔΣ'Δ ΣΣ Δ\u0301Σ\u0301", "οδος")
@example("a\x1cb\x85c\u3000d\u200be", "İ i̇")
def test_hugging_face_gives_the_same_ids(seen, other):
    tokenizer = WordTokenizer.build([seen], vocab_size=1000)
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save(Path(folder))
        fast = PreTrainedTokenizerFast(tokenizer_file=f"{folder}/tokenizer.json")
    for text in (seen, other, seen.upper()):
        assert fast(text)["input_ids"] == tokenizer.encode(text)


def test_registered_special_tokens_keep_the_ids(tmp_path):
    tokenizer = WordTokenizer.build(["a <bos> b"], vocab_size=1000)
    tokenizer.save(tmp_path)
    fast = PreTrainedTokenizerFast(
        tokenizer_file=str(tmp_path / "tokenizer.json"),
        pad_token="<PAD>",
        unk_token="<UNK>",
        bos_token="<BOS>",
        eos_token="<EOS>",
        split_special_tokens=True,
    )
    assert len(fast) == len(tokenizer)
    ids = fast("a <BOS> <UNK> c b")["input_ids"]
    assert ids == tokenizer.encode("a <BOS> <UNK> c b")
    assert fast.decode(ids, skip_special_tokens=True) == tokenizer.decode(ids, skip_special=True) == "a <bos> b"
