"""README cannot drift: every sweep file in it is accepted, every command in it exists with the options it is given."""

import re
import shlex
from pathlib import Path
from typing import Any

import click
import pytest

from analysis.lr_words import law_sentences
from tune_newllm.cli.main import commands
from tune_newllm.sweep.loading import parse_spec
from tune_newllm.sweep.source import parse_yaml

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", README, flags=re.DOTALL)
CALLS = sorted({
    call.strip()
    for text in [body for kind, body in BLOCKS if kind == "bash"] + re.findall(r"`([^`\n]+)`", README)
    for line in text.replace("\\\n", " ").splitlines()
    for call in re.findall(r"python -m tune_newllm ([^#&|]+)", line)
})  # fmt: skip


@pytest.mark.parametrize("text", [body for kind, body in BLOCKS if kind == "yaml"])
def test_every_yaml_block_is_a_valid_sweep_file(text):
    parse_spec(parse_yaml(text, "README.md"))


@pytest.mark.parametrize("call", CALLS)
def test_every_command_parses(call):
    name, *words = shlex.split(call)
    command = commands.commands[name]
    with click.Context(command) as context:
        command.parse_args(context, words)
    for word in words:
        if word.endswith(".yaml"):
            assert (ROOT / word).is_file()


def test_the_notebook_block_runs():
    text = next(body for kind, body in BLOCKS if kind == "python" and "import analysis" in body)
    found: dict[str, Any] = {}
    exec(text.replace("sweeps/sqrt_law", str(ROOT / "tests" / "records" / "sqrt_law")).replace(".show()", ""), found)
    assert found["law"].verdict == "square-root scaling"
    # What the text above the block quotes.
    assert law_sentences(found["law"])[0] in " ".join(README.split())


def test_every_command_and_file_is_mentioned():
    assert {call.split()[0] for call in CALLS} == set(commands.commands)
    for path in (ROOT / "search_spaces").glob("*.yaml"):
        assert f"search_spaces/{path.name}" in README


def test_links_lead_somewhere():
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (ROOT / target).exists(), target


def test_the_map_names_what_exists():
    tree = next(body for kind, body in BLOCKS if kind == "text" and "tune_newllm/" in body)
    for name in re.findall(r"^ {2}(\w+(?:\.py|/)) ", tree, flags=re.MULTILINE):
        assert (ROOT / "tune_newllm" / name).exists() or (ROOT / "analysis" / name).exists(), name
