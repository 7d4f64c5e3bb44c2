"""The numbers behind each figure, by hand, and that the drawings hold them."""

import math
from pathlib import Path

import numpy as np
import pytest
from sweep_folders import CONDITIONAL, SPEC, Trial, conditional_trials, lr_batch, replicates, write_sweep

import analysis
from analysis import Sweep, figures
from analysis.figures import parallel
from analysis.figures.curves import MOST_CURVES
from analysis.figures.style import ACCENT, LEAST_SAMPLED, upper_frame
from analysis.words import ABSENT

FULL = [6.0, 5.5, 5.0, 4.9, 4.8, 4.7, 4.6]


@pytest.fixture
def sweep(tmp_path: Path) -> Sweep:
    trials = [
        Trial(lr_batch(1e-3, 8), [*FULL, 4.2]),
        Trial(lr_batch(2e-3, 8), [*FULL, 4.0]),
        Trial(lr_batch(1e-2, 64), [*FULL, 4.1]),
        Trial(lr_batch(5e-4, 64), [6.0, 5.5, 5.2, 5.1], "stopped", "asha"),
        Trial(lr_batch(3e-2, 8), [900.0], "diverged", "the loss became nan"),
        Trial(lr_batch(2e-2, 64), [], "failed", "error"),
    ]
    return analysis.load(write_sweep(tmp_path / "s", trials))


def test_parallel_coordinates(sweep: Sweep) -> None:
    data = figures.parallel_coordinates_data(sweep)
    assert [line.label for line in data.axes] == ["learning rate", "batch size", "epochs", "val loss"]
    assert data.trial_ids.tolist() == [f"t000{number}" for number in range(6)]
    assert data.axes[0].positions.tolist() == pytest.approx(np.log10([1e-3, 2e-3, 1e-2, 5e-4, 3e-2, 2e-2]).tolist())
    assert data.axes[1].positions.tolist() == [0, 0, 1, 1, 0, 1]
    assert data.axes[2].positions.tolist() == [8, 8, 8, 4, 1, 0]
    assert (data.best, data.low, data.high) == ("t0001", 4.0, 4.2)
    loss = data.axes[3]
    assert loss.positions[:3].tolist() == [4.2, 4.0, 4.1]
    assert loss.positions[3] == loss.positions[4] > data.high, "losses above the frame share the top"
    assert loss.positions[5] == loss.missing == loss.high > loss.positions[4], "no loss lies above all"


def test_the_best_line_is_thick_on_top_and_the_only_one_in_its_colour(sweep: Sweep) -> None:
    trace = figures.parallel_coordinates(sweep).data[0]
    colour = np.array(trace.line.color)
    assert colour.argmax() == 1
    assert (colour == colour.max()).sum() == 5
    at_colour = (np.sort(colour)[-6] - trace.line.cmin) / (trace.line.cmax - trace.line.cmin)
    first_of_accent = min(position for position, shade in trace.line.colorscale if shade == ACCENT)
    assert at_colour < first_of_accent < 1
    lr = np.array(trace.dimensions[0].values)
    height = trace.dimensions[0].range[1] - trace.dimensions[0].range[0]
    assert np.abs(lr[6:] - lr[1]).max() < 0.005 * height
    assert list(trace.dimensions[1].ticktext) == ["8", "64"]
    assert {"0.0001", "0.001", "0.01", "0.03"} <= set(trace.dimensions[0].ticktext)


def test_buttons_keep_the_best_share(sweep: Sweep) -> None:
    figure = figures.parallel_coordinates(sweep)
    loss = np.array(figure.data[0].dimensions[3].values)[:6]
    ranges = [button.args[0]["dimensions[3].constraintrange"][0] for button in figure.layout.updatemenus[0].buttons]
    assert ranges[0] is None
    kept = [[index for index in range(6) if low <= loss[index] <= high] for low, high in ranges[1:]]
    assert kept == [[1, 2], [1]]


def test_lr_batch(sweep: Sweep) -> None:
    data = figures.lr_batch_data(sweep)
    assert data is not None
    assert data.batch.tolist() == [8, 8, 64, 64, 8, 64]
    assert data.lr.tolist() == [1e-3, 2e-3, 1e-2, 5e-4, 3e-2, 2e-2]
    assert data.outcome.tolist() == ["full", "full", "full", "partial", "failed", "failed"]
    assert data.best_per_batch == {8.0: "t0001", 64.0: "t0002"}
    assert data.best == "t0001"
    names = {trace.name: np.array(trace.x).size for trace in figures.lr_batch(sweep).data}
    counts = [names[name] for name in ("full length", "stopped early or running", "diverged or failed")]
    assert counts == [3, 1, 2]
    assert names["best of its batch size"] == 2
    assert names["best of all"] == 1


