"""Whole sweeps on a real Ray: what is left in the folder, how trials end, stopping and going on."""

import json
import os
import shutil
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from processes import family

from tune_newllm import records
from tune_newllm.data.corpora import prepare
from tune_newllm.errors import FolderError, SpecError, UsageError
from tune_newllm.sweep import engine
from tune_newllm.sweep.folder import SweepFolder
from tune_newllm.sweep.history import History
from tune_newllm.sweep.loading import parse_spec
from tune_newllm.sweep.lock import driver_lock
from tune_newllm.sweep.source import parse_yaml

TINY = """\
corpus: {name: toy, vocab_size: 100, window: 16}
model: {embed_dim: 8, hidden_dim: 16, ctx_dim: 8, num_layers: 1}
training: {epochs: 3, precision: fp32, device: cpu, batch_size: 64}
parameters:
  training.lr: {distribution: log_uniform_values, min: 1e-4, max: 1e-1}
  model.dropout: {values: [0.0, 0.2]}
balanced: model.dropout
early_terminate: {min_iter: 1, eta: 2}
run_cap: 6
"""
# Threads are not measured: another number of them gives other digits.
ONE_AT_A_TIME = "resources: {cpus_per_trial: 1, max_concurrent: 1}\n"


def run(text, root, name="sweep", listener=lambda record: None):
    spec = parse_spec(parse_yaml(text, "t"))
    outcome = engine.search(spec, prepare(spec.widest_corpus), root / name, ["x"], listener)
    return SweepFolder.open(outcome.folder)


def table(folder):
    """What must not depend on interruptions."""
    rows = History(folder.read()).trials.values()
    return [(t.parameters, t.state, {e: r.val_loss for e, r in sorted(t.epochs.items())}) for t in rows]


def test_a_sweep_leaves_everything_a_reader_needs(ray_address, tmp_path):
    folder = run(TINY, tmp_path)
    history = History(folder.read())
    assert len(history.trials) == 6
    assert not history.unfinished()
    assert {trial.state for trial in history.trials.values()} == {"completed", "stopped"}
    assert isinstance(folder.read()[-1], records.SweepEnded)
    for trial in history.trials.values():
        files = {path.name for path in folder.trial(trial.id).iterdir()}
        states = {"state.safetensors", "state-previous.safetensors"} if len(trial.epochs) > 1 else {"state.safetensors"}
        assert files - {".lock"} == {"configuration.json", "tokenizer.json", "model.safetensors", "log.txt"} | states
    spec = folder.spec()
    assert spec.training.micro_batch != "auto"
    assert spec.resources.max_concurrent == 2
    assert folder.corpus() == folder.path / "data"
    facts = folder.provenance()
    assert facts["data"]["fingerprint"]
    assert facts["versions"]["ray"]
    assert {path.name for path in folder.path.iterdir()} == {
        "sweep.yaml", "provenance.json", "records.jsonl", "study.journal", "data", "trials", ".lock",
    }  # fmt: skip


def test_diverged_and_failed_trials_end_as_such_and_stop_nothing(ray_address, tmp_path):
    text = TINY.replace("min: 1e-4, max: 1e-1", "min: 1e-3, max: 1e30").replace("balanced: model.dropout\n", "")
    text += "points: [{training.lr: 1e30, model.dropout: 0.0}, {training.lr: 1e-2, model.dropout: 0.0}]\n"
    spec = text.replace("run_cap: 6", "run_cap: 3").replace("early_terminate: {min_iter: 1, eta: 2}\n", "")

    def occupy(record):
        # A file where the trial's folder should be: the second trial cannot write anything.
        if isinstance(record, records.TrialCreated) and record.number == 1:
            (tmp_path / "sweep" / "trials" / record.trial_id).write_text("in the way")

    folder = run(spec.replace("run_cap", f"{ONE_AT_A_TIME}run_cap"), tmp_path, listener=occupy)
    trials = list(History(folder.read()).trials.values())
    assert [trial.state for trial in trials][:2] == ["diverged", "failed"]
    assert "optimizer step" in trials[0].ended.reason
    assert "FileExistsError" in trials[1].ended.reason
    assert trials[2].ended is not None


