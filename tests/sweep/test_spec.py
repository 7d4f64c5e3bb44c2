"""What the sweep file accepts, means and refuses."""

import json
from pathlib import Path

import pytest

import analysis
from tune_newllm.errors import SpecError
from tune_newllm.sweep.loading import load_spec, parse_spec
from tune_newllm.sweep.source import parse_yaml
from tune_newllm.sweep.spec import EarlyTerminate
from tune_newllm.sweep.tree import paths
from tune_newllm.training.config import ClipConfig, EarlyStoppingConfig, LRScheduleConfig

FILES = sorted((Path(__file__).parents[2] / "search_spaces").glob("*.yaml"))

EXAMPLE = """\
description: learning rate and batch size
corpus: {name: python-docs, vocab_size: 1000, window: 32, windowing: complete}
model: {family: context_vector, embed_dim: 64, hidden_dim: 128, ctx_dim: 64, num_layers: 2}
training:
  epochs: 8
  lr_schedule: {name: cosine, warmup: 0.05, final: 0.1}
  clip: {schedule: constant, norm: 1.0}
  early_stopping: none
method: bayes
metric: {name: val_loss, goal: minimize}
parameters:
  training.lr: {distribution: log_uniform_values, min: 1e-4, max: 3e-2}
  training.batch_size: {values: [8, 16, 32]}
points: [{training.lr: 1e-3, training.batch_size: 32}]
balanced: training.batch_size
early_terminate: {type: hyperband, min_iter: 4, eta: 2, within: training.batch_size}
run_cap: 40
resources: {cpus_per_trial: 1, gpus_per_trial: auto, max_concurrent: auto, address: local}
"""


@pytest.fixture
def example(tmp_path):
    path = tmp_path / "example.yaml"
    path.write_text(EXAMPLE)
    return path


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_shipped_file_is_valid_and_opens_with_a_comment(path):
    assert load_spec(path).searched
    assert path.read_text().startswith("# ")


def test_values_are_read_as_yaml_1_2_and_shorthands_expand(example):
    spec = load_spec(example)
    assert spec.searched["training.lr"].low == 1e-4
    assert spec.training.lr_schedule == LRScheduleConfig("cosine", 0.05, 0.1)
    assert spec.training.early_stopping is None
    assert parse_spec(parse_yaml("training: {clip: original}", "x")).training.clip == ClipConfig("original")
    assert parse_spec(parse_yaml("training: {clip: null}", "x")).training.clip == ClipConfig("none")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_the_resolved_file_reads_back_as_the_same_sweep(path, tmp_path):
    spec = load_spec(path)
    (tmp_path / "again.yaml").write_text(spec.to_yaml())
    assert load_spec(tmp_path / "again.yaml") == spec


def test_a_configuration_holds_the_suggested_values(example):
    spec = load_spec(example, ["parameters.training.clip={values: [none, original]}", "model.dropout=0.3"])
    made = spec.configuration({"training.lr": 0.01, "training.batch_size": 8, "training.clip": "original"})
    assert (made.training.lr, made.training.batch_size, made.model.dropout) == (0.01, 8, 0.3)
    assert made.training.clip == ClipConfig("original")
    inner = spec.configuration({"training.clip.norm": 0.5})
    assert inner.training.clip == ClipConfig("constant", 0.5)


def test_constants_of_the_search_go_into_every_configuration():
    spec = parse_spec(parse_yaml("parameters: {training.lr: {value: 0.5}, model.ctx_dim: {values: [8, 16]}}", "x"))
    assert list(spec.searched) == ["model.ctx_dim"]
    assert spec.configuration({"model.ctx_dim": 8}).training.lr == 0.5


def test_set_on_a_searched_key_fixes_it_and_what_hung_on_it(example):
    spec = load_spec(example, ["training.batch_size=16"])
    assert list(spec.searched) == ["training.lr"]
    assert spec.training.batch_size == 16
    assert (spec.balanced, spec.early_terminate.within) == (None, None)
    assert spec.points == [{"training.lr": 1e-3}]


