"""The experiment record: what stands in it, for recorded sweeps and for made ones with known answers."""

import math
import re
import shlex
from dataclasses import replace
from pathlib import Path

import pytest
from sweep_folders import (
    CONDITIONAL,
    PROVENANCE,
    SPEC,
    Trial,
    conditional_trials,
    eventful_sweep,
    lr_batch,
    realistic_trials,
    replicates,
    with_signals,
    write_sweep,
)

import analysis
from analysis.plateau import TARGETS, WINDOWS
from analysis.record import record, several, write_record
from analysis.record.course import course, epochs_shown
from analysis.record.steps import steps
from analysis.summary import summary
from tune_newllm.sweep.loading import load_spec
from tune_newllm.training.config import Configuration
from tune_newllm.training.signals import PLATEAU_TARGETS, PLATEAU_WINDOWS

RECORDED = Path(__file__).parents[1] / "records"
DEFAULTS = Configuration().to_dict()


def recorded(name):
    return analysis.load(RECORDED / name)


def headings(text):
    return re.findall(r"^#+ .*$", text, re.MULTILINE)


def made(folder, trials, spec=SPEC, provenance=None, **changes):
    sweep = analysis.load(write_sweep(folder / "made", trials, {**spec, **changes}))
    return replace(sweep, provenance=PROVENANCE if provenance is None else provenance)


def next_steps(sweep, beside=Path("there")):
    first = analysis.best(sweep, 1).trials["trial_id"].tolist()
    return steps(sweep, course(sweep, first[0]) if first else None, summary(sweep, importances=False), beside)


def step_on(sweep, words):
    """The one step whose reason holds these words."""
    found = [step for step in next_steps(sweep) if words in step.reason]
    assert len(found) == 1, next_steps(sweep)
    return found[0]


def test_a_recorded_sweep_as_its_researcher_would_have_written_it_down():
    text = record(recorded("lr_batch"), DEFAULTS)
    assert headings(text) == [
        *("# lr_batch", "## Findings", "## Settings", "## Environment", "## Results", "### Best configurations"),
        *("### Course of trial t0038", "### Best learning rate by batch size", "### What each setting does"),
        *("## Comparison", "## Next steps"),
    ]
    said = " ".join(text.split())
    for fact in (
        "2026-11-26. 50 trials, finished.",
        "**Question:** learning rate and batch size on the built-in corpus",
        "The best learning rate goes with batch size^0.58 (95 % interval 0.52 to 0.63)",
        "| `training.lr` | 0.0004 to 0.04 (log) | 0.007268 |",
        "| `corpus.vocab_size` | 500 | 1000 |",
        "**command** `python -m tune_newllm search search_spaces/lr_batch.yaml`",
        "**machine** AMD EPYC, device cpu, 2 CPUs",
        "**commit** `7ce2232f6ffa-dirty`",
        "torch 2.13.0+cpu",
        "`f714d695e4a2e11b7cce033d92dbbdb94c98f0e77b461cf5a241461df66dc971`",
        "| 4 | 724 | 3.341 | 3.376 | 29.26 | 31.6 % | 0.0 % | 0.436 | 3.9 | lowest |",
        "Throughout: learning rate 0.007268, clip norm 1.",
        "was left at step 28 (epoch 0.15)",
        "Still improving at the end: 0.032 nats per epoch over the last 2 epochs",
        "| word frequencies alone | 4.303 | 73.89 | 0.926 |",
        "| median of the 39 configurations that ran to the end |",
    ):
        assert fact in said, fact
    # What equals the default is not there.
    assert "`training.optimizer`" not in text
    assert "`model.family`" not in text
    assert "had fallen" not in text


def test_seeds_and_a_grid():
    text = record(recorded("sqrt_law"), DEFAULTS)
    said = " ".join(text.split())
    assert "### Loss by learning rate and batch size" in headings(text)
    assert "| learning rate | 8 | 16 | 32 | 64 | 128 |" in said
    # The same number by another way: the mean of three seeds at learning rate 0.0031 and batch 16.
    trials = recorded("sqrt_law").trials
    mean = trials[(trials["training.lr"] == 0.0031) & (trials["training.batch_size"] == 16)]["value"].mean()
    assert f"| 0.0031 | 3.375 | **{mean:.3f}** | 3.376 | 3.376 | 3.389 |" in said
    assert "Learning rates are those of the file, before its rule scales them." in said
    assert "to tell them apart would take about 33 seeds" in said


