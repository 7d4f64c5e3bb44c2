"""Sweep files with the structure of W&B's documented examples, accepted as they are."""

import pytest

from tune_newllm.errors import SpecError
from tune_newllm.sweep.loading import parse_spec
from tune_newllm.sweep.source import parse_yaml

GRID = """\
program: fit.py
method: grid
parameters:
  lr: {values: [0.02, 0.002]}
  batch_size: {values: [16, 48]}
  epochs: {value: 7}
  vocab_size: {value: 300}
  fc_layer_size: {values: [64, 96]}
"""
RANDOM = """\
program: fit.py
command: ["${env}", python, "${program}", "${args}"]
name: first look
method: random
metric: {name: accuracy, goal: maximize, target: 0.97}
parameters:
  epochs: {values: [9, 2]}
  learning_rate: {distribution: log_uniform, min: -9.2, max: -3.4}
  batch_size: {distribution: q_log_uniform_values, q: 8, min: 24, max: 200}
  dropout: {values: [0.15, 0.35], probabilities: [0.75, 0.25]}
  wd: {distribution: inv_log_uniform_values, min: 1e-5, max: 1e-2}
  seed: {values: [1, 2, 3]}
"""
SNIPPET = """\
method: random
metric: {goal: minimize, name: loss}
parameters:
  learning_rate: {distribution: uniform, min: 0, max: 0.1}
  decay: {min: 0.001, max: 0.01}
  batch_size: {values: [16, 48]}
  family: {values: [cnn, rnn]}
  model: {values: [a, b]}
"""
BAYES = """\
project: notes
entity: somebody
controller: {type: local}
method: bayes
metric: {goal: minimize, name: validation_loss, impute: worst, impute_while_running: latest}
run_cap: 25
early_terminate: {type: hyperband, s: 2, eta: 3, max_iter: 27, strict: true}
parameters:
  optimizer:
    parameters:
      optimizer: {values: [adam, sgd]}
      momentum: {distribution: beta, a: 9, b: 1}
  layers: {distribution: int_uniform, min: 1, max: 4}
  ctx_dim: {distribution: q_uniform, min: 16, max: 64, q: 16}
"""


def parse(text, *overrides):
    warnings = []
    return parse_spec(parse_yaml(text, "x"), overrides, warnings), [line.removeprefix("x:") for line in warnings]


def test_a_grid():
    spec, warnings = parse(GRID)
    assert {path: p.choices for path, p in spec.searched.items()} == {
        "training.lr": [0.02, 0.002],
        "training.batch_size": [16, 48],
    }
    assert (spec.training.epochs, spec.corpus.vocab_size) == (7, 300)
    assert warnings == [
        "1: `program` is ignored: the program is tune_newllm",
        "4: `lr` is read as `training.lr`",
        "5: `batch_size` is read as `training.batch_size`",
        "6: `epochs` is read as `training.epochs`",
        "7: `vocab_size` is read as `corpus.vocab_size`",
        "8: `fc_layer_size` is ignored: it names nothing here, or more than one thing",
    ]


def test_a_random_search():
    spec, warnings = parse(RANDOM)
    assert spec.training.epochs == 9
    assert list(spec.searched) == ["training.lr", "training.batch_size", "model.dropout", "training.weight_decay"]
    assert spec.searched["training.lr"].low == pytest.approx(1.0104e-4, rel=1e-4)
    assert spec.searched["model.dropout"].from_unit(0.7) == 0.15
    assert (spec.metric.name, spec.metric.goal, spec.training.seed) == ("val_loss", "minimize", 0)
    told = "\n".join(warnings)
    for line in (
        "5: `metric.target` is ignored",
        "2: `command` is ignored",
        "3: `name` is ignored: --name gives the sweep its name",
        "5: `metric` is replaced: trials are judged by their lowest val_loss, not 'accuracy' (maximize)",
        "7: epochs are not searched: every trial may run the largest number, 9",
        "12: `training.seed` is ignored, since it cannot be searched",
    ):
        assert line in told
    assert parse(spec.to_yaml()) == (spec, [])


def test_a_model_based_search_that_stops_early():
    spec, warnings = parse(BAYES)
    assert list(spec.searched) == ["training.optimizer", "training.beta1", "model.num_layers", "model.ctx_dim"]
    assert spec.early_terminate.rungs(27) == [3, 9]
    assert spec.searched["model.ctx_dim"].choices == [16, 32, 48, 64]
    told = "\n".join(warnings)
    for key in ("project", "entity", "controller", "metric.impute", "metric.impute_while_running", "strict"):
        assert f"{key}` is ignored" in told
    assert "12: `optimizer.momentum` is read as `training.beta1`" in told


