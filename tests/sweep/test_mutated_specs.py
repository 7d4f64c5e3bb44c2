"""Sweep files as mistakes and malice make them: each is accepted, or refused by lines that say where and what."""

import copy
import io
import json
import re
import sys
import time
from contextlib import chdir, redirect_stderr, redirect_stdout
from pathlib import Path
from unittest import mock

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tune_newllm.cli.main import main
from tune_newllm.errors import SpecError
from tune_newllm.sweep.document import LONGEST_KEY, MOST_CHARACTERS, MOST_LEVELS
from tune_newllm.sweep.loading import load_spec, parse_spec
from tune_newllm.sweep.source import parse_value, parse_yaml
from tune_newllm.sweep.tree import paths

EVERY_KEY = """\
description: learning rate and batch size on the built-in corpus
corpus: {name: python-docs, vocab_size: 1000, window: 32, windowing: complete}
model: {family: context_vector, embed_dim: 64, hidden_dim: 128, ctx_dim: 64, num_layers: 2, dropout: 0.1, init: he}
training:
  epochs: 8
  optimizer: adam
  lr_schedule: {name: cosine, warmup: 0.05, final: 0.1}
  lr_rule: none
  clip: {schedule: piecewise, by: epoch, table: [[0, 0.5], [10, 1.0]]}
  early_stopping: {patience: 10, min_delta: 0.001}
  precision: auto
method: bayes
metric: {name: val_loss, goal: minimize}
parameters:
  training.lr: {distribution: log_uniform_values, min: 1e-4, max: 3e-2}
  training.batch_size: {values: [8, 16, 32, 64, 128]}
  model.dropout: {distribution: q_uniform, min: 0, max: 0.5, q: 0.1, when: {model.init: [he, original]}}
  training.weight_decay: {distribution: log_normal, mu: -3, sigma: 1}
points: [{training.lr: 1e-3, training.batch_size: 32}]
balanced: training.batch_size
early_terminate: {type: asha, min_iter: 4, eta: 2, within: training.batch_size}
seeds: 1
run_cap: 40
budget: {wall: 2h, device_hours: 4, epochs: 400}
resources: {cpus_per_trial: 1, gpus_per_trial: auto, max_concurrent: auto, address: local}
"""
SHIPPED = sorted((Path(__file__).parents[2] / "search_spaces").glob("*.yaml"))
TEXTS = [EVERY_KEY, *(path.read_text() for path in SHIPPED)]
TREES = [parse_yaml(text, "x").values for text in TEXTS]


class Raw(str):
    """YAML that stands in the file as it is."""


ODD = [
    *map(Raw, ("~", "null", ".nan", ".inf", "-.inf", "1e400", "-0.0", "5e-324", "0x1F", "0o17", "08", "1_000")),
    *map(Raw, ("9" * 400, "9" * 5000, "-9223372036854775809", "9223372036854775807", "4503599627370497.5", "1e16")),
    *map(Raw, ("2001-01-01", "2001-99-99", "!!int x", "!!float 1", "!!set {a}", "!!python/name:os.system x", "!x y")),
    *map(Raw, ("*nowhere", "&a [*a]", "{<<: 3}", "yes", "=", "? x", "''", "|\n    two\n    lines", "[[[[]]]]")),
    *("", " ", "none", "auto", "\u0000", "\ud800", "\u2028", "αβγ", "🐍" * 9, "a" * 3000, "line\nbreak", "../.."),
    *("training.lr", "model", "local", "constant", "2h", "1d 12h", "-1s", "int", "List[x]", "literal['auto']"),
    *(0, -1, 1, 2, 3.5, 1e-9, 10**9, 2**31, 2**53, 2**63 - 1, True, False, [], {}, [[]], [{}], [None], {"a": {}}),
]  # fmt: skip
WORDS = [*paths(), "parameters", "value", "values", "min", "max", "when", "q", "distribution", "name", "lr", "epochs"]
WORDS += ["probabilities", "mu", "a", "table", "program", "within", "budget", "strict", "<<", "3", "~", "", "a b", "é"]
WORDS += ["training.clip.norm.deep", ".", "..", "a.", ".a", "model.", "x" * 200, "a\nb", "\x1b[31m", "int", "A[", "`"]
SNIPPETS = [
    "\t",
    " ",
    "\n",
    ":",
    ": ",
    "- ",
    "{",
    "}",
    "[",
    "]",
    ",",
    "#",
    "'",
    '"',
    "|",
    ">",
    "&a ",
    "*a ",
    "!!",
    "<<: *a",
    "%",
]
SNIPPETS += [
    "\x00",
    "\x85",
    "\u2028",
    "\ufeff",
    "é",
    "---\n",
    "...\n",
    "? ",
    "~",
    ".nan",
    "-",
    "0",
    "\\",
    "@",
    "`",
    "\r\n",
]
WHERE = re.compile(r"fuzz\.yaml:\d+: |--set")
KEYLESS = re.compile(
    "--set|not valid YAML|a sweep file is|control characters|aliases|levels deep|a key is a word|the tag"
)


