"""Text that anybody may have written, as Markdown that shows just that text."""

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from analysis.markdown import WIDTH, bullets, code, commands, paragraph, plain, table
from analysis.untrusted import printable

markdown_it = pytest.importorskip("markdown_it")
PARSER = markdown_it.MarkdownIt("commonmark").enable(["table", "strikethrough"])

TEXT = st.text(st.sampled_from("ab_*`<>[]()|~#!&;\\$-+=.:1 \n\t\x1b\r中é/"), max_size=60) | st.text(max_size=60)
"""Mostly signs that mean something in Markdown."""


def one_line(text):
    return " ".join(printable(text).split())


def blocks(markdown):
    """The kinds of the blocks, and the text of everything inline."""
    tokens = PARSER.parse(markdown)
    inline = [token for token in tokens if token.type == "inline"]
    odd = {child.type for token in inline for child in token.children} - {"text", "softbreak", "code_inline"}
    assert not odd, odd
    texts = [
        "".join(" " if child.type == "softbreak" else child.content for child in token.children) for token in inline
    ]
    return [token.type for token in tokens if token.type != "inline"], texts


@given(TEXT)
@example("[x](y) ![x](y) <b>bold</b> &amp; _a_ ~~c~~ `d` **e**")
@example("# a")
@settings(max_examples=200, deadline=None, derandomize=True)
def test_any_text_shows_as_itself(text):
    wanted = one_line(text)
    kinds, texts = blocks(paragraph(plain(text)))
    if wanted:
        assert (kinds, texts) == (["paragraph_open", "paragraph_close"], [wanted])
    kinds, texts = blocks(bullets([plain(text), "b"]))
    assert texts == ([wanted, "b"] if wanted else ["b"])
    assert kinds.count("list_item_open") == 2


@given(st.lists(st.sampled_from(["1.", "-", "+", "#", "===", "---", ">", "12)", "a", "word " * 6]), max_size=60))
@settings(max_examples=80, deadline=None, derandomize=True)
def test_no_line_of_a_paragraph_begins_a_block(words):
    text = " ".join(["a", *words])
    wrapped = paragraph(plain(text))
    assert blocks(wrapped) == (["paragraph_open", "paragraph_close"], [one_line(text)])
    assert max(map(len, wrapped.splitlines())) <= WIDTH + 1


@given(TEXT, TEXT)
@settings(max_examples=100, deadline=None, derandomize=True)
def test_cells_hold_any_text(one, other):
    made = table(["head", "x"], [[plain(one), code(other)], ["second", "1"]])
    kinds, texts = blocks(made)
    assert kinds.count("tr_open") == 3
    # A bar in a code span of a table is written with a backslash, which GitHub takes away and this parser too.
    assert texts == ["head", "x", one_line(one), one_line(other) or " ", "second", "1"] or "\\|" in other


def test_a_table_is_readable_as_it_stands():
    assert table(["trial", "val loss"], [["t0001", "3.4"], ["t2", "12.75"]]) == (
        "| trial | val loss |\n| ----- | -------: |\n| t0001 |      3.4 |\n| t2    |    12.75 |"
    )
    # Signs of two columns and of none.
    wide = table(["中", "é"], [["a", "b"]], [False, False]).splitlines()
    assert wide == ["| 中  | é   |", "| --- | --- |", "| a   | b   |"]


@given(TEXT)
@example("\n```\n# a")
@example("````")
@settings(max_examples=50, deadline=None, derandomize=True)
def test_commands_cannot_leave_their_block(text):
    tokens = PARSER.parse(f"1. a\n\n{commands([text, 'b'], '   ')}")
    fences = [token for token in tokens if token.type == "fence"]
    assert len(fences) == 1
    assert fences[0].content.endswith("\nb\n")
    assert fences[0].content.count("\n") == 2