def kill_a_worker(dead):
    """Kill a process of ours that runs trials, or waits for one, and is none of those killed before; whether there was
    one."""
    for process in (Path("/proc") / str(pid) for pid in family(os.getpid())):
        try:
            name = (process / "cmdline").read_bytes()
        except OSError:
            continue
        # Between its steps a worker is called after our class, in a step after the one that Ray makes of it.
        ours = name.startswith((b"ray::TrialRunner", b"ray::ResourceTrainable"))
        if ours and process.name not in dead:
            dead.add(process.name)
            os.kill(int(process.name), signal.SIGKILL)
            return True
    return False


def test_a_lost_worker_costs_no_epoch_and_too_many_end_the_trial_alone(ray_address, tmp_path):
    text = TINY.replace("run_cap: 6", "run_cap: 2\nresources: {max_concurrent: 1, retries: 1}")
    text = text.replace("early_terminate: {min_iter: 1, eta: 2}\n", "")
    undisturbed, dead = table(run(text, tmp_path, "one")), set()

    def kill_once(record):
        if isinstance(record, records.EpochRecord) and not dead:
            kill_a_worker(dead)

    folder = run(text, tmp_path, "two", kill_once)
    crashes = [row for row in folder.read() if isinstance(row, records.TrialCrashed)]
    lost = ("t0000", 1, "its worker process was lost")
    assert [(row.trial_id, row.attempt, row.reason) for row in crashes] == [lost]
    assert table(folder) == undisturbed
    # Trained again, and not recorded again, unless a slow machine took so long that there was a checkpoint already.
    assert (folder.trial("t0000") / "log.txt").read_text().count("epoch 1 ") in (1, 2)

    over = threading.Event()

    def kill_all():
        while not over.is_set():
            kill_a_worker(dead)
            time.sleep(0.02)

    def kill_the_first_always(record):
        if isinstance(record, records.TrialCreated) and record.number == 0:
            threading.Thread(target=kill_all).start()
        elif isinstance(record, records.TrialEnded):
            over.set()

    trials = History(run(text, tmp_path, "three", kill_the_first_always).read()).trials
    assert [trial.state for trial in trials.values()] == ["crashed", "completed"]
    assert trials["t0000"].ended.reason == "its worker process was lost, 2 times in a row"


def test_an_interrupted_sweep_resumes_to_the_table_of_an_undisturbed_one(ray_address, tmp_path):
    text = TINY.replace("run_cap", f"{ONE_AT_A_TIME}run_cap")
    undisturbed = run(text, tmp_path, "one")
    seen = []

    def interrupt(record):
        seen.append(record)
        if sum(isinstance(row, records.EpochRecord) for row in seen) == 5 and isinstance(record, records.EpochRecord):
            os.kill(os.getpid(), signal.SIGINT)

    spec = parse_spec(parse_yaml(text, "t"))
    outcome = engine.search(spec, prepare(spec.corpus), tmp_path / "two", ["x"], interrupt)
    folder = SweepFolder.open(outcome.folder)
    assert outcome.signal == signal.SIGINT
    assert folder.read()[-1].reason == "interrupted"
    assert History(folder.read()).unfinished()
    # A copy elsewhere, with a last line that a crash tore, goes on just as well.
    folder.path.rename(tmp_path / "moved")
    with (tmp_path / "moved" / "records.jsonl").open("a") as lines:
        lines.write('{"event": "epo')
    resumed = engine.resume(tmp_path / "moved", ["x"], lambda record: None)
    assert resumed.signal is None
    assert table(SweepFolder.open(resumed.folder)) == table(undisturbed)


CONDITIONAL = """\
corpus: {name: toy, vocab_size: 100, window: 16}
model: {embed_dim: 8, hidden_dim: 16, ctx_dim: 8, num_layers: 1}
training: {epochs: 2, precision: fp32, device: cpu, batch_size: 64}
parameters:
  training.clip.norm: {values: [0.5, 1.0], when: {training.clip.schedule: constant}}
  training.clip.schedule: {values: [none, constant]}
  training.lr: {distribution: log_uniform_values, min: 1e-3, max: 1e-1}
  corpus.max_samples: {values: [20, 100]}
early_terminate: {min_iter: 1, eta: 2, within: training.clip.norm}
seeds: 2
run_cap: 3
resources: {cpus_per_trial: 1, max_concurrent: 1}
"""


