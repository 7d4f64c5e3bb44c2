from sweeping import result

from tune_newllm import records
from tune_newllm.sweep.history import History
from tune_newllm.sweep.spec import SweepSpec
from tune_newllm.sweep.spending import uses

BUDGET = {"wall": "1m", "device_hours": 0.01, "epochs": 3}


def spent(resources, elapsed, devices=(None, None)):
    """Two drivers of 20 s and 5 s, two epochs of 9 s each; a third one belongs to a trial that is lost."""
    spec = SweepSpec.model_validate({"budget": BUDGET, "resources": resources})
    trial = {"trial_id": "t0", "config_id": "c", "number": 0, "seed": 0, "origin": "random", "parameters": {}}
    rows = [records.SweepStarted(time=100, command=[], devices=devices[0]), records.TrialCreated(time=101, **trial)]
    rows += [records.EpochRecord(time=120, trial_id="t0", **result(1, 1.0, seconds=9.0))]
    rows += [records.SweepStarted(time=9, elapsed=0, command=[], resumed=True, devices=devices[1])]
    rows += [records.EpochRecord(time=8, elapsed=5, trial_id="t0", **result(2, 1.0, seconds=9.0))]
    rows += [records.EpochRecord(time=8, elapsed=5, trial_id="lost", **result(1, 1.0, seconds=9.0))]
    return {use.key: (use.used, use.limit, use.reached) for use in uses(spec, History(rows), elapsed)}


def test_every_limit_is_counted_from_the_records():
    assert spent({"gpus_per_trial": 0, "cpus_per_trial": 4}, None) == {
        "wall": (25, 60, False), "device_hours": (27 * 4 / 3600, 0.01, True), "epochs": (3, 3, True),
    }  # fmt: skip


def test_a_driver_at_work_is_counted_up_to_now_and_gpus_go_before_processors():
    found = spent({"gpus_per_trial": 0.5, "cpus_per_trial": 4}, 40)
    assert found["wall"] == (60, 60, True)
    assert found["device_hours"] == (13.5 / 3600, 0.01, False)
    assert spent({}, 3)["wall"] == (25, 60, False)


def test_an_epoch_counts_with_the_devices_of_its_own_driver():
    assert spent({"gpus_per_trial": 0, "cpus_per_trial": 4}, None, (2.0, 0.5))["device_hours"][0] == 27 / 3600
    assert spent({"gpus_per_trial": 0, "cpus_per_trial": 4}, None, (2.0, None))["device_hours"][0] == 90 / 3600


def test_without_a_budget_nothing_is_counted():
    assert uses(SweepSpec(), History(), None) == []