@st.composite
def structures(draw):
    """A file whose tree was changed."""
    tree = copy.deepcopy(draw(st.sampled_from(TREES)))
    for _ in range(draw(st.integers(1, 4))):
        places = [at for at in _places(tree) if at]
        if not places:
            break
        at = draw(st.sampled_from(places))
        holder, key = _at(tree, at[:-1]), at[-1]
        other = draw(st.sampled_from(ODD) | st.sampled_from(places).map(lambda place, tree=tree: _at(tree, place)))
        match draw(st.sampled_from(["delete", "rename", "retype", "list", "map", "add", "scale"])):
            case "delete":
                del holder[key]
            case "rename" | "add" as how if isinstance(holder, dict):
                name = draw(st.sampled_from(WORDS) | st.just(f"{key}s") | st.just(str(key).upper()))
                holder[name] = holder.pop(key) if how == "rename" else copy.deepcopy(other)
            case "list":
                holder[key] = [holder[key], copy.deepcopy(other)][: draw(st.integers(1, 2))]
            case "map":
                holder[key] = {draw(st.sampled_from(WORDS)): holder[key]}
            case "scale" if isinstance(holder[key], int | float):
                holder[key] = holder[key] * draw(st.sampled_from([-1, 0, 0.5, 10, 1e6, 1e300]))
            case _:
                holder[key] = copy.deepcopy(other)
    return _yaml(tree)


@st.composite
def scribbles(draw):
    """A file whose characters were changed."""
    text = draw(st.sampled_from(TEXTS))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(text)))
        to = min(len(text), at + draw(st.integers(0, 12)))
        match draw(st.sampled_from(["cut", "insert", "swap", "indent", "line", "end"])):
            case "cut":
                text = text[:at] + text[to:]
            case "insert":
                text = text[:at] + draw(st.sampled_from(SNIPPETS) | st.characters()) + text[at:]
            case "swap":
                text = text[:at] + draw(st.sampled_from([each for each in ODD if isinstance(each, str)])) + text[to:]
            case "indent":
                start = text.rfind("\n", 0, at) + 1
                text = text[:start] + draw(st.sampled_from([" ", "   ", "\t", "- ", "? "])) + text[start:]
            case "line":
                lines = text.splitlines(keepends=True) or [""]
                lines.insert(draw(st.integers(0, len(lines))), draw(st.sampled_from(lines)))
                text = "".join(lines)
            case "end":
                text = text[:at]
    return text


def overrides():
    """What the command line may say."""
    values = st.sampled_from(
        ["1", "none", "null", "[1", "{a: 1}", "{min: 1, max: 2}", "[*a]", "&a [*a]", "''", ".nan", "9" * 99]
    )
    keys = st.sampled_from([*WORDS, "parameters.training.lr.max", "parameters.training.lr", "points", "budget.wall"])
    return st.lists(st.builds("{}={}".format, keys, values) | st.sampled_from(["", "=", "x"]), max_size=2)


def _places(node, at=()):
    yield at
    for key, child in node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ():
        yield from _places(child, (*at, key))


def _at(tree, at):
    for key in at:
        tree = tree[key]
    return tree


def _yaml(node, indent=""):
    """Block style for mappings, so that lines differ; the rest in one line."""
    if isinstance(node, dict) and node:
        return "".join(f"{indent}{_flow(key)}: {_below(child, indent)}\n" for key, child in node.items())
    return f"{indent}{_flow(node)}\n"


def _below(node, indent):
    return "\n" + _yaml(node, indent + "  ").rstrip("\n") if isinstance(node, dict) and node else _flow(node)