def test_the_best_of_a_batch_size_ran_to_its_end(tmp_path: Path) -> None:
    stopped = Trial(lr_batch(1e-3, 8), [3.0] * 4, "stopped", "asha")
    trials = [stopped, Trial(lr_batch(2e-3, 8), [*FULL, 4.0]), Trial(lr_batch(2e-3, 16), [3.0] * 4, "stopped", "asha")]
    data = figures.lr_batch_data(analysis.load(write_sweep(tmp_path / "s", trials)))
    assert data is not None
    assert data.best_per_batch == {8.0: "t0001"}


def test_lr_batch_needs_both_to_vary(tmp_path: Path) -> None:
    fixed = [Trial(lr_batch(lr, 8), [*FULL, 4.2]) for lr in (1e-3, 2e-3)]
    assert figures.lr_batch_data(analysis.load(write_sweep(tmp_path / "a", fixed))) is None
    spec = SPEC | {"parameters": {"training.batch_size": {"values": [8, 16]}}}
    other = [Trial({"training.batch_size": size}, [*FULL, 4.2]) for size in (8, 16)]
    assert figures.lr_batch_data(analysis.load(write_sweep(tmp_path / "b", other, spec))) is None


def test_learning_curves(sweep: Sweep) -> None:
    data = figures.learning_curves_data(sweep)
    assert list(data.groups) == ["completed", "stopped", "diverged"]
    completed = data.groups["completed"]
    assert completed.trials == 3
    assert completed.epochs.tolist() == pytest.approx([*range(1, 9), math.nan] * 2 + [*range(1, 9)], nan_ok=True)
    assert completed.values[:9].tolist() == pytest.approx([*FULL, 4.2, math.nan], nan_ok=True)
    assert completed.trial_ids[[0, 8, 9]].tolist() == ["t0000", None, "t0001"]
    assert completed.ends().values.tolist() == pytest.approx([4.2, 4.0, 4.1])
    assert data.groups["stopped"].values.tolist() == pytest.approx([6.0, 5.5, 5.2, 5.1])
    assert data.best is not None
    assert set(data.best.trial_ids) == {"t0001"}
    assert data.rungs == [4]
    assert (data.low, data.high) == (4.0, 6.0)


def test_slices(sweep: Sweep) -> None:
    data = figures.slice_data(sweep, "training.lr")
    assert data.axis.kind == "log"
    assert data.loss[:5].tolist() == [4.2, 4.0, 4.1, 5.1, 900.0]
    assert (data.low, data.high, data.best) == (4.0, 4.2, "t0001")
    drawn = figures.slice_figure(sweep, "training.lr")
    points = {float(x): float(y) for trace in drawn.data for x, y in zip(trace.x, trace.y, strict=True)}
    assert len(points) == 6
    top = drawn.layout.yaxis.range[1]
    assert all(data.high < points[x] < top for x in data.axis.positions[3:]), "they lie on the upper edge"


def test_trials_without_a_parameter_have_a_place_of_their_own_in_every_figure(tmp_path: Path) -> None:
    sweep = analysis.load(write_sweep(tmp_path / "s", conditional_trials(), CONDITIONAL))
    axes = {axis.label: axis for axis in figures.parallel_coordinates_data(sweep).axes}
    for name, without in (("clip norm", 8), ("last clip norm", 16)):
        axis = axes[name]
        assert (axis.positions == axis.missing).sum() == without
        assert axis.missing == axis.low < np.delete(axis.positions, axis.positions == axis.missing).min()
        assert axis.tick_text[0] == ABSENT
    assert axes["clip schedule"].tick_text == ["constant", "linear", "none"]
    assert axes["lr schedule"].tick_text == ["constant", "cosine, warmup 0.1", "cosine, warmup 0.2, final 0.1"]
    drawn = figures.parallel_coordinates(sweep).data[0]
    assert all(len(set(dimension.ticktext)) == len(dimension.ticktext) for dimension in drawn.dimensions)
    slice_of = figures.slice_figure(sweep, "training.clip.final")
    places = np.unique(np.concatenate([trace.x for trace in slice_of.data]))
    assert [(np.abs(places - at) < 0.2).sum() for at in (-1, 0, 1)] == [16, 4, 4]
    assert list(slice_of.layout.xaxis.ticktext) == [ABSENT, "2", "4"]