@pytest.mark.parametrize(
    ("rule", "epochs", "rungs"),
    [
        ({"min_iter": 4, "eta": 2}, 8, [4]),
        ({"min_iter": 1, "eta": 3}, 27, [1, 3, 9]),
        ({"min_iter": 1, "eta": 3}, 28, [1, 3, 9, 27]),
        ({"max_iter": 27, "s": 2, "eta": 3}, 27, [3, 9]),
        ({"max_iter": 27, "s": 5, "eta": 3}, 27, [1, 3, 9]),
        ({"min_iter": 2, "eta": 1.5}, 8, [2, 3, 5, 7]),
        ({"min_iter": 9, "eta": 2}, 8, []),
        ({"min_iter": 1, "eta": 1.3}, 8, [1, 2, 3, 4, 5, 7]),
    ],
)
def test_rungs_follow_the_bands_of_wandb(rule, epochs, rungs):
    assert EarlyTerminate(**rule).rungs(epochs) == rungs
    assert analysis.rung_epochs({"early_terminate": rule, "training": {"epochs": epochs}}) == rungs


@pytest.mark.parametrize(
    ("old", "new", "line", "words"),
    [
        ("epochs: 8", "epohs: 8", 5, "training.epohs.*no known key.*`epochs`"),
        ("epochs: 8", "epochs: 0", 5, "`training.epochs`: must be .*, got 0"),
        ("epochs: 8", "epochs: 2.5", 5, "`training.epochs`: must be a valid integer"),
        ("epochs: 8", "epochs: '8'", 5, "`training.epochs`: must be a valid integer, got '8'"),
        ("windowing: complete", "windowing: stream", 2,
         "`corpus.windowing`: stream is for model.family fixed_point, .* got context_vector: take windowing complete"),
        ("epochs: 8", "new_words: 8", 5, "`training.new_words`: must be 0 without training.start, got 8"),
        ("  training.lr: {dis", "  training.start: {values: [a, b]}\n  training.lr: {dis", 12,
         "`training.start` cannot be searched: its words number the corpus"),
        ("num_layers: 2", "tied: 1", 3, "`model.tied`: must be a valid boolean, got 1"),
        ("model: {family: context_vector, embed_dim: 64, hidden_dim: 128, ctx_dim: 64, num_layers: 2}", "model: 3", 3,
         "`model`: must be a mapping of keys to values, got 3"),
        ("[8, 16, 32]", "['8', 16, 32]", 13, "batch_size.*must be a valid integer, got '8'"),
        ("{values: [8, 16, 32]}", "{distribution: uniform, min: 8, max: 32}", 13, "must be a valid integer, got 17.84"),
        ("{values: [8, 16, 32]}", "{distribution: normal, mu: 8}", 13, "batch_size.*must be a valid integer"),
        ("{values: [8, 16, 32]}", "{min: null, max: 3}", 13, "`min` must have a value"),
        ("  training.batch_size:", "  batch_size:", 13, "`batch_size` is no path.*`training.batch_size`"),
        ("  training.batch_size:", "  learning_rate:", 13, "`learning_rate` is no path.*`training.lr`"),
        ("points: [{training.lr: 1e-3, training.batch_size: 32}]", "points: [{training.batch_size: 16.5}]", 14,
         "outside its searched range"),
        ("  training.lr:", "  training.lrr:", 12, "`training.lrr` is no path.*`training.lr`"),
        ("min: 1e-4", "min: 1", 12, "`min` < `max` must hold, got min 1, max 0.03"),
        ("min: 1e-4", "min: -1", 12, "`min` > 0"),
        ("[8, 16, 32]", "[0, 16, 32]", 13, "batch_size.*must be .*, got 0"),
        ("  training.batch_size:", "  training.epochs:", 13, "cannot be searched: it is the fidelity"),
        ("  training.batch_size:", "  corpus.window:", 13, "cannot be searched"),
        ("method: bayes", "Method: bayes", 9, "`Method`: is no known key; did you mean `method`"),
        ("method: bayes", "3: bayes", 9, "`3`: is no known key"),
        ("epochs: 8", "Epochs: 8", 5, "`training.Epochs`: is no known key; did you mean `epochs`"),
        ("min: 1e-4", "Min: 1e-4", 12, "`parameters.training.lr.Min`: is no known key; did you mean `min`"),
        ("  training.lr: {distribution: log_uniform_values,", "  List: {value: 1, Min: 1,", 12,
         "`parameters.List.Min`: is no known key"),
        ("name: python-docs", "name: wikitext2", 2, "`corpus.name`: there is no corpus .* mean wikitext-2"),
        ("name: python-docs", "name: hf:wikitext2", 2, "`corpus.name` must be hf:OWNER/NAME .* mean `wikitext-2`"),
        ("method: bayes", "method: byes", 9, "did you mean `bayes`"),
        ("method: bayes", "method: grid", 9, "`training.lr` is continuous"),
        ("run_cap: 40", "budget: {}", 17, "`budget` needs one or more of `wall`"),
        ("run_cap: 40", "budget: {wall: 2 weeks}", 17, "`budget.wall`: must be .* a duration .*, got '2 weeks'"),
        ("run_cap: 40", "budget: {wall: 0s}", 17, "`budget.wall`: must be greater than 0, got 0"),
        ("run_cap: 40", "budget: {hours: 2}", 17, "`budget.hours`: is no known key.*`device_hours`"),
        ("run_cap: 40", "seeds: 0", 17, "`seeds`: must be greater than or equal to 1, got 0"),
        ("run_cap: 40", "runcap: 40", 17, "`runcap`.*`run_cap`"),
        ("balanced: training.batch_size", "balanced: training.lr", 15, "finitely many"),
        ("  training.batch_size: {", "  corpus.max_samples: {distribution: log_normal}\n  training.batch_size: {", 13,
         "`corpus.max_samples` needs a largest value"),
        ("balanced: training.batch_size", "balanced: batch_size", 15, "is not searched"),
        ("training.lr: 1e-3, ", "training.lr: 1, ", 14, "outside its searched range"),
        ("goal: minimize", "goal: maximize", 10, "must be 'minimize'"),
        ("max_concurrent: auto", "max_concurrent: none", 18, "must be .* or 'auto', got 'none'"),
        ("name: python-docs", "name: text", 2, "`corpus`: the corpus text needs train and validation"),
        ("norm: 1.0", "norm: 0", 7, "`training.clip.norm`: must be .*, got 0"),
        ("epochs: 8", "epochs: [8", 6, "not valid YAML"),
    ],
)  # fmt: skip
def test_mistakes_are_refused_with_file_line_key_and_rule(example, old, new, line, words):
    assert old in EXAMPLE
    example.write_text(EXAMPLE.replace(old, new, 1))
    with pytest.raises(SpecError, match=words) as caught:
        load_spec(example)
    assert str(caught.value).startswith(f"{example}:{line}:")


