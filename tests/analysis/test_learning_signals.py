"""What the report shows of how trials learned."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sweep_folders import SPEC, Trial, lr_batch, realistic_trials, with_signals, write_sweep

import analysis
from analysis import figures
from analysis.plateau import plateau, plateau_sentence
from analysis.sections import sections

QUIET = {"noise_scale": None, "update_ratio": None, "dead_relu": None, "ctx_norm": None, "ctx_rank": None}


def signals(**columns: list[Any]) -> list[dict[str, Any]]:
    """One mapping per epoch."""
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


@pytest.fixture
def sweep(tmp_path: Path) -> analysis.Sweep:
    """Two epochs of 100 steps; contexts of 64 dimensions."""
    trials = [
        Trial(
            *(lr_batch(1e-3, 8), [5.0, 4.0]),
            signals=signals(noise_scale=[16.0, 32.0], ctx_rank=[16.0, 32.0], plateau_step=[None, 150]),
        ),
        Trial(
            *(lr_batch(2e-3, 64), [5.0, 4.5]),
            signals=signals(noise_scale=[None, 16.0], ctx_rank=[6.4, 6.4], plateau_step=[None, None]),
        ),
        Trial(
            *(lr_batch(3e-3, 64), [4.9], "stopped", "asha"),
            signals=signals(noise_scale=[9.0], ctx_rank=[64.0], plateau_step=[30]),
        ),
        Trial(lr_batch(1e-3, 16), [5.0, 4.9], signals=[QUIET, QUIET]),
    ]
    spec = SPEC | {"training": SPEC["training"] | {"epochs": 2}, "early_terminate": None}
    return analysis.load(write_sweep(tmp_path / "s", trials, spec))


def test_signals_stand_beside_what_they_are_measured_by(sweep: analysis.Sweep) -> None:
    noise, rank = figures.signals_data(sweep)
    assert [noise.signal.column, rank.signal.column] == ["noise_scale", "ctx_rank"], "none without a value"
    assert noise.lines.trial_ids.tolist() == ["t0000", "t0000", None, "t0001"], "trials at full fidelity"
    assert noise.lines.values.tolist() == pytest.approx([2.0, 4.0, math.nan, 0.25], nan_ok=True)
    assert rank.lines.values.tolist() == pytest.approx([0.25, 0.5, math.nan, 0.1, 0.1], nan_ok=True)
    assert rank.best is not None
    assert rank.best.values.tolist() == [0.25, 0.5]
    low, high = figures.signal_figure(noise).layout.yaxis.range
    assert low < math.log10(0.25) < math.log10(4.0) < high
    assert figures.signal_figure(noise).layout.shapes[0].y0 == 1.0


def test_when_the_plateau_was_left(sweep: analysis.Sweep) -> None:
    rows = plateau(sweep)
    assert rows["trial_id"].tolist() == ["t0000", "t0001", "t0002"], "t0003 says nothing of itself"
    assert rows["plateau_epoch"].tolist() == pytest.approx([1.5, math.nan, 0.3], nan_ok=True)
    assert plateau_sentence(sweep) == (
        "2 of 3 trials left the unigram plateau: the first at step 30 (epoch 0.3), half of them by step 30 (epoch "
        "0.3), the last at step 150 (epoch 1.5). Never left by t0001."
    )
    drawn = figures.plateau_figure(sweep)
    points = sorted((x, y) for trace in drawn.data for x, y in zip(trace.x, trace.y, strict=True))
    assert np.array(points) == pytest.approx(np.array([(0.3, 4.9), (1.5, 4.0), (1.8, 4.5)]))
    assert drawn.layout.xaxis.ticktext[-1] == "never"
    texts = [text for trace in drawn.data for text in trace.text]
    assert sum("left at step 150, epoch 1.5" in text for text in texts) == 1
    assert sum("never left it" in text for text in texts) == 1


def test_signals_that_make_no_logarithm_are_left_out(tmp_path: Path) -> None:
    noise = signals(noise_scale=[-5.0, math.inf, 8.0], dead_relu=[0.0, 0.1, 0.2])
    sweep = analysis.load(write_sweep(tmp_path / "s", [Trial(lr_batch(1e-3, 8), [5.0, 4.9, 4.8], signals=noise)]))
    lines = {one.signal.column: one.lines for one in figures.signals_data(sweep)}
    assert lines["noise_scale"].values.tolist() == [1.0]
    assert lines["dead_relu"].values.tolist() == pytest.approx([0.0, 0.1, 0.2])


def test_the_section_is_there_when_there_is_something_to_say(tmp_path: Path, sweep: analysis.Sweep) -> None:
    shown = {section.anchor: section for section in sections(sweep)}["signals"]
    assert len(shown.figures) == len(shown.captions) == 3
    silent = analysis.load(write_sweep(tmp_path / "old", [Trial(lr_batch(1e-3, 8), [5.0], signals=[QUIET])]))
    assert "signals" not in {section.anchor for section in sections(silent)}
    many = analysis.load(write_sweep(tmp_path / "many", with_signals(realistic_trials(60)), SPEC))
    assert len(next(part for part in sections(many) if part.anchor == "signals").figures) == 6
    assert all(np.isfinite(one.lines.values).sum() > 8 for one in figures.signals_data(many))