def test_the_same_records_give_the_same_file(tmp_path):
    for name, when in (("a", 0.0), ("b", 1e6)):
        sweep = recorded("lr_batch")
        write_record(replace(sweep, silence=when), tmp_path / f"{name}.md", DEFAULTS)
    assert (tmp_path / "a.md").read_bytes() == (tmp_path / "b.md").read_bytes()


def test_every_command_of_a_record_is_one_that_is_understood(tmp_path):
    """Searches are read as the command line reads them, with their overrides."""
    edge = [Trial(lr_batch(lr, batch), [5, 4.6, 4.4, 4.3 - 20 * lr]) for lr in (1e-4, 2.9e-2) for batch in (8, 16, 128)]
    spec = {key: value for key, value in SPEC.items() if key not in ("name", "early_terminate")}
    spec |= {"training": SPEC["training"] | {"epochs": 4}}
    sweeps = [recorded("lr_batch"), recorded("sqrt_law"), made(tmp_path, edge, spec), *_with_grid(tmp_path)]
    seen = set()
    for sweep in sweeps:
        for step in next_steps(sweep, sweep.folder):
            words = shlex.split(step.command)
            if not words or words[3] != "search" or words[4].endswith("next.yaml"):
                continue
            overrides = [words[at + 1] for at, word in enumerate(words) if word == "--set"]
            overrides += [f"run_cap={words[at + 1]}" for at, word in enumerate(words) if word == "--trials"]
            spec = load_spec(Path(words[4]), overrides)
            seen.add(words[words.index("--name") + 1].rpartition("-")[2])
            if "points" in step.command:
                assert (len(spec.points), spec.run_cap, spec.seeds) == (2, 2, 3)
    assert seen >= {"seeds", "lr", "batch_size"}


def _with_grid(tmp_path):
    """The recorded grid as if it had had one seed."""
    sweep = recorded("sqrt_law")
    yield replace(sweep, spec=sweep.spec | {"seeds": 1}, trials=sweep.trials[sweep.trials["replicate"] == 0])


def test_a_best_value_at_the_edge_is_searched_beyond(tmp_path):
    trials = [Trial(lr_batch(lr, 32), [5.0, 4.5 + abs(math.log(lr / 2.9e-2)) / 9]) for lr in (1e-3, 1e-2, 2.9e-2)]
    spec = SPEC | {"training": SPEC["training"] | {"epochs": 2}}
    step = step_on(made(tmp_path, trials, spec), "learning rate, 0.029, is the highest")
    assert "--set parameters.training.lr.min=0.0075 --set parameters.training.lr.max=0.12" in step.command
    # Of a list the two values at the edge, and two beyond in the same ratio.
    trials = [Trial(lr_batch(1e-3 + 1e-5 * batch, batch), [5.0, 4.5 + batch / 1e3]) for batch in (8, 16, 32, 64, 128)]
    step = step_on(made(tmp_path, trials, spec), "batch size, 8, is the lowest")
    assert "parameters.training.batch_size.values=[2, 4, 8, 16]" in step.command
    step = step_on(made(tmp_path, trials, spec), "How the best learning rate follows the batch size is not determined")
    assert step.command == "python -m tune_newllm search there/next.yaml --name made-next"
    # Inside there is nothing to widen.
    inside = [Trial(lr_batch(2e-3, 32), [5.0, 4.4]), Trial(lr_batch(2e-2, 8), [5.0, 4.6])]
    assert not [step for step in next_steps(made(tmp_path, inside, spec)) if "Widen" in step.reason]