def test_missing_files_and_files_that_are_no_mapping_are_refused(tmp_path):
    with pytest.raises(SpecError, match="no such sweep file"):
        load_spec(tmp_path / "absent.yaml")
    for text, got in (("- 1\n", "a list"), ("# nothing\n", "nothing"), ("word", "'word'")):
        (tmp_path / "odd.yaml").write_text(text)
        with pytest.raises(SpecError, match=f"a mapping of keys to values, got {got}$"):
            load_spec(tmp_path / "odd.yaml")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("nonsense", "--set takes key=value"),
        ("=3", "--set takes key=value"),
        ("training.lr.deep=3", "--set .*`training.lr` stands in `parameters`"),
        ("training.epochs.deep=3", "--set .*holds 8, which has no keys"),
        ("training.lr=[", "--set"),
        ("model.size=3", "`model.size`: is no known key"),
        ("training.LR=1", "`training.LR`: is no known key; did you mean `lr`"),
    ],
)
def test_impossible_overrides_are_refused(example, text, words):
    with pytest.raises(SpecError, match=words):
        load_spec(example, [text])


def test_set_reaches_every_path_and_single_keys_of_a_parameter(example):
    spec = load_spec(example)
    tree = spec.configuration().to_dict()
    settings = []
    for path in paths():
        value = tree
        for key in path.split("."):
            value = None if value is None else value[key]
        if path not in spec.searched and path != "training.early_stopping.patience" and value is not None:
            settings.append(f"{path}={json.dumps(value)}")
    assert len(settings) > 20
    assert load_spec(example, settings).configuration() == spec.configuration()
    changed = load_spec(example, ["parameters.training.lr.max=0.5", "parameters.model.ctx_dim={values: [8, 16]}"])
    assert (changed.searched["training.lr"].low, changed.searched["training.lr"].high) == (1e-4, 0.5)
    assert list(changed.searched) == ["training.lr", "training.batch_size", "model.ctx_dim"]