def _flow(node):
    if isinstance(node, list):
        return f"[{', '.join(map(_flow, node))}]"
    if isinstance(node, dict):
        return f"{{{', '.join(f'{_flow(key)}: {_flow(child)}' for key, child in node.items())}}}"
    plain = isinstance(node, Raw) or (isinstance(node, str) and re.fullmatch(r"[\w.<~]+", node, re.ASCII))
    return str(node) if plain else json.dumps(node)


def refusal(text, sets=()):
    """The lines that refuse a file, none where it is accepted, which then has to read back as the same sweep."""
    warnings = []
    try:
        spec = parse_spec(parse_yaml(text, "fuzz.yaml"), sets, warnings)
    except SpecError as error:
        lines = str(error).split("\n")
        assert all(WHERE.match(line) for line in lines), lines
        whole = (
            "not valid YAML|a sweep file is a mapping|control characters|aliases|levels deep|a key is a word|the tag"
        )
        assert all("`" in line or re.search(whole, line) or line.startswith("--set") for line in lines), lines
        return lines
    assert all(WHERE.match(line) and "`" in line for line in warnings), warnings
    assert parse_spec(parse_yaml(spec.to_yaml(), "again.yaml", 2 * MOST_CHARACTERS)) == spec
    return []


@settings(deadline=None, max_examples=120, derandomize=True, suppress_health_check=list(HealthCheck))
@given(text=structures() | scribbles(), sets=overrides())
def test_mutated_files_are_accepted_or_refused_by_line_and_key(text, sets):
    refusal(text, sets)


@settings(deadline=None, max_examples=30, derandomize=True, suppress_health_check=list(HealthCheck))
@given(text=structures() | scribbles())
def test_the_command_line_refuses_them_with_code_2_and_leaves_nothing_behind(text, tmp_path_factory):
    place = tmp_path_factory.mktemp("fuzz")
    if refusal(text):
        (place / "fuzz.yaml").write_text(text, "utf-8", "surrogatepass", "")
        code, out, err = command(place, "search", place / "fuzz.yaml", "--root", place / "sweeps", "--quiet")
        assert (code, out) == (2, "")
        assert all(line.startswith(("error: ", "warning: ")) for line in err.splitlines()), err
        assert [path.name for path in place.iterdir()] == ["fuzz.yaml"]


def command(place, *words):
    """What the command line does in an otherwise empty folder: (exit code, stdout, stderr)."""
    out, err = io.StringIO(), io.StringIO()
    argv = ["tune_newllm", *map(str, words)]
    there, here = chdir(place), mock.patch.object(sys, "argv", argv)
    with there, here, redirect_stdout(out), redirect_stderr(err), pytest.raises(SystemExit) as ended:
        main()
    return ended.value.code, out.getvalue(), err.getvalue()


def _grown(first, links):
    """Twenty lines, each ten times as long as the one before once its aliases are written out."""
    return f"a0: &a0 {first}\n" + "".join(links.format(new=i, old=", ".join([f"*a{i - 1}"] * 10)) for i in range(1, 21))


BOMBS = {
    "aliases": (_grown("[lol]", "a{new}: &a{new} [{old}]\n"), 5, "`a4`: .* all aliases written out"),
    "merges": (_grown("{lol: 1}", "a{new}: &a{new} {{<<: [{old}]}}\n"), 5, "`a4`: .* all aliases written out"),
    "long words": ("a: &a " + "x" * 9999 + "\nb: [" + "*a," * 999 + "]", 2, "`b`: .* all aliases written out"),
    "circle": ("a: 1\nb: &b [*b]", 2, "`b`: .* levels deep"),
    "circle of merges": ("a: 1\nb: &b {<<: *b}", 2, "`b`: .* levels deep"),
    "deep lists": ("a:\n  " + "[" * 50_000, 2, "levels deep"),
    "deep items": ("a:\n" + "- " * 50_000, 2, "levels deep"),
    "deep mappings": ("".join(" " * i + "a:\n" for i in range(600)), MOST_LEVELS, "levels deep"),
    "many values": ("a: [" + "1," * 50_000 + "]", 1, "at most 200,000 characters"),
    "large": ("a: " + "x" * MOST_CHARACTERS, 1, "at most 200,000 characters"),
}