@pytest.mark.slow
def test_a_budget_stops_a_sweep_and_a_larger_one_resumes_it_to_the_undisturbed_table(
    ray_address, tmp_path, monkeypatch
):
    undisturbed = table(run(CONDITIONAL, tmp_path, "one"))
    spec = parse_spec(parse_yaml(CONDITIONAL + "budget: {epochs: 4}\n", "t"))
    stopped = engine.search(spec, prepare(spec.widest_corpus), tmp_path / "two", ["x"], lambda record: None)
    folder = SweepFolder.open(stopped.folder)
    assert (stopped.finished, stopped.signal, stopped.spent) == (False, None, (("epochs", 4, 4),))
    assert len(History(folder.read()).epochs) == 4
    assert folder.read()[-1].reason == "budget"
    before = folder.read()
    with monkeypatch.context() as without_ray:
        without_ray.setattr(engine, "cluster", None)
        assert engine.resume(folder.path, ["x"], lambda record: None).spent == stopped.spent
    assert folder.read() == before

    def interrupt(record):
        if isinstance(record, records.EpochRecord):
            os.kill(os.getpid(), signal.SIGINT)

    assert engine.resume(folder.path, ["x"], interrupt, ["budget.epochs=100"]).signal == signal.SIGINT
    # The larger budget stays in force.
    resumed = engine.resume(folder.path, ["x"], lambda record: None)
    assert (resumed.finished, resumed.spent) == (True, ())
    assert table(folder) == undisturbed
    assert len(undisturbed) == 6
    trials = list(History(folder.read()).trials.values())
    seeds = [json.loads((folder.trial(t.id) / "configuration.json").read_text())["training"]["seed"] for t in trials]
    assert seeds == [0, 1] * 3
    tokens = {trial.parameters["corpus.max_samples"]: trial.epochs[1].tokens for trial in trials}
    assert 3 * tokens[20] < tokens[100]
    # All is done: a budget that is spent is not in the way.
    assert engine.resume(folder.path, ["x"], lambda record: None, ["budget.epochs=4"]).finished


def test_later_overrides_win_over_those_on_record_and_limits_can_be_lifted(tmp_path):
    text = TINY + "budget: {wall: 1h, epochs: 4}\nresources: {cpus_per_trial: 1, gpus_per_trial: 0}\n"
    spec = parse_spec(parse_yaml(text, "t"))
    folder = SweepFolder.create(tmp_path / "sweep", spec, {})
    given = ["budget.epochs=8", "resources.cpus_per_trial=2"]
    for overrides in (["budget.wall=5"], given):
        started = records.SweepStarted(time=0, command=[], resumed=True, overrides=overrides)
        with folder.records.open("a") as lines:
            lines.write(records.to_line(started))
    assert folder.changes() == given
    assert folder.changes(["budget.epochs=9"]) == [given[1], "budget.epochs=9"]
    lifted = folder.changes(["budget=null"])
    assert lifted == [given[1], "budget=null"]
    assert folder.spec(lifted).budget.is_empty
    assert folder.spec(lifted).resources.cpus_per_trial == 2
    assert folder.spec([*lifted, "budget.epochs=7"]).budget.model_dump(exclude_none=True) == {"epochs": 7}
    assert folder.spec(["budget.wall=null"]).budget.model_dump(exclude_none=True) == {"epochs": 4}
    assert folder.spec(["budget.wall=null", "budget.epochs=null"]).budget.is_empty
    for key in ("cpus_per_trial", "gpus_per_trial"):
        with pytest.raises(SpecError, match=f"{key}: auto is decided when a sweep begins"):
            folder.spec([f"resources.{key}=auto"])


