"""ASHA's decisions on recorded epochs, against cut-offs worked out by hand."""

from types import SimpleNamespace

import pytest
from ray.tune.schedulers import TrialScheduler
from sweeping import SPEC, result

from tune_newllm.errors import FolderError
from tune_newllm.sweep import engine
from tune_newllm.sweep.tuning import RecordingASHA

CONDITIONAL = """\
training: {epochs: 8}
method: grid
parameters:
  training.clip.schedule: {values: [none, original, constant]}
  training.clip.norm: {values: [0.5], when: {training.clip.schedule: constant}}
  model.init: {values: [he, original], when: {training.clip.schedule: constant}}
early_terminate: {min_iter: 2, eta: 2, within: training.clip.norm}
"""
GO, STOP = TrialScheduler.CONTINUE, TrialScheduler.STOP


def ray_trial(trial):
    return SimpleNamespace(trial_id="ray-" + trial.id, config={"id": trial.id})


def begin(driver, asha, count):
    trials = [driver.create() for _ in range(count)]
    for trial in trials:
        driver.started(trial.id)
        asha.on_trial_add(None, ray_trial(trial))
    return trials


def report(asha, trial, epoch, loss):
    return asha.on_trial_result(None, ray_trial(trial), result(epoch, loss))


def test_the_worse_half_is_stopped_at_each_rung_within_its_stratum(make_driver):
    driver, _ = make_driver()
    asha = RecordingASHA(driver)
    trials = begin(driver, asha, 12)
    small = [t for t in trials if t.parameters["training.batch_size"] == 8]
    large = [t for t in trials if t.parameters["training.batch_size"] == 32]
    for trial in small + large:
        assert report(asha, trial, 1, 9.0) == GO
    # The first at a rung goes on; a later one must beat the median of those before it.
    assert [report(asha, t, 2, loss) for t, loss in zip(small, [3.0, 2.0, 2.6, 2.4], strict=True)] == [GO, GO, STOP, GO]
    # All of these are worse than every one above, but compete among themselves only.
    assert [report(asha, t, 2, loss) for t, loss in zip(large, [5, 6, 4, 5.5], strict=True)] == [GO, STOP, GO, STOP]
    assert small[2].ended.state == "stopped"
    assert small[2].ended.epoch == 2
    assert report(asha, small[0], 3, 9.0) == GO
    assert [report(asha, t, 4, loss) for t, loss in ((small[0], 1.0), (small[1], 2.0))] == [GO, STOP]


def test_out_of_patience_at_a_rung_stays_so_after_a_crash(make_driver):
    text = SPEC.replace("epochs: 8", "epochs: 8, early_stopping: {patience: 1}")
    text = text.replace("balanced: training.batch_size\n", "").replace(", within: training.batch_size", "")
    driver, _ = make_driver(text)
    asha = RecordingASHA(driver)
    better, worse = begin(driver, asha, 2)
    for epoch, loss in ((1, 2.0), (2, 1.0)):
        assert report(asha, better, epoch, loss) == GO
    assert report(asha, worse, 1, 3.0) == GO
    # The crash comes right behind the record of the epoch with which its patience ends, at a rung.
    driver.epoch(worse.id, result(2, 3.0))
    again, _ = make_driver(text)
    RecordingASHA(again)
    assert again.history.trials[worse.id].ended is None
    # With patience left it would have been stopped.
    patient, _ = make_driver(text.replace("patience: 1", "patience: 2"))
    RecordingASHA(patient)
    assert patient.history.trials[worse.id].state == "stopped"


def test_records_that_name_trials_outside_the_folder_are_refused(make_driver):
    driver, _ = make_driver()
    trial = driver.create()
    lines = driver.folder.records.read_text()
    driver.folder.records.write_text(lines.replace(trial.id, "../../elsewhere"))
    with pytest.raises(FolderError, match="one folder name"):
        make_driver()


def test_a_repeated_epoch_is_decided_on_once_and_only_a_new_one_ends_a_row_of_losses(make_driver):
    driver, _ = make_driver()
    asha = RecordingASHA(driver)
    (trial,) = begin(driver, asha, 1)
    report(asha, trial, 1, 9.0)
    driver.crashed(trial.id, "lost")
    before = driver.folder.read()
    assert report(asha, trial, 1, 9.0) == GO
    # A trial that is lost after each repetition would go on for ever.
    assert (trial.crashes, driver.folder.read()) == (1, before)
    report(asha, trial, 2, 9.0)
    assert trial.crashes == 0


