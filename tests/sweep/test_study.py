"""Suggestions: points first, evenly dealt, never twice, learnt within the stratum; and what the study is told."""

import math
import time

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState
from sweeping import SPEC, result

from tune_newllm.sweep.journal import study_name

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

CONDITIONAL = """\
training: {epochs: 1}
parameters:
  training.clip.norm: {distribution: log_uniform_values, min: 0.01, max: 100, when: {training.clip.schedule: constant}}
  training.clip.schedule: {values: [none, constant]}
  model.dropout: {min: 0.0, max: 0.5}
run_cap: 60
"""


def journal(driver):
    storage = JournalStorage(JournalFileBackend(str(driver.folder.journal)))
    return optuna.load_study(study_name=study_name(driver.spec.training.epochs), storage=storage).trials


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


def test_quasi_is_one_sobol_sequence_for_each_value_of_the_balanced_parameter(make_driver):
    text = SPEC.replace("balanced", "method: quasi\nbalanced").replace("run_cap: 12", "run_cap: 48")
    driver, _ = make_driver(text.replace("training.lr: 1e-3, ", ""))
    trials = list(iter(driver.create, None))
    assert [trial.created.origin for trial in trials] == ["point"] + ["quasi"] * 47
    for size in (8, 16, 32):
        # The first 2^k points of a Sobol sequence hold one in each of 2^k equal cells, points with missing keys too.
        rates = [trial.parameters["training.lr"] for trial in trials if trial.parameters["training.batch_size"] == size]
        for count in (4, 16):
            assert {int((math.log10(lr) + 4) / 3 * count) for lr in rates[:count]} == set(range(count))


def test_grid_holds_every_combination_once_and_then_ends(make_driver):
    driver, _ = make_driver(GRID)
    trials = iter(driver.create, None)
    found = [tuple(trial.parameters.values()) for trial in trials]
    assert found == [(lr, size) for lr in (0.1, 0.2, 0.3) for size in (8, 16)]


def test_a_grid_begins_with_its_points(make_driver):
    driver, _ = make_driver(GRID + "points: [{training.lr: 0.3, training.batch_size: 8}, {training.lr: 0.2}]\n")
    trials = list(iter(driver.create, None))
    assert trials[0].parameters == {"training.lr": 0.3, "training.batch_size": 8}
    assert trials[1].parameters["training.lr"] == 0.2
    assert [trial.created.origin for trial in trials] == ["point"] * 2 + ["grid"] * 4
    assert len({trial.created.config_id for trial in trials}) == 6


@pytest.mark.parametrize("method", ["bayes", "random", "quasi"])
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


@pytest.mark.parametrize("text", [ONE_DIMENSION, CONDITIONAL + "seeds: 2\n"], ids=["balanced", "conditional"])
def test_a_reopened_sweep_suggests_what_an_undisturbed_one_does(make_driver, text):
    def run(name, stop_at):
        driver, _ = make_driver(text, name)
        for number in range(26):
            if number == stop_at:
                driver, _ = make_driver(text, name)
            trial = driver.create()
            finish(driver, trial, int(trial.created.config_id[:2], 16) + trial.created.replicate)
        return [trial.parameters for trial in driver.history.trials.values()], journal(driver)

    undisturbed, rows = run("one", None)
    resumed, rows_again = run("two", 13)
    assert resumed == undisturbed
    assert [(r.params, r.value, r.state, r.user_attrs) for r in rows] == [
        (r.params, r.value, r.state, r.user_attrs) for r in rows_again
    ]


@pytest.mark.parametrize("method", ["bayes", "quasi", "grid"])
def test_a_sweep_goes_on_without_the_trials_whose_creation_is_lost(make_driver, method):
    points = "points: [{training.lr: 0.3}, {training.lr: 0.2}, {training.lr: 0.1}]\n"
    text = GRID.replace("grid", method) + points + "run_cap: 6\n"
    driver, _ = make_driver(text)
    for _ in range(4):
        finish(driver, driver.create(), 1.0)
    known = [trial.parameters for trial in driver.history.trials.values()]
    lines = driver.folder.records.read_text().splitlines()
    lost = [index for index, line in enumerate(lines) if "trial_created" in line][::2]
    damaged = [line[:40] if index in lost else line for index, line in enumerate(lines)]
    driver.folder.records.write_text("\n".join(damaged) + "\n")
    # A driver that was killed while it wrote to the journal.
    driver.folder.journal.with_name("study.journal.lock").touch()
    began = time.monotonic()
    again, _ = make_driver(text)
    assert time.monotonic() - began < 10
    new = list(iter(again.create, None))
    assert [trial.id for trial in again.history.trials.values()] == ["t0001", "t0003", "t0004", "t0005"]
    tried = [trial.parameters for trial in again.history.trials.values()]
    assert tried[:2] == [known[1], known[3]]
    assert all(tried.count(values) == 1 for values in tried)
    assert "point" not in [trial.created.origin for trial in new]
    for trial in new:
        finish(again, trial, 2.0)
    assert [row.user_attrs["trial_id"] for row in journal(again)] == ["t0001", "t0003", "t0004", "t0005"]
    assert {row.state for row in journal(again)} == {TrialState.COMPLETE}


