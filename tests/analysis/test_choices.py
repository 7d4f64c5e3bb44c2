"""What to choose: fronts against cost, importances, clip schedules, and where trials fail."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sweep_folders import CONDITIONAL, SPEC, Trial, conditional_trials, lr_batch, write_sweep

import analysis
from analysis.clip_schedules import clip_schedules
from analysis.hazard import hazard, hazard_sentence
from analysis.importance import importances
from analysis.pareto import _front, pareto, pareto_sentences

LR = {"distribution": "log_uniform_values", "min": 1e-4, "max": 1e-1}


def made(folder: Path, trials: list[Trial], parameters: dict[str, Any], **spec: Any) -> analysis.Sweep:
    return analysis.load(write_sweep(folder, trials, SPEC | {"parameters": parameters} | spec))


def sized(layers: int, loss: float, size: int, seconds: float = 2.0, memory: int = 10**8, **created: Any) -> Trial:
    """A trial of one epoch at full fidelity."""
    signals = [{"seconds": seconds, "peak_memory_bytes": memory}]
    parameters = {"model.num_layers": layers}
    return Trial(parameters, [loss], "completed", "patience", {"model_size": size} | created, signals)


LAYERS = {"model.num_layers": {"values": [1, 2, 4, 8]}}


def test_fronts_by_hand(tmp_path: Path) -> None:
    trials = [
        sized(8, 4.00, 8000, 40, 2 * 10**8),
        sized(4, 4.03, 4000, 12, 10**8),
        sized(2, 4.20, 2000, 11.5, 10**8),
        sized(2, 4.30, 2000, 10, 10**8),
        sized(1, 4.25, 1000, 45, 10**8),
        Trial({"model.num_layers": 1}, [3.0], "stopped", "asha", {"model_size": 10}),
    ]
    sweep = made(tmp_path / "s", trials, LAYERS)
    fronts = {front.cost: [point.trial_id for point in front.points] for front in pareto(sweep)}
    assert fronts == {
        "parameters": ["t0004", "t0002", "t0001", "t0000"],
        "seconds": ["t0003", "t0001", "t0000"],
        "memory": ["t0001", "t0000"],
    }
    assert pareto_sentences(sweep) == [
        "Within 1 % of the best loss the smallest model is trial t0001 (4000 against 8000 parameters, 0.75 % "
        "behind), the quickest to train is trial t0001 (12 s against 40 s, 0.75 % behind), the one with the least "
        "memory is trial t0001 (100 MB against 200 MB, 0.75 % behind)."
    ]


def test_a_cost_that_hardly_differs_has_no_front(tmp_path: Path) -> None:
    trials = [sized(layers, 4 + 0.1 * layers, 1000, 10 + 0.1 * layers) for layers in (1, 2, 4)]
    assert pareto(made(tmp_path / "s", trials, LAYERS)) == []
    older = [replace(trial, created={}) for trial in trials]
    assert pareto(made(tmp_path / "t", older, LAYERS)) == []
    assert pareto(made(tmp_path / "u", [], LAYERS)) == []


def test_the_seeds_of_a_configuration_are_one_point(tmp_path: Path) -> None:
    trials = []
    for layers, losses in ((1, (4.0, 4.4)), (8, (4.1, 4.1))):
        for index, loss in enumerate(losses):
            trials.append(sized(layers, loss, 1000 * layers, 2.0 + index, replicate=index))
    (front,) = pareto(made(tmp_path / "s", trials, LAYERS, seeds=2))
    assert front.losses.tolist() == pytest.approx([4.2, 4.1])
    assert [point.trial_id for point in front.points] == ["t0000-0", "t0001-0"]


def test_times_of_an_unsteady_machine_say_nothing(tmp_path: Path) -> None:
    def trials(*seconds: float) -> list[Trial]:
        return [
            Trial({"model.num_layers": layers}, [4.0 + 0.1 / layers] * 2, "completed", "patience", {}, epochs)
            for layers, factor in ((1, 1.0), (8, 3.0))
            for epochs in [[{"seconds": factor * each} for each in seconds]]
        ]

    assert [front.cost for front in pareto(made(tmp_path / "s", trials(10, 10.5), LAYERS))] == ["seconds"]
    assert pareto(made(tmp_path / "t", trials(10, 25), LAYERS)) == []


points = st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=30)


@settings(deadline=None)
@given(points)
def test_nothing_beats_a_point_of_the_front_and_something_does_all_others(
    pairs: list[tuple[int, int]],
) -> None:
    costs, losses = np.array(pairs, dtype=float).T
    rows = pd.DataFrame({"trial_id": [str(at) for at in range(len(pairs))], "mean": losses, "behind": losses})
    front = _front("parameters", rows, costs, 0.0)
    chosen = {int(point.trial_id) for point in front.points}
    for at in range(len(pairs)):
        better = (costs <= costs[at]) & (losses <= losses[at]) & ((costs < costs[at]) | (losses < losses[at]))
        if at in chosen:
            assert not better.any()
        else:
            assert any(costs[one] <= costs[at] and losses[one] <= losses[at] for one in chosen)


def test_the_parameter_that_decides_is_the_most_important(tmp_path: Path) -> None:
    sweep = analysis.load(write_sweep(tmp_path / "s", conditional_trials(60), CONDITIONAL))
    found = importances(sweep)
    assert (found.configurations, found.best, found.reason) == (60, 10, "")
    assert {one.path for one in found.parameters} == set(CONDITIONAL["parameters"])
    assert found.parameters[0].path == "training.lr"
    assert sum(one.importance for one in found.parameters) == pytest.approx(1)
    assert all(0 <= one.low <= one.importance <= one.high <= 1 for one in found.parameters)
    assert found.parameters[0].low > 0.3
    assert importances(replace(sweep)) == found, "the same every time"


def test_importances_need_ten_configurations_at_full_fidelity(tmp_path: Path) -> None:
    stopped = [
        replace(trial, losses=trial.losses[:2], state="stopped", reason="asha") for trial in conditional_trials(40)
    ]
    sweep = analysis.load(write_sweep(tmp_path / "s", [*conditional_trials(9), *stopped], CONDITIONAL))
    assert importances(sweep) == ([], 9, 0, "9 configurations ran to the end, and at least 10 are needed")


def clipped(schedule: str, lr: float, loss: float) -> Trial:
    return Trial({"training.clip.schedule": schedule, "training.lr": lr}, [loss], "completed", "patience")


SCHEDULES = {"training.clip.schedule": {"values": ["none", "constant", "linear"]}, "training.lr": LR}


def bowl(schedule: str, floor: float, optimum: float, rates: list[float], noise: float = 0.0) -> list[Trial]:
    generator = np.random.default_rng(len(schedule))
    return [
        clipped(schedule, lr, floor + 0.1 * math.log(lr / optimum) ** 2 + generator.normal(0, noise)) for lr in rates
    ]


def test_each_schedule_is_read_at_its_own_best_learning_rate(tmp_path: Path) -> None:
    """`none` was only tried at rates too high for it: at equal rates it looks far worse than it is at its best."""
    low, high = np.geomspace(1e-3, 1e-2, 8).tolist(), np.geomspace(4e-3, 4e-2, 8).tolist()
    trials = [*bowl("none", 4.0, 5e-3, high), *bowl("constant", 4.1, 4e-3, low), *bowl("linear", 4.12, 8e-4, low)]
    trials.append(Trial({"training.clip.schedule": "none", "training.lr": 0.1}, [], "diverged"))
    found = clip_schedules(made(tmp_path / "s", trials, SCHEDULES))
    assert found is not None
    none, constant, linear = found.schedules
    assert (none.name, none.verdict, none.trials, none.failed, none.configurations) == ("none", "best", 9, 1, 8)
    assert none.loss == pytest.approx(4.0, abs=5e-3)
    assert none.lr == pytest.approx(5e-3, rel=0.2)
    assert (constant.name, constant.verdict) == ("constant", "behind")
    assert constant.behind == pytest.approx(0.1, abs=5e-3)
    assert (linear.name, linear.edge, linear.verdict) == ("linear", True, "edge")
    assert none.observed == pytest.approx(min(trial.losses[0] for trial in trials[:8]))


def test_each_schedule_is_read_at_the_best_of_its_own_settings(tmp_path: Path) -> None:
    rates, norms = np.geomspace(1e-3, 3e-2, 12), np.geomspace(0.1, 10, 12)[[3, 8, 0, 11, 5, 2, 9, 6, 1, 10, 4, 7]]
    trials = bowl("none", 4.05, 5e-3, rates.tolist())
    for trial, norm in zip(bowl("constant", 4.0, 5e-3, rates.tolist()), norms.tolist(), strict=True):
        settings_of = trial.parameters | {"training.clip.norm": norm}
        trials.append(replace(trial, parameters=settings_of, losses=[trial.losses[0] + 0.03 * math.log(norm) ** 2]))
    found = clip_schedules(made(tmp_path / "s", trials, SCHEDULES | {"training.clip.norm": LR}))
    assert found is not None
    assert [(one.name, one.verdict) for one in found.schedules] == [("constant", "best"), ("none", "behind")]
    assert found.schedules[0].loss == pytest.approx(4.0, abs=5e-3)


def test_schedules_that_cannot_be_told_apart(tmp_path: Path) -> None:
    rates = np.geomspace(1e-3, 3e-2, 9).tolist()
    trials = [trial for name in ("none", "constant", "linear") for trial in bowl(name, 4.0, 5e-3, rates, 0.02)]
    found = clip_schedules(made(tmp_path / "s", trials, SCHEDULES))
    assert found is not None
    assert [one.verdict for one in found.schedules] == ["best", "alike", "alike"]
    assert all(one.low < 4.0 < one.high for one in found.schedules)


def test_too_little_to_compare_schedules(tmp_path: Path) -> None:
    trials = [*bowl("none", 4.0, 5e-3, [1e-3, 5e-3]), *bowl("constant", 4.1, 5e-3, [1e-3, 5e-3])]
    found = clip_schedules(made(tmp_path / "s", trials, SCHEDULES))
    assert found is not None
    assert found.reason
    assert [(one.name, one.verdict) for one in found.schedules] == [("none", "unknown"), ("constant", "unknown")]
    assert clip_schedules(made(tmp_path / "t", [], SCHEDULES)) is None
    ranged = [Trial({"training.clip.norm": norm}, [4.0], "completed", "patience") for norm in (0.1, 0.5, 1.0)]
    assert clip_schedules(made(tmp_path / "u", ranged, {"training.clip.norm": LR})) is None


def test_settings_of_a_schedule_of_its_own(tmp_path: Path) -> None:
    sweep = analysis.load(write_sweep(tmp_path / "s", conditional_trials(60), CONDITIONAL))
    found = clip_schedules(sweep)
    assert found is not None
    assert (found.path, found.reason) == ("training.clip.schedule", "")
    assert {one.name for one in found.schedules} == {"none", "constant", "linear"}
    assert all(one.verdict in ("best", "alike") for one in found.schedules)


def test_tables_of_limits_are_told_apart(tmp_path: Path) -> None:
    tables = [[[0, 0.5], [10, 1.0]], [[0, 1.0]]]
    trials = [
        Trial({"training.clip.table": tables[at % 2], "training.lr": lr}, [4 + at % 2], "completed", "patience")
        for at, lr in enumerate(np.geomspace(1e-3, 1e-2, 16).tolist())
    ]
    found = clip_schedules(made(tmp_path / "s", trials, {"training.clip.table": {"values": tables}, "training.lr": LR}))
    assert found is not None
    assert [one.name for one in found.schedules] == ["[[0, 0.5], [10, 1.0]]", "[[0, 1.0]]"]


def test_where_trials_diverge(tmp_path: Path) -> None:
    trials = [
        Trial(lr_batch(lr, 8 * (1 + at % 2)), [4.0], *(("diverged", "nan") if lr > 1e-2 else ("stopped", "asha")))
        for at, lr in enumerate(np.geomspace(1e-4, 1e-1, 30).tolist())
    ]
    sweep = made(tmp_path / "s", trials, {"training.lr": LR, "training.batch_size": {"values": [8, 16]}})
    found = hazard(sweep)
    assert found is not None
    assert (found.path, len(found.bins)) == ("training.lr", 6)
    assert [sum(each.failed.values()) for each in found.bins] == [0, 0, 0, 0, 5, 5]
    assert [each.fine for each in found.bins] == [5, 5, 5, 5, 0, 0]
    table = np.array([[0, 0, 0, 0, 5, 5], [5, 5, 5, 5, 0, 0]])
    from scipy.stats import chi2_contingency

    assert found.p == pytest.approx(2 * chi2_contingency(table).pvalue)
    assert hazard_sentence(found) == (
        "Failures go most clearly with the learning rate: 10 of 10 trials failed at 0.01 and above, 0 of the 20 others."
    )


def test_failures_anywhere_have_no_place(tmp_path: Path) -> None:
    trials = [
        Trial(lr_batch(lr, 8), [4.0], "diverged" if at % 3 == 0 else "completed")
        for at, lr in enumerate(np.geomspace(1e-4, 1e-1, 30).tolist())
    ]
    assert hazard(made(tmp_path / "s", trials, {"training.lr": LR})) is None
    assert hazard(made(tmp_path / "t", trials[:4], {"training.lr": LR})) is None