def test_merge_keys_and_odd_shapes_are_read_or_refused_but_never_crash(example):
    merged = "base: &a {values: [8, 16]}\n"
    text = "parameters:\n  model.ctx_dim: &a {values: [8, 16]}\n  model.embed_dim: {<<: *a}\n"
    assert parse_spec(parse_yaml(text, "x")).searched["model.embed_dim"].values == [8, 16]
    with pytest.raises(SpecError, match="base"):
        parse_spec(parse_yaml(merged, "x"))
    example.write_text(EXAMPLE.replace("points: [{training.lr: 1e-3, training.batch_size: 32}]", "points: 5"))
    with pytest.raises(SpecError, match="points"):
        load_spec(example, ["training.lr=1e-3"])
    example.write_text(
        EXAMPLE.replace("training.batch_size: {values: [8, 16, 32]}", "training.precision: {values: [auto, fp32]}")
    )
    with pytest.raises(SpecError, match="`auto` is decided once"):
        load_spec(example)


def test_a_wide_integer_range_is_checked_at_its_ends(example):
    spec = load_spec(example, ["parameters.model.hidden_dim={min: 1, max: 900}"])
    assert spec.searched["model.hidden_dim"].extremes() == [1, 900]


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90), ("0.5", 0.5), ("2h", 7200), ("90m", 5400), ("1d12h", 129_600), ("1d 1.5h 3s", 91_803)],
)
def test_durations_are_seconds_or_their_usual_words(example, text, seconds):
    spec = load_spec(example, [f"budget.wall={text}", "budget.epochs=1e2", "seeds=3", "method=quasi"])
    assert (spec.budget.wall, spec.budget.epochs, spec.budget.device_hours) == (seconds, 100, None)
    again = parse_spec(parse_yaml(spec.to_yaml(), "again"))
    assert (again, again.seeds, again.method) == (spec, 3, "quasi")


def test_the_corpus_to_prepare_holds_the_most_samples_any_trial_asks_for(example):
    def widest(*overrides):
        return load_spec(example, overrides).widest_corpus.max_samples

    searched = "parameters.corpus.max_samples={values: [100, 1e4]%s}"
    assert widest("corpus.max_samples=7") == 7
    assert widest("corpus.max_samples=20000", searched % "") == 10_000
    assert widest("corpus.max_samples=20000", searched % ", when: {training.batch_size: 8}") == 20_000
    assert widest(searched.replace("1e4", "null") % "") is None


def test_nested_parameters_are_dotted_paths_on_their_own_lines(example):
    nested = """\
  training:
    parameters:
      lr: {distribution: log_uniform_values, min: 1e-4, max: 3e-2}
      clip:
        parameters:
          norm: {min: 0.5, max: 2.5}
      batch_size: {values: [8, 16, 32]}
"""
    start, end = EXAMPLE.index("  training.lr:"), EXAMPLE.index("points:")
    example.write_text(EXAMPLE[:start] + nested + EXAMPLE[end:])
    assert list(load_spec(example).searched) == ["training.lr", "training.clip.norm", "training.batch_size"]
    assert load_spec(example, ["parameters.training.clip.norm.max=9"]).searched["training.clip.norm"].high == 9
    assert load_spec(example, ["training.clip.norm=1"]).training.clip.norm == 1
    for old, new, line, words in [
        ("min: 0.5", "min: 5", 17, "`min` < `max`"),
        ("{min: 0.5, max: 2.5}", "{parameters: {}}", 17, "must be a mapping of one or more names"),
        ("norm:", "nrm:", 17, "`training.clip.nrm` is no path.*`training.clip.norm`"),
        ("      clip:\n", "      clip:\n        min: 3\n", 16, "`parameters` under `training.clip` .* got `min`"),
        ("      clip:\n", "      clip.norm: {value: 1}\n      clip:\n", 18, "`training.clip.norm` is given twice"),
    ]:
        example.write_text(EXAMPLE[:start] + nested.replace(old, new) + EXAMPLE[end:])
        with pytest.raises(SpecError, match=words) as caught:
            load_spec(example)
        assert str(caught.value).startswith(f"{example}:{line}:")


