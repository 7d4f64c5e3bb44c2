import re
import sys

import pytest

from tune_newllm.data import python_docs

EXAMPLE = """Heading words for the section
-----------------------------

Return the *first* item of ``items``; see "next()" and 'None' for the
others, which aren\u2019t read.

    >>> first([1, 2])
    1

first(items, default=None) -> item

+-------+-------------------+
| a row | of the table here |

   if_stmt ::= "if" the expression

    if not the_items: return default_value_of(the_items)

    Result = is_first(x[1], y=2) or (a_b.c, c.d_e)

* one item of the list.
* another item of it,
  in two lines.

12. Return the \u201csecond\u201d item.
"""


def test_prose_is_kept_and_the_rest_dropped():
    assert python_docs._new_paragraphs(EXAMPLE, set()) == [
        "Return the first item of items ; see next ( ) and None for the others , which aren't read .",
        "one item of the list .",
        "another item of it , in two lines .",
        "Return the second item .",
    ]


def test_paragraphs_are_kept_once_whatever_their_figures():
    seen = set()
    assert python_docs._new_paragraphs("See the note at the end. [3]", seen)
    assert not python_docs._new_paragraphs("  See the note\n  at the end. [12]", seen)


def test_paragraphs_that_are_one_elsewhere_are_not_told_again(tmp_path, monkeypatch):
    first, second = "See the note at the end.", "It tells what the others are for."
    (tmp_path / "module.py").write_text(f'"""{first}\n\n{second}"""')
    monkeypatch.setattr(python_docs, "_topics", lambda: [("reference/a", f"{first} {second}".encode())])
    monkeypatch.setattr(python_docs, "_modules", lambda: [("module", tmp_path / "module.py")])
    assert sum(map(len, python_docs.read(progress=False).values())) == 1
    monkeypatch.setattr(python_docs, "_topics", lambda: [])
    assert sum(map(len, python_docs.read(progress=False).values())) == 1


def test_docstrings_are_found_wherever_statements_stand():
    source = b""""module"
class A:
    "class"
    async def f(self):
        "method"
        def g(): "nested"
if x:
    def h():
        "branch \\d"
else:
    def h(): "other branch"
try:
    pass
except E:
    def i(): "handler"
for j in "not this":
    "nor this"
"""
    expected = ["module", "class", "method", "nested", "branch \\d", "other branch", "handler"]
    assert list(python_docs._docstrings(source)) == expected


@pytest.fixture(scope="module")
def texts():
    return python_docs.read(progress=False)


def test_size_and_split(texts):
    words = {split: sum(len(text.split()) for text in found) for split, found in texts.items()}
    assert sum(words.values()) > 240_000
    assert words["train"] / sum(words.values()) == pytest.approx(0.8, abs=0.05)
    assert min(words["validation"], words["test"]) > 15_000


def test_no_sentence_of_some_length_is_shared_between_splits(texts):
    """By document and each paragraph once: what little remains are formulas such as signatures of the same method."""
    runs = {split: {run for text in found for run in _runs(text)} for split, found in texts.items()}
    for held_out in ("validation", "test"):
        assert len(runs[held_out] & runs["train"]) < 0.02 * len(runs[held_out])


def _runs(text, length=12):
    words = text.lower().split()
    return (tuple(words[start : start + length]) for start in range(len(words) - length + 1))


def test_texts_are_clean(texts):
    everything = [text for found in texts.values() for text in found]
    assert all(text == " ".join(text.split()) for text in everything)
    assert not [text for text in everything if ">>>" in text or "::=" in text or "``" in text]
    assert len(everything) == len(set(everything))


def test_it_imports_nothing_and_skips_what_distributions_strip():
    modules = [name for name, _ in python_docs._modules()]
    assert modules == sorted(modules)
    assert "asyncio/tasks" in modules
    assert "antigravity" in modules
    assert "antigravity" not in sys.modules
    assert not [
        name for name in modules if re.match(r"(.*/)?(test|tests|idlelib|tkinter|site-packages|encodings)/", name)
    ]


def test_split_of_a_document_never_changes():
    names = ["reference/assert", "asyncio/tasks", "json/decoder", "_pydecimal"]
    assert [python_docs._split_of(name) for name in names] == ["train", "train", "test", "validation"]
