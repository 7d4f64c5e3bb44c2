"""The written report: files, escaping, and what a real browser makes of it."""

import json
import re
import time
from pathlib import Path

import pandas as pd
import pytest
from plotly.offline import get_plotlyjs
from sweep_folders import (
    SPEC,
    Trial,
    eventful_sweep,
    lr_batch,
    realistic_trials,
    write_sweep,
)

import analysis
from tune_newllm.errors import FolderError


def test_three_files_and_no_draft(tmp_path: Path) -> None:
    folder = write_sweep(tmp_path / "s", realistic_trials())
    sweep = analysis.load(folder)
    before = {path.name for path in folder.iterdir()}
    page = analysis.write_report(sweep, test_loss=4.4)
    assert page == folder / "report.html"
    assert {path.name for path in folder.iterdir()} - before == {
        *("report.html", "trials.csv", "summary.json", "next.yaml"),
    }
    assert pd.read_csv(folder / "trials.csv")["value"].tolist() == pytest.approx(
        sweep.trials["value"].tolist(), nan_ok=True
    )
    content = json.loads((folder / "summary.json").read_text(), parse_constant=lambda name: pytest.fail(name))
    assert content["test_loss"] == 4.4
    assert page.stat().st_size < 8_000_000


def test_whoever_reads_the_old_report_keeps_all_of_it(tmp_path: Path) -> None:
    page = analysis.write_report(analysis.load(write_sweep(tmp_path / "s", realistic_trials(6))))
    before = page.read_text(encoding="utf-8")
    with page.open(encoding="utf-8") as reader:
        analysis.write_report(analysis.load(write_sweep(tmp_path / "s", realistic_trials(9))))
        assert reader.read() == before
    assert page.read_text(encoding="utf-8") != before


def test_a_spreadsheet_takes_no_text_for_a_formula(tmp_path: Path) -> None:
    spec = SPEC | {"parameters": {"=a.b": {"values": ["=1+1", "@x", "b"]}, "a.n": {"values": [-1, 2]}}}
    trials = [Trial({"=a.b": text, "a.n": -1}, [5.0]) for text in ("=1+1", "@x", "b")]
    analysis.write_report(analysis.load(write_sweep(tmp_path / "s", trials, spec)))
    table = pd.read_csv(tmp_path / "s" / "trials.csv")
    assert table["'=a.b"].tolist() == ["'=1+1", "'@x", "b"]
    assert table["a.n"].tolist() == [-1, -1, -1]


def test_failures_are_told_apart(tmp_path: Path) -> None:
    page = analysis.write_report(analysis.load(eventful_sweep(tmp_path / "s")))
    section = page.read_text(encoding="utf-8").split('<section id="failures">')[1].split("</section>")[0]
    assert re.findall("<dt>(.*?)</dt>", section) == ["1 diverged", "1 infeasible", "1 crashed", "1 failed"]
    reasons = re.findall('<td class="text">(.*?)</td>', section)
    assert len(reasons) == 4
    assert all(len(reason) <= 160 and reason.endswith("…") for reason in reasons)


def test_elsewhere(tmp_path: Path) -> None:
    sweep = analysis.load(write_sweep(tmp_path / "s", realistic_trials(6)))
    assert analysis.write_report(sweep, tmp_path / "new" / "deep") == tmp_path / "new" / "deep" / "report.html"
    assert analysis.write_report(sweep, tmp_path / "a.html") == tmp_path / "a.html"
    assert (tmp_path / "summary.json").is_file()
    (tmp_path / "file").write_text("")
    with pytest.raises(FolderError, match="--out"):
        analysis.write_report(sweep, tmp_path / "file" / "below")


def test_a_thousand_trials_of_fifty_epochs(tmp_path: Path) -> None:
    trials = [
        Trial(lr_batch(1e-3 * (1 + n % 7), 8), [5 - 0.01 * e + 0.001 * n for e in range(50)]) for n in range(1000)
    ]
    folder = write_sweep(tmp_path / "s", trials, SPEC | {"training": SPEC["training"] | {"epochs": 50}})
    start = time.process_time()
    page = analysis.write_report(analysis.load(folder))
    assert time.process_time() - start < 15, "three times what it takes, for slow machines"
    assert page.stat().st_size < 8_000_000


def test_the_page_links_to_nothing_outside(tmp_path: Path) -> None:
    page = analysis.write_report(analysis.load(write_sweep(tmp_path / "s", realistic_trials(6))))
    text = page.read_text(encoding="utf-8").replace(get_plotlyjs(), "")
    assert re.findall(r"""(?:src|href)=["']?(?!#)[^"' >]+""", text) == []