def test_a_file_of_bare_names_without_a_program():
    spec, warnings = parse(SNIPPET)
    assert list(spec.searched) == ["training.lr", "training.weight_decay", "training.batch_size"]
    assert (spec.searched["training.lr"].low, spec.model.family) == (0, "context_vector")
    assert [line for line in warnings if "names nothing here" in line] == [
        f"{line}: `{name}` is ignored: it names nothing here, or more than one thing"
        for line, name in ((7, "family"), (8, "model"))
    ]


def test_names_are_understood_wherever_parameters_are_named():
    text = SNIPPET.replace("0.01}", "0.01, when: {batch_size: 16}}") + (
        "points: [{learning_rate: 0.05, batch_size: 16, decay: 0.002, family: cnn}]\n"
        "balanced: batch_size\nearly_terminate: {min_iter: 2, within: batch_size}\nname: first\n"
    )
    spec, _ = parse(text)
    assert spec.points == [{"training.lr": 0.05, "training.batch_size": 16, "training.weight_decay": 0.002}]
    assert spec.balanced == spec.early_terminate.within == "training.batch_size"
    assert not spec.is_active("training.weight_decay", {"training.batch_size": 48})
    fixed, _ = parse(text, "batch_size=48", "epochs=7", "parameters.learning_rate.max=0.2")
    assert (fixed.training.batch_size, fixed.training.epochs) == (48, 7)
    assert (list(fixed.searched), fixed.searched["training.lr"].high) == (["training.lr", "training.weight_decay"], 0.2)
    with pytest.raises(SpecError, match=r"x:9: `training.lr` = 5 lies outside"):
        parse(text.replace("learning_rate: 0.05", "learning_rate: 5"))


@pytest.mark.parametrize(
    ("text", "old", "new", "line", "words"),
    [
        (BAYES, "[adam, sgd]", "[adam, rmsprop]", 11, "`training.optimizer`: must be .*, got 'rmsprop'"),
        (GRID, "[16, 48]", "[16.5, 48]", 5, "`training.batch_size`: must be a valid integer, got 16.5"),
        (GRID, "vocab_size: {value: 300}", "vocab_size: {values: [300, 900]}", 7, "`corpus.vocab_size` cannot be sea"),
        (GRID, "epochs: {value: 7}", "epochs: {value: many}", 6, "`training.epochs`: must be a valid integer"),
        (GRID, "epochs: {value: 7}", "epochs: {values: []}", 6, "`values` must be one or more"),
        (RANDOM, "min: -9.2, max: -3.4", "min: 0.0001, max: 0.03", 8, "look like values"),
        (GRID, "program: fit.py", "seeds: 3", 4, "`lr` is no path of the configuration; did you mean `training.lr`"),
        (GRID, "  lr:", "  training.lrr:", 4, "`training.lrr` is no path .*; did you mean `training.lr`"),
        (GRID, "  lr:", "  net.depth:", 4, "`net.depth` is no path of the configuration"),
        ("name: a\nparameters: {training.lr: {value: 1}}", "1}", "2}", 1, "`name`: is no known key"),
        ("program: a\nparameters: {fc: {value: 1}, seed: {values: [1, 2]}}", "1}", "2}", 2, "none of the parameters"),
        (BAYES, "max_iter: 27", "max_iter: 27, strikt: 1", 7, "`early_terminate.strikt`: is no known key"),
    ],
)
def test_what_has_no_meaning_here_is_still_refused_by_line(text, old, new, line, words):
    assert old in text
    with pytest.raises(SpecError, match=words) as caught:
        parse(text.replace(old, new, 1))
    assert str(caught.value).startswith(f"x:{line}:")


def test_two_names_of_one_path_are_not_both_taken():
    spec, _ = parse("program: p\nparameters: {lr: {value: 0.1}, training.lr: {value: 0.5}}")
    assert spec.configuration().training.lr == 0.5
    spec, warnings = parse("program: p\nparameters: {lr: {value: 0.5}, learning_rate: {value: 0.1}}")
    assert spec.configuration().training.lr == 0.5
    assert "2: `learning_rate` is ignored: `training.lr` is given by another name" in warnings
