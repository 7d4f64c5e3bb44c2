"""A grid that is widened where its best value lies on an edge: which value follows, and when."""

import math
import os
import signal

import pytest
from sweeping import result

from tune_newllm.data.corpora import prepare
from tune_newllm.errors import SpecError, UsageError
from tune_newllm.records import TrialStarted
from tune_newllm.sweep import engine
from tune_newllm.sweep.driver import Driver
from tune_newllm.sweep.extension import apply, extension
from tune_newllm.sweep.folder import SweepFolder
from tune_newllm.sweep.history import History
from tune_newllm.sweep.loading import parse_spec
from tune_newllm.sweep.source import parse_yaml
from tune_newllm.sweep.tuning import DriverSearcher
from tune_newllm.sweep.widening import most_widened, widened

GRID = """\
training: {epochs: 1}
method: grid
parameters:
  training.batch_size: {values: [8, 16]}
  training.lr: {values: [0.001, 0.002, 0.004], widen: 2}
"""
ONE = GRID.replace("  training.batch_size: {values: [8, 16]}\n", "")
BAD = {"diverged": math.nan, "failed": None, "infeasible": None, "crashed": None}


def end(driver, trial, loss):
    """Ends a trial with a loss, or in a state that is no good."""
    driver.started(trial.id)
    if isinstance(loss, str):
        # Whatever it reached before is not what it ended with.
        driver.epoch(trial.id, result(1, 0.1))
        driver.ended(trial.id, loss, "why")
    else:
        driver.epoch(trial.id, result(driver.spec.training.epochs, loss))
        driver.ended(trial.id, "completed", "epochs")


def run(driver, losses):
    """Runs a sweep one trial after the other; `losses` is a function of the learning rate. The rates in order."""
    rates = []
    for trial in iter(driver.create, None):
        rates.append(trial.parameters["training.lr"])
        end(driver, trial, losses(rates[-1]))
    assert driver.exhausted()
    return rates


@pytest.mark.parametrize(
    ("losses", "further"),
    [
        ({0.002: 1.0}, []),
        ({0.004: 2.0}, [0.008]),
        ({0.004: 2.0, 0.008: 1.0}, [0.008, 0.016]),
        ({0.004: 2.0, 0.008: 1.0, 0.016: 0.5}, [0.008, 0.016]),
        ({0.001: 2.0, 0.0005: 1.0, 0.00025: 0.5}, [0.0005, 0.00025]),
        ({0.004: 2.0, 0.008: "diverged"}, [0.008]),
        ({0.002: 2.0, 0.004: "diverged"}, []),
        ({0.002: 2.0, 0.004: "failed"}, []),
        ({0.001: 2.0, 0.004: "crashed"}, [0.0005]),
        ({0.001: "diverged", 0.002: "failed", 0.004: "infeasible"}, []),
        ({0.002: 2.0, 0.004: 2.0}, []),
        ({0.001: 2.0, 0.004: 2.0}, [0.0005]),
    ],
    ids=str,
)
def test_values_follow_beyond_the_edge_that_is_best(make_driver, losses, further):
    """All rates that are not named end at 3.0."""
    driver, _ = make_driver(ONE)
    assert run(driver, lambda rate: losses.get(rate, 3.0)) == [0.001, 0.002, 0.004, *further]
    origins = [trial.created.origin for trial in driver.history.trials.values()]
    assert origins == ["grid"] * 3 + ["widened"] * len(further)


def test_the_next_value_keeps_the_ratio_at_its_edge_to_three_digits(make_driver):
    text = ONE.replace("[0.001, 0.002, 0.004]", "[0.023, 0.0007, 0.0013]")
    assert run(make_driver(text, "up")[0], lambda rate: 1 / (1 + rate))[3:] == [0.407, 7.2]
    assert run(make_driver(text, "down")[0], lambda rate: rate)[3:] == [0.000377, 0.000203]


def test_each_group_is_widened_by_itself_and_none_waits_for_another(make_driver):
    driver, _ = make_driver(GRID)
    trials = [driver.create() for _ in range(6)]
    small, large = trials[:3], trials[3:]
    for trial, loss in zip(large, (3.0, 2.0, 1.0), strict=True):
        end(driver, trial, loss)
    end(driver, small[0], 1.0)
    end(driver, small[1], 2.0)
    above = driver.create()
    assert above.parameters == {"training.batch_size": 16, "training.lr": 0.008}
    assert driver.create() is None
    assert not driver.exhausted()
    end(driver, small[2], 3.0)
    assert driver.create().parameters == {"training.batch_size": 8, "training.lr": 0.0005}
    assert driver.create() is None
    end(driver, above, 2.0)
    assert driver.create() is None