def test_longer_training_where_it_still_improved(tmp_path):
    spec = SPEC | {"training": SPEC["training"] | {"epochs": 8}}
    falling = [4 + 1 / epoch for epoch in range(1, 9)]
    sweep = made(tmp_path, [Trial(lr_batch(1e-3, 32), falling)], spec)
    step = step_on(sweep, "still improving")
    # The last doubling brought 1/4 - 1/8, the one before 1/2 - 1/4: the next one half as much as the last.
    assert "should bring about 0.062 nats, for 16 s more a trial" in step.reason
    assert step.command == f"python -m tune_newllm extend {sweep.folder} --epochs 16 --best 1"
    out_of_patience = [Trial(lr_batch(1e-3, 32), falling, reason="patience")]
    assert not [each for each in next_steps(made(tmp_path, out_of_patience, spec)) if "improving" in each.reason]


def test_a_schedule_that_has_ended_begins_anew(tmp_path):
    spec = {key: value for key, value in SPEC.items() if key not in ("name", "early_terminate")}
    spec |= {"training": SPEC["training"] | {"epochs": 8}}
    signals = [{"lr": 0.001 * (1 - epoch / 8)} for epoch in range(8)]
    trial = Trial(lr_batch(1e-3, 32), [4 + 1 / epoch for epoch in range(1, 9)], signals=signals)
    sweep = made(tmp_path, [trial], spec)
    assert "The learning rate had fallen to 12 % of its peak by then." in record(sweep)
    step = step_on(sweep, "still improving")
    assert "a longer schedule has to begin anew" in step.reason
    words = shlex.split(step.command)
    assert words[:4] == ["python", "-m", "tune_newllm", "train"]
    training = load_spec(Path(words[4]), [words[at + 1] for at, word in enumerate(words) if word == "--set"]).training
    assert (training.lr, training.batch_size, training.epochs, training.seed) == (1e-3, 32, 16, 0)


def test_seeds_until_the_two_best_can_be_told_apart(tmp_path):
    pairs = [*replicates(lr_batch(2e-3, 32), [4.30], [4.32]), *replicates(lr_batch(1e-3, 32), [4.31], [4.33])]
    spec = SPEC | {"training": SPEC["training"] | {"epochs": 1}, "seeds": 2}
    step = step_on(made(tmp_path, pairs, spec), "within the noise")
    # Deviation 0.01 * sqrt(2), margin 0.01: 2 * deviation * sqrt(2 / n) falls to the margin at n = 16.
    assert "16 seeds of each would tell them apart" in step.reason
    assert "--set seeds=16" in step.command


def test_many_that_diverged_and_where(tmp_path):
    fine = [Trial(lr_batch(lr, 32), [5.0, 4.5]) for lr in (2e-4, 4e-4, 6e-4, 8e-4, 1e-3, 1.2e-3)]
    gone = [Trial(lr_batch(lr, 32), [6.0], "diverged", "the loss became nan") for lr in (1e-2, 1.5e-2, 2e-2, 2.5e-2)]
    spec = SPEC | {"training": SPEC["training"] | {"epochs": 2}}
    step = step_on(made(tmp_path, [*fine, *gone], spec), "diverged")
    assert step.reason.startswith("4 of 10 trials diverged (40 %). Failures go most clearly with the learning rate")
    assert "parameters.training.lr.max=0.01" in step.command


def test_overfitting_and_its_step(tmp_path):
    losses = [5.0, 4.6, 4.2, 3.9, 3.95, 4.02, 4.1, 4.2]
    signals = [{"train_loss": 5.0 - 0.25 * epoch} for epoch in range(8)]
    sweep = made(tmp_path, [Trial(lr_batch(1e-3, 32), losses, signals=signals)], model=SPEC["model"] | {"dropout": 0.0})
    said = " ".join(record(sweep).split())
    assert "| overfitting | 4 to 8 | 400 to 800 | 3.900 to 4.200 | -0.075 |" in said
    assert "Overfitting from epoch 4 on: validation rose by 0.3 nats to epoch 8" in said
    assert "--set model.dropout=0.1" in step_on(sweep, "overfits").command