def test_replicates_are_lines_of_their_own_and_one_of_them_is_the_best(tmp_path: Path) -> None:
    trials = [*replicates(lr_batch(1e-3, 8), [*FULL, 4.3], [*FULL, 4.1]), *replicates(lr_batch(2e-3, 16), [*FULL, 4.0])]
    trials += replicates(lr_batch(2e-3, 16), [*FULL, 4.2], [*FULL, 4.25])
    sweep = analysis.load(write_sweep(tmp_path / "s", trials, SPEC | {"seeds": 2}))
    curves = figures.learning_curves_data(sweep)
    assert curves.groups["completed"].ends().trial_ids.tolist() == sweep.trials["trial_id"].tolist()
    assert curves.best is not None
    assert set(curves.best.trial_ids) == {"t0000-1"}
    points = figures.lr_batch_data(sweep)
    assert points is not None
    assert points.best_per_batch == {8.0: "t0000-1", 16.0: "t0002-0"}
    assert figures.slice_data(sweep, "training.lr").best == "t0000-1"
    drawn = figures.lr_batch(sweep).data
    assert sorted(text[9:16] for trace in drawn if trace.text is not None for text in trace.text) == sorted(
        sweep.trials["trial_id"]
    )


def test_rung_survival(sweep: Sweep) -> None:
    assert [tuple(row) for row in figures.rung_survival_data(sweep)] == [(8, 4, 2, 2, 0, 0), (64, 4, 2, 1, 1, 0)]
    bars = {trace.name: list(trace.x) for trace in figures.rung_survival(sweep).data}
    assert bars == {"went on": [2, 1], "stopped": [0, 1]}


def test_frame_leaves_outliers_outside() -> None:
    assert upper_frame([4.0, 4.1, 4.2, 4.3, 900.0]) == 4.3
    assert upper_frame([4.0, math.nan, math.inf, 4.1]) == 4.1
    assert math.isnan(upper_frame([]))


@pytest.mark.parametrize("count", [0, 1])
def test_figures_of_almost_nothing(tmp_path: Path, count: int) -> None:
    sweep = analysis.load(write_sweep(tmp_path / "s", [Trial(lr_batch(1e-3, 8), [5.0], None)] * count, end=None))
    for figure in (figures.parallel_coordinates, figures.lr_batch, figures.learning_curves, figures.rung_survival):
        assert figure(sweep).layout.height > 0
    assert figures.slice_figure(sweep, "training.lr").layout.height > 0


def test_of_many_trials_each_state_is_sampled_over_its_losses(tmp_path: Path) -> None:
    losses = np.random.default_rng(0).permutation(np.linspace(4, 6, 1000)).tolist()
    trials = [
        Trial(lr_batch(1e-3, 8), [7.0, loss], "stopped" if n % 10 else "diverged") for n, loss in enumerate(losses)
    ]
    sweep = analysis.load(write_sweep(tmp_path / "s", [*trials, Trial(lr_batch(2e-3, 8), [*FULL, 3.9])]))
    data = figures.learning_curves_data(sweep)
    assert data.trials == {"completed": 1, "stopped": 900, "diverged": 100}
    assert {state: curves.trials for state, curves in data.groups.items()} == {
        **{"completed": 1, "stopped": MOST_CURVES * 900 // 1001, "diverged": LEAST_SAMPLED}
    }
    ends = np.sort(data.groups["stopped"].ends().values)
    wanted = sweep.trials.loc[sweep.trials["state"] == "stopped", "value"]
    assert (ends[0], ends[-1]) == pytest.approx((wanted.min(), wanted.max()))
    assert np.diff(ends).max() < 3 * 2 / len(ends), "evenly over the losses"
    assert data.best is not None
    assert set(data.best.trial_ids) == {"t1000"}
    names = [trace.name for trace in figures.learning_curves(sweep).data if trace.showlegend is not False]
    assert names[:3] == ["completed (1)", "stopped early (179 of 900)", "diverged (20 of 100)"]
    lines = figures.parallel_coordinates(sweep).data[0].dimensions[0].values
    assert len(lines) == 1001 + 4, "fewer than would be too many"


def test_of_very_many_trials_the_best_is_among_the_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "MOST_DRAWN", 30)
    pairs = [(3 + n / 1000, 6 - n / 1000) for n in range(70)]
    pairs[40] = (4.2, 4.2)
    start = [7.0] * 7
    trials = [
        trial
        for n, (a, b) in enumerate(pairs)
        for trial in replicates(lr_batch(1e-3 + 1e-5 * n, 8), [*start, a], [*start, b])
    ]
    sweep = analysis.load(write_sweep(tmp_path / "s", trials, SPEC | {"seeds": 2}))
    assert len(figures.parallel_coordinates_data(sweep).trial_ids) == 140
    trace = figures.parallel_coordinates(sweep).data[0]
    lines, colour = np.array(trace.dimensions[0].values), np.array(trace.line.color)
    assert len(lines) == 31 + 4
    assert lines[colour == colour.max()] == pytest.approx([math.log10(1.4e-3)] * 5, abs=0.01)
