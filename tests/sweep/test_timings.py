"""What was measured earlier is not measured again, and a cache that is of no use costs nothing but that."""

import json
import subprocess
import sys

import pytest

from tune_newllm.sweep import timings
from tune_newllm.sweep.timings import FILE, remembered
from tune_newllm.training.timing import Case

FOUND = {Case("fp32", 1, 64): 0.5, Case("bf16", 1, 64): 0.25}
EARLIER = (FOUND, "measured earlier")


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """The cache's file on a machine with nothing else to do."""
    monkeypatch.setenv("TUNE_NEWLLM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(timings, "_is_busy", lambda: False)
    return tmp_path / "cache" / FILE


def ask(question="q", found=FOUND):
    """What is told, and whether anything was measured for it."""
    calls = []
    told = remembered({"question": question}, lambda: calls.append(1) or found, "cpu")
    assert (told.when == "measured earlier") == (not calls)
    return told


def test_the_same_question_is_measured_once(cache, monkeypatch):
    assert ask() == (FOUND, "measured now")
    assert ask() == EARLIER
    assert ask("another").when == "measured now"
    assert ask() == ask("another") == EARLIER
    for name, value in (("processor", lambda: "another"), ("code_hashes", lambda: {"models/a.py": "0"})):
        with monkeypatch.context() as context:
            context.setattr(timings, name, value)
            assert ask().when == "measured now"
            assert ask() == EARLIER
    # Code that cannot change how long a step takes.
    monkeypatch.setattr(timings, "code_hashes", lambda real=timings.code_hashes: real() | {"data/new.py": "0"})
    assert ask() == EARLIER


def test_what_a_busy_machine_says_is_not_kept(cache, monkeypatch):
    monkeypatch.setattr(timings, "_is_busy", lambda: True)
    assert "busy" in ask().when
    assert not cache.exists()
    monkeypatch.undo()


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[: len(text) // 2],
        lambda text: "[]",
        lambda text: "[" * 100_000,
        lambda text: text.replace("0.5", "-0.5"),
        lambda text: text.replace("fp32", "fp64"),
        lambda text: json.dumps({key: {**row, "seconds": []} for key, row in json.loads(text).items()}),
    ],
)
def test_a_damaged_cache_is_measured_again_and_mended(cache, damage):
    ask()
    text = cache.read_text()
    cache.write_text(damage(text))
    assert ask().when == "measured now"
    assert ask() == EARLIER


def test_a_cache_that_cannot_be_written_is_none(cache, tmp_path):
    cache.parent.write_text("a file where the folder should be")
    assert ask() == ask() == (FOUND, "measured now")


def test_only_the_newest_are_kept(cache, monkeypatch):
    monkeypatch.setattr(timings, "MOST", 2)
    for question in "abc":
        ask(question)
    assert [ask(question).when for question in "bc"] == ["measured earlier"] * 2
    assert ask("a").when == "measured now"


def test_processes_that_measure_at_once_keep_what_each_found(cache):
    code = """
import sys
from tune_newllm.sweep import timings
from tune_newllm.training.timing import Case
timings._is_busy = lambda: False
for number in range(20):
    timings.remembered({"question": f"{sys.argv[1]}{number}"}, lambda: {Case("fp32", 1, 64): 0.5}, "cpu")
"""
    workers = [subprocess.Popen([sys.executable, "-c", code, name]) for name in "xy"]
    assert [worker.wait(60) for worker in workers] == [0, 0]
    assert len(json.loads(cache.read_text())) == 40
    assert {ask(f"{name}{number}").when for name in "xy" for number in range(20)} == {"measured earlier"}
