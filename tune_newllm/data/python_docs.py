"""The corpus `python-docs`: English prose that comes with every Python.

Two kinds of document: a topic of the language reference (`pydoc_data.topics`) and a module of the standard library (its
docstrings). A document belongs to one split, chosen by a hash of its name, and a paragraph that occurs again is kept
once only, so that no split holds text of another. One text is a paragraph of the reference or a docstring.

Code, doctests, tables, signatures, headings and markup are left out, and punctuation stands apart from words, as in
WikiText, so that a word has one entry in the vocabulary. Packages that distributions split off or strip are skipped, so
that equal versions of Python give equal text.
"""

import ast
import hashlib
import os
import re
import sysconfig
import warnings
from collections.abc import Iterator
from pathlib import Path

from tune_newllm.data.progress import track
from tune_newllm.errors import CorpusError

_RECIPE = 1
"""To be raised whenever the text changes for an equal Python: cached corpora depend on it."""

_SKIPPED = {
    *("__pycache__", "site-packages", "dist-packages", "lib-dynload", "pydoc_data", "sitecustomize.py"),
    *("test", "tests", "idlelib", "tkinter", "turtledemo", "lib2to3", "distutils", "ensurepip"),
    "encodings",  # generated boilerplate
}
_BUILD_SPECIFIC = ("config-", "_sysconfigdata")

_STRAIGHT_QUOTES = str.maketrans("\u2018\u2019\u201c\u201d", "''\"\"")
_BULLET = re.compile(r"^(?:[*•-]|\(?(?:\d{1,2}|[a-z])[.)])\s+")
_RULER = re.compile(r"([=\-*~^#+.`'\"_])\1{2,}$")
_CODE = (">>>", "...", "|", "+-", "$ ", "% ", "#")
_TABLE = re.compile(r"::=|\S {3,}\S")
_PLAIN_WORD = re.compile(r"[(\"']*[A-Za-z]+(?:[-'][A-Za-z]+)*[.,;:!?)\"']*$")
_SENTENCE_END = re.compile(r"[.!?:][)\"']*$")
_GRAMMAR = re.compile(
    r"\b(?:an?|and|are|as|at|be|by|can|for|from|i[fnst]|not|o[fnr]|that|th[ei]s?|to|was|when|which|will|with)\b", re.I
)

_EMPHASIS = re.compile(r"`|(?<!\w)\*+(?=\w)|(?<=\w)\*+(?!\w)")
_QUOTED_WORD = re.compile(r"(?<!\w)[\"']{1,2}([^\s\"']+)[\"']{1,2}(?!\w)")
_WORD = re.compile(r"\w+(?:['./_-]\w+)*|--+|\.{3}|[^\w\s]")


def digest() -> str:
    """Hash of everything that is read, a few dozen milliseconds' work.

    Raises:
        CorpusError: this Python has no sources or no language reference.
    """
    sources = hashlib.sha256(str(_RECIPE).encode())
    for name, content in (*_topics(), *((name, path.read_bytes()) for name, path in _modules())):
        sources.update(f"{name} {len(content)}\n".encode())
        sources.update(content)
    return sources.hexdigest()


def read(progress: bool) -> dict[str, list[str]]:
    """The texts of each split, in the order of the documents' names, the reference first."""
    texts: dict[str, list[str]] = {"train": [], "validation": [], "test": []}
    seen: set[str] = set()
    for name, topic in _topics():
        texts[_split_of(name)] += _new_paragraphs(topic.decode(), seen)
    for name, path in track(_modules(), "reading python-docs", progress):
        for docstring in _docstrings(path.read_bytes()):
            paragraphs = _new_paragraphs(docstring, seen)
            whole = " ".join(paragraphs)
            # What is one paragraph elsewhere may be several here, which are new each.
            if whole and not (len(paragraphs) > 1 and _key(whole) in seen):
                texts[_split_of(name)].append(whole)
    return texts