def test_wall_time_stops_a_sweep_while_no_epoch_ends(ray_address, tmp_path):
    spec = parse_spec(parse_yaml(TINY.replace("batch_size: 64", "batch_size: 1") + "budget: {wall: 1s}\n", "t"))
    spec = spec.model_copy(update={"model": replace(spec.model, num_layers=8, hidden_dim=512)})
    began = time.monotonic()
    outcome = engine.search(spec, prepare(spec.corpus), tmp_path / "sweep", ["x"], lambda record: None)
    assert [use.key for use in outcome.spent] == ["wall"]
    assert 1 <= outcome.spent[0].used < 20
    assert time.monotonic() - began < 30
    history = History(SweepFolder.open(outcome.folder).read())
    assert (len(history.unfinished()), history.epochs) == (2, [])


def test_gpus_are_dealt_out_by_ray(ray_address, tmp_path):
    text = TINY.replace("device: cpu, ", "").replace("run_cap: 6", "resources: {gpus_per_trial: 0.5}\nrun_cap: 2")
    seen = []
    half = run(text, tmp_path, "half", seen.append).spec().resources
    assert (half.gpus_per_trial, half.max_concurrent) == (0.5, 2)
    # Two halves of the one GPU ran side by side.
    order = [record.event for record in seen if record.event in ("trial_started", "trial_ended")]
    assert order[:2] == ["trial_started", "trial_started"]
    for refused, words in [("2", "asks for 1 CPU and 2 GPU"), ("0, cpus_per_trial: 9", "asks for 9 CPU")]:
        with pytest.raises(UsageError, match=words):
            run(text.replace("0.5", refused), tmp_path, "refused")
    with pytest.raises(UsageError, match="deals out the GPUs"):
        run(text.replace("precision: fp32", "device: 'cuda:0'"), tmp_path, "refused")
    with pytest.raises(UsageError, match="cuda needs a GPU for each trial"):
        run(text.replace("precision: fp32", "device: cuda").replace("0.5", "0"), tmp_path, "refused")
    assert not (tmp_path / "refused").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="for a torch that cannot use the GPU Ray believes in")
@pytest.mark.slow
def test_a_gpu_that_torch_cannot_use_is_not_reserved(ray_address, tmp_path):
    spec = run(TINY.replace("device: cpu, ", "").replace("run_cap: 6", "run_cap: 1"), tmp_path).spec()
    assert (spec.training.device, spec.resources.gpus_per_trial, spec.resources.max_concurrent) == ("cpu", 0, 2)


@pytest.mark.slow
def test_a_signal_between_two_trials_leaves_the_sweep_open(ray_address, tmp_path):
    def interrupt(record):
        if isinstance(record, records.TrialEnded) and record.trial_id == "t0000":
            # Ray takes this signal for itself.
            os.kill(os.getpid(), signal.SIGUSR1)

    spec = parse_spec(parse_yaml(TINY.replace("run_cap", f"{ONE_AT_A_TIME}run_cap"), "t"))
    outcome = engine.search(spec, prepare(spec.corpus), tmp_path / "sweep", ["x"], interrupt)
    folder = SweepFolder.open(tmp_path / "sweep")
    assert (outcome.finished, outcome.signal) == (False, signal.SIGTERM)
    assert folder.read()[-1].reason == "interrupted"
    with pytest.raises(UsageError, match="asks for 64 CPU"):
        engine.resume(folder.path, ["x"], lambda record: None, ["resources.cpus_per_trial=64"])
    with pytest.raises(SpecError, match="`resources` and `budget` only"):
        engine.resume(folder.path, ["x"], lambda record: None, ["training.lr=1"])
    with driver_lock(folder.path), pytest.raises(FolderError, match="worked on by another process"):
        engine.resume(folder.path, ["x"], lambda record: None)
    # The data is gone, but can be prepared again to the same fingerprint.
    shutil.rmtree(folder.path / "data")
    resumed = engine.resume(folder.path, ["x"], lambda record: None, ["resources.max_concurrent=2"])
    assert resumed.finished
    assert len(History(folder.read()).trials) == 6
    assert folder.corpus() == folder.path / "data"


