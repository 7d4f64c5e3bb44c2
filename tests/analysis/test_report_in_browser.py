"""What a real browser makes of the report."""

import json
import math
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browsing import EVIL, Visit
from sweep_folders import (
    SPEC,
    Driver,
    Trial,
    lr_batch,
    realistic_trials,
    with_signals,
    write_files,
    write_sweep,
)

import analysis
from analysis import Sweep, figures
from tune_newllm import records

REAL = sorted(path.parent for path in (Path(__file__).parents[1] / "records").glob("*/records.jsonl"))


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    folder = write_sweep(tmp_path_factory.mktemp("report") / "it's", with_signals(realistic_trials()))
    return analysis.load(folder)


@pytest.fixture(scope="module")
def visit(sweep: Sweep, browser: Any) -> Iterator[Visit]:
    """The realistic sweep on a desktop; a page takes software WebGL seconds, so the tests share it."""
    visit = Visit(browser, analysis.write_report(sweep))
    yield visit
    visit.tab.close()


def crossing(sweep: Sweep, axis: int, kept: list[float]) -> list[str]:
    """The trials whose lines cross an axis within a range, by rising loss."""
    low, high = kept
    inside = figures.parallel_coordinates_data(sweep).axes[axis].positions
    trials = sweep.trials[(inside >= low - 1e-6) & (inside <= high + 1e-6)]
    found: list[str] = trials.sort_values("value", kind="stable")["trial_id"].tolist()
    return found


def test_every_figure_holds_its_data_and_nothing_is_asked_for(sweep: Sweep, visit: Visit) -> None:
    assert visit.complaints == []
    assert visit.requests == [(sweep.folder / "report.html").as_uri()]
    assert all(visit.points())
    curves = figures.learning_curves_data(sweep)
    lines = [*curves.groups.values(), *(group.ends() for group in curves.groups.values()), curves.best]
    assert visit.points("#parallel") == [40 + 4]
    assert visit.points("#slices") == [40 + 1, 40 + 1]
    assert visit.points("#curves") == [sum(len(line.values) for line in lines if line)]
    assert visit.points("#signals")[:5] == [
        len(one.lines.values) + len(one.best.values) for one in figures.signals_data(sweep) if one.best
    ]
    assert len(visit.texts("#signals h3")) == 6
    assert visit.texts(".answers p")[0].startswith("The best configuration is trial t00")


def test_parallel_coordinates_show_real_values(visit: Visit) -> None:
    assert {"0.0001", "0.003", "0.03", "8", "128", "4"} <= set(visit.texts("#parallel .axis .tick text"))
    assert visit.tab.locator("#parallel canvas").count() > 0


def test_no_button_offers_to_upload_a_chart(visit: Visit) -> None:
    script = "[...document.querySelectorAll('.modebar-btn')].map(button => button.dataset.title)"
    titles = visit.tab.evaluate(script)
    assert "Download plot as a PNG" in titles
    assert [title for title in titles if "hare" in title or "loud" in title] == []


def test_dragging_along_an_axis_keeps_the_trials_that_cross_there(sweep: Sweep, visit: Visit) -> None:
    assert visit.texts("#listed") == ["Showing 40 of 40 trials, lowest loss first."]
    assert visit.listed() == sweep.trials.sort_values("value", kind="stable")["trial_id"].tolist()
    kept = visit.brush(0, 0.31, 0.62)
    span = math.log10(3e-2) - math.log10(1e-4)
    assert kept == pytest.approx([-4 + 0.31 * span, -4 + 0.62 * span], abs=0.02 * span), "not only to labelled ticks"
    wanted = crossing(sweep, 0, kept)
    assert 10 < len(wanted) < 30
    assert visit.listed() == wanted
    count = len(wanted)
    assert visit.texts("#listed") == [f"Showing {count} of {count} kept trials (40 in all), lowest loss first."]


def test_a_dark_page_turns_the_colours_of_losses_and_keeps_the_brush(visit: Visit) -> None:
    read = """() => { const {layout, data} = document.querySelector('#lr-batch .figure');
        return [layout.font.color, data.map(trace => trace.marker?.colorscale).find(scale => scale)[0][1]]; }"""
    brushed, light = visit.listed(), visit.tab.evaluate(read)
    visit.tab.emulate_media(color_scheme="dark")
    visit.tab.wait_for_function(f"({read})()[0] !== {light[0]!r} && waiting.size === 0")
    assert light[1] != visit.tab.evaluate(read)[1]
    assert visit.tab.evaluate("document.querySelector('#parallel .figure').data[0].dimensions[0].constraintrange")
    assert visit.listed() == brushed
    assert len(brushed) < 40


def test_buttons_brush_to_the_best_and_let_go(sweep: Sweep, visit: Visit) -> None:
    for name, count in (("all", 40), ("best quarter", 10), ("best tenth", 4)):
        visit.tab.get_by_role("button", name=name, exact=True).click()
        visit.tab.wait_for_function(
            "count => document.querySelectorAll('#listing tbody tr').length === count", arg=count
        )
        assert visit.listed() == sweep.trials.sort_values("value", kind="stable")["trial_id"].tolist()[:count]
    ranges = "document.querySelector('#parallel .figure').data[0].dimensions.map(axis => axis.constraintrange)"
    kept, ink = visit.tab.evaluate(ranges), "document.querySelector('#parallel .figure').layout.font.color"
    before = visit.tab.evaluate(ink)
    visit.tab.emulate_media(color_scheme="light")
    visit.tab.wait_for_function(f"{ink} !== {before!r}")
    assert visit.tab.evaluate(ranges) == kept
    assert kept[-1] is not None