def test_what_more_data_should_bring(tmp_path):
    spec = SPEC | {"parameters": {"corpus.max_samples": {"values": [100, 200, 400, 800]}}, "early_terminate": None}
    trials = [
        Trial({"corpus.max_samples": size}, [math.log(1000 * size**-0.5)], signals=[{"tokens": 50 * size}])
        for size in (100, 200, 400, 800)
    ]
    sweep = made(tmp_path, trials, spec | {"training": SPEC["training"] | {"epochs": 1}})
    step = step_on(sweep, "Twice the data")
    assert "Widen" not in " ".join(each.reason for each in next_steps(sweep))
    assert step.reason.startswith("Twice the data should bring perplexity 35.4 to 25 (95 % prediction interval")
    assert "--set corpus.max_samples=1600" in step.command
    text = record(sweep)
    assert "### Perplexity against data" in text
    assert "What the law says of more data" in text
    said = " ".join(analysis.answers(sweep))
    assert "Perplexity falls as tokens^-0.5" in said


def test_long_runs_show_every_few_epochs_and_the_turning_points(tmp_path):
    curve = [
        4.8,
        4.3,
        *[4.2] * 15,
        *(4.2 - 0.05 * step for step in range(1, 11)),
        *(3.7 - 0.003 * n for n in range(73)),
    ]
    sweep = made(tmp_path, [Trial(lr_batch(1e-3, 32), curve)], training=SPEC["training"] | {"epochs": 100})
    one = course(sweep, "t0000")
    shown = epochs_shown(one)
    assert {1, 5, 10, 50, 100} <= shown
    assert len(shown) < 36
    assert {3, 17, 27} <= {epoch + step for epoch in shown for step in (-1, 0, 1)}
    said = " ".join(record(sweep).split())
    assert "The loss stood still at 4.2 (perplexity 66.69) until epoch" in said
    assert re.search(r"\| first fall +\| 1 to [23] \|", said)
    assert re.search(r"\| plateau +\| [23] to 1[78] \|", said)


def test_a_plateau_is_known_for_that_of_word_frequencies(tmp_path):
    curve = [4.8, 4.3, *[4.2] * 15, *(4.2 - 0.05 * step for step in range(1, 11))]
    known = {"data": {"stats": {"validation": {"unigram_ppl": math.exp(4.25)}}}}
    spec = SPEC | {"training": SPEC["training"] | {"epochs": 27}}
    text = record(made(tmp_path, [Trial(lr_batch(1e-3, 32), curve)], spec, known))
    assert "the unigram plateau, as word frequencies alone give 4.25" in " ".join(text.split())
    # Where the records themselves say when it was left they are believed.
    signals = [{"plateau_step": 1850 if epoch >= 19 else None, "update_ratio": 1e-3} for epoch in range(1, 28)]
    text = record(made(tmp_path, [Trial(lr_batch(1e-3, 32), curve, signals=signals)], spec, known))
    assert "was left at step 1,850 (epoch 18)" in " ".join(text.split())
    never = [{"update_ratio": 1e-3}] * 27
    text = record(made(tmp_path, [Trial(lr_batch(1e-3, 32), curve, signals=never)], spec, known))
    assert "The unigram plateau was never left" in " ".join(text.split())
    # Weights that were trained before know more than word frequencies from the start.
    spec["training"] = spec["training"] | {"start": "start"}
    text = record(made(tmp_path, [Trial(lr_batch(1e-3, 32), curve, signals=signals)], spec, known))
    assert "was left at step" not in text
    assert "From word frequencies" not in text


def test_the_originals_runs_stand_beside_those_on_its_corpus(tmp_path):
    corpus = {"name": "wikitext-2", "vocab_size": 1000, "window": 64, "windowing": "original"}
    spec = SPEC | {"corpus": corpus, "training": SPEC["training"] | {"epochs": 50}}
    curve = [3.2 + 1 / epoch for epoch in range(1, 51)]
    text = record(made(tmp_path, [Trial(lr_batch(1e-3, 2048), curve)], spec))
    said = " ".join(text.split())
    ppl = math.exp(3.22)
    there = f"| 50 | epoch 16 | 26.03 | {ppl:.2f} | {100 * (ppl / 26.03 - 1):+.1f} % |"
    assert f"| W6 | 6 | 256 | 2,739,432 | 2,048 | 0.0008 {there}" in said
    by_29 = math.exp(3.2 + 1 / 29)
    assert f"| 46.70 | {by_29:.2f} |" in said
    assert "dropped 9 %" not in said
    complete = record(
        made(tmp_path, [Trial(lr_batch(1e-3, 2048), curve)], spec, corpus=corpus | {"windowing": "complete"})
    )
    assert "dropped 9 %" in " ".join(complete.split())
    assert "W6" not in record(recorded("lr_batch"))