def test_a_key_inside_a_section_that_is_searched_as_a_whole_cannot_be_set(example):
    with pytest.raises(SpecError, match=r"--set .*`training.clip` stands in `parameters` as a whole"):
        load_spec(example, ["parameters.training.clip={values: [none, original]}", "training.clip.norm=2"])


def test_a_key_inside_a_section_that_is_off_turns_it_on_with_its_defaults(example):
    spec = load_spec(
        example, ["training.early_stopping.patience=3", "early_terminate=none", "early_terminate.min_iter=2"]
    )
    assert spec.training.early_stopping == EarlyStoppingConfig(patience=3)
    assert spec.early_terminate == EarlyTerminate(min_iter=2)


def test_early_termination_that_never_decides_is_a_warning(example):
    warnings = []
    example.write_text(EXAMPLE.replace("min_iter: 4", "min_iter: 8"))
    load_spec(example, (), warnings)
    assert warnings == [
        f"{example}:16: `early_terminate` stops no trial: it decides from epoch 8 on, and trials end with epoch 8"
    ]


def test_setting_a_section_fixes_what_is_searched_inside_it(example):
    spec = load_spec(example, ["parameters.training.clip.norm={min: 0.5, max: 2.5}", "training.clip=none"])
    assert list(spec.searched) == ["training.lr", "training.batch_size"]
    assert spec.training.clip == ClipConfig("none")


def test_every_key_of_the_grammar_together():
    text = """\
description: learning rate and batch size on the built-in corpus
corpus: {name: python-docs, vocab_size: 1000, window: 32, windowing: complete}
model: {family: context_vector, embed_dim: 64, hidden_dim: 128, ctx_dim: 64, num_layers: 2, dropout: 0.1, init: he}
training:
  epochs: 8
  optimizer: adam
  lr_schedule: constant
  lr_rule: none
  clip: {schedule: constant, norm: 1.0}
  early_stopping: {patience: 10, min_delta: 0.001}
  precision: auto
method: bayes
metric: {name: val_loss, goal: minimize}
parameters:
  training.lr: {distribution: log_uniform_values, min: 1e-4, max: 3e-2}
  training.batch_size: {values: [8, 16, 32, 64, 128]}
  training.clip.norm: {values: [0.5, 1.0, 2.0], when: {training.clip.schedule: constant}}
points: [{training.lr: 1e-3, training.batch_size: 32}]
balanced: training.batch_size
early_terminate: {type: asha, min_iter: 4, eta: 2, within: training.batch_size}
seeds: 1
run_cap: 40
budget: {wall: 2h, device_hours: 4, epochs: 400}
resources: {cpus_per_trial: 1, gpus_per_trial: auto, max_concurrent: auto, address: local}
"""
    warnings = []
    spec = parse_spec(parse_yaml(text, "x"), (), warnings)
    assert warnings == []
    assert spec.is_active("training.clip.norm", {})
    assert (spec.budget.wall, spec.budget.device_hours, spec.budget.epochs) == (7200, 4, 400)
    without = parse_spec(parse_yaml(text, "x"), ["training.clip.schedule=none"], warnings)
    assert not without.is_active("training.clip.norm", {})
    assert len(warnings) == 1
    assert "`training.clip.norm` never exists" in warnings[0]