def test_the_keyboard_opens_a_trial_with_its_commands(sweep: Sweep, visit: Visit) -> None:
    second = visit.tab.locator("#listing tbody button").nth(1)
    second.focus()
    visit.tab.keyboard.press("Enter")
    trial = sweep.trials.sort_values("value").iloc[1]
    export, train = (shlex.split(text) for text in visit.texts("tr.details code"))
    assert export == shlex.split(analysis.words.export_command(sweep.folder, trial["trial_id"]))
    assert train[3:5] == ["train", str(sweep.folder / "sweep.yaml")]
    assert [*train[6:11:2], *train[11:]] == [
        f"training.lr={float(trial['training.lr'])!r}",
        f"training.batch_size={trial['training.batch_size']}",
        f"training.seed={trial['seed']}",
        "--to",
        f"runs/it's-{trial['trial_id']}",
    ]
    assert second.get_attribute("aria-expanded") == "true"
    visit.tab.keyboard.press("Space")
    assert visit.texts("tr.details") == []


def test_figures_fit_a_page_of_paper_and_are_drawn_in_ink(visit: Visit) -> None:
    visit.tab.evaluate("""() => addEventListener("beforeprint", () => {
        const drawn = [...document.querySelectorAll(".figure")];
        window.paper = {
            widths: drawn.map(place => place.getBoundingClientRect().right),
            inks: drawn.map(place => place.layout.font.color),
            drawn: drawn.every(place => place.querySelector(".main-svg")),
        }; })""")
    visit.tab.pdf(format="A4")
    paper = visit.tab.evaluate("window.paper")
    assert paper["drawn"]
    assert max(paper["widths"]) <= 681
    assert set(paper["inks"]) == {"#444"}
    visit.tab.wait_for_function("waiting.size === 0")
    assert visit.tab.evaluate("document.querySelector('#curves .figure').getBoundingClientRect().width") > 700
    assert visit.complaints == []


def test_on_a_phone_nothing_sticks_out(visit: Visit) -> None:
    visit.tab.set_viewport_size({"width": 390, "height": 800})
    visit.tab.wait_for_function("document.querySelector('#curves .main-svg').clientWidth < 390")
    visit.tab.wait_for_function("document.querySelector('#signals .main-svg').clientWidth < 390")
    assert visit.tab.evaluate("document.documentElement.scrollWidth") == 390
    visit.tab.locator("#listing tbody button").first.click()
    assert visit.tab.locator("tr.details pre").first.bounding_box()["width"] < 390
    assert visit.tab.evaluate("document.documentElement.scrollWidth") == 390
    assert visit.complaints == []


def test_without_scripts_the_answers_and_the_first_trials_can_be_read(sweep: Sweep, browser: Any) -> None:
    context = browser.new_context(java_script_enabled=False)
    tab = context.new_page()
    tab.goto(analysis.write_report(sweep).as_uri())
    assert tab.locator("#listing tbody tr").count() == 40
    assert tab.locator("#listing tbody tr").first.inner_text().split("\t")[:2] == [best_trial(sweep), "completed"]
    assert tab.locator("#more").is_hidden()
    assert tab.locator(".answers p").first.inner_text().startswith("The best configuration is")
    context.close()


def best_trial(sweep: Sweep) -> str:
    best: str = analysis.best(sweep, 1).trials["trial_id"].iloc[0]
    return best


@pytest.mark.parametrize(
    "folder",
    [pytest.param(each, marks=[pytest.mark.slow] * (each.name == "lr_batch"), id=each.name) for each in REAL],
)
def test_reports_of_real_sweeps(browser: Any, tmp_path: Path, folder: Path) -> None:
    sweep = analysis.load(folder)
    page = analysis.write_report(sweep, tmp_path)
    visit = Visit(browser, page)
    assert visit.requests == [page.as_uri()]
    assert min(visit.points()) > 0
    law = figures.batch_law(sweep)
    lines = None if law is None else figures.law_lines_data(law)
    if lines is not None:
        read = "document.querySelector('#lr-batch .figure')._fullData.find(trace => trace.name === 'fitted optimum').y"
        assert visit.tab.evaluate(f"[...{read}]") == pytest.approx(lines.optima[:, 1].tolist(), rel=1e-3)
    total = len(sweep.trials)
    assert len(visit.listed()) == min(total, 50)
    wanted = crossing(sweep, 0, visit.brush(0, 0.2, 0.8))
    assert 0 < len(wanted) < total
    assert visit.listed() == wanted[:50]
    if len(wanted) > 50:
        visit.tab.locator("#more").click()
        assert visit.listed() == wanted[:100]
        assert visit.tab.evaluate("document.activeElement.textContent") == wanted[50]
    visit.tab.set_viewport_size({"width": 390, "height": 800})
    visit.tab.wait_for_function("document.querySelector('#curves .main-svg').clientWidth < 390")
    assert visit.tab.evaluate("document.documentElement.scrollWidth") == 390
    assert visit.complaints == []
    visit.tab.close()


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
