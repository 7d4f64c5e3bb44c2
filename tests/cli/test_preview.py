"""`search --dry-run`: the curves are the numbers that training uses, and the cost counts what will be run."""

import json
from pathlib import Path

import pytest

from tune_newllm.cli.curves import Curve, Plot
from tune_newllm.cli.plots import drawn
from tune_newllm.cli.preview import preview
from tune_newllm.sweep.loading import load_spec

FILE = """\
corpus: {name: toy, vocab_size: 100, window: 16}
model: {embed_dim: 8, hidden_dim: 16, ctx_dim: 8, num_layers: 1}
training: {epochs: 4, precision: fp32, batch_size: 64, lr: 1e-2}
run_cap: 6
"""


@pytest.fixture
def plan(tmp_path, capsys):
    """What the dry run of the file with these further lines prints: as JSON, and as text."""

    def run(lines, *overrides):
        path = tmp_path / "sweep.yaml"
        path.write_text(FILE + lines)
        spec = load_spec(path, overrides)
        preview(spec, as_json=True, base=Path())
        content = json.loads(capsys.readouterr().out)
        preview(spec, as_json=False, base=Path())
        return content, capsys.readouterr().out

    return run


def curves_of(content, title):
    plot = next(plot for plot in content["plots"] if plot["title"].startswith(title))
    return {curve["label"]: curve for curve in plot["curves"]}


def test_each_searched_schedule_has_a_curve(plan):
    content, text = plan(
        "parameters:\n"
        "  training.lr_schedule.name: {values: [constant, linear, step]}\n"
        "  training.lr_schedule.final: {values: [0.5], when: {training.lr_schedule.name: linear}}\n"
        "  training.lr_schedule.every: {value: 0.5}\n"
        "  training.clip.schedule: {values: [none, constant, linear, percentile]}\n"
        "  training.clip.norm: {values: [0.5], when: {training.clip.schedule: [constant, linear]}}\n",
        "training.clip.by=tokens",
    )
    rates = curves_of(content, "learning rate, as a share")
    assert set(rates["constant"]["y"]) == {1.0}
    linear = rates["linear"]
    assert (linear["y"][0], linear["x"][0]) == (1.0, 0.0)
    assert linear["y"] == pytest.approx([1 - x / 4 * 0.5 for x in linear["x"]])
    assert linear["x"][-1] == pytest.approx(4, abs=0.1)
    assert next(y for x, y in zip(rates["step"]["x"], rates["step"]["y"], strict=True) if x >= 2) == 0.5
    limits = curves_of(content, "largest norm")
    assert limits["none"]["y"] == limits["percentile"]["y"] == [None] * len(limits["none"]["y"])
    assert set(limits["constant"]["y"]) == {0.5}
    assert limits["linear"]["y"] == pytest.approx([0.5 + 1.5 * x / 4 for x in limits["linear"]["x"]], rel=1e-4)
    assert "clip schedule percentile: its limit follows the gradients" in text
    assert "c constant   l linear   s step" in text
    for sample in content["samples"]:
        assert ("training.lr_schedule.final" in sample) == (sample["training.lr_schedule.name"] == "linear")


def test_rules_over_what_they_scale_with(plan):
    content, _ = plan(
        "parameters:\n"
        "  training.lr: {distribution: log_uniform_values, min: 1e-3, max: 1e-1}\n"
        "  training.batch_size: {values: [8, 32, 128, 512]}\n"
        "  training.lr_rule: {values: [none, sqrt, linear, original, sqrt-sde]}\n"
        "  model.num_layers: {values: [1, 2]}\n",
        "training.lr_size_rule=original",
        "training.lr=0.01",
    )
    rates = {name: curve["y"] for name, curve in curves_of(content, "learning rate by lr_rule").items()}
    scaled = {name: [rate / values[1] for rate in values[:3]] for name, values in rates.items()}
    assert scaled["none"] == [1, 1, 1]
    assert scaled["sqrt"] == scaled["sqrt-sde"] == pytest.approx([0.5, 1, 2])
    assert scaled["linear"] == scaled["original"] == pytest.approx([0.25, 1, 4])
    assert rates["original"][3] == pytest.approx(4 * rates["original"][1])
    assert rates["sqrt-sde"][3] is None, "the rule refuses so large a batch"
    by_size = curves_of(content, "learning rate by lr_size_rule")["original"]
    assert by_size["y"] == pytest.approx([0.01 * (2_739_432 / size) ** 0.5 for size in by_size["x"]])
    assert len(by_size["x"]) == 2


