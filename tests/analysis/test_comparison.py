"""Several sweeps side by side: the numbers by hand, what may not be compared, and the page."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browsing import EVIL, Visit
from sweep_folders import (
    PROVENANCE,
    SPEC,
    Driver,
    Trial,
    conditional_trials,
    eventful_sweep,
    lr_batch,
    realistic_trials,
    replicates,
    write_files,
    write_sweep,
)

import analysis
from analysis import Sweep, figures
from analysis.anytime import best_so_far
from analysis.comparison import short_names, standings
from tune_newllm import records

FULL = [5.0] * 7
STATS = {"validation": {"texts": 10, "targets": 900, "unk_share": 0.1}}


def sweep(
    folder: Path, trials: list[Trial], spec: dict[str, Any] | None = None, provenance: dict[str, Any] | None = None
) -> Sweep:
    write_sweep(folder, trials, spec)
    if provenance is not None:
        (folder / "provenance.json").write_text(json.dumps(provenance))
    return analysis.load(folder)


def measured(fingerprint: str = "f", unknown: float = 0.1, **hardware: Any) -> dict[str, Any]:
    validation = STATS["validation"] | {"unk_share": unknown}
    data = {"fingerprint": fingerprint, "stats": {"validation": validation}}
    return PROVENANCE | {"data": data, "hardware": {"name": "AMD EPYC", "max_concurrent": 2} | hardware}


def answer(content: dict[str, Any], question: str) -> list[str]:
    return next(row["answers"] for row in content["questions"] if row["question"] == question)


def test_the_same_questions_to_two_sweeps(tmp_path: Path) -> None:
    one = sweep(tmp_path / "a", [Trial(lr_batch(2e-3, 8), [*FULL, 4.5]), Trial(lr_batch(1e-3, 8), [*FULL, 4.0])])
    two = sweep(tmp_path / "b", [Trial(lr_batch(3e-3, 16), [*FULL, 4.2]), Trial(lr_batch(1e-3, 8), [5.0], None)])
    content = analysis.compare([two, one])
    json.dumps(content, allow_nan=False)
    assert content["names"] == ["b", "a"]
    assert content["answers"] == [
        "a has the lowest validation loss, 4; b is 0.2 nats per token behind.",
        "No sweep trained a configuration with several seeds, so how much of that is chance is not known.",
        "After 9 epochs of all trials together the lowest loss was: b 4.2, a 4.5.",
    ]
    assert content["fairness"]["fair"]
    assert answer(content, "best configuration") == [
        "trial t0000: learning rate 0.003, batch size 16",
        "trial t0001: learning rate 0.001, batch size 8",
    ]
    assert answer(content, "validation loss") == [
        "4.2 (perplexity 66.69), epoch 8 of 8",
        "4 (perplexity 54.6), epoch 8 of 8",
    ]
    assert answer(content, "epochs trained") == ["9 (8 for a full trial)", "16 (8 for a full trial)"]
    assert answer(content, "time") == ["18 s", "32 s"]
    assert answer(content, "runner-up") == ["", "0.5 behind (no seeds, so chance is not known)"]
    assert [row["question"] for row in content["questions"]].count("test loss") == 0
    assert content["differences"] == []
    assert [each["best"][0]["value"] for each in content["sweeps"]] == [4.2, 4.0]


def test_the_noise_of_seeds_tells_whether_two_sweeps_differ(tmp_path: Path) -> None:
    spec = SPEC | {"seeds": 2}
    ends = {"a": (4.0, 4.2), "b": (4.1, 4.2), "c": (4.9, 4.92)}
    sweeps = [
        sweep(tmp_path / name, replicates(lr_batch(1e-3, 8), *([*FULL, end] for end in pair)), spec)
        for name, pair in ends.items()
    ]
    found = standings(sweeps, [*ends])
    assert [standing.sweep for standing in found] == ["a", "b", "c"]
    assert [standing.behind for standing in found] == pytest.approx([0, 0.05, 0.81])
    variances = {name: np.var(pair, ddof=1) for name, pair in ends.items()}
    by_hand = [2 * math.sqrt(variances["a"] / 2 + variances[name] / 2) for name in ("b", "c")]
    assert [standing.noise for standing in found[1:]] == pytest.approx(by_hand)
    words = analysis.compare(sweeps)["answers"][0]
    assert "b is 0.05 nats per token behind (within the noise of the seeds, ± 0.22: not known which is better)" in words
    assert "c is 0.81 nats per token behind (more than the noise of the seeds, ± 0.2)" in words
    single = sweep(tmp_path / "d", [Trial(lr_batch(1e-3, 8), [*FULL, 6.0])])
    shared = standings([sweeps[0], single], ["a", "d"])[1].noise
    assert shared == pytest.approx(2 * math.sqrt(variances["a"] / 2 + variances["a"]))
    content = analysis.compare([sweeps[0], single])
    assert "The noise is that of the sweeps with several seeds, taken for the others as well." in content["answers"]
    assert "The seeds of a configuration differ in number: 2 in a, 1 in d." in content["answers"]


def test_losses_that_were_not_measured_alike_are_not_compared(tmp_path: Path) -> None:
    trials = [Trial(lr_batch(1e-3, 8), [*FULL, 4.0])]
    small = SPEC | {"corpus": SPEC["corpus"] | {"vocab_size": 500}}
    sweeps = [sweep(tmp_path / "a", trials, None, measured()), sweep(tmp_path / "b", trials, small, measured("g", 0.2))]
    content = analysis.compare(sweeps)
    assert content["answers"][:3] == [
        "The losses of a and b cannot be compared: they were not measured alike.",
        "The vocabularies differ: tokens known, 1000 in a, 500 in b.",
        "The unknown words differ: share of the validation text, 10 % in a, 20 % in b.",
    ]
    assert content["standings"] == []
    assert not any("lowest" in sentence for sentence in content["answers"])
    assert content["differences"] == [{"path": "corpus.vocab_size", "texts": ["1000", "500"]}]
    assert not content["fairness"]["fair"]
    silent = sweep(tmp_path / "c", trials, small, {})
    assert analysis.compare([sweeps[0], silent])["fairness"]["reasons"] == [
        "The vocabularies differ: tokens known, 1000 in a, 500 in c."
    ]
    assert analysis.compare([sweeps[1], silent])["fairness"]["comparable"] is None


def test_unequal_chances_are_said(tmp_path: Path) -> None:
    long = SPEC | {"training": SPEC["training"] | {"epochs": 9}}
    more = [Trial(lr_batch(1e-3, 8), [*FULL, 4.0, 3.9], signals=[{"tokens": 60_000 * n} for n in range(1, 10)])] * 2
    one = sweep(tmp_path / "a", [Trial(lr_batch(1e-3, 8), [*FULL, 4.0])], None, measured() | {"code": {"x.py": "1"}})
    two = sweep(tmp_path / "b", more, long, measured("g", name="Xeon") | {"code": {"x.py": "2"}})
    content = analysis.compare([one, two])
    assert content["fairness"]["comparable"] is True
    assert not content["fairness"]["fair"]
    assert content["fairness"]["budget"] == [
        "The epochs of a full trial differ: 8 in a, 9 in b; longer training has the advantage.",
        "The tokens of an epoch differ: 50,000 in a, 60,000 in b; more data has the advantage.",
    ]
    assert content["fairness"]["notes"] == [
        "The configurations tried differ in number: 1 in a, 2 in b; the best of more is lower by chance alone.",
        "They ran different versions of the program; other files: x.py.",
        "The machines differ, so seconds say little: AMD EPYC (2 at once) in a, Xeon (2 at once) in b.",
    ]
    assert "b has the lowest validation loss, 3.9; a is 0.1 nats per token behind." in content["answers"]


def scaled(power: float, seed: int) -> list[Trial]:
    """A grid whose best learning rate goes with the batch size to a power."""
    rng, trials = np.random.default_rng(seed), []
    for batch in (8, 16, 32, 64, 128):
        for lr in np.geomspace(2e-4, 3e-2, 9):
            off = math.log(lr / (2.5e-3 * (batch / 32) ** power))
            trials.append(Trial(lr_batch(float(lr), batch), [*FULL, 4 + 0.05 * off**2 + rng.normal(0, 0.004)]))
    return trials


def test_the_learning_rate_laws_side_by_side(tmp_path: Path) -> None:
    sweeps = [sweep(tmp_path / f"s{at}", scaled(power, at)) for at, power in enumerate((0.5, 0.5, 0.0))]
    content = analysis.compare(sweeps)
    laws = [analysis.fit_lr_batch_law(each.trials) for each in sweeps]
    said = next(text for text in content["answers"] if text.startswith("The best learning rate goes with"))
    for at, law in enumerate(laws):
        assert law.interval is not None
        exponent = f"{law.exponent:.2f}".replace("-0.00", "0.00")
        assert f"{exponent} ({law.interval[0]:.2f} to {law.interval[1]:.2f}) in s{at}" in said
    assert said.endswith("(95 % intervals): the intervals do not all overlap.")
    assert "square-root scaling fits" in answer(content, "learning rate")[0]
    assert "no scaling fits" in answer(content, "learning rate")[2]
    drawn = figures.lr_batch_overlay(sweeps, ["s0", "s1", "s2"])
    lines = [trace for trace in drawn.data if trace.mode == "lines"]
    assert [trace.y[0] for trace in lines] == pytest.approx([law.predict(8).lr for law in laws])
    assert len({trace.line.color for trace in lines}) == len({trace.line.dash for trace in lines}) == 3
    first = content["sweeps"][0]["importances"]["parameters"][0]
    assert answer(content, "importance")[0].startswith(f"learning rate {100 * first['importance']:.0f} % (")
    overlapping = analysis.compare(sweeps[:2])["answers"]
    assert any(text.endswith("(95 % intervals): the intervals overlap.") for text in overlapping)


def test_searched_ranges_are_settings_too(tmp_path: Path) -> None:
    lr = {"distribution": "log_uniform_values", "min": 1e-4, "max": 1e-2}
    fixed = SPEC | {"parameters": {"training.lr": lr}, "points": [{"training.lr": 1e-3}]}
    rows = analysis.compare([sweep(tmp_path / "a", []), sweep(tmp_path / "b", [], fixed)])["differences"]
    assert {row["path"]: row["texts"] for row in rows} == {
        "training.batch_size": ["searched: 8, 16, 32, 64, 128", "32"],
        "training.lr": ["searched: 0.0001 to 0.03 (log)", "searched: 0.0001 to 0.01 (log)"],
        "points": ["none", "1 of them"],
    }


def test_the_best_so_far_follows_the_order_of_the_records(tmp_path: Path) -> None:
    driver = Driver()
    driver.write(records.SweepStarted, command=["search"])
    for name in ("t0", "t1", "t2"):
        driver.write(
            records.TrialCreated, trial_id=name, config_id=name, number=int(name[1]), seed=0, origin="sampler",
            parameters=lr_batch(1e-3, 8),
        )  # fmt: skip
    first = [("t2", 1, 0.5), ("t1", 1, 5.0), ("t0", 1, math.nan), ("t1", 2, 5.5)]
    for name, epoch, loss in [*first, ("t0", 2, 4.0), ("t1", 3, 4.5), ("t0", 3, 4.2)]:
        driver.epoch(name, epoch, loss)
    driver.write(records.TrialEnded, trial_id="t2", state="diverged", epoch=1, reason="nan")
    spent, lowest = best_so_far(analysis.load(write_files(tmp_path / "s", driver)))
    assert (spent.tolist(), lowest.tolist()) == ([2, 5, 7], [5.0, 4.0, 4.0])
    nothing = best_so_far(analysis.load(write_sweep(tmp_path / "none", [])))
    assert [part.tolist() for part in nothing] == [[], []]


def test_equal_names_are_told_apart(tmp_path: Path) -> None:
    folders = [tmp_path / "x" / "s", tmp_path / "y" / "s", tmp_path / "y" / "t"]
    assert short_names([sweep(folder, []) for folder in folders]) == ["x/s", "y/s", "t"]


def test_figures_of_several_sweeps(tmp_path: Path) -> None:
    sweeps = [sweep(tmp_path / "a", realistic_trials(20)), sweep(tmp_path / "b<i>", realistic_trials(20, seed=1))]
    sweeps.append(sweep(tmp_path / "c", []))
    names = short_names(sweeps)
    curves = figures.best_curves_data(sweeps, names)
    assert curves[2] is None
    for line, each in zip(curves[:2], sweeps, strict=False):
        assert line is not None
        first = analysis.best(each, 1).trials["trial_id"].iloc[0]
        assert line.loss.tolist() == each.epochs.loc[each.epochs["trial_id"] == first, "val_loss"].tolist()
    drawn = figures.best_curves(sweeps, names)
    assert [trace.name for trace in drawn.data] == ["a", "b&lt;i&gt;"]
    assert drawn.data[0].line.dash != drawn.data[1].line.dash
    assert "learning rate" in drawn.data[0].text[0]
    steps = figures.anytime(sweeps, names).data
    for trace, each in zip(steps, sweeps, strict=False):
        assert list(trace.y) == best_so_far(each)[1].tolist()
    overlay = figures.lr_batch_overlay(sweeps, names)
    assert sum(len(trace.x) for trace in overlay.data if trace.mode == "markers") == 40
    for at, each in enumerate(sweeps[:2]):
        best = figures.lr_batch_data(each)
        assert best is not None
        large = [trace for trace in overlay.data if trace.mode == "markers" and trace.marker.size == 13][at]
        assert sorted(large.x) == sorted(best.best_per_batch)


def test_the_page_of_sweeps_in_any_state(tmp_path: Path) -> None:
    """Finished, running, eventful, without records, of another kind, and with a damaged sweep file."""
    write_sweep(tmp_path / "bare", realistic_trials(4))
    (tmp_path / "bare" / "records.jsonl").unlink()
    write_sweep(tmp_path / "broken", realistic_trials(10))
    (tmp_path / "broken" / "sweep.yaml").write_text("corpus: [")
    (tmp_path / "broken" / "provenance.json").unlink()
    sweeps = [
        sweep(tmp_path / "a", realistic_trials(20)),
        analysis.load(write_sweep(tmp_path / "running", realistic_trials(3), end=None)),
        analysis.load(eventful_sweep(tmp_path / "eventful", "<script>alert(1)</script>")),
        analysis.load(tmp_path / "bare"),
        sweep(tmp_path / "other", conditional_trials(6)),
        analysis.load(tmp_path / "broken"),
    ]
    page = analysis.write_comparison(sweeps, tmp_path / "out")
    assert page == tmp_path / "out" / "report.html"
    assert {path.name for path in page.parent.iterdir()} == {"report.html", "summary.json"}
    text = page.read_text(encoding="utf-8")
    assert "<script>alert" not in text
    assert page.stat().st_size < 8_000_000
    content = json.loads((page.parent / "summary.json").read_text())
    assert content["fairness"]["comparable"] is None
    assert answer(content, "state")[:2] == ["finished", "killed"]
    assert "It is not known whether the losses of" in content["answers"][0]
    assert [row["texts"][-1] for row in content["differences"]] == ["not known"] * len(content["differences"])
    with pytest.raises(ValueError, match="at least two"):
        analysis.compare(sweeps[:1])


def test_the_page_in_a_browser(tmp_path: Path, browser: Any) -> None:
    name = EVIL.replace("/", "")
    spec = SPEC | {"model": SPEC["model"] | {"<b>x</b>": EVIL}}
    sweeps = [sweep(tmp_path / "a", realistic_trials(20)), sweep(tmp_path / name, realistic_trials(20, 6, 1), spec)]
    visit = Visit(browser, analysis.write_comparison(sweeps, tmp_path / "out"))
    assert visit.complaints == []
    assert [url for url in visit.requests if not url.startswith(("file:", "data:", "blob:"))] == []
    assert len(visit.points()) == 3
    assert all(visit.points())
    assert visit.texts("h1") == [f"a and {name}"]
    assert any(name in text for text in visit.texts("#curves .legendtext"))
    assert any(EVIL[:100] in text for text in visit.texts("#settings td"))
    assert "model.<b>x</b>" in visit.texts("#settings td")
    assert visit.tab.evaluate("window.hacked") is None
    visit.tab.set_viewport_size({"width": 390, "height": 800})
    visit.tab.wait_for_function("document.querySelector('#curves .main-svg').clientWidth < 390")
    assert visit.tab.evaluate("document.documentElement.scrollWidth") == 390