def test_tpe_learns_in_a_conditional_space(make_driver, recwarn):
    """Clipping pays off with a norm near 1 only: otherwise, `none` is better."""
    driver, _ = make_driver(CONDITIONAL)
    for trial in iter(driver.create, None):
        norm, dropout = trial.parameters.get("training.clip.norm"), trial.parameters["model.dropout"]
        finish(driver, trial, dropout + (1.0 if norm is None else 0.5 + math.log10(norm) ** 2))
    late = [trial.parameters for trial in driver.history.trials.values() if trial.created.number >= 30]
    good = [row for row in late if abs(math.log10(row.get("training.clip.norm", 100))) < 0.5]
    assert len(good) / len(late) > 0.5, late
    assert all(("training.clip.norm" in row) == (row["training.clip.schedule"] == "constant") for row in late)
    rows = journal(driver)
    assert all(set(row.params) == set(row.user_attrs) - {"trial_id"} for row in rows)
    assert not recwarn.list


def test_seeds_share_a_row_that_is_told_their_mean_live_and_from_the_records_alike(make_driver):
    text = SPEC.replace("run_cap: 12", "seeds: 2\nrun_cap: 3")
    driver, _ = make_driver(text)
    trials = list(iter(driver.create, None))
    assert [trial.id for trial in trials] == ["t0000-0", "t0000-1", "t0001-0", "t0001-1", "t0002-0", "t0002-1"]
    assert [driver.configuration(trial).training.seed for trial in trials] == [0, 1] * 3
    assert all(
        one.created.config_id == two.created.config_id for one, two in zip(trials[::2], trials[1::2], strict=True)
    )
    losses = [[5.0, 4.0, 4.5], [7.0, 3.0], [5.0, 2.0], [6.0], [1.0, 2.0], [3.0]]
    for epoch in (1, 2, 3):
        for trial, row in zip(trials, losses, strict=True):
            if epoch <= len(row):
                driver.epoch(trial.id, result(epoch, row[epoch - 1]))
    for trial, state in zip(trials[:4], ["completed", "completed", "completed", "stopped"], strict=True):
        driver.ended(trial.id, state, "")
    live = journal(driver)
    rebuilt = journal(make_driver(text)[0])
    for rows in (live, rebuilt):
        assert [row.state for row in rows] == [TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING]
        assert rows[0].value == 3.5  # (4 + 3) / 2
        assert rows[0].intermediate_values == {1: 6.0, 2: 3.5, 3: 4.5}
        assert rows[1].intermediate_values == {1: 5.5, 2: 2.0}
        assert rows[2].intermediate_values == {1: 2.0}
        assert [row.user_attrs["trial_id"] for row in rows] == ["t0000", "t0001", "t0002"]


def test_a_crash_between_two_replicates_is_made_good(make_driver):
    text = SPEC.replace("run_cap: 12", "seeds: 3\nrun_cap: 2")
    undisturbed = [trial.created.trial_id for trial in iter(make_driver(text, "one")[0].create, None)]
    first = make_driver(text, "two")[0].create()
    again, _ = make_driver(text, "two")
    assert [first.id, *(trial.id for trial in iter(again.create, None))] == undisturbed
    assert len({trial.created.config_id for trial in again.history.trials.values()}) == 2


def test_values_that_are_impossible_together_are_infeasible_without_running(make_driver):
    """With a batch of 10^6 the rule would need beta2 < 0."""
    text = """\
parameters:
  training.batch_size: {values: [32, 1000000]}
  training.lr_rule: {values: [none, sqrt-sde]}
seeds: 2
method: grid
"""
    driver, _ = make_driver(text)
    trials = list(iter(driver.create, None))
    bad = [trial for trial in trials if trial.ended]
    assert [trial.parameters for trial in bad] == [{"training.batch_size": 10**6, "training.lr_rule": "sqrt-sde"}] * 2
    assert {trial.state for trial in bad} == {"infeasible"}
    assert bad[0].ended.reason.startswith("impossible configuration: `training.batch_size`")
    assert "\n" not in bad[0].ended.reason
    assert (bad[0].created.lr, bad[0].created.model_size) == (None, None)
    assert all(trial.created.lr == 1e-3 and trial.created.model_size > 0 for trial in trials if trial not in bad)
    assert [bool(row.constraints) for row in journal(driver)] == [False, False, False, True]
