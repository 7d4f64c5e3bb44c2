"""How trials share memory: the arithmetic with invented numbers, and a sweep that is resolved where memory is tight."""

import logging
import os

import pytest

from tune_newllm.data.corpora import prepare
from tune_newllm.errors import TuneError
from tune_newllm.sweep import measuring, memory_plan, provenance, sharing
from tune_newllm.sweep.loading import parse_spec
from tune_newllm.sweep.memory_plan import MemoryPlan, amount, largest, measure_largest
from tune_newllm.sweep.resolve import resolve
from tune_newllm.sweep.source import parse_yaml
from tune_newllm.sweep.spec import Resources
from tune_newllm.training.memory import StepMemory

GB = 1_000_000_000
SPACE = """\
corpus: {name: toy, vocab_size: 100, window: 16}
model: {embed_dim: 8, hidden_dim: 16, ctx_dim: 8, num_layers: 1}
training: {epochs: 3, precision: fp32, device: cpu, batch_size: 16}
parameters:
  training.lr: {distribution: log_uniform_values, min: 1e-4, max: 1e-1}
  training.optimizer: {values: [sgd, adam]}
  training.lr_rule: {values: [none, sqrt-sde], when: {training.optimizer: adam}}
  training.batch_size: {values: [32, 64, 4096]}
  model.ctx_dim: {values: [8, 4, 32]}
  model.num_layers: {min: 1, max: 4}
  model.hidden_dim: {values: [64], when: {model.num_layers: {min: 3}}}
  model.tied: {values: [true, false]}
run_cap: 2
"""


def spec_of(text):
    return parse_spec(parse_yaml(text, "t"))


def test_the_largest_configuration_is_as_large_as_the_space_allows():
    found = largest(spec_of(SPACE), 100, "cpu")
    assert (found.model.ctx_dim, found.model.num_layers, found.model.hidden_dim, found.model.tied) == (32, 4, 64, False)
    assert (found.training.optimizer, found.training.batch_size) == ("adam", 4096)
    # A rule that refuses so large a batch is not chosen for its own sake, but where a further parameter needs it.
    rules = SPACE.replace("[none, sqrt-sde], when: {training.optimizer: adam}", "[sqrt-sde, none]")
    rules = rules.replace("values: [sgd, adam]", "values: [adam, adamw]")
    assert largest(spec_of(rules), 100, "cpu").training.batch_size == 4096
    further = "  training.eps: {values: [1e-8, 1e-7], when: {training.lr_rule: sqrt-sde}}\nrun_cap"
    found = largest(spec_of(rules.replace("run_cap", further)), 100, "cpu")
    assert (found.training.lr_rule, found.training.batch_size, found.model.num_layers) == ("sqrt-sde", 64, 4)


