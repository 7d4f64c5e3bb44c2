"""Suggestions: points first, evenly dealt, never twice, learnt within the stratum; and what the study is told."""

import math

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState
from sweeping import SPEC, result

GRID = """\
method: grid
parameters: {training.lr: {values: [0.1, 0.2, 0.3]}, training.batch_size: {values: [8, 16]}}
"""
ONE_DIMENSION = """\
training: {epochs: 1}
parameters:
  training.lr: {distribution: log_uniform_values, min: 1e-4, max: 1e-1}
  training.batch_size: {values: [8, 128]}
balanced: training.batch_size
run_cap: 60
"""


def journal(driver):
    storage = JournalStorage(JournalFileBackend(str(driver.folder.journal)))
    return optuna.load_study(study_name="sweep", storage=storage).trials


def finish(driver, trial, loss):
    driver.started(trial.id)
    driver.epoch(trial.id, result(1, loss))
    driver.ended(trial.id, "completed", "epochs")


def test_points_come_first_and_the_balanced_parameter_is_dealt_evenly(make_driver):
    driver, _ = make_driver()
    trials = [driver.create() for _ in range(12)]
    assert trials[0].parameters == {"training.lr": 1e-3, "training.batch_size": 32}
    assert trials[0].created.origin == "point"
    sizes = [trial.parameters["training.batch_size"] for trial in trials]
    assert all(sizes[: 3 * n].count(size) == n for n in range(1, 5) for size in (8, 16, 32))
    assert driver.create() is None


def test_a_point_with_missing_keys_is_completed(make_driver):
    driver, _ = make_driver(SPEC.replace("training.lr: 1e-3, ", ""))
    assert 1e-4 <= driver.create().parameters["training.lr"] <= 1e-1


def test_start_up_covers_the_range_of_every_stratum(make_driver):
    driver, _ = make_driver()
    trials = [driver.create() for _ in range(12)][1:]
    for size in (8, 16):
        quarters = {
            int((math.log10(trial.parameters["training.lr"]) + 4) / 3 * 4)
            for trial in trials
            if trial.parameters["training.batch_size"] == size
        }
        assert quarters == {0, 1, 2, 3}


def test_grid_holds_every_combination_once_and_then_ends(make_driver):
    driver, _ = make_driver(GRID)
    trials = iter(driver.create, None)
    found = [tuple(trial.parameters.values()) for trial in trials]
    assert found == [(lr, size) for lr in (0.1, 0.2, 0.3) for size in (8, 16)]


@pytest.mark.parametrize("method", ["bayes", "random"])
def test_a_small_discrete_space_is_never_suggested_twice(make_driver, method):
    driver, _ = make_driver(GRID.replace("grid", method))
    found = set()
    for trial in iter(driver.create, None):
        found.add(tuple(trial.parameters.values()))
        finish(driver, trial, 1.0)
    assert len(found) == len(driver.history.trials) == 6


def test_tpe_learns_within_each_stratum_and_avoids_what_diverged(make_driver):
    """The optimum is 1e-3 at batch 8 and 1e-2 at batch 128; beyond ten times the optimum everything diverges."""
    driver, _ = make_driver(ONE_DIMENSION)
    best = {8: -3.0, 128: -2.0}
    late = {8: [], 128: []}
    for trial in iter(driver.create, None):
        size, lr = trial.parameters["training.batch_size"], math.log10(trial.parameters["training.lr"])
        if lr > best[size] + 1:
            driver.started(trial.id)
            driver.ended(trial.id, "diverged", "nan")
        else:
            finish(driver, trial, (lr - best[size]) ** 2)
        if trial.created.number >= 30:
            late[size].append(lr)
    for size, tried in late.items():
        near = sum(abs(lr - best[size]) < 0.5 for lr in tried) / len(tried)
        assert near > 0.5, (size, tried)
        assert sum(lr > best[size] + 1 for lr in tried) / len(tried) < 0.2


def test_each_end_is_told_as_what_it_is(make_driver):
    driver, _ = make_driver()
    ends = ["completed", "stopped", "diverged", "infeasible", "crashed", "failed"]
    for state in ends:
        trial = driver.create()
        driver.started(trial.id)
        driver.epoch(trial.id, result(1, 5.0))
        driver.epoch(trial.id, result(2, 4.0))
        driver.epoch(trial.id, result(3, 4.5))
        driver.ended(trial.id, state, "")
    rows = journal(driver)
    assert [row.state for row in rows] == [
        TrialState.COMPLETE, TrialState.PRUNED, TrialState.PRUNED, TrialState.PRUNED, TrialState.FAIL, TrialState.FAIL,
    ]  # fmt: skip
    assert rows[0].value == 4.0
    assert rows[1].intermediate_values == {1: 5.0, 2: 4.0, 3: 4.5}
    assert [bool(row.constraints) for row in rows] == [False, False, True, True, False, False]


def test_a_reopened_sweep_suggests_what_an_undisturbed_one_does(make_driver):
    def run(name, stop_at):
        driver, _ = make_driver(ONE_DIMENSION, name)
        for number in range(20):
            if number == stop_at:
                driver, _ = make_driver(ONE_DIMENSION, name)
            trial = driver.create()
            finish(driver, trial, math.log10(trial.parameters["training.lr"]) ** 2)
        return [trial.parameters for trial in driver.history.trials.values()], journal(driver)

    undisturbed, rows = run("one", None)
    resumed, rows_again = run("two", 13)
    assert resumed == undisturbed
    assert [(r.params, r.value, r.state, r.user_attrs) for r in rows] == [
        (r.params, r.value, r.state, r.user_attrs) for r in rows_again
    ]