def test_what_does_not_change_is_not_drawn(plan):
    content, text = plan("parameters:\n  training.clip.norm: {values: [0.5, 1.0]}\n")
    assert content["plots"] == []
    assert "┤" not in text


def test_seeds_budget_and_trials_at_once_count(plan, monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(4)), raising=False)
    lines = "parameters:\n  training.lr: {distribution: uniform, min: 1e-3, max: 1e-1}\n"
    content, text = plan(lines + "seeds: 3\n")
    # Eighteen trials, four at once.
    assert content["cost"]["seconds"] == pytest.approx(5 * content["cost"]["seconds_per_trial"])
    assert (content["cost"]["at_once"], content["cost"]["threads"], content["cost"]["precision"]) == (4, 1, "fp32")
    assert "with 1 thread in fp32" in text
    assert "with 4 trials at once" in text
    content, text = plan(lines + "seeds: 3\nbudget: {wall: 2h, epochs: 10}\n")
    assert content["cost"]["seconds"] == pytest.approx(10 / 4 / 4 * content["cost"]["seconds_per_trial"])
    assert "(of 6, each with 3 seeds)" in text
    assert "its budget, 2 h 0 min of wall time or 10 epochs, stops it resumably" in text
    cost = plan(lines + "budget: {device_hours: 1e-6}\nresources: {cpus_per_trial: 2}\n")[0]["cost"]
    assert cost["seconds"] == pytest.approx(1e-6 * 3600 / 2 / 2)


def test_every_choice_is_shown_with_its_reason_and_when_it_was_measured(plan, monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(2)), raising=False)
    monkeypatch.setattr("tune_newllm.sweep.timings._is_busy", lambda: False)
    lines = "parameters:\n  training.batch_size: {values: [8, 96]}\n"
    content, text = plan(lines)
    choices = content["choices"]
    assert "auto" not in json.dumps(content["spec"])
    assert choices["resources.max_concurrent"] == {"chosen": 2, "reason": "as many as 2 processors (1 a trial) allow"}
    assert choices["training.precision"] == {"chosen": "fp32", "reason": "fp32 was asked for"}
    assert choices["training.micro_batch"]["chosen"] == content["spec"]["training"]["micro_batch"]
    assert choices["training.micro_batch"]["reason"].endswith(", measured now")
    # The second time, as a text.
    for path, choice in choices.items():
        reason = choice["reason"].replace("measured now", "measured earlier")
        assert f"\n  {path} {choice['chosen']:{'' if isinstance(choice['chosen'], str) else 'g'}}: {reason}\n" in text
    elsewhere, text = plan(lines + "resources: {address: 'ray://there:1', cpus_per_trial: 64}\n")
    assert elsewhere["spec"]["resources"]["max_concurrent"] == "auto"
    assert "the cluster at ray://there:1 chooses for itself; what this machine alone would:" in text


