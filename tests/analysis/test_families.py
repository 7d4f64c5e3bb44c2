"""Families of models against each other, in answers, report and summary."""

import math

import pytest
from sweep_folders import SPEC, Trial, write_sweep

import analysis
from analysis.families import families, family_sentences

FAMILIES = SPEC | {
    "model": SPEC["model"] | {"family": "context_vector"},
    "training": SPEC["training"] | {"epochs": 4},
    "parameters": {
        "model.family": {"values": ["context_vector", "gpt2", "fixed_point"]},
        "training.lr": {"distribution": "log_uniform_values", "min": 1e-4, "max": 3e-2},
    },
    "early_terminate": None,
    "seeds": 2,
}
SIZES = {"context_vector": 60_000, "gpt2": 62_000, "fixed_point": 90_000}
CONTEXTS = {"ctx_norm": 4.0, "ctx_rank": 12.0, "update_ratio": 1e-3}


def trial(family, lr, end, seed=0, **changes):
    """gpt2 has neither contexts nor ReLUs, and no signal can be had of them."""
    signals = CONTEXTS | {"plateau_step": 40} if family != "gpt2" else {"update_ratio": 1e-3, "plateau_step": 60}
    if family == "fixed_point":
        signals = signals | {"fixed_point_iterations": 7, "fixed_point_converged": 0.96}
    created = {"replicate": seed, "model_size": SIZES[family], "seed": seed}
    losses = [end + 0.6, end + 0.2, end + 0.1, end]
    given = {"model.family": family, "training.lr": lr}
    return Trial(given, losses, created=created, signals=[signals] * 4, **changes)


def sweep_of(tmp_path, ends, spec=FAMILIES, seeds=2, **changes):
    """One configuration per family and learning rate; two seeds, 0.01 nats apart."""
    trials = [
        trial(family, lr, end + 0.01 * seed, seed)
        for family, losses in ends.items()
        for lr, end in zip((3e-4, 1e-3, 3e-3), losses, strict=True)
        for seed in range(seeds)
    ]
    return analysis.load(write_sweep(tmp_path / "architectures", trials, spec | changes))


ENDS = {"context_vector": (3.5, 3.4, 3.6), "gpt2": (3.9, 3.8, 3.45), "fixed_point": (3.9, 3.7, 3.8)}


def test_each_family_with_its_own_best_rate_at_equal_tokens(tmp_path):
    sweep = sweep_of(tmp_path, ENDS)
    found = families(sweep)
    assert [(each.name, each.lr, each.edge) for each in found] == [
        ("context_vector", 1e-3, ""),
        ("gpt2", 3e-3, "highest"),
        ("fixed_point", 1e-3, ""),
    ]
    assert [each.loss for each in found] == pytest.approx([3.405, 3.455, 3.705])
    assert [each.behind for each in found] == pytest.approx([0, 0.05, 0.3])
    # Two seeds, 0.01 apart: deviation 0.00707, two standard errors of a difference of means 2 * 0.00707.
    assert found[1].noise == pytest.approx(2 * 0.01 / math.sqrt(2))
    assert {each.tokens for each in found} == {200_000}
    assert [(each.parameters, each.configurations, each.seconds) for each in found][:2] == [
        (60_000, 3, 8),
        (62_000, 3, 8),
    ]
    said = " ".join(family_sentences(sweep))
    assert said.startswith(
        "At equal tokens (200,000), each with its own best learning rate, the family context_vector is best: loss "
        "3.405 (learning rate 0.001, 60,000 parameters, 8 s); gpt2 is 0.05 nats per token behind, more than the noise "
        "of the seeds, ± 0.014 (learning rate 0.003, 62,000 parameters, 8 s); fixed_point is 0.3 nats"
    )
    assert "differ in size by a factor of up to 1.5" in said
    assert "The best learning rate of gpt2 is the highest tried, so its loss may still fall beyond it." in said
    assert [each.iterations for each in found] == [None, None, 7]
    assert "Before them fixed_point taught its context blocks in 7 iterations over the same text (phase one)" in said
    assert "Before them gpt2" not in said
    assert said.split(". ")[0] in " ".join(analysis.answers(sweep))
    assert [each["name"] for each in analysis.summary(sweep)["families"]] == [each.name for each in found]


def test_the_report_shows_families_also_without_contexts(tmp_path):
    sweep = sweep_of(tmp_path, ENDS)
    page = analysis.write_report(sweep, tmp_path / "out").read_text()
    assert "Families of models" in page
    assert "3e-3 (highest tried)" in page or "0.003 (highest tried)" in page


def test_a_sweep_of_gpt2_alone_has_a_report(tmp_path):
    spec = FAMILIES | {
        "model": {"family": "gpt2"},
        "parameters": {"training.lr": FAMILIES["parameters"]["training.lr"]},
    }
    trials = [trial("gpt2", lr, 3.5 + lr) for lr in (1e-3, 2e-3, 4e-3)]
    for each in trials:
        each.parameters.pop("model.family")
    sweep = analysis.load(write_sweep(tmp_path / "gpt2", trials, spec | {"seeds": 1}))
    page = analysis.write_report(sweep, tmp_path / "out").read_text()
    assert "Learning signals" in page
    assert families(sweep) == []
    assert family_sentences(sweep) == []


def test_families_whose_size_is_not_on_record(tmp_path):
    trials = [trial(family, lr, 3.5 + lr) for family in ("context_vector", "gpt2") for lr in (1e-3, 2e-3, 3e-3)]
    for each in trials:
        del each.created["model_size"]
    sweep = analysis.load(write_sweep(tmp_path / "sizeless", trials, FAMILIES | {"seeds": 1}))
    assert [each.parameters for each in families(sweep)] == [None, None]


def test_what_keeps_families_from_being_compared(tmp_path):
    single = sweep_of(tmp_path / "single", ENDS, seeds=1, spec=FAMILIES | {"seeds": 1})
    assert "Each was trained once, so how much of that is chance is not known." in family_sentences(single)[0]
    # One family without a trial that ran to its end, one chosen from a single configuration.
    trials = [trial("context_vector", 1e-3, 3.4), trial("fixed_point", 1e-3, 3.5), trial("fixed_point", 2e-3, 3.5)]
    trials += [trial("fixed_point", 4e-3, 3.6), trial("gpt2", 1e-3, 3.3, state="stopped", reason="asha")]
    few = analysis.load(write_sweep(tmp_path / "few", trials, FAMILIES | {"seeds": 1}))
    said = " ".join(family_sentences(few))
    assert "Only 1 configuration of context_vector ran to the end" in said
    assert said.endswith("No trial of the family gpt2 has run to its end.")
