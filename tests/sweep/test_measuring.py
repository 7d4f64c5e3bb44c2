"""What is `auto` in a sweep is decided by measured times, here invented; by none where there is nothing to choose."""

import pytest

from tune_newllm.errors import InfeasibleError
from tune_newllm.sweep import measuring
from tune_newllm.sweep.loading import parse_spec
from tune_newllm.sweep.memory_plan import MemoryPlan
from tune_newllm.sweep.resolve import resolve_here
from tune_newllm.sweep.sharing import trials_left
from tune_newllm.sweep.source import parse_yaml
from tune_newllm.sweep.timings import Timings
from tune_newllm.training import choosing
from tune_newllm.training.memory import StepMemory

SPACE = """\
corpus: {name: toy, vocab_size: 100, window: 16}
model: {embed_dim: 8, hidden_dim: 16, ctx_dim: 8, num_layers: 1}
training: {device: cpu}
parameters:
  training.lr: {distribution: log_uniform_values, min: 1e-4, max: 1e-1}
  training.batch_size: {values: [8, 256]}
"""


@pytest.fixture
def decide(monkeypatch):
    """Resolves the space with further lines on so many processors, where a step of n windows takes, as given, n times
    so many seconds; returns the choices and the questions asked."""
    monkeypatch.setattr(choosing, "native_numbers", lambda device: ("fp32", "bf16"))

    def run(lines, processors, seconds, memory=10**12, training=""):
        questions = []

        def remembered(question, measure, device):
            cases = question["cases"]
            questions.append([tuple(case) for case in cases])
            return Timings({case: case.rows * seconds(*case) for case in cases}, "measured earlier")

        def measured(spec, vocab_size, device):
            return MemoryPlan(device, StepMemory(0, 1), min(256, spec.training.micro_batch), memory)

        monkeypatch.setattr(measuring, "remembered", remembered)
        monkeypatch.setattr(measuring, "measure_largest", measured)
        spec = parse_spec(parse_yaml(SPACE.replace("{device", f"{{{training}device") + lines, "t"))
        resolved, hardware, _ = resolve_here(spec, [{"CPU": float(processors)}], 100)
        assert "auto" not in resolved.to_yaml()
        chosen = {path.partition(".")[2]: each for path, each in hardware.choices.items()}
        for name in ("cpus_per_trial", "max_concurrent"):
            assert chosen[name].value == getattr(resolved.resources, name)
        for name in ("precision", "micro_batch"):
            assert chosen[name].value == getattr(resolved.training, name)
        return chosen, questions

    return run


def by_threads(number, threads, rows):
    """Half of the processors' gain is lost, bf16 twice as fast, small passes slow."""
    return (2 if number == "fp32" else 1) * (1 + 16 / rows) / (1 + (threads - 1) / 2)


def test_each_choice_is_measured_with_those_before_it(decide):
    chosen, questions = decide("run_cap: 2\n", 8, by_threads)
    # 1 and 2 threads for two trials leave processors idle, 8 one of the trials; both sizes of the batch count.
    assert questions == [
        [("fp32", threads, rows) for rows in (8, 256) for threads in (1, 2, 4)],
        [("fp32", 4, 256), ("bf16", 4, 256)],
        [("bf16", 4, rows) for rows in (16, 64, 128, 256)],
    ]
    assert {name: each.value for name, each in chosen.items()} == {
        "cpus_per_trial": 4, "precision": "bf16", "micro_batch": 256, "max_concurrent": 2,
    }  # fmt: skip
    assert all(chosen[name].reason.endswith(", measured earlier") for name in ("cpus_per_trial", "precision"))
    assert chosen["max_concurrent"].reason == "as many as 8 processors (4 a trial) allow"


@pytest.mark.parametrize(
    ("lines", "threads", "concurrent", "reason"),
    [
        ("run_cap: 40\n", 1, 4, "4 at once with one thread each leave none of 4 processors idle"),
        ("", 1, 4, "4 at once"),
        ("run_cap: 2\nseeds: 2\n", 1, 4, "4 at once"),
        ("resources: {cpus_per_trial: 3}\nrun_cap: 1\n", 3, 1, "3 was asked for"),
        ("resources: {max_concurrent: 1}\n", 4, 1, "1 trial with 1 thread 0; 1 trial with 2 threads 0; 1 trial with 4"),
        ("resources: {address: 'ray://elsewhere'}\n", 1, 4, "other work on a cluster"),
    ],
)
def test_threads_follow_from_the_trials_at_once(decide, lines, threads, concurrent, reason):
    chosen, questions = decide(lines, 4, by_threads)
    assert chosen["cpus_per_trial"].value == threads
    assert chosen["max_concurrent"].value == concurrent
    assert reason in chosen["cpus_per_trial"].reason
    assert len(questions) == (3 if "fastest" in chosen["cpus_per_trial"].reason else 2)


def test_where_memory_suffices_for_one_trial_it_gets_all_processors(decide):
    # 32 windows of one byte each; a second process takes 400 MB.
    chosen, questions = decide("", 4, by_threads, memory=32)
    assert (chosen["cpus_per_trial"].value, chosen["max_concurrent"].value) == (4, 1)
    assert [case[2] for case in questions[0]] == [8, 8, 8, 32, 32, 32]
    # No pass holds more than memory does.
    assert len(questions) == 2
    assert chosen["micro_batch"] == (64, "a pass never holds more than 64 windows here")


def test_what_is_asked_for_stays_and_nothing_is_measured_for_it(decide):
    asked = "resources: {cpus_per_trial: 1, max_concurrent: 9}\n"
    chosen, questions = decide(asked, 4, by_threads, training="precision: bf16, micro_batch: 32, ")
    assert questions == []
    assert {name: each.reason for name, each in chosen.items()} == {
        "cpus_per_trial": "1 was asked for", "precision": "bf16 was asked for", "micro_batch": "32 was asked for",
        "max_concurrent": "9 at once were asked for, but there are only 4 processors (1 a trial)",
    }  # fmt: skip


def test_what_cannot_be_measured_is_chosen_carefully(decide):
    def impossible(number, threads, rows):
        raise InfeasibleError("too little memory")

    chosen, _ = decide("run_cap: 1\n", 4, impossible)
    assert {name: each.value for name, each in chosen.items()} == {
        "cpus_per_trial": 1, "precision": "fp32", "micro_batch": 64, "max_concurrent": 4,
    }  # fmt: skip
    assert chosen["precision"].reason == "nothing else could be measured: too little memory"


def test_the_trials_of_a_sweep_are_counted_as_far_as_they_matter():
    def count(lines, space=SPACE):
        return trials_left(parse_spec(parse_yaml(space + lines, "t")), 5)

    assert [count(""), count("run_cap: 3\n"), count("run_cap: 2\nseeds: 2\n"), count("run_cap: 9\n")] == [5, 3, 4, 5]
    grid = SPACE.replace("{distribution: log_uniform_values, min: 1e-4, max: 1e-1}", "{values: [1e-3, 1e-2]}")
    assert [count("method: grid\n", grid), count("method: grid\nseeds: 2\n", grid)] == [4, 5]
