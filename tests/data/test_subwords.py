import tempfile
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from tune_newllm.data.subwords import SubwordTokenizer
from tune_newllm.data.tokenizer import BOS, EOS, SPECIAL, WordTokenizer
from tune_newllm.data.vocabulary import load_tokenizer
from tune_newllm.errors import CheckpointError

LEARNED = SubwordTokenizer.build(["the cat sat on the mat", "The cats were there"] * 5, 270)
SPECIAL_TOKENS = {f"{name}_token": text for name, text in zip(("pad", "unk", "bos", "eos"), SPECIAL, strict=True)}


@pytest.fixture(scope="module")
def fast():
    """As an export registers it."""
    with tempfile.TemporaryDirectory() as folder:
        LEARNED.save(Path(folder))
        file = f"{folder}/tokenizer.json"
        yield PreTrainedTokenizerFast(tokenizer_file=file, split_special_tokens=True, **SPECIAL_TOKENS)


@settings(max_examples=150, deadline=None)
@given(st.text() | st.text("the cats<>BOS \n\t"))
@example("The  <BOS> cat<EOS>\r\n<PAD> \u3000日本 ")
def test_every_text_comes_back_and_is_what_hugging_face_makes_of_it(fast, text):
    ids = LEARNED.encode(text)
    assert (ids[0], ids[-1]) == (BOS, EOS)
    assert min(ids[1:-1], default=4) >= 4
    assert LEARNED.decode(ids, skip_special=True) == text
    assert fast(text)["input_ids"] == ids
    assert fast.decode(ids, skip_special_tokens=True) == text


def test_pieces_are_fewer_than_letters_and_spaces_belong_to_them():
    assert len(LEARNED) == 270
    cat, mat = LEARNED.encode_prompt("the cat")[1:], LEARNED.encode_prompt(" mat")[1:]
    assert len(cat) <= 2
    assert LEARNED.decode(cat + mat) == "the cat mat"
    assert LEARNED.decode([BOS, *cat, EOS]) == "<BOS>the cat<EOS>"


def test_load_knows_the_kind(tmp_path):
    for tokenizer in (LEARNED, WordTokenizer(["the", "cat"])):
        tokenizer.save(tmp_path)
        loaded = load_tokenizer(tmp_path)
        assert (loaded, loaded.kind, type(loaded)) == (tokenizer, tokenizer.kind, type(tokenizer))
        assert loaded.encode("The cat") == tokenizer.encode("The cat")
    assert WordTokenizer(["the", "cat"]) != WordTokenizer(["cat", "the"])


@pytest.mark.parametrize("content", [None, "", "{}", '{"model": {"type": "BPE"}}', "foreign"])
def test_a_damaged_file_is_named(tmp_path, content):
    if content == "foreign":
        content = LEARNED.to_json().replace('"<PAD>":0', '"pad":0')
    if content is not None:
        (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"tokenizer\.json"):
        load_tokenizer(tmp_path)