def test_changed_data_and_folders_that_are_no_sweep_are_refused(ray_address, tmp_path):
    folder = run(TINY.replace("run_cap: 6", "run_cap: 1"), tmp_path)
    other = run(TINY.replace("run_cap: 6", "run_cap: 1").replace("window: 16", "window: 12"), tmp_path, "other")
    (folder.path / "data").rename(tmp_path / "old")
    (other.path / "data").rename(folder.path / "data")
    with pytest.raises(FolderError, match="other data"):
        engine.resume(folder.path, ["x"], lambda record: None)
    with pytest.raises(FolderError, match="not a readable sweep folder"):
        engine.resume(tmp_path, ["x"], lambda record: None)
    with pytest.raises(FolderError, match="exists already"):
        run(TINY, tmp_path, "other")


EXTENDED = records.SweepExtended(time=0, run_cap=2, epochs=3, epochs_before=3)


def test_changed_code_is_refused_by_name_unless_forced_which_is_recorded(ray_address, tmp_path, monkeypatch):
    folder = run(TINY.replace("run_cap: 6", "run_cap: 1"), tmp_path)
    now = engine.code_hashes()
    assert {"training/loop.py", "models/recurrence.py", "data/windows.py"} <= now.keys()
    other = {**now, "training/loop.py": "0", "models/new.py": "1"}
    del other["data/windows.py"]
    monkeypatch.setattr(engine, "code_hashes", lambda: other)
    before = folder.read()
    monkeypatch.setattr(engine, "cluster", None)
    with pytest.raises(TypeError):
        engine.resume(folder.path, ["x"], lambda record: None, force=True, extend=lambda *_: EXTENDED)
    # What could not begin is not on record.
    assert folder.read() == before
    monkeypatch.undo()
    monkeypatch.setattr(engine, "code_hashes", lambda: other)
    changed = ["data/windows.py removed", "models/new.py added", "training/loop.py changed"]
    with pytest.raises(UsageError, match=", ".join(changed)):
        engine.resume(folder.path, ["x"], lambda record: None)
    assert folder.read() == before
    assert engine.resume(folder.path, ["x"], lambda record: None, force=True).finished
    forced = [row for row in folder.read() if isinstance(row, records.CodeForced)]
    assert [row.changed for row in forced] == [changed]
    # From here on the sweep knows this code, and the old one is a change again.
    assert engine.resume(folder.path, ["x"], lambda record: None).finished
    monkeypatch.undo()
    with pytest.raises(UsageError, match=r"data/windows\.py added"):
        engine.resume(folder.path, ["x"], lambda record: None)


def test_a_sweep_whose_first_trials_all_fail_alike_stops(ray_address, tmp_path):
    text = TINY.replace("run_cap", f"{ONE_AT_A_TIME}run_cap")

    def occupy(record):
        if isinstance(record, records.TrialCreated):
            (tmp_path / "sweep" / "trials" / record.trial_id).write_text("in the way")

    spec = parse_spec(parse_yaml(text, "t"))
    outcome = engine.search(spec, prepare(spec.corpus), tmp_path / "sweep", ["x"], occupy)
    assert not outcome.finished
    assert "FileExistsError" in outcome.failing
    folder = SweepFolder.open(outcome.folder)
    end = folder.read()[-1]
    assert (end.reason, end.detail) == ("failing", outcome.failing)
    assert [trial.state for trial in History(folder.read()).trials.values()] == ["failed"] * 3
    # Once mended, it goes on with the others.
    assert engine.resume(folder.path, ["x"], lambda record: None).finished
    assert len(History(folder.read()).trials) == 6


def test_only_the_best_checkpoints_and_the_needed_ones_are_kept(ray_address, tmp_path):
    text = TINY.replace("run_cap: 6", "run_cap: 2\nseeds: 2\nresources: {max_concurrent: 1, keep_checkpoints: 1}")
    folder = run(text.replace("early_terminate: {min_iter: 1, eta: 2}\n", ""), tmp_path)
    best, other = sorted(History(folder.read()).suggestions.values(), key=lambda suggestion: suggestion.value)
    # Whole configurations are kept: their seeds are judged together.
    trials = [*best.trials, *other.trials]
    kept = [
        [(folder.trial(t.id) / name).exists() for name in ("model.safetensors", "state.safetensors")] for t in trials
    ]
    assert kept == [[True, True]] * 2 + [[False, False]] * 2
    assert all((folder.trial(trial.id) / "configuration.json").exists() for trial in trials)
