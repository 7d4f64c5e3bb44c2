"""What to run next where no law is determined: a file that `search` takes."""

import math

import numpy as np
import pytest
from sweep_folders import SPEC, Trial, lr_batch, realistic_trials, write_sweep

import analysis
from analysis.proposal import next_file, proposal
from tune_newllm.sweep.loading import load_spec

CORPUS_FREE = {key: value for key, value in SPEC.items() if key != "name"}


def bowl(lr: float, batch: int, noise: float = 0.0) -> Trial:
    off = math.log(lr / (2e-3 * math.sqrt(batch / 32)))
    return Trial(lr_batch(lr, batch), [4 + 0.09 * off**2 + noise] * 8)


def checked(sweep, tmp_path):
    """The proposal as `search` reads it."""
    file = tmp_path / "next.yaml"
    file.write_text(next_file(sweep))
    return load_spec(file)


def test_no_proposal_for_a_determined_law(tmp_path):
    rates = np.geomspace(2e-4, 2e-2, 9)
    rng = np.random.default_rng(0)
    trials = [bowl(lr, batch, 0.002 * rng.normal()) for batch in (8, 32, 128) for lr in rates.tolist()]
    sweep = analysis.load(write_sweep(tmp_path / "s", trials, CORPUS_FREE))
    assert analysis.summary(sweep)["lr_laws"][0]["verdict"] == "square-root scaling"
    assert proposal(sweep) is None
    (sweep.folder / "next.yaml").write_text("of an earlier report")
    analysis.write_report(sweep)
    assert not (sweep.folder / "next.yaml").exists()


def test_beyond_an_edge_but_below_what_diverged(tmp_path):
    rates = np.geomspace(1e-4, 1.1e-3, 7).tolist()
    trials = [bowl(lr, batch) for batch in (8, 128) for lr in rates]
    trials += [Trial(lr_batch(2e-3, 128), [], "diverged", "nan")]
    spec = checked(analysis.load(write_sweep(tmp_path / "s", trials, CORPUS_FREE)), tmp_path)
    mine = [point["training.lr"] for point in spec.points if point["training.batch_size"] == 128]
    assert mine == [pytest.approx(1.5 * 1.1e-3, rel=0.01)]
    assert spec.run_cap == len(spec.points)
    assert spec.early_terminate is None
    assert spec.training.epochs == 8


def test_rates_are_written_as_the_rule_of_the_sweep_reads_them(tmp_path):
    """With `lr_rule: sqrt` the file has the rate at batch 32, of which batch 128 gets twice as much."""
    rates = np.geomspace(1e-4, 1e-3, 7).tolist()
    trials = [bowl(lr * math.sqrt(batch / 32), batch) for batch in (32, 128) for lr in rates]
    for trial in trials:
        lr = trial.parameters["training.lr"]
        factor = math.sqrt(trial.parameters["training.batch_size"] / 32)
        trial.created = {"lr": lr, "parameters": {**trial.parameters, "training.lr": lr / factor}}
    spec = CORPUS_FREE | {"training": CORPUS_FREE["training"] | {"lr_rule": "sqrt"}}
    found = checked(analysis.load(write_sweep(tmp_path / "s", trials, spec)), tmp_path)
    at_edge = {
        batch: [p["training.lr"] for p in found.points if p["training.batch_size"] == batch] for batch in (32, 128)
    }
    assert at_edge[32] == at_edge[128] == [pytest.approx(1.5e-3), pytest.approx(3e-3)]
    assert found.training.lr_rule == "sqrt"


def test_noise_alone_asks_for_more_around_the_optima(tmp_path):
    rng = np.random.default_rng(1)
    rates = np.geomspace(2e-4, 2e-2, 6).tolist()
    trials = [bowl(lr, batch, 0.06 * rng.normal()) for batch in (8, 32, 128) for lr in rates]
    sweep = analysis.load(write_sweep(tmp_path / "s", trials, CORPUS_FREE))
    assert analysis.summary(sweep)["lr_laws"][0]["verdict"] == "not determined"
    spec = checked(sweep, tmp_path)
    assert {point["training.batch_size"] for point in spec.points} == {8, 32, 128}
    assert 6 <= len(spec.points) <= 40
    said = f"{len(spec.points)} further trials that would tell more stand in next.yaml beside the report"
    assert any(sentence.startswith(said) for sentence in analysis.answers(sweep))
    written = analysis.write_report(sweep).with_name("next.yaml")
    assert written.read_text() == next_file(sweep)


def test_stopped_trials_alone_ask_for_bowls(tmp_path):
    trials = [Trial(one.parameters, one.losses[:4], "stopped", "asha") for one in realistic_trials()]
    spec = checked(analysis.load(write_sweep(tmp_path / "s", trials, CORPUS_FREE)), tmp_path)
    assert len(spec.points) == 25
    killed = analysis.load(write_sweep(tmp_path / "killed", trials, CORPUS_FREE, end=None))
    assert proposal(killed) is None
