"""The written report: files, escaping, and what a real browser makes of it."""

import json
import math
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from plotly.offline import get_plotlyjs
from sweep_folders import (
    SPEC,
    Driver,
    Trial,
    eventful_sweep,
    lr_batch,
    realistic_trials,
    with_signals,
    write_files,
    write_sweep,
)

import analysis
from analysis import figures
from tune_newllm import records
from tune_newllm.errors import FolderError

EVIL = "<script>window.hacked=1</script><img src=x onerror=window.hacked=1><b>bold</b><a href='javascript:hack()'>&amp;"


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


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    api = pytest.importorskip("playwright.sync_api")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no Chromium on this machine")
    quiet = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--enable-unsafe-swiftshader"]
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=quiet)
        yield browser
        browser.close()


class Visit:
    """One report in one tab, with all that it asked for and complained about."""

    def __init__(self, browser: Any, page: Path) -> None:
        self.requests: list[str] = []
        self.complaints: list[str] = []
        self.tab = browser.new_page(viewport={"width": 1280, "height": 900}, color_scheme="light")
        self.tab.set_default_timeout(120_000)
        self.tab.on("request", lambda request: self.requests.append(request.url))
        self.tab.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.tab.on("console", lambda line: self.complaints.append(line.text) if line.type == "error" else None)
        self.tab.goto(page.as_uri())
        self.settle()

    def settle(self) -> None:
        """Wait until every figure is drawn."""
        drawn = "[...document.querySelectorAll('.figure')].every(place => place.querySelector('.main-svg'))"
        self.tab.wait_for_function(drawn)
        self.tab.wait_for_timeout(200)

    def points(self) -> list[int]:
        """How many values the traces of each figure hold."""
        script = """() => [...document.querySelectorAll('.figure')].map(place => place._fullData.reduce(
            (sum, trace) => sum + (trace.dimensions ? trace.dimensions[0].values.length : trace.x.length), 0))"""
        counts: list[int] = self.tab.evaluate(script)
        return counts

    def texts(self, selector: str) -> list[str]:
        found: list[str] = self.tab.locator(selector).all_text_contents()
        return found


@pytest.fixture(scope="module")
def visit(tmp_path_factory: pytest.TempPathFactory, browser: Any) -> Iterator[Visit]:
    """The realistic sweep on a desktop; a page takes software WebGL seconds, so the tests share it."""
    folder = write_sweep(tmp_path_factory.mktemp("report") / "s", realistic_trials())
    visit = Visit(browser, analysis.write_report(analysis.load(folder)))
    yield visit
    visit.tab.close()


def test_learning_signals_are_drawn_with_their_captions(tmp_path: Path, browser: Any) -> None:
    page = analysis.write_report(analysis.load(write_sweep(tmp_path / "s", with_signals(realistic_trials(12)))))
    visit = Visit(browser, page)
    assert visit.complaints == []
    assert len(visit.texts("#signals h3")) == 6
    assert visit.tab.locator("#signals .figure .main-svg").count() >= 6
    visit.tab.set_viewport_size({"width": 390, "height": 800})
    visit.tab.wait_for_function("document.querySelector('#signals .main-svg').clientWidth < 390")
    assert visit.tab.evaluate("document.documentElement.scrollWidth") == 390


def test_every_figure_is_drawn_without_complaint_or_request(visit: Visit) -> None:
    assert visit.complaints == []
    assert [url for url in visit.requests if not url.startswith(("file:", "data:", "blob:"))] == []
    assert all(visit.points())
    assert visit.points()[0] == 40 + 4
    assert visit.texts(".answers p")[0].startswith("The best configuration is trial t00")


def test_parallel_coordinates_show_real_values(visit: Visit) -> None:
    assert {"0.0001", "0.003", "0.03", "8", "128", "4"} <= set(visit.texts("#parallel .axis .tick text"))
    assert visit.tab.locator("#parallel canvas").count() > 0


def test_no_button_offers_to_upload_a_chart(visit: Visit) -> None:
    script = "[...document.querySelectorAll('.modebar-btn')].map(button => button.dataset.title)"
    titles = visit.tab.evaluate(script)
    assert "Download plot as a PNG" in titles
    assert [title for title in titles if "hare" in title or "loud" in title] == []