def test_everything_that_can_befall_a_sweep_and_any_text(tmp_path):
    evil = "a | b `c` <script>alert(1)</script>\n# heading\n- item ![x](http://y) *z*"
    sweep = analysis.load(eventful_sweep(tmp_path / "sweep", evil))
    text = record(sweep, DEFAULTS)
    assert not re.search(r"(?<!\\)<script", text)
    assert "# heading" not in [line[:9] for line in text.splitlines()]
    assert "!\\[x](http://y) \\*z\\*" in text
    assert "### Failures" in headings(text)
    assert [step.reason for step in next_steps(sweep)] == ["The sweep has not ended: it stopped."]
    assert "resume" in text
    for line in text.splitlines():
        if line.startswith("|"):
            assert line.endswith("|")


@pytest.mark.parametrize(
    ("trials", "spec"),
    [
        ([], SPEC),
        ([Trial(lr_batch(1e-3, 32), [], None)], SPEC),
        ([Trial(lr_batch(1e-3, 32), [4.0], None)], SPEC),
        ([Trial(lr_batch(1e-3, 32), [math.nan], "diverged", "no finite loss")], SPEC),
        ([Trial(lr_batch(1e-3, 32), [4.5, math.nan], "diverged", "no finite loss")], SPEC),
        (conditional_trials(), CONDITIONAL),
        (with_signals(realistic_trials()), SPEC),
        ([Trial({}, [4.0, 3.9])], {}),
    ],
    ids=[
        "no trial",
        "no epoch",
        "one epoch",
        "diverged",
        "diverged later",
        "conditional",
        "realistic",
        "no sweep.yaml",
    ],
)
def test_any_sweep_has_a_record(tmp_path, trials, spec):
    sweep = made(tmp_path, trials, spec, end=None) if spec else made(tmp_path, trials, {"x": 1})
    for defaults in (None, DEFAULTS):
        text = record(sweep, defaults)
        assert text.startswith("# made\n")
        assert text.endswith("\n")
        # "The loss became nan" is a reason that trials gave.
        assert "nan" not in text.replace("became nan", "").lower()


def test_several_sweeps_side_by_side(tmp_path):
    sweeps = [recorded(name) for name in ("lr_batch", "sqrt_law")]
    text = several(sweeps)
    said = " ".join(text.split())
    assert headings(text)[0] == "# lr_batch and sqrt_law"
    assert "sqrt_law has the lowest validation loss, 3.373" in said
    assert "| 4 | 29.26 | 29.32 |" in said
    assert "| `training.epochs` | 4 | 6 |" in said
    assert f"python -m tune_newllm report {sweeps[0].folder} --markdown" in text
    assert write_record(sweeps, tmp_path / "new" / "r.md").read_text() == text


def test_nothing_is_proposed_that_the_configuration_refuses(tmp_path):
    """Lists and ranges of every setting that has an end, searched beyond the best value."""
    ends = {
        "training.beta2": (0.95, 0.99, 0.995),
        "training.clip.percentile": (50, 75, 90),
        "training.lr_schedule.warmup": (0.1, 0.3, 0.9),
        "training.lr_schedule.final": (0.1, 0.4, 0.8),
        "training.lr_schedule.factor": (0.3, 0.5, 0.9),
        "training.fixed_point.stop_share": (0.5, 0.8, 0.95),
        "training.fixed_point.diversity": (0.3, 0.6, 0.9),
        "model.dropout": (0.1, 0.3, 0.6),
        "model.num_input_tokens": (1, 2, 3),
        "model.blocks": (1, 2, 4),
    }
    spec = {key: value for key, value in SPEC.items() if key not in ("name", "early_terminate")}
    spec |= {"training": SPEC["training"] | {"epochs": 1}}
    spec["model"] = {"family": "fixed_point", "embed_dim": 64, "ctx_dim": 24, "num_layers": 2}
    proposed = {}
    for path, values in ends.items():
        trials = [Trial({path: value}, [4.0 + at]) for at, value in enumerate(reversed(values))]
        for rule in ({"values": list(values)}, {"min": values[0], "max": values[-1]}):
            sweep = made(tmp_path, trials, spec | {"parameters": {path: rule}})
            for step in (step for step in next_steps(sweep) if "Widen" in step.reason):
                words = shlex.split(step.command)
                overrides = [words[at + 1] for at, word in enumerate(words) if word == "--set"]
                load_spec(Path(words[4]), overrides)
                proposed[path, next(iter(rule))] = overrides
    assert proposed["training.clip.percentile", "min"][1].endswith("max=100")
    assert proposed["training.beta2", "min"][1].endswith("max=0.998")
    # The next two would be 8, a divisor of 24, and 16.
    assert proposed["model.blocks", "values"] == ["parameters.model.blocks.values=[2, 4, 8]"]
    assert ("model.num_input_tokens", "values") not in proposed
    assert ("model.num_input_tokens", "min") not in proposed


