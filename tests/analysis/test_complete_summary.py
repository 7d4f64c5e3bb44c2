"""summary.json carries every number of the report: those of its sentences and tables are looked up in it."""

import html
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sweep_folders import CONDITIONAL, conditional_trials, eventful_sweep, realistic_trials, with_signals, write_sweep

import analysis
from analysis.words import digits, duration, fixed, shown

REAL = sorted(path.parent for path in (Path(__file__).parents[1] / "records").glob("*/records.jsonl"))
MADE: dict[str, Callable[[Path], Path]] = {
    "realistic": lambda folder: write_sweep(folder, with_signals(realistic_trials())),
    "conditional": lambda folder: write_sweep(folder, conditional_trials(48), CONDITIONAL),
    "eventful": eventful_sweep,
    **{folder.name: lambda _, found=folder: found for folder in REAL},
}
NUMBER = re.compile(r"(?<![\w.,/-])\d[\d,]*(?:\.\d+)?(?:e-?\d+)?(?![\w/]|-\d)")
CONSTANTS = {"1", "2", "95"}
"""Of sentences: what is near the best is within 1 % of it, ways of two standard errors, 95 % intervals."""


def numbers(node: Any) -> Iterator[float | str]:
    """All numbers of a summary, those within its texts as they are written."""
    if isinstance(node, dict | list):
        for item in node.values() if isinstance(node, dict) else node:
            yield from numbers(item)
    elif isinstance(node, str):
        yield from NUMBER.findall(node)
    elif isinstance(node, int | float) and not isinstance(node, bool):
        yield abs(node)


def derived(content: dict[str, Any]) -> Iterator[float]:
    """What sentences say that is one step from the summary: percentages of a loss, two standard errors, work saved."""
    best, epochs = content["best"][0], content["epochs"]
    yield epochs["trained"] / (content["trials"]["total"] * epochs["asked_per_trial"])
    yield 2 * (content["noise"] or 0)
    yield (content["margin"] or 0) / best["mean"]
    for front in content["pareto"].values():
        yield from (point["behind"] / front["front"][-1]["mean"] for point in front["front"])


def forms(number: float | str) -> set[str]:
    """Ways to write a number, also in percent, millions and as a duration."""
    if isinstance(number, str):
        return {number}
    found = {f"{number:,}", shown(number), *NUMBER.findall(duration(number))}
    for places in (1, 2, 3, 4):
        found |= {digits(number, places), fixed(number, places)}
        found |= {digits(100 * number, places), fixed(100 * number, places), digits(number / 1e6, places)}
    return found


@pytest.mark.parametrize("name", MADE)
def test_every_number_of_sentences_and_tables_is_in_the_summary(tmp_path: Path, name: str) -> None:
    page = analysis.write_report(analysis.load(MADE[name](tmp_path / "s")), tmp_path / "out").read_text(
        encoding="utf-8"
    )
    content = json.loads((tmp_path / "out" / "summary.json").read_text(encoding="utf-8"))
    known = set().union(CONSTANTS, *map(forms, numbers(content)), *map(forms, derived(content)))
    # The table of all trials is trials.csv; what hangs on provenance.json is in the summary as it stands.
    page = re.sub(r"<script.*?</script>|<div id=\"listing\">.*?(?=</section>)", "", page, flags=re.DOTALL)
    parts = re.findall(r"<(?:td|p|p class=\"after note\")(?: class=\"\w*\")?>(.*?)</(?:td|p)>", page, flags=re.DOTALL)
    said = [html.unescape(re.sub(r"<(details|code).*?</\1>|<[^>]+>", "", part, flags=re.DOTALL)) for part in parts]
    found = [(number, text) for text in said for number in NUMBER.findall(text)]
    assert len(found) > 15
    assert [(number, text) for number, text in found if number not in known] == []