def test_dragging_along_an_axis_keeps_the_lines_that_cross_there(visit: Visit) -> None:
    axis = visit.tab.locator("#parallel .axis-brush").first
    axis.scroll_into_view_if_needed()
    box = axis.bounding_box()
    x, top, height = box["x"] + box["width"] / 2, box["y"], box["height"]
    visit.tab.mouse.move(x, top + 0.38 * height)
    visit.tab.mouse.down()
    visit.tab.mouse.move(x, top + 0.69 * height, steps=4)
    visit.tab.mouse.up()
    visit.tab.wait_for_timeout(500)
    lr = "document.querySelector('#parallel .figure')._fullData[0].dimensions[0]"
    low, high = visit.tab.evaluate(f"{lr}.constraintrange")
    values = visit.tab.evaluate(f"[...{lr}.values]")
    span = math.log10(3e-2) - math.log10(1e-4)
    wanted = [value for value in values if 0.38 <= (math.log10(3e-2) - value) / span <= 0.69]
    assert 10 < len(wanted) < 30
    assert [value for value in values if low <= value <= high] == wanted, "not only up to the next labelled tick"


def test_a_button_brushes_to_the_best_tenth(visit: Visit) -> None:
    visit.tab.get_by_text("best tenth").click()
    visit.tab.wait_for_timeout(300)
    loss = "document.querySelector('#parallel .figure')._fullData[0].dimensions.at(-1)"
    low, high = visit.tab.evaluate(f"{loss}.constraintrange")
    values = visit.tab.evaluate(f"[...{loss}.values]")[:40]
    assert sum(low <= value <= high for value in values) == 4


def test_a_dark_page_turns_the_colours_of_losses(visit: Visit) -> None:
    read = """() => { const {layout, data} = document.querySelector('#lr-batch .figure');
        return [layout.font.color, data.map(trace => trace.marker?.colorscale).find(scale => scale)[0][1]]; }"""
    light = visit.tab.evaluate(read)
    visit.tab.emulate_media(color_scheme="dark")
    visit.tab.wait_for_function(f"({read})()[0] !== {light[0]!r}")
    dark = visit.tab.evaluate(read)
    assert light[1] != dark[1]
    assert visit.complaints == []


@pytest.mark.parametrize("name", ["lr_batch", "sqrt_law"])
def test_reports_of_real_sweeps_open_and_brush(browser: Any, tmp_path: Path, name: str) -> None:
    sweep = analysis.load(Path(__file__).parents[1] / "records" / name)
    page = analysis.write_report(sweep, tmp_path)
    visit = Visit(browser, page)
    assert visit.complaints == []
    assert {url.split("?")[0] for url in visit.requests if not url.startswith(("data:", "blob:"))} == {page.as_uri()}
    assert min(visit.points()) > 0
    law = figures.law_lines_data(figures.batch_law(sweep))
    read = (
        "() => document.querySelector('#lr-batch .figure')._fullData.find(trace => trace.name === 'fitted optimum').y"
    )
    assert visit.tab.evaluate(f"Array.from(({read})())") == pytest.approx(law.optima[:, 1].tolist(), rel=1e-3)
    before = visit.tab.locator("#listing tbody tr").count()
    visit.tab.get_by_role("button", name="best tenth").click()
    visit.tab.wait_for_timeout(1000)
    assert 0 < visit.tab.locator("#listing tbody tr:visible").count() < before
    visit.tab.close()


def test_on_a_phone_nothing_sticks_out(visit: Visit) -> None:
    visit.tab.set_viewport_size({"width": 390, "height": 800})
    visit.tab.wait_for_function("document.querySelector('#curves .main-svg').clientWidth < 390")
    assert visit.tab.evaluate("document.documentElement.scrollWidth") == 390
    assert visit.complaints == []