def test_a_value_is_judged_by_the_mean_of_all_its_seeds(make_driver):
    driver, _ = make_driver(ONE + "seeds: 2\n")
    trials = [driver.create() for _ in range(6)]
    for trial, loss in zip(trials[:5], (3.0, 3.0, 2.0, 2.0, 1.0), strict=True):
        end(driver, trial, loss)
    assert driver.create() is None
    end(driver, trials[5], 2.5)
    further = [driver.create(), driver.create()]
    assert [trial.parameters["training.lr"] for trial in further] == [0.008, 0.008]
    assert [trial.created.origin for trial in further] == ["widened"] * 2
    assert driver.create() is None
    end(driver, further[0], 1.0)
    # One of two replicates that diverged speaks for the rate.
    end(driver, further[1], "diverged")
    assert driver.exhausted()


def test_a_driver_that_was_lost_in_between_goes_on_as_if_it_had_not_been(make_driver):
    def loss(trial):
        return abs(
            math.log(trial.parameters["training.lr"] / (0.05 if trial.parameters["training.batch_size"] == 8 else 1e-4))
        )

    orders = []
    for lost, name in ((False, "whole"), (True, "lost")):
        driver, _ = make_driver(GRID + "seeds: 2\n", name)
        running, order = [], []
        while running or not driver.exhausted():
            while len(running) < 2 and (trial := driver.create()) is not None:
                running.append(trial.id)
                order.append((trial.id, trial.parameters, trial.created.origin))
            end(driver, driver.history.trials[running[0]], loss(driver.history.trials[running.pop(0)]))
            if lost:
                driver, _ = make_driver(GRID + "seeds: 2\n", name)
        orders.append(order)
    assert orders[0] == orders[1]
    assert len(orders[0]) == 2 * (6 + 2 + 2)


def test_the_search_waits_while_a_group_may_still_be_widened(make_driver):
    driver, _ = make_driver(ONE)
    searcher = DriverSearcher(driver, {}, lambda: False)
    told = [searcher.suggest(f"ray{index}") for index in range(3)]
    for index, loss in enumerate((3.0, 2.0)):
        end(driver, driver.history.trials[told[index]["id"]], loss)
        searcher.on_trial_complete(f"ray{index}")
    assert searcher.suggest("early") is None
    end(driver, driver.history.trials[told[2]["id"]], 1.0)
    searcher.on_trial_complete("ray2")
    further = searcher.suggest("ray3")
    assert further["configuration"]["training"]["lr"] == 0.008
    end(driver, driver.history.trials[further["id"]], 2.0)
    searcher.on_trial_complete("ray3")
    assert searcher.suggest("late") == searcher.FINISHED


def test_a_group_of_which_a_value_is_missing_is_not_judged(make_driver):
    driver, _ = make_driver(ONE)
    run(driver, lambda rate: rate)
    whole = list(driver.history.suggestions.values())[:3]
    assert widened(driver.spec, whole) == {"training.lr": 0.0005}
    assert widened(driver.spec, whole[:1] + whole[2:]) is None


def test_the_whole_grid_comes_first(make_driver):
    driver, _ = make_driver(GRID + "run_cap: 7\n")
    assert run(driver, lambda rate: rate) == [0.001, 0.002, 0.004] * 2 + [0.0005]


def test_run_cap_caps_what_is_added_and_an_extension_raises_it(make_driver):
    driver, _ = make_driver(ONE + "run_cap: 4\n")
    assert run(driver, lambda rate: rate) == [0.001, 0.002, 0.004, 0.0005]
    row = extension(driver.spec, driver.history, trials="+1")
    driver.spec = apply(driver.spec, row)
    assert driver.create().parameters == {"training.lr": 0.00025}
    with pytest.raises(UsageError, match="run_cap 5 covers the whole search space of 5"):
        extension(driver.spec, driver.history, trials="+1")