def _topics() -> list[tuple[str, bytes]]:
    try:
        from pydoc_data.topics import topics
    except ImportError as error:
        raise CorpusError(
            "python-docs needs pydoc_data of the standard library, which this Python lacks: "
            "use another Python or the corpus text"
        ) from error
    return [(f"reference/{name}", topics[name].encode()) for name in sorted(topics)]


def _modules() -> list[tuple[str, Path]]:
    root = Path(sysconfig.get_path("stdlib"))
    found = []
    for folder, below, files in os.walk(root):
        below[:] = [name for name in below if name not in _SKIPPED]  # site-packages may hold 100,000 files
        found += [Path(folder, name) for name in files if name.endswith(".py") and name not in _SKIPPED]
    modules = sorted((path.relative_to(root).with_suffix("").as_posix(), path) for path in found)
    modules = [module for module in modules if not module[0].startswith(_BUILD_SPECIFIC)]
    if not modules:
        raise CorpusError(
            f"python-docs needs the standard library's .py files, found none in {root}: "
            "use another Python or the corpus text"
        )
    return modules


def _split_of(document: str) -> str:
    """80 % train, 10 % validation, 10 % test, by name, so that a new document moves no other."""
    part = int.from_bytes(hashlib.sha256(document.encode()).digest()[:4], "big") % 10
    return {8: "validation", 9: "test"}.get(part, "train")


def _docstrings(source: bytes) -> Iterator[str]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # invalid escapes in old modules are not ours to report
        module = ast.parse(source)
    yield from _docstrings_below(module)


def _docstrings_below(node: ast.AST) -> Iterator[str]:
    """Docstrings in the order of the source; visits statements only, which ast.walk does not."""
    if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and (
        docstring := ast.get_docstring(node)
    ):
        yield docstring
    for field in ("body", "orelse", "handlers", "finalbody"):
        children = getattr(node, field, [])
        for child in children if isinstance(children, list) else []:
            yield from _docstrings_below(child)


def _new_paragraphs(text: str, seen: set[str]) -> list[str]:
    """The prose of a text, without paragraphs that were seen before in any document; remembers the new ones."""
    new = []
    for lines in _blocks(text):
        paragraph = _prose(lines)
        key = _key(paragraph)
        if paragraph and key not in seen:
            seen.add(key)
            new.append(_set_apart(paragraph))
    return new


def _key(text: str) -> str:
    """Figures and punctuation do not tell copies apart: footnotes are numbered anew in each topic."""
    return re.sub(r"[\W\d_]+", " ", text.lower()).strip()


def _blocks(text: str) -> Iterator[list[str]]:
    """Runs of stripped lines between blank lines; a list item begins a block of its own."""
    block: list[str] = []
    for line in map(str.strip, text.translate(_STRAIGHT_QUOTES).expandtabs().splitlines()):
        if block and (not line or _BULLET.match(line)):
            yield block
            block = []
        if line:
            block.append(line)
    if block:
        yield block


def _prose(lines: list[str]) -> str:
    """The block as one line, or the empty string where it is no prose. Every rule errs towards dropping."""
    if len(lines) > 1 and _RULER.match(lines[1]):
        lines = lines[2:]
    lines = [line for line in lines if not _RULER.match(line)]
    if any(line.startswith(_CODE) or _TABLE.search(line) for line in lines):
        return ""
    paragraph = _BULLET.sub("", " ".join(" ".join(lines).split()), count=1) if lines else ""
    words = paragraph.split()
    plain = sum(bool(_PLAIN_WORD.match(word)) for word in words)
    is_sentence = bool(_SENTENCE_END.search(paragraph)) or paragraph[:1].isupper()
    is_prose = len(words) >= 4 and plain >= 0.6 * len(words) and is_sentence and _GRAMMAR.search(paragraph)
    return paragraph if is_prose else ""


def _set_apart(paragraph: str) -> str:
    """Without markup and quotes around single words, a space around each punctuation mark."""
    return " ".join(_WORD.findall(_QUOTED_WORD.sub(r"\1", _EMPHASIS.sub("", paragraph).replace("::", ":"))))