def test_a_spent_budget_is_doubled_and_no_other(tmp_path):
    trials = [Trial(lr_batch(1e-3, 32), [4.5, 4.4, 4.3, 4.2])]
    folder = write_sweep(tmp_path / "made", trials, SPEC | {"budget": {"wall": 7200, "epochs": 3}}, end="budget")
    # One resume had raised it to 4 already.
    assert step_on(analysis.load(folder), "its budget").command.endswith("--set budget.epochs=8")


def test_dropout_is_not_advised_where_the_family_has_none(tmp_path):
    losses, signals = [5.0, 3.9, 4.0, 4.2], [{"train_loss": 5.0 - 0.25 * epoch} for epoch in range(4)]
    model = SPEC["model"] | {"dropout": 0.0, "family": "fixed_point"}
    sweep = made(tmp_path, [Trial(lr_batch(1e-3, 32), losses, signals=signals)], model=model)
    assert step_on(sweep, "overfits").command == ""


@pytest.mark.parametrize(
    ("texts", "said"), [(1600, "goes on to hold."), (800, "and the corpus has 1,600 texts."), (700, None)]
)
def test_no_more_data_is_advised_than_there_is(tmp_path, texts, said):
    sizes = (100, 200, 400, 800)
    spec = SPEC | {"parameters": {"corpus.max_samples": {"values": [*sizes]}}, "early_terminate": None}
    trials = [
        Trial({"corpus.max_samples": size}, [math.log(1000 * size**-0.5)], signals=[{"tokens": 50 * size}])
        for size in sizes
    ]
    spec |= {"training": SPEC["training"] | {"epochs": 1}}
    known = {"data": {"stats": {"train": {"texts": texts}}}}
    found = [step for step in next_steps(made(tmp_path, trials, spec, known)) if "Twice the data" in step.reason]
    assert [step.reason.endswith(said) for step in found] == ([] if said is None else [True])


def test_a_training_too_short_to_be_looked_at_is_not_said_to_have_stayed_on_the_plateau(tmp_path):
    assert (WINDOWS, TARGETS) == (PLATEAU_WINDOWS, PLATEAU_TARGETS)
    # Windows of 32 tokens have 31 targets: 1,024 of them make 31,744; of windows of 513 tokens 128 suffice.
    for window, tokens, said in ((32, 15_000, False), (32, 16_000, True), (513, 32_000, False), (513, 33_000, True)):
        signals = [{"update_ratio": 1e-3, "tokens": tokens * epoch} for epoch in (1, 2)]
        spec = SPEC | {"corpus": SPEC["corpus"] | {"window": window}}
        sweep = made(tmp_path, [Trial(lr_batch(1e-3, 32), [4.5, 4.4], signals=signals)], spec)
        assert ("was never left" in record(sweep)) == said
        assert any("unigram plateau" in sentence for sentence in analysis.answers(sweep)) == said


def test_a_fall_that_may_be_noise_is_not_called_convergence(tmp_path):
    assert "Still improving" in record(made(tmp_path, [Trial(lr_batch(1e-3, 32), [3.5, 3.49, 3.481])]))
    unsteady = record(made(tmp_path, [Trial(lr_batch(1e-3, 32), [3.5, 3.492, 3.493, 3.485])]))
    assert "Whether it has converged cannot be told" in unsteady