@pytest.mark.parametrize(("best", "further"), [(None, [0.0005, 0.00025]), (2, [])])
def test_after_more_epochs_the_edge_is_judged_anew_unless_trials_were_left_behind(make_driver, best, further):
    driver, _ = make_driver(ONE)
    assert len(run(driver, lambda rate: 1.0 if rate == 0.002 else 2.0)) == 3
    row = extension(driver.spec, driver.history, epochs=2, best=best)
    driver = Driver(driver.folder, apply(driver.spec, row), 100, lambda record: None, [row])
    for name in row.continued:
        end(driver, driver.history.trials[name], driver.history.trials[name].parameters["training.lr"])
    assert run(driver, lambda rate: rate) == further


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (("grid", "random"), "`widen` is for method grid, got random"),
        (("method", "early_terminate: {min_iter: 1}\nmethod"), "remove `early_terminate`"),
        (("[8, 16]}", "[8, 16, 32], widen: 1}"), "`training.batch_size` cannot be widened"),
        (("[8, 16]", "[8, 16, 32], widen: 1"), "one parameter can be widened, and `training.batch_size` is already"),
        (("0.004]", "none]"), "`widen` needs `values` of three or more different numbers > 0"),
        ((", 0.004]", "]"), "`widen` needs `values` of three or more different numbers > 0"),
        (("[0.001, ", "[0.0, "), "`widen` needs `values` of three or more different numbers > 0"),
        (("[0.001, 0.002, 0.004]", "[1, 1.001, 1.002]"), "`widen` finds no value of three digits beyond 1"),
        (("values: [0.001, 0.002, 0.004]", "min: 0.1, max: 1.0"), "uniform takes `max`, `min`, not `widen`"),
        (("widen: 2", "widen: 0"), "must be greater than or equal to 1"),
        (("widen: 2", "widen: 11"), "must be less than or equal to 10"),
        (
            ("  training.lr", "  training.weight_decay: {values: [0, 1], when: {training.lr: 0.002}}\n  training.lr"),
            "`training.lr` cannot be widened: whether `training.weight_decay` exists depends on its values",
        ),
    ],
)
def test_what_cannot_be_widened_is_refused(change, problem):
    with pytest.raises(SpecError) as refusal:
        parse_spec(parse_yaml(GRID.replace(*change), "sweep.yaml"))
    assert problem in str(refusal.value)
    assert all(line.startswith("sweep.yaml:") for line in str(refusal.value).splitlines())


def test_the_most_that_can_be_added_counts_every_group_once():
    spec = parse_spec(parse_yaml(GRID, "sweep.yaml"))
    lists = [{"training.batch_size": size, "training.lr": rate} for size in (8, 16) for rate in (0.001, 0.002, 0.004)]
    assert most_widened(spec, lists) == 4
    assert most_widened(parse_spec(parse_yaml(GRID.replace(", widen: 2", ""), "sweep.yaml")), lists) == 0


REAL = """\
corpus: {name: toy, vocab_size: 100, window: 16}
model: {embed_dim: 8, hidden_dim: 16, ctx_dim: 8, num_layers: 1}
training: {epochs: 1, precision: fp32, device: cpu, batch_size: 64, micro_batch: 64}
method: grid
parameters:
  training.lr: {values: [1e-5, 2e-5, 4e-5], widen: 2}
  model.ctx_dim: {values: [4, 8]}
seeds: 2
resources: {cpus_per_trial: 1, max_concurrent: 2}
"""


@pytest.mark.slow
def test_two_trials_at_once_are_widened_and_a_stop_in_between_changes_nothing(ray_address, tmp_path):
    """Far below the optimum the loss falls with the rate, so both groups are widened to the end."""

    def interrupt(record):
        if isinstance(record, TrialStarted) and record.trial_id == "t0007-0":
            os.kill(os.getpid(), signal.SIGINT)

    spec = parse_spec(parse_yaml(REAL, "sweep.yaml"))
    stopped = engine.search(spec, prepare(spec.corpus), tmp_path / "sweep", ["x"], interrupt)
    assert stopped.signal == signal.SIGINT
    assert engine.resume(stopped.folder, ["x"], lambda record: None).finished
    trials = list(History(SweepFolder.open(stopped.folder).read()).trials.values())
    rates = [0.00001, 0.00002, 0.00004, 0.00008, 0.00016]
    each = {(rate, size, seed) for rate in rates for size in (4, 8) for seed in (0, 1)}
    found = [(*trial.parameters.values(), trial.created.replicate) for trial in trials]
    assert set(found) == each
    assert len(found) == len(each)
    assert [trial.created.origin for trial in trials] == ["grid"] * 12 + ["widened"] * 8
    assert {trial.state for trial in trials} == {"completed"}
