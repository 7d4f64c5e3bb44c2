"""The commands about a trial: whether they give the command line what the trial was, whatever its values are."""

import dataclasses
import shlex
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from sweep_folders import Driver, Trial, write_files

import analysis
from analysis import Sweep
from analysis.commands import word, written
from analysis.listing import Listing, listing
from tune_newllm import records
from tune_newllm.cli.main import commands
from tune_newllm.sweep.loading import load_spec, parse_spec
from tune_newllm.sweep.source import parse_value, parse_yaml

SPEC = """\
corpus: {name: toy, vocab_size: 100, window: 16, max_samples: 200}
model: {embed_dim: 16, hidden_dim: 32, ctx_dim: 16, num_layers: 1}
training: {epochs: 3, device: cpu, precision: fp32, micro_batch: 16}
parameters:
  training.lr: {distribution: log_uniform_values, min: 1e-5, max: 3e-2}
  training.batch_size: {values: [8, 16]}
  training.clip.schedule: {values: [none, constant, linear, piecewise]}
  training.clip.norm:
    {distribution: log_uniform_values, min: 0.1, max: 10, when: {training.clip.schedule: [constant, linear]}}
  training.clip.table: {values: [[[0, 0.5], [2, 1.0]], [[0, 1], [1, 3]]], when: {training.clip.schedule: piecewise}}
  training.clip.until: {value: 2, when: {training.clip.schedule: linear}}
  training.lr_schedule: {values: [constant, {name: cosine, warmup: 0.1}]}
  training.weight_decay: {value: 0.01}
  model.tied: {values: [true, false]}
  model.init: {values: [orthogonal, he]}
seeds: 2
early_terminate: {type: asha, min_iter: 1, eta: 2, within: training.batch_size}
balanced: training.batch_size
"""

BASE = {"training.lr": 1.25e-5, "training.batch_size": 8, "model.tied": False, "model.init": "he"}
VALUES: list[dict[str, Any]] = [
    {**BASE, "training.clip.schedule": "none", "training.lr_schedule": "constant"},
    {
        **{**BASE, "training.lr": 0.02, "training.clip.schedule": "constant", "training.clip.norm": 2.0},
        "training.lr_schedule": {"name": "cosine", "warmup": 0.1},
    },
    {**BASE, "training.clip.schedule": "linear", "training.clip.norm": 0.3, "training.lr_schedule": "constant"},
    {
        **{**BASE, "training.clip.schedule": "piecewise", "training.clip.table": [[0, 0.5], [2, 1.0]]},
        **{"training.lr_schedule": {"name": "cosine", "warmup": 0.1}, "model.tied": True},
    },
]


@pytest.fixture
def sweep(tmp_path: Path) -> Sweep:
    """In a folder whose name a shell would take apart; its epochs were raised from 3 to 5."""
    driver = Driver()
    driver.write(records.SweepStarted, command=["search"])
    for number, values in enumerate(VALUES):
        for seed in (0, 1):
            driver.trial(number, Trial(values, [5.0 - number], created={"replicate": seed, "seed": seed}))
    driver.write(records.SweepExtended, run_cap=4, epochs=5, continued=[])
    folder = write_files(tmp_path / "it's a sweep", driver)
    (folder / "sweep.yaml").write_text(parse_spec(parse_yaml(SPEC, "spec")).to_yaml())
    return analysis.load(folder)


def command(found: Listing, which: int, row: int) -> list[str]:
    """The words of a command as a shell takes the page's text."""
    text = ""
    for piece in found.commands[which][1]:
        if isinstance(piece, str):
            text += piece
        else:
            column = found.columns[piece]
            value = column.words[column.at[row]]
            text += column.option + value if value else ""
    return shlex.split(text)


def test_training_again_is_the_same_training(sweep: Sweep) -> None:
    found = listing(sweep)
    spec = load_spec(sweep.folder / "sweep.yaml")
    for row in range(8):
        words = command(found, 1, row)
        assert words[:5] == ["python", "-m", "tune_newllm", "train", str(sweep.folder / "sweep.yaml")]
        given = [value for option, value in pairwise(words) if option == "--set"]
        again = load_spec(Path(words[4]), given).unsearched
        wanted = spec.configuration(VALUES[row // 2])
        training = dataclasses.replace(wanted.training, seed=row % 2, epochs=5)
        assert again == dataclasses.replace(wanted, training=training), words
        assert words[-2:] == ["--to", f"runs/it's a sweep-t000{row // 2}-{row % 2}"]


def test_the_command_line_takes_it(sweep: Sweep) -> None:
    result = CliRunner().invoke(commands, [*command(listing(sweep), 1, 6)[3:], "--dry-run"])
    assert result.exit_code == 0, result.output
    assert "steps_per_epoch" in result.output


def test_export_is_the_same_command_everywhere(sweep: Sweep) -> None:
    assert command(listing(sweep), 0, 3) == shlex.split(analysis.words.export_command(sweep.folder, "t0001-1"))


def test_weights_that_are_there(sweep: Sweep) -> None:
    assert listing(sweep).kept is None, "only the records were copied"
    (sweep.folder / "trials" / "t0001-0").mkdir(parents=True)
    (sweep.folder / "trials" / "t0001-0" / "model.safetensors").touch()
    assert listing(sweep).kept == [0, 0, 1, 0, 0, 0, 0, 0]


def test_rows_by_loss_and_settings_as_tables_show_them(sweep: Sweep) -> None:
    found = listing(sweep)
    assert found.order == [6, 7, 4, 5, 2, 3, 0, 1]
    columns = {column.head: [column.texts[at] for at in column.at] for column in found.columns if column.head}
    assert list(columns)[:5] == ["trial", "state", "val loss", "perplexity", "epochs"]
    assert columns["clip norm"] == ["", "", "2", "2", "0.3", "0.3", "", ""]
    assert columns["tied embedding"] == ["false"] * 6 + ["true"] * 2
    assert columns["lr schedule"][1:3] == ["constant", "cosine, warmup 0.1"]


ODD = ["none", "null", "True", "8", "1e-4", ".inf", "~", "a: b", "[1", "- x", "#", "'", '"', "", "2026-11-26", "a\\b"]


@given(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(2**53), 2**53),
        st.floats(allow_nan=False, allow_infinity=False),
        # A sweep file holds no control characters, and tables hold lists and mappings as such texts.
        st.text(st.characters(exclude_categories=["C"])).filter(lambda text: text[:1] not in ("{", "[")),
        st.sampled_from(ODD),
    )
)
def test_a_value_is_read_as_it_was(value: Any) -> None:
    (text,) = shlex.split(word(value))
    assert text == written(value)
    found = parse_value(text)
    assert found == value
    assert type(found) is type(value) or (isinstance(value, float) and value.is_integer())
