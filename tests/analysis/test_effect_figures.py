"""Figures and sections of effects, importances, clip schedules, costs and failures: that they hold the numbers."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from sweep_folders import CONDITIONAL, SPEC, Trial, conditional_trials, lr_batch, realistic_trials, write_sweep

import analysis
from analysis import figures
from analysis.body import body
from analysis.clip_schedules import clip_schedules
from analysis.effects import effects
from analysis.figures.style import ACCENT
from analysis.importance import importances
from analysis.pareto import pareto
from analysis.sections import effects as effects_section
from analysis.sections import fronts, sections

EVIL = "<img src=x onerror=hack()>"


@pytest.fixture(scope="module")
def conditional(tmp_path_factory: pytest.TempPathFactory) -> analysis.Sweep:
    return analysis.load(write_sweep(tmp_path_factory.mktemp("c") / "s", conditional_trials(60), CONDITIONAL))


def test_marginal_slices_show_effects_and_intervals_on_one_scale(conditional: analysis.Sweep) -> None:
    found = figures.effects_data(conditional)
    assert [one.span for one in found] == sorted((one.span for one in effects(conditional).effects), reverse=True)
    frame = figures.effect_frame(found)
    drawn = {one.path: figures.effect_figure(one, frame) for one in found}
    assert {figure.layout.yaxis.range for figure in drawn.values()} == {frame}
    rate, line = found[0], drawn["training.lr"]
    assert (rate.path, line.layout.xaxis.type) == ("training.lr", "log")
    band, curve = line.data
    assert list(curve.y) == rate.effect.tolist()
    assert list(band.y) == [*rate.high, *rate.low[::-1]]
    schedule = next(one for one in found if one.path == "training.clip.schedule")
    (points,) = drawn["training.clip.schedule"].data
    assert list(drawn["training.clip.schedule"].layout.xaxis.ticktext) == ["constant", "linear", "none"]
    assert list(points.error_y.array) == pytest.approx((schedule.high - schedule.effect).tolist())


def test_bars_of_importances_have_their_intervals(conditional: analysis.Sweep) -> None:
    found = importances(conditional).parameters
    (bars,) = figures.importances_figure(conditional).data
    assert list(bars.x) == [one.importance for one in found]
    assert np.array(bars.x) + np.array(bars.error_x.array) == pytest.approx([one.high for one in found])
    assert np.array(bars.x) - np.array(bars.error_x.arrayminus) == pytest.approx([one.low for one in found])


def test_ways_of_clipping_are_drawn_with_their_intervals(conditional: analysis.Sweep) -> None:
    found = clip_schedules(conditional)
    assert found is not None
    (points,) = figures.clip_schedules_figure(conditional).data
    assert list(points.x) == [one.loss for one in found.schedules]
    assert points.marker.color[0] == ACCENT


def test_the_front_is_a_step_line_to_the_best(tmp_path: Path) -> None:
    trials = [
        Trial({"model.num_layers": layers}, [loss], "completed", "patience", {"model_size": 1000 * layers})
        for layers, loss in ((1, 4.3), (2, 4.2), (2, 4.25), (4, 4.0), (8, 4.1))
    ]
    sweep = analysis.load(
        write_sweep(tmp_path / "s", trials, SPEC | {"parameters": {"model.num_layers": {"values": [1, 2, 4, 8]}}})
    )
    (front,) = pareto(sweep)
    every, steps, chosen = figures.pareto_figure(sweep, front).data
    assert sorted(every.x) == [1000, 2000, 2000, 4000, 8000]
    assert (list(steps.x), list(steps.y)) == ([1000, 2000, 4000, 8000], [4.3, 4.2, 4.0, 4.0])
    assert steps.line.shape == "hv"
    assert list(chosen.marker.color)[-1] == ACCENT
    assert "layers 4" in chosen.text[-1]
    section = fronts(sweep)
    assert section is not None
    assert section.body.count("--trial") == 3


def test_cost_by_hand(tmp_path: Path) -> None:
    def ran(batch: int, speeds: list[float], memory: list[int]) -> Trial:
        signals = [{"tokens_per_s": s, "peak_memory_bytes": m} for s, m in zip(speeds, memory, strict=True)]
        return Trial(lr_batch(1e-3, batch), [4.0] * len(speeds), "stopped", "asha", {"model_size": 1000}, signals)

    trials = [
        ran(8, [100.0, 900.0, 110.0], [5, 7, 6]),
        ran(8, [130.0], [8]),
        ran(16, [200.0, 210.0], [9, 9]),
        Trial(lr_batch(1e-3, 32), [], "failed", "error"),
    ]
    sweep = analysis.load(write_sweep(tmp_path / "s", trials))
    speed, memory = figures.cost_data(sweep)
    assert (speed.quantity, speed.against, memory.quantity) == ("tokens_per_s", "training.batch_size", "memory")
    assert speed.value.tolist() == [110, 130, 205]
    assert speed.medians == {8: 120, 16: 205}
    assert memory.value.tolist() == [7, 8, 9]
    assert [len(trace.x) for trace in figures.cost_figure(sweep, speed).data] == [2, 2, 1]
    assert figures.cost_data(analysis.load(write_sweep(tmp_path / "t", trials[:2]))) == []


def test_failures_are_stacked_along_the_parameter_they_go_with(tmp_path: Path) -> None:
    trials = [
        Trial(lr_batch(lr, 8), [4.0], *(("diverged", "nan") if lr > 1e-2 else ("stopped", "asha")))
        for lr in np.geomspace(1e-4, 1e-1, 30).tolist()
    ]
    found = figures.hazard_data(analysis.load(write_sweep(tmp_path / "s", trials)))
    assert found is not None
    counts = {trace.name: list(trace.x) for trace in figures.hazard_figure(found).data}
    assert counts == {"did not fail": [5, 5, 5, 5, 0, 0], "diverged": [0, 0, 0, 0, 5, 5]}


def test_the_numbers_are_in_the_summary(conditional: analysis.Sweep) -> None:
    content = json.loads(json.dumps(analysis.summary(conditional), allow_nan=False))
    rate = next(one for one in effects(conditional).effects if one.path == "training.lr")
    kept = next(one for one in content["effects"]["effects"] if one["path"] == "training.lr")
    assert kept["effect"] == pytest.approx(rate.effect.tolist())
    assert kept["span"] == pytest.approx(rate.span)
    assert content["importances"]["parameters"][0]["path"] == "training.lr"
    assert {one["verdict"] for one in content["clip_schedules"]["schedules"]} <= {"best", "alike"}
    assert [one["first"] for one in content["interactions"]][:1] == ["training.clip.schedule"]
    assert "importances" not in analysis.summary(conditional, importances=False)


@pytest.mark.parametrize("count", [0, 1, 2, 9])
def test_sweeps_that_say_little(tmp_path: Path, count: int) -> None:
    trials = conditional_trials(count)
    if count:
        trials.append(Trial({"training.lr": 1e-3}, [math.nan], "diverged", "nan"))
    sweep = analysis.load(write_sweep(tmp_path / "s", trials, CONDITIONAL))
    assert body(sections(sweep))
    content = analysis.summary(sweep)
    assert content["effects"]["effects"] == content["interactions"] == content["importances"]["parameters"] == []
    made = effects_section(sweep)
    assert (made is None) == (count == 0)
    assert made is None or "not determined" in made.body


def test_names_are_text(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    trials = [
        Trial(
            {
                "training.clip.schedule": [EVIL, "constant"][at % 2],
                "training.lr": float(10 ** generator.uniform(-3, -2)),
            },
            [4 + 0.2 * (at % 2) + generator.normal(0, 0.01)],
            *(("completed", "patience") if at % 6 else ("diverged", "nan")),
        )
        for at in range(60)
    ]
    parameters = {"training.clip.schedule": {"values": [EVIL, "constant"]}, "training.lr": {"min": 1e-3, "max": 1e-2}}
    sweep = analysis.load(write_sweep(tmp_path / "s", trials, SPEC | {"parameters": parameters}))
    made = [section for section in sections(sweep) if section.anchor in ("effects", "importances", "clipping")]
    assert len(made) == 3
    for section in made:
        assert EVIL not in body([section])
    texts = [text for section in made for figure in section.figures for text in figure.layout.xaxis.ticktext or ()]
    texts += [text for section in made for figure in section.figures for text in figure.layout.yaxis.ticktext or ()]
    assert any(text.startswith("&lt;img src") for text in texts)
    assert not any("<" in text for text in texts)


def test_a_sweep_as_it_comes_out(tmp_path: Path) -> None:
    sweep = analysis.load(write_sweep(tmp_path / "s", realistic_trials(60)))
    anchors = [section.anchor for section in sections(sweep)]
    assert {"effects", "importances", "interactions", "throughput", "failures"} <= set(anchors)
    assert anchors.index("slices") < anchors.index("effects") < anchors.index("curves")