def test_a_driver_that_ends_between_two_trials_has_not_finished(make_driver):
    driver, _ = make_driver(SPEC.replace("run_cap: 12", "run_cap: 2"))
    for finished in (False, True):
        trial = driver.create()
        driver.ended(trial.id, "failed", "an error")
        assert driver.history.unfinished() == []
        assert engine._end(make_driver(SPEC.replace("run_cap: 12", "run_cap: 2"))[0], None).finished is finished


def test_without_within_all_compete(make_driver):
    driver, _ = make_driver(SPEC.replace(", within: training.batch_size", ""))
    asha = RecordingASHA(driver)
    trials = begin(driver, asha, 3)
    assert [report(asha, t, 2, loss) for t, loss in zip(trials, [1.0, 2.0, 0.5], strict=True)] == [GO, STOP, GO]


def test_strata_may_be_mappings(make_driver):
    choices = "[{schedule: none}, {schedule: constant, norm: 0.5}]"
    text = SPEC.replace("training.batch_size: {values: [8, 16, 32]}", f"training.clip: {{values: {choices}}}")
    text = text.replace("points: [{training.lr: 1e-3, training.batch_size: 32}]\n", "")
    driver, _ = make_driver(text.replace("training.batch_size", "training.clip"))
    asha = RecordingASHA(driver)
    assert [report(asha, trial, 2, loss) for trial, loss in zip(begin(driver, asha, 2), [1, 2], strict=True)] == [
        GO,
        GO,
    ]


def test_trials_without_the_parameter_of_the_strata_compete_among_themselves(make_driver):
    driver, _ = make_driver(CONDITIONAL)
    asha = RecordingASHA(driver)
    trials = begin(driver, asha, 4)
    assert ["training.clip.norm" in trial.parameters for trial in trials] == [False, False, True, True]
    decisions = [report(asha, trial, 2, loss) for trial, loss in zip(trials, [1.0, 2.0, 3.0, 4.0], strict=True)]
    assert decisions == [GO, STOP, GO, STOP]


def test_without_early_terminate_nothing_is_stopped(make_driver):
    driver, _ = make_driver("parameters: {training.lr: {min: 0.1, max: 0.5}}")
    asha = RecordingASHA(driver)
    trials = begin(driver, asha, 3)
    assert [report(asha, t, 2, loss) for t, loss in zip(trials, [1.0, 2.0, 3.0], strict=True)] == [GO, GO, GO]


def test_a_reopened_sweep_decides_as_if_it_had_not_stopped(make_driver):
    driver, _ = make_driver(SPEC.replace(", within: training.batch_size", ""))
    asha = RecordingASHA(driver)
    for trial, loss in zip(begin(driver, asha, 4), [3.0, 2.0, 2.6, 2.4], strict=True):
        report(asha, trial, 2, loss)
    again, _ = make_driver(SPEC.replace(", within: training.batch_size", ""))
    late = RecordingASHA(again)
    for trial, loss, decision in zip(begin(again, late, 3), [2.6, 2.39, 2.55], [STOP, GO, STOP], strict=True):
        assert report(late, trial, 2, loss) == decision


def test_a_crash_between_a_record_and_its_stop_is_made_good(make_driver):
    driver, _ = make_driver(SPEC.replace(", within: training.batch_size", ""))
    asha = RecordingASHA(driver)
    first, second = begin(driver, asha, 2)
    report(asha, first, 2, 1.0)
    driver.epoch(second.id, result(2, 2.0))
    again, heard = make_driver(SPEC.replace(", within: training.batch_size", ""))
    RecordingASHA(again)
    assert again.history.trials[second.id].state == "stopped"
    assert [record.event for record in heard] == ["trial_ended"]
    assert again.history.trials[first.id].ended is None


@pytest.mark.parametrize("state", ["completed", "diverged", "failed"])
def test_a_last_result_ends_the_trial_with_its_state(make_driver, state):
    driver, heard = make_driver()
    asha = RecordingASHA(driver)
    (trial,) = begin(driver, asha, 1)
    report(asha, trial, 1, 3.0)
    last = {"epoch": None, "state": state, "reason": "why"}
    if state == "completed":
        last = result(2, 2.0, state=state, reason="why")
    asha.on_trial_complete(None, ray_trial(trial), last)
    asha.on_trial_complete(None, ray_trial(trial), last)
    assert trial.state == state
    assert heard[-1].reason == "why"
    assert [record.event for record in heard].count("trial_ended") == 1
    assert len(trial.epochs) == (2 if state == "completed" else 1)
