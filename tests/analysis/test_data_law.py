"""Perplexity against the amount of data in sweeps: which trials count, what is said, and what is drawn."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sweep_folders import PROVENANCE, SPEC, Trial, replicates, write_sweep

import analysis
from analysis import figures
from analysis.record import several

SIZES = {100: 20_000, 200: 42_000, 400: 81_000, 800: 160_000}
"""Texts and the tokens of an epoch."""

SEARCHED = SPEC | {
    "parameters": {
        "training.lr": {"distribution": "log_uniform_values", "min": 1e-4, "max": 3e-2},
        "corpus.max_samples": {"values": [*SIZES]},
    },
    "training": SPEC["training"] | {"epochs": 2},
    "early_terminate": None,
}


def ending(loss: float, texts: int) -> dict[str, Any]:
    """Two epochs, of which the second has the given loss."""
    return {"losses": [loss + 1, loss], "signals": [{"tokens": epoch * SIZES[texts]} for epoch in (1, 2)]}


def setting(texts: int, lr: float = 1e-3) -> dict[str, Any]:
    return {"training.lr": lr, "corpus.max_samples": texts}


def law(texts: int) -> float:
    """ln PPL on a law with exponent -0.3, a little off it."""
    off = {100: 0.01, 200: -0.02, 400: 0.005, 800: 0.005}
    return math.log(30_000 * SIZES[texts] ** -0.3) + off[texts]


def searched_trials() -> list[Trial]:
    """At each amount of data a good configuration and a bad one; what did not run to its end would be better."""
    trials = []
    for texts in SIZES:
        trials += [
            Trial(setting(texts, lr), **ending(law(texts) + worse, texts)) for lr, worse in ((1e-3, 0), (3e-2, 0.4))
        ]
        trials += [Trial(setting(texts), [1.0], "stopped", "asha", signals=[{"tokens": SIZES[texts]}])]
    return trials


def test_the_best_of_each_amount_makes_the_law(tmp_path: Path) -> None:
    sweep = analysis.load(write_sweep(tmp_path / "s", searched_trials(), SEARCHED))
    found = analysis.data_law(sweep)
    assert found is not None
    assert found.points["tokens"].tolist() == [*SIZES.values()]
    assert found.points["ppl"].tolist() == pytest.approx([math.exp(law(texts)) for texts in SIZES])
    assert found.points["configurations"].tolist() == [2, 2, 2, 2]
    assert found.points["texts"].tolist() == [*SIZES]
    by_hand = analysis.fit_power_law([*SIZES.values()], [math.exp(law(texts)) for texts in SIZES])
    assert found.law.interval == pytest.approx(by_hand.interval)
    assert found.points["loss"].tolist() == pytest.approx([law(texts) for texts in SIZES])
    assert (found.epochs, found.cautions) == (2, [])
    said = by_hand.verdict
    assert said.startswith("Perplexity falls as tokens^-0.30 (")
    assert found.sentences == [said], "and nothing of a floor that may be none"
    assert said in analysis.answers(sweep)
    content = analysis.summary(sweep)["data_law"]
    json.dumps(content, allow_nan=False)
    assert content["law"]["exponent"] == pytest.approx(by_hand.exponent)
    assert [row["tokens"] for row in content["extrapolation"]] == pytest.approx([320_000, 640_000, 1_600_000])
    assert all(row["interval"][0] < row["estimate"] < row["interval"][1] for row in content["extrapolation"])


def test_seeds_are_averaged_and_other_lengths_left_out(tmp_path: Path) -> None:
    trials = []
    for texts in (100, 200, 400):
        trials += replicates(setting(texts), *(ending(law(texts) + off, texts)["losses"] for off in (-0.1, 0.1)))
        for trial in trials[-2:]:
            trial.signals = ending(0, texts)["signals"]
    other = setting(800) | {"training.epochs": 1}
    trials += [Trial(other, [1.0], signals=[{"tokens": SIZES[800]}], created={"replicate": n}) for n in (0, 1)]
    spec = SEARCHED | {"seeds": 2, "parameters": SEARCHED["parameters"] | {"training.epochs": {"values": [1, 2]}}}
    for trial in trials[:-2]:
        trial.parameters = trial.parameters | {"training.epochs": 2}
    found = analysis.data_law(analysis.load(write_sweep(tmp_path / "s", trials, spec)))
    assert found is not None
    assert found.points["ppl"].tolist() == pytest.approx([math.exp(law(texts)) for texts in (100, 200, 400)])
    assert found.points["loss"].tolist() == pytest.approx([law(texts) for texts in (100, 200, 400)])
    assert found.points["replicates"].tolist() == [2, 2, 2]
    assert found.cautions[0] == "1 configuration trained for a number of epochs other than 2 does not count."
    assert "3 of 3 amounts of data have one finished configuration only" in found.cautions[1]


def test_models_at_word_frequencies_are_named(tmp_path: Path) -> None:
    trials = [trial for trial in searched_trials() if trial.state == "completed"]
    for trial in trials:
        small = trial.parameters["corpus.max_samples"] < 300
        trial.signals = [{**row, "dead_relu": 0.1, "plateau_step": None if small else 50} for row in trial.signals]
    found = analysis.data_law(analysis.load(write_sweep(tmp_path / "s", trials, SEARCHED)))
    assert found is not None
    assert found.cautions[0].startswith("2 of the 4 models never left the unigram plateau:")


def test_too_few_amounts_and_none(tmp_path: Path) -> None:
    two = [trial for trial in searched_trials() if trial.parameters["corpus.max_samples"] < 300]
    sweep = analysis.load(write_sweep(tmp_path / "two", two, SEARCHED))
    text = " ".join(analysis.answers(sweep))
    assert "not determined: a law needs at least 3 different amounts of data, and there are 2." in text
    assert "early_terminate.within: corpus.max_samples" in text
    assert "Perplexity falls" not in text
    assert analysis.summary(sweep)["data_law"]["extrapolation"] == []
    stopped = [trial for trial in searched_trials() if trial.state == "stopped"]
    unfinished = analysis.data_law(analysis.load(write_sweep(tmp_path / "stopped", stopped, SEARCHED)))
    assert unfinished is not None
    assert unfinished.law.n == 0
    begun = analysis.load(write_sweep(tmp_path / "begun", [], SEARCHED, end=None))
    assert analysis.summary(begun)["data_law"]["points"] == []
    assert figures.ppl_tokens_data(begun) is None
    other = analysis.load(write_sweep(tmp_path / "other", [Trial({"training.lr": 1e-3}, [4.0] * 8)]))
    assert analysis.data_law(other) is None
    assert analysis.summary(other)["data_law"] is None


def single(folder: Path, texts: int, provenance: dict[str, Any], model: dict[str, Any] | None = None) -> analysis.Sweep:
    corpus = SPEC["corpus"] | {"max_samples": texts}
    spec = SPEC | {
        "corpus": corpus,
        "training": SPEC["training"] | {"epochs": 2},
        "model": SPEC["model"] | (model or {}),
    }
    spec |= {"parameters": {"training.lr": {"values": [1e-3, 1e-2]}}}
    write_sweep(folder, [Trial({"training.lr": 1e-3}, **ending(law(texts), texts))], spec)
    (folder / "provenance.json").write_text(json.dumps(provenance))
    return analysis.load(folder)


def measured(unknown: float) -> dict[str, Any]:
    stats = {"validation": {"texts": 10, "targets": 900, "unk_share": unknown}}
    return PROVENANCE | {"data": {"fingerprint": "f", "stats": stats}}


def test_several_sweeps_make_a_law_if_they_measure_alike(tmp_path: Path) -> None:
    sweeps = [single(tmp_path / f"s{texts}", texts, measured(0.1)) for texts in (100, 200, 400)]
    sweeps.append(single(tmp_path / "odd", 800, measured(0.2), {"num_layers": 3}))
    found = analysis.data_law(sweeps)
    assert found is not None
    assert found.law.n == 3
    assert found.cautions[0].startswith("Left out: odd (")
    assert any(said.startswith("Perplexity falls as tokens^-") for said in analysis.compare(sweeps[:3])["answers"])
    text = several(sweeps[:3])
    assert text.index("## Perplexity against data") < text.index("What the law says of more data")
    with_model = analysis.data_law([*sweeps[:3], single(tmp_path / "deep", 800, measured(0.1), {"num_layers": 3})])
    assert with_model is not None
    assert with_model.law.n == 4
    assert "The best models of the amounts differ (layers)" in with_model.cautions[0]
    assert analysis.data_law([sweeps[0], sweeps[0]]) is None


def test_the_figure_and_the_section(tmp_path: Path) -> None:
    sweep = analysis.load(write_sweep(tmp_path / "s", searched_trials(), SEARCHED))
    data = figures.ppl_tokens_data(sweep)
    assert data is not None
    assert (len(data.tokens), int(data.best.sum())) == (8, 4)
    assert data.ppl[data.best].tolist() == pytest.approx([math.exp(law(texts)) for texts in SIZES])
    assert (data.line[0], data.line[-1]) == pytest.approx((20_000, 1_600_000))
    found = analysis.data_law(sweep)
    assert found is not None
    assert data.law[-1] == pytest.approx(found.law.predict(1_600_000).estimate)
    assert (data.low < data.law).all()
    assert (data.law < data.high).all()
    drawn = figures.ppl_tokens(sweep)
    lines = [trace for trace in drawn.data if trace.name == "power law"]
    assert np.concatenate([trace.x for trace in lines]).tolist() == pytest.approx(data.line.tolist())
    assert max(lines[0].x) <= 160_000 * 1.001 < min(lines[1].x)
    best = next(trace for trace in drawn.data if trace.name == "best of its amount of data")
    assert "learning rate 0.001" in best.text[0]
    page = analysis.write_report(sweep, tmp_path).read_text(encoding="utf-8")
    section = page.split('<section id="data">')[1].split("</section>")[0]
    assert "Perplexity falls as tokens^-0.30" in section
    assert section.count("<tr>") == 1 + 4 + 1 + 3
    assert data.floor.size == 0


def test_a_floor_is_said_and_drawn(tmp_path: Path) -> None:
    trials = [
        Trial(setting(texts), [math.log(90 + 3000 * tokens**-0.5)], signals=[{"tokens": tokens}])
        for texts, tokens in ((n, 1000 * 4**n) for n in range(1, 7))
    ]
    spec = SEARCHED | {"training": SPEC["training"] | {"epochs": 1}}
    sweep = analysis.load(write_sweep(tmp_path / "s", trials, spec))
    text = " ".join(analysis.answers(sweep))
    assert "The points bend away from the law (p = " in text
    assert "and the floor is 90 (90 to 90), below which no amount of data leads." in text
    data = figures.ppl_tokens_data(sweep)
    assert data is not None
    assert data.floor == pytest.approx(90 + 3000 * data.line**-0.5)
    assert "with a floor" in analysis.write_report(sweep, tmp_path).read_text(encoding="utf-8")