def test_every_free_text_is_text(tmp_path: Path, browser: Any) -> None:
    """Names of the sweep, its trials and parameters, and every reason, in the page and in what hovers over it."""
    path, other = f"model.{EVIL}", "model.2" + EVIL.replace(".", "")
    spec = SPEC | {
        "description": EVIL,
        "parameters": {path: {"values": [EVIL, "plain"]}, other: {"values": [1, 2]}},
        "early_terminate": {"type": "asha", "min_iter": 1, "eta": 2, "within": path},
    }
    driver = Driver()
    driver.write(records.SweepStarted, command=[EVIL])
    ends = [("completed", [5.0] * 7 + [4.0]), ("completed", [5.0] * 7 + [4.5]), ("stopped", [5.0])]
    for number, (state, losses) in enumerate([*ends, *((state, []) for state in ("failed", "crashed", "infeasible"))]):
        values, name = {path: (EVIL, "plain")[number % 2], other: 1 + number % 2}, f"t{number}{EVIL}"
        lost = Trial(values, [], state, EVIL, created={"trial_id": name, "config_id": EVIL})
        driver.trial(number, lost)
        del driver.lines[-2:]  # its start and its end, which name it by another id
        for epoch, loss in enumerate(losses, 1):
            driver.epoch(name, epoch, loss, dead_relu=0.1, micro_batch=1, plateau_step=120)
        driver.write(records.TrialCrashed, trial_id=name, epoch=0, attempt=1, reason=EVIL)
        driver.write(records.TrialEnded, trial_id=name, state=state, epoch=len(losses), reason=EVIL)
    driver.write(records.CodeForced, changed=[EVIL], code={})
    driver.write(records.SweepEnded, reason="failing", detail=EVIL)
    folder = write_files(tmp_path / EVIL.replace("/", ""), driver)
    content = spec | {"training": {"epochs": 8, "micro_batch": 2, "batch_size": 8}}
    (folder / "sweep.yaml").write_text(json.dumps(content))  # which is YAML too
    (folder / "provenance.json").write_text(json.dumps({EVIL: {EVIL: EVIL}, "versions": {"torch": EVIL}}))
    sweep = analysis.load(folder)
    assert sweep.warnings == []
    visit = Visit(browser, analysis.write_report(sweep, tmp_path))
    assert visit.complaints == []
    assert visit.tab.title() == folder.name
    assert visit.texts("h1") == [folder.name]
    for place in (
        ".about",
        ".answers p",
        "#failures td",
        "#best td",
        "#listing td",
        "#provenance dd",
        "#provenance code",
    ):
        assert any(EVIL in text for text in visit.texts(place)), place
    assert any(text.startswith(EVIL[:11]) for text in visit.texts("#slices .xtick text"))
    assert any(EVIL in text for text in visit.texts("#rungs .ytick text"))
    last = EVIL.rsplit(".", 1)[-1]
    assert {last, "2" + EVIL.replace(".", "")} <= set(visit.texts("#parallel .axis-title"))
    assert {last, "2" + EVIL.replace(".", "")} <= set(visit.texts("#slices .xtitle"))
    for part in ("curves", "signals", "slices"):
        visit.tab.evaluate(f"""Plotly.Fx.hover(document.querySelector("#{part} .figure"),
            [{{curveNumber: document.querySelector("#{part} .figure").data.length - 1, pointNumber: 0}}])""")
        assert any(f"t0{EVIL}" in text for text in visit.texts(f"#{part} .hoverlayer text")), part
    assert visit.tab.evaluate("window.hacked") is None
    assert (
        visit.tab.locator("main script:not([type='application/json']), main img[src=x], main a[href*=hack]").count()
        == 0
    )
    assert visit.tab.locator(".figure tspan[style*=bold]").all_text_contents() == [f"trial t0{EVIL}"] * 2


def test_a_sweep_that_has_only_begun(tmp_path: Path, browser: Any) -> None:
    for count in (0, 1):
        trials = [Trial(lr_batch(1e-3, 8), [5.0], None)] * count
        sweep = analysis.load(write_sweep(tmp_path / f"s{count}", trials, end=None))
        visit = Visit(browser, analysis.write_report(sweep))
        assert visit.complaints == []
        assert "No failures." in visit.texts("#failures p")
        assert len(visit.points()) == count


def test_the_page_links_to_nothing_outside(tmp_path: Path) -> None:
    page = analysis.write_report(analysis.load(write_sweep(tmp_path / "s", realistic_trials(6))))
    text = page.read_text(encoding="utf-8").replace(get_plotlyjs(), "")
    assert re.findall(r"""(?:src|href)=["']?(?!#)[^"' >]+""", text) == []