def test_memory_that_is_tight_is_told_beforehand(plan, monkeypatch, caplog):
    lines = "parameters:\n  training.batch_size: {values: [8, 512]}\n  model.num_layers: {values: [1, 2]}\n"
    lines, micro = lines + "resources: {max_concurrent: 1, cpus_per_trial: 1}\n", "training.micro_batch=256"
    content, text = plan(lines, micro)
    assert (content["memory"]["bound"], content["memory"]["per_trial"]) == ("upper", None)
    assert "needs under " in text
    assert "so memory is no question" in text
    monkeypatch.setattr("tune_newllm.sweep.memory_plan._NO_QUESTION", 0)
    facts = plan(lines, micro)[0]["memory"]
    assert (facts["sequences"], facts["micro_batch"], facts["per_trial"], facts["trials"]) == (256, 256, None, 1)
    assert 10_000 < facts["need_of_one"] < facts["need"] < facts["available"]
    for available, micro_batch in ((facts["need"] // 3, 64), (1, 0)):
        monkeypatch.setattr("tune_newllm.sweep.memory_plan.available_memory", lambda device, most=available: most)
        content, text = plan(lines, micro)
        tight = content["memory"]
        assert (tight["micro_batch"], tight["per_trial"], tight["share"]) == (micro_batch, available, available)
        assert ("with the 64 it begins with" in text) == (micro_batch == 64)
        assert (content["cost"]["seconds_per_trial"] is None) == (micro_batch == 0)
        assert ("trials of that size will be infeasible" in caplog.text) == (micro_batch == 0)
    assert "memory does not suffice for any of the configurations above" in text


def test_sizes_are_those_of_the_base_configuration_s_samples(plan):
    searched = "parameters.corpus.max_samples={values: [20, 100]}"
    sizes = {n: plan("", f"corpus.max_samples={n}", *more)[0]["cost"] for n, more in ((20, [searched]), (100, []))}
    assert sizes[20]["train_windows"] < 0.4 * sizes[100]["train_windows"]


def test_a_grid_is_counted_without_what_does_not_exist(plan):
    lines = "method: grid\nparameters:\n  model.num_layers: {values: [1, 2, 4]}\n"
    lines += "  model.dropout: {values: [0.0, 0.1], when: {model.num_layers: [2, 4]}}\n"
    content, _ = plan(lines, "run_cap=null")
    assert content["cost"]["configurations"] == len(content["samples"]) == 5


@pytest.mark.parametrize(("cap", "further"), [("null", 4), ("8", 2), ("6", 0), ("5", 0)])
def test_a_grid_that_may_be_widened_says_by_how_much(plan, cap, further):
    lines = "method: grid\nseeds: 2\nresources: {cpus_per_trial: 1, max_concurrent: 1}\nparameters:\n"
    lines += "  model.num_layers: {values: [1, 2]}\n  training.lr: {values: [0.001, 0.002, 0.004], widen: 2}\n"
    content, text = plan(lines, f"run_cap={cap}")
    cost, count = content["cost"], 5 if cap == "5" else 6
    assert (cost["configurations"], cost["further"]) == (count, further)
    assert cost["seconds"] == pytest.approx((count + further) * 2 * cost["seconds_per_trial"])
    words = f", up to {further} more where an optimum lies on the edge of the grid" if further else ""
    assert f"(of {count}{words}, each with 2 seeds)" in text


def test_curves_of_one_value_fit_the_width_without_colours():
    single = Plot("alone", "epoch", False, [Curve("cosine", [0.0, 1.0, 2.0], [1.0, 0.5, 0.0])])
    lines = drawn(single, 80).splitlines()
    assert max(map(len, lines)) <= 80
    assert "\x1b" not in "".join(lines)
    assert lines[0] == "alone"
    double = Plot("two", "batch size", True, [Curve("sqrt", [8.0, 32.0], [0.1, 0.2]), Curve("sde", [8.0], [None])])
    text = drawn(double, 60)
    assert "s sqrt   d sde (not drawn)" in text
    assert "ss" in text


def test_curves_without_a_letter_have_a_digit_or_a_star():
    many = Plot("many", "epoch", False, [Curve("a", [0.0, 1.0], [1.0, 0.5])] * 40)
    legend = drawn(many, 80)
    for entry in ("a a", "w a", "0 a", "9 a"):
        assert legend.count(f"   {entry}") == 1
    assert legend.count("   * a") == 40 - 26 - 10
