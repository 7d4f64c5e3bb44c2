"""The report of a sweep: one HTML file that needs no network, and the same numbers as CSV and JSON beside it."""

import json
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from string import Template
from typing import Any

import pandas as pd
from plotly.offline import get_plotlyjs

from tune_newllm.errors import FolderError

from . import training_page
from .answers import answers
from .body import body
from .comparison import compare
from .evaluation import said
from .figures.style import ACCENT
from .figures.training_curves import training_curves_data
from .figures.training_png import training_png
from .files import replace
from .load import Sweep
from .markup import Section
from .proposal import NEXT_FILE, next_file
from .sections import sections
from .sections.comparison import comparison_sections
from .sections.evaluation import evaluation_sections
from .summary import summary
from .yardstick import conjoined

LONGEST_NAME = 80
"""Characters of the names that a folder for a comparison is called after."""


def write_report(sweep: Sweep, out: Path | str | None = None, test_loss: float | None = None) -> Path:
    """Write `report.html`, and beside it `trials.csv` and `summary.json`; each file is replaced in one step.

    Where the law of learning rate and batch size is not determined, `next.yaml` holds the trials to run next.

    Args:
        out: the HTML file, or a folder to put all three into; the sweep's own folder if None.
        test_loss: see `summary`.

    Returns:
        the path of the HTML file.

    Raises:
        FolderError: the files cannot be written there.
    """
    target = sweep.folder if out is None else Path(out)
    beside = {"trials.csv": _csv(sweep.trials), "summary.json": _json(summary(sweep, test_loss))}
    return _write(target, beside | {NEXT_FILE: next_file(sweep)}, html(sweep, test_loss))


def _json(content: dict[str, Any]) -> str:
    return json.dumps(content, indent=2, allow_nan=False, ensure_ascii=False) + "\n"


def _write(target: Path, beside: Mapping[str, str | None], text: str) -> Path:
    """Write the page `target`, or into it where it is no HTML file, and the other files next to the page.

    A file without content is one of an earlier report that no longer holds.
    """
    page = target if target.suffix == ".html" else target / "report.html"
    try:
        page.parent.mkdir(parents=True, exist_ok=True)
        for name, content in beside.items():
            if content is None:
                page.with_name(name).unlink(missing_ok=True)
            else:
                replace(page.with_name(name), content)
        replace(page, text)
    except OSError as error:
        raise FolderError(
            f"a report needs a folder that can be written to: {error}; choose another with --out"
        ) from error
    return page


def _csv(trials: pd.DataFrame) -> str:
    """The table of trials; a text that a spreadsheet would take for a formula gets an apostrophe before it."""

    def harmless(value: Any) -> Any:
        return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")) else value

    texts = list(trials.select_dtypes(exclude=["number", "bool", "datetimetz"]))
    table = trials.rename(columns=harmless)
    table[[*map(harmless, texts)]] = trials[texts].map(harmless)
    return table.to_csv(index=False)


def html(sweep: Sweep, test_loss: float | None = None) -> str:
    """The report as one HTML page with plotly.js inside."""
    about = str(sweep.spec.get("description") or "")
    return _page(sweep.name, about, answers(sweep, test_loss), sections(sweep))


def write_comparison(sweeps: Sequence[Sweep], out: Path | str | None = None) -> Path:
    """Write the same page about several sweeps side by side, and beside it `summary.json`.

    Args:
        out: the HTML file, or a folder for both; `NAME-vs-NAME-report` in the working directory if None.

    Returns:
        the path of the HTML file.

    Raises:
        FolderError: the files cannot be written there.
        ValueError: fewer than two sweeps.
    """
    content = compare(sweeps)
    target = Path(comparison_folder(sweeps)) if out is None else Path(out)
    parts = comparison_sections(sweeps, content)
    title, about = conjoined(content["names"]), f"{len(sweeps)} sweeps, the same questions"
    return _write(target, {"summary.json": _json(content)}, _page(title, about, content["answers"], parts))


def write_evaluation(found: Mapping[str, Any], page: Path) -> Path:
    """Write the same page about checkpoints that were measured side by side.

    Args:
        found: what `tune_newllm.artifacts.evaluation.evaluate_all` returns.
        page: the HTML file.

    Raises:
        FolderError: it cannot be written there.
    """
    names = [row["name"] for row in found["checkpoints"]]
    text = _page(conjoined(names), "checkpoints measured under one protocol", said(found), evaluation_sections(found))
    try:
        page.parent.mkdir(parents=True, exist_ok=True)
        replace(page, text)
    except OSError as error:
        raise FolderError(f"the page cannot be written: {error}; choose another place with --html") from error
    return page


def write_training(progress: Mapping[str, Any], page: Path) -> Path:
    """Write the same page about one training under a name.

    Args:
        progress: what its `NAME_progress.json` holds.
        page: the HTML file.

    Raises:
        FolderError: it cannot be written there.
    """
    sentences, made = training_page.said(progress), training_page.parts(progress)
    return _write(page, {}, _page(progress["model_name"], training_page.about(progress), sentences, made))


def write_training_picture(progress: Mapping[str, Any], picture: Path) -> Path:
    """Write loss and perplexity of the same training as a PNG.

    Raises:
        ImportError: matplotlib is not installed.
        OSError: it cannot be written there.
    """
    replace(picture, training_png(training_curves_data(progress)))
    return picture


def comparison_folder(sweeps: Sequence[Sweep]) -> str:
    """A folder's name for a report on these sweeps."""
    names = [sweep.name for sweep in sweeps]
    joined = "-vs-".join(names)
    return f"{joined if len(joined) <= LONGEST_NAME else f'{names[0]}-vs-{len(names) - 1}-others'}-report"


def _page(title: str, about: str, said: Sequence[str], parts: Sequence[Section]) -> str:
    template = Template(Path(__file__).with_name("page.html").read_text(encoding="utf-8"))
    return template.substitute(
        title=escape(title),
        about=f'<p class="about">{escape(about)}</p>' if about else "",
        answers="\n".join(f"<p>{escape(sentence)}</p>" for sentence in said),
        contents=" ".join(f'<a href="#{part.anchor}">{escape(part.title)}</a>' for part in parts),
        sections=body(parts),
        plotly=get_plotlyjs(),
        accent=ACCENT,
    )