def plan(device, available):
    return MemoryPlan(device, StepMemory(fixed=GB // 2, per_sequence=GB // 100), 100, available)


def shares(device, available, machine, **asked):
    """Trials on a device, its share for each and what each asks of Ray."""
    resources, planned = sharing.share(Resources(**asked), [machine], plan(device, available))
    return planned.trials, resources.gpus_per_trial, planned


@pytest.mark.parametrize(
    ("available", "trials"),
    [
        # 1.5 GB for each, and 0.6 for the context of each but the first.
        (int(1.4 * GB), 1),
        (int(3.59 * GB), 1),
        (int(3.6 * GB), 2),
        (int(5.7 * GB), 3),
        (70 * GB, 8),
    ],
)
def test_as_many_trials_share_a_gpu_as_fit_with_their_micro_batch(available, trials):
    found, gpus, planned = shares("cuda", available, {"CPU": 32, "GPU": 2})
    assert found == trials
    assert int(1 / gpus) == trials
    assert gpus * trials <= 1
    assert planned.per_trial == (None if available > 1.5 * GB else available)


def test_processors_and_what_was_asked_limit_the_sharing():
    machine = {"CPU": 8, "GPU": 2}
    assert shares("cuda", 70 * GB, machine)[:2] == (4, 0.25)
    assert shares("cuda", 70 * GB, machine, cpus_per_trial=3)[:2] == (1, 1)
    assert shares("cuda", 70 * GB, machine, max_concurrent=1)[:2] == (1, 1)
    trials, gpus, planned = shares("cuda", 2 * GB, machine, gpus_per_trial=0.5)
    assert (trials, gpus, planned.share) == (2, 0.5, (2 * GB - 600_000_000) // 2)
    assert (planned.micro_batch, planned.per_trial) == (12, planned.share)
    assert shares("cuda", 70 * GB, machine, gpus_per_trial=2)[:2] == (1, 2)
    six = sharing.settle(Resources(gpus_per_trial=0.1666), [{"CPU": 32, "GPU": 2}])
    assert six.max_concurrent == 12
    # Not five: none can have a fifth of each of two.
    assert sharing.settle(Resources(gpus_per_trial=0.4), [{"CPU": 32, "GPU": 2}]).max_concurrent == 4


def test_in_main_memory_fewer_trials_run_where_not_one_sequence_would_fit(caplog):
    machine = {"CPU": 4, "GPU": 1}
    # 0.51 GB for each with one sequence, and 0.4 for each process but the first.
    trials, gpus, planned = shares("cpu", int(2.35 * GB), machine)
    assert (trials, gpus, planned.micro_batch) == (3, 0, 0 + 1)
    assert sharing.settle(Resources(gpus_per_trial=0), [machine] * 2, trials).max_concurrent == 6
    assert shares("cpu", 50 * GB, machine)[0] == 4
    trials, _, planned = shares("cpu", int(2.35 * GB), machine, max_concurrent=4)
    assert (trials, planned.micro_batch) == (4, 0)
    with caplog.at_level(logging.WARNING):
        planned.warn()
        shares("cpu", int(2.35 * GB), machine)[2].warn()
        shares("cpu", 50 * GB, machine)[2].warn()
    none, fewer = caplog.messages
    assert (
        "needs 510 MB with one sequence in a pass, so not even one fits; 2.35 GB are free, 288 MB for each of 4" in none
    )
    assert fewer.endswith("510 MB with the one it begins with; 2.35 GB are free, enough for 3 of 4 trials at once")


def test_a_plan_says_what_a_trial_begins_with():
    whole = "to train, the largest configuration needs 1.5 GB with 100 sequences in a pass, "
    assert str(plan("cpu", GB)) == whole + "1 GB with the 50 it begins with, 510 MB with one; 1 GB are free"
    assert str(plan("cpu", 9 * GB)) == whole + "510 MB with one; 9 GB are free"


def test_what_is_small_beyond_doubt_is_not_measured(monkeypatch):
    spec, calls = spec_of(SPACE), []
    real = memory_plan.measure_step
    monkeypatch.setattr(memory_plan, "measure_step", lambda *args: calls.append(1) or real(*args))
    monkeypatch.setattr("os.cpu_count", lambda: 4)
    made = memory_plan.largest(spec, 100, "cpu")
    rough = memory_plan._MARGIN * memory_plan._size(made, 100, "cpu")
    # A hundred times that for each of four, three of which bring a process.
    enough = 4 * 100 * rough + 3 * 400_000_000
    for available, measured in ((enough + 1000, False), (enough - 1000, True)):
        monkeypatch.setattr(memory_plan, "available_memory", lambda device, most=available: most)
        found = measure_largest(spec, 100, "cpu")
        assert (bool(calls), found.bound == "", found.per_trial) == (measured, measured, None)
        assert (f"needs under {amount(rough)} with 256 sequences" in str(found)) == (not measured)
    assert 2 * found.step.need(256) < rough


def test_what_cannot_be_built_is_not_tried(monkeypatch):
    spec = spec_of(SPACE.replace("hidden_dim: {values: [64]", "hidden_dim: {values: [1000000]"))
    monkeypatch.setattr(memory_plan, "measure_step", lambda *args: pytest.fail("it was tried"))
    found = measure_largest(spec, 100, "cpu")
    assert (found.micro_batch, found.facts()["bound"]) == (0, "lower")
    assert f"needs more than {amount(found.step.need(1))}; " in str(found)
    # Three square matrices with gradients and two numbers of Adam's.
    assert found.step.need(1) == pytest.approx(3e12 * 16, rel=1e-3)
    monkeypatch.setattr(memory_plan, "measure_step", lambda *args: (_ for _ in ()).throw(MemoryError))
    monkeypatch.setattr(memory_plan, "_NO_QUESTION", 0)
    assert measure_largest(spec_of(SPACE), 100, "cpu").micro_batch == 0


def test_a_sweep_in_tight_memory_tells_its_trials_how_much_each_may_use(ray_address, monkeypatch, caplog):
    spec = spec_of(SPACE.replace("precision: fp32", "precision: auto, micro_batch: 256"))
    corpus = prepare(spec.widest_corpus)
    real = measuring.measure

    def tight(spec, machines, vocab_size):
        from tune_newllm.sweep import memory_plan

        memory_plan.available_memory = lambda device: 416_000_000
        try:
            return real(spec, machines, vocab_size)
        finally:
            from tune_newllm.training.device import available_memory

            memory_plan.available_memory = available_memory

    monkeypatch.setattr(measuring, "measure", tight)
    resolved, hardware = resolve(spec, [{"CPU": 2.0, "GPU": 1.0}], corpus)
    assert "auto" not in resolved.to_yaml()
    assert (resolved.resources.max_concurrent, resolved.resources.gpus_per_trial) == (2, 0)
    facts = provenance.collect(resolved, corpus, hardware, ["x"])
    assert facts["choices"]["resources.max_concurrent"] == {
        "chosen": 2, "reason": "as many as 2 processors (1 a trial) allow",
    }  # fmt: skip
    memory = facts["memory"]
    assert (memory["per_trial"], memory["available"], memory["trials"]) == (8_000_000, 416_000_000, 2)
    assert "416 MB are free, 8 MB for each of 2 trials at once" in memory["reason"]
    assert not caplog.records
    monkeypatch.setattr(measuring, "measure", real)
    assert resolve(spec, [{"CPU": 2.0, "GPU": 1.0}], corpus)[1].memory["per_trial"] is None


def test_a_lost_measurement_is_one_line(ray_address, monkeypatch):
    spec = spec_of(SPACE)
    monkeypatch.setattr(measuring, "measure", lambda *args: os._exit(1))
    with pytest.raises(TuneError, match=r"^the process that measured this machine was lost \(.+\): try again$"):
        resolve(spec, [{"CPU": 2.0, "GPU": 1.0}], prepare(spec.widest_corpus))


def test_amounts_have_three_digits():
    assert [amount(size) for size in (640, 12_345, 999_499, 999_600, 141e9, 5e12)] == [
        "640 bytes", "12.3 kB", "999 kB", "1 MB", "141 GB", "5,000 GB",
    ]  # fmt: skip
