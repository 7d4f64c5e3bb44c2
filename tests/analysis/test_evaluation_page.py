"""What a comparison of checkpoints says and draws, from rows made by hand."""

import copy

import pytest
from browsing import EVIL

from analysis import write_evaluation
from analysis.evaluation import measure, said, size
from analysis.figures.evaluation import growth_data, growth_figure, memory_figure, scores_data, scores_figure
from analysis.sections.evaluation import evaluation_sections
from tune_newllm.errors import FolderError


def checkpoint(name, **changes):
    facts = {"path": f"runs/{name}", "family": "context_vector", "int8": None, "parameters": 1000, "weight_bytes": 4000}
    return {"name": name} | facts | {"vocab_size": 50, "tokenizer": "words"} | changes


def score(name, corpus, ppl, bits=5.0, **changes):
    figures = {"loss": 3.0, "ppl": ppl, "acc": 0.25, "ppl_known": 9.0, "targets": 900, "tokens_per_s": 1e4}
    words = {"unk_share": 0.1, "known_share": 0.875, "nats_per_word": bits * 0.693, "bits_per_word": bits}
    cut = {"split": "test", "same_corpus": True, "window": 64, "windowing": "complete"}
    return {"checkpoint": name, "corpus": corpus} | cut | figures | words | changes


def reading(name, batch, context, ms, state_bytes):
    row = {"checkpoint": name, "batch": batch, "context": context, "ms": ms, "tokens_per_s": 1e3 * batch / ms}
    return row | {"state_bytes": state_bytes}


@pytest.fixture
def forgetting():
    """A model before and after it was trained on another corpus."""
    return {
        "device": "cpu",
        "threads": 2,
        "corpora": ["old", "new"],
        "prompts": ["the value of"],
        "same_vocabulary": True,
        "words_known_to_all": False,
        "same_texts": True,
        "checkpoints": [checkpoint("before"), checkpoint("after")],
        "scores": [
            *(score("before", "old", 30.0), score("before", "new", 90.0)),
            *(score("after", "old", 45.0), score("after", "new", 27.0)),
        ],
        "texts": [
            {"checkpoint": name, "prompt": "the value of", "text": "the value of x"} for name in ("before", "after")
        ],
        "passes": [],
        "readings": [],
        "left_out": [],
        "int8": [],
    }


@pytest.fixture
def attention(forgetting):
    """A recurrent model, its int8 copy, and one with attention, their speed measured."""
    names = ("vector", "vector8", "gpt")
    kinds = ({}, {"int8": "weights", "weight_bytes": 1250}, {"family": "gpt2", "parameters": 1100})
    speeds = {"vector": 10.0, "vector8": 20.0, "gpt": 5.0}
    found = copy.deepcopy(forgetting) | {"corpora": ["its own corpus"]}
    found["checkpoints"] = [checkpoint(name, **kind) for name, kind in zip(names, kinds, strict=True)]
    found["scores"] = [score(name, "its own corpus", ppl) for name, ppl in zip(names, (30.0, 30.6, 33.0), strict=True)]
    found["int8"] = [{"checkpoint": "vector8", "made_from": "vector", "change": 0.02, "verdict": "ok"}]
    found["texts"] = []
    found["passes"] = [
        {"checkpoint": name, "batch": batch, "tokens": 63, "ms": speeds[name] * batch}
        | {"tokens_per_s": 63e3 / speeds[name], "peak_memory_bytes": 3e8}
        for name in names
        for batch in (1, 32)
    ]
    found["readings"] = [
        reading(name, batch, context, 1.0 + context / 100 * (name == "gpt"), 1024 * (context if name == "gpt" else 1))
        for name in names
        for batch in (1, 32)
        for context in ([16, 64] if name == "gpt" else [16, 64, 1024])
    ]
    return found


def test_forgetting_is_told_by_both_corpora(forgetting):
    assert said(forgetting) == [
        "On the test split of old before has 30, the lowest perplexity; after has 45.",
        "On the test split of new after has 27, the lowest perplexity; before has 90.",
        "From before to after, perplexity changes by +50.0 % on old and -70.0 % on new.",
    ]


def test_state_and_time_against_context(attention):
    sentences = said(attention)
    assert sentences[0] == (
        "On the test split of its own corpus vector has 30, the lowest perplexity; vector8 has 30.6, gpt has 33."
    )
    assert sentences[1] == (
        "int8 takes vector8 from 3.91 KiB to 1.22 KiB of weights (÷ 3.20) and changes perplexity by +2.0 % "
        "(ok, as the original research judged it); its speed is 0.50 times at batch 1 and 0.50 times at batch 32."
    )
    assert sentences[2] == (
        "From 16 to 1,024 tokens read, what vector remembers stays at 1 KiB; one token more takes 1 ms at first, 1 ms "
        "at last."
    )
    assert sentences[4] == (
        "From 16 to 64 tokens read, what gpt remembers grows from 16 KiB to 64 KiB; one token more takes 1.16 ms at "
        "first, 1.64 ms at last."
    )
    assert growth_data(attention, "state_bytes", 1)[2] == ("gpt", [16, 64], [16384, 65536])


def test_int8_is_judged_where_what_it_was_made_from_is_there(attention):
    assert not any("int8" in sentence for sentence in said(attention | {"int8": []}))