@pytest.mark.parametrize("name", BOMBS)
def test_yaml_that_grows_is_refused_before_it_costs_time_or_memory(name):
    text, line, words = BOMBS[name]
    began = time.process_time()
    with pytest.raises(SpecError, match=f"^fuzz.yaml:{line}: .*{words}|^fuzz.yaml:{line}: {words}"):
        parse_yaml(text, "fuzz.yaml")
    assert time.process_time() - began < 3


@pytest.mark.parametrize("name", ["aliases", "merges", "circle", "deep lists"])
def test_so_it_is_behind_set(name):
    text, _, words = BOMBS[name]
    with pytest.raises(SpecError, match=f"^--set: .*{words}"):
        parse_value(text)


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("a: 1\nb: {c: 1, c: 2}", 2, "`b.c` is given twice"),
        ("a: 1\n? [x]\n: 2", 2, "a key is a word .* got a list"),
        ('a: 1\n"b\\n": 2', 2, "a key is a word"),
        (f"a: 1\n{'b' * (LONGEST_KEY + 1)}: 2", 2, "a key is a word"),
        ("a: 1\nb: {<<: 3}", 2, "`b`: `<<` merges mappings, got '3'"),
        ("a: 1\nb: !!python/object:os.system {}", 2, "`b`: the tag .* means nothing here"),
        ("a: 1\nb: !x y", 2, "`b`: the tag '!x' means nothing here"),
        ("a: 1\nb: !!int x", 2, "`b`: must be what YAML 1.2 calls int, got 'x'"),
        ("a: 1\nb: 9223372036854775808", 2, "`b`: a whole number lies within"),
        (f"a: 1\nb: {'9' * 5000}", 2, "`b`: must be what YAML 1.2 calls int"),
        ('a: 1\nb: "\\ud800"', 2, "`b`: a text has no control characters"),
        ('a: 1\nb: "\\U00110000"', 2, "not valid YAML 1.2"),
        ("a: 1\nb: \x01", 2, "no control characters, got '.x01'"),
        ("%YAML 9.9\n--- {}", 1, "not valid YAML 1.2"),
        ("a: 1\n---\nb: 2", 2, "another document"),
    ],
)
def test_odd_yaml_is_refused_by_line_and_key(text, line, words):
    with pytest.raises(SpecError, match=f"^fuzz.yaml:{line}: .*{words}|^fuzz.yaml:{line}: {words}"):
        parse_yaml(text, "fuzz.yaml")


def test_a_message_is_one_line_whatever_it_repeats():
    assert refusal('balanced: "two\\nlines"')[0].startswith("fuzz.yaml:1: `two\\nlines` is not searched")
    assert len(refusal('metric: {name: x, goal: "two\\nlines"}')) == 2
    assert len(refusal("{}", ["training.epochs.deep='two\n\n lines'"])) == 1


def test_dates_stay_texts_and_merges_are_known_by_their_lines():
    source = parse_yaml("a: {x: 1, y: 2}\nb: &b\n  y: 3\n  z: 4\nc:\n  <<: [*b, {x: 5}]\n  z: 2001-01-01", "f")
    assert source.values["c"] == {"y": 3, "x": 5, "z": "2001-01-01"}
    assert [source.where(("c", key)) for key in ("y", "x", "z")] == ["f:3", "f:6", "f:7"]


def test_overrides_cannot_build_deep_trees_or_endless_paths():
    for text in ("a." * 60_000 + "b=1", "training" + ".a" * 60 + "=1", "\x1b[31m=1"):
        with pytest.raises(SpecError, match="--set takes key=value"):
            parse_spec(parse_yaml("{}", "f"), [text])
    nested = "{value: 1}"
    for _ in range(4):
        nested = f"{{parameters: {{{'n' * 40}: {nested}}}}}"
    with pytest.raises(SpecError, match="too long for a path"):
        parse_spec(parse_yaml(f"parameters: {{training: {nested}}}", "f"))


def test_files_that_are_no_text_or_have_no_end_are_refused(tmp_path):
    (tmp_path / "latin.yaml").write_bytes(b"a: 1\nb: \xe9\n")
    with pytest.raises(SpecError, match=r"latin.yaml:2: .* UTF-8, got the byte 0xe9"):
        load_spec(tmp_path / "latin.yaml")
    if Path("/dev/zero").exists():
        with pytest.raises(SpecError, match="/dev/zero:1: "):
            load_spec(Path("/dev/zero"))
    with pytest.raises(SpecError, match="cannot be read: Is a directory"):
        load_spec(tmp_path)