def test_one_alone_is_not_compared(forgetting):
    alone = {"checkpoints": forgetting["checkpoints"][1:], "scores": forgetting["scores"][2:3], "corpora": ["old"]}
    assert said(forgetting | alone) == ["On the test split of old, perplexity: after 45."]


def test_models_of_words_compare_by_those_known_to_all(forgetting):
    found = forgetting | {"same_vocabulary": False, "words_known_to_all": True}
    found["scores"][2]["ppl_known"] = 12.0
    assert said(found)[:2] == [
        "On the test split of old before has 9, the lowest perplexity of the words known to all; after has 12.",
        "On the test split of new before has 9, the lowest perplexity of the words known to all; after has 9.",
    ]
    assert "know, at least 87.5% of the targets." in said(found)[3]
    assert "9 (+0.0 %)" in table_of_scores(found)


def test_models_of_pieces_compare_by_bits_per_word(forgetting):
    found = forgetting | {"same_vocabulary": False}
    for row in found["checkpoints"]:
        row["tokenizer"] = "bpe"
    found["scores"][2]["bits_per_word"] = 4.5
    assert measure(found) == ("bits_per_word", "bits per word")
    sentences = said(found)
    assert sentences[0] == "On the test split of old after has 4.5, the lowest bits per word; before has 5."
    assert any("vocabularies differ" in sentence for sentence in sentences)


@pytest.mark.parametrize(
    ("tokenizer", "bits", "why"),
    [
        ("bpe", 4.0, "bits per word only about: words are lower-cased, up to 10.0% of the targets are <UNK> (before)"),
        ("words", None, "there are no bits per word"),
    ],
)
def test_nothing_is_called_better_where_no_measure_means_the_same(forgetting, tokenizer, bits, why):
    found = forgetting | {"same_vocabulary": False}
    found["checkpoints"][1]["tokenizer"] = tokenizer
    found["scores"][2]["bits_per_word"] = bits
    text = " ".join(said(found))
    assert "lowest" not in text
    assert "From before to after" not in text
    assert why in text
    assert " %)" not in table_of_scores(found)


def table_of_scores(found):
    return next(section.body for section in evaluation_sections(found) if section.anchor == "scores")


def test_the_split_is_that_of_the_scores(forgetting):
    forgetting["scores"][0]["split"] = forgetting["scores"][2]["split"] = "validation"
    assert [sentence[:30] for sentence in said(forgetting)][:2] == [
        "On the validation split of old", "On the test split of new after"
    ]  # fmt: skip
    forgetting["scores"][2]["split"] = "test"
    assert said(forgetting | {"same_texts": False})[0].startswith("On the test and validation split of old, ")


def test_lengths_for_which_there_was_no_time_are_named(attention):
    attention["left_out"] = [{"checkpoint": "gpt", "batch": 32, "context": context} for context in (512, 1024)]
    assert said(attention)[-1] == "There was no time to measure gpt at 512 and 1,024 tokens with batch 32."


def test_nothing_is_ranked_over_different_texts(forgetting):
    found = forgetting | {"same_texts": False, "corpora": ["old"]}
    assert "lowest" not in said(found)[0]
    assert any("nothing here compares" in sentence for sentence in said(found))


def test_windows_of_different_length_are_named(forgetting):
    forgetting["scores"][2]["window"] = 32
    assert any(
        sentence
        == "On old they read complete windows of 32 tokens and complete windows of 64 tokens, so what goes before a "
        "prediction is not the same."
        for sentence in said(forgetting)
    )


def test_figures_hold_the_rows(attention, forgetting):
    assert scores_data(forgetting) == ("perplexity", {"old": [30.0, 45.0], "new": [90.0, 27.0]})
    assert [list(bar.y) for bar in scores_figure(forgetting).data] == [[30.0, 45.0], [90.0, 27.0]]
    assert [list(line.x) for line in growth_figure(attention, "ms", 32).data] == [[16, 64, 1024]] * 2 + [[16, 64]]
    assert list(memory_figure(attention).data[0].text) == ["3.91 KiB", "1.22 KiB", "3.91 KiB"]


def test_one_page_that_needs_nothing_and_takes_texts_for_texts(attention, tmp_path):
    for row in attention["checkpoints"]:
        row["path"] = EVIL
    attention["texts"] = [{"checkpoint": "gpt", "prompt": EVIL, "text": EVIL}]
    attention["prompts"] = [EVIL]
    page = write_evaluation(attention, tmp_path / "below" / "page.html").read_text()
    assert EVIL not in page
    assert "<script>window.hacked" not in page
    assert "&lt;script&gt;window.hacked" in page
    for anchor in ("scores", "texts", "growth", "passes", "checkpoints"):
        assert f'<section id="{anchor}">' in page
    assert 'src="http' not in page


def test_a_page_that_cannot_be_written_is_one_clear_error(forgetting, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(FolderError, match="--html"):
        write_evaluation(forgetting, tmp_path / "file" / "page.html")


@pytest.mark.parametrize(("count", "text"), [(12, "12 B"), (3_523_528, "3.36 MiB"), (5 * 2**30, "5 GiB")])
def test_sizes_in_words(count, text):
    assert size(count) == text
