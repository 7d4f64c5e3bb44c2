"""`train` under a name, with more epochs and with presets, as a user meets it."""

import importlib.util
import json
import shlex
import sys
from pathlib import Path

import pytest

from tune_newllm.artifacts.checkpoint import read_configuration
from tune_newllm.cli.main import main
from tune_newllm.models import build
from tune_newllm.training import memory
from tune_newllm.training.state import TrainState

TINY = """\
corpus: {name: toy, vocab_size: 100, window: 16}
model: {embed_dim: 8, hidden_dim: 16, ctx_dim: 8, num_layers: 1}
training: {epochs: 2, precision: fp32, device: cpu, batch_size: 64, lr: 1e-2, lr_schedule: cosine}
parameters:
  training.batch_size: {values: [8, 16]}
"""
NAME = "new_llm_toy_ctx8_layers1_hidden16_embed8"


@pytest.fixture
def call(capsys, monkeypatch, tmp_path):
    """Run a command in this process and an empty folder that has tiny.yaml: (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)
    Path("tiny.yaml").write_text(TINY)

    def run_here(*args):
        monkeypatch.setattr(sys, "argv", ["tune_newllm", *map(str, args)])
        with pytest.raises(SystemExit) as ended:
            main()
        out = capsys.readouterr()
        return ended.value.code, out.out, out.err

    return run_here


def test_an_experiment_under_a_name_from_training_to_evaluation(call, monkeypatch):
    code, out, _ = call("train", "tiny.yaml", "--name", "auto")
    assert code == 0
    folder = Path("runs") / NAME
    assert f"best      {folder}/best_{NAME}\n" in out
    kept = {path.name for path in folder.iterdir() if path.name.startswith(("best", NAME))}
    assert kept == {
        *(f"best_{NAME}", f"{NAME}_epoch_2", f"{NAME}_final", f"{NAME}_progress.json"),
        *(f"{NAME}_training_curves.html", f"{NAME}_training_curves.png"),
    }
    assert call("evaluate", folder / f"best_{NAME}", "--split", "validation")[0] == 0
    assert f"--int8 --to runs/{NAME}_int8" in out
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: name != "matplotlib" and found(name, *rest))
    code, out, err = call("train", "tiny.yaml", "--name", "again", "--json")
    assert "pip install 'tune-newllm[curves]'" in err
    assert json.loads(out)["best"] == "runs/again/best_again"
    assert not list(Path("runs/again").glob("*.png"))
    code, _, err = call("train", "tiny.yaml", "--name", "a/b")
    assert code == 2
    assert "a/b" in err


def test_more_epochs_with_the_schedule_as_it_was_or_with_another_by_choice(call):
    train = ("train", "tiny.yaml", "--to", "run")
    code, _, err = call(*train, "--new-schedule")
    assert (code, Path("run").exists()) == (2, False)
    assert "run holds none" in err
    assert call(*train)[0] == 0
    err = call(*train)[2]
    assert "all 2 epochs are trained; --epochs 4 would give it more" in err
    err = call(*train, "--epochs", "3")[2]
    assert "its learning rate has fallen to 0" in err
    assert "lr 0  " in err
    code, _, err = call(*train, "--epochs", "5", "--set", "training.lr=2e-3")
    assert code == 2
    assert "another training.lr: continue it as it was, add --new-schedule to go on with that from here" in err
    again = (*train, "--epochs", "5", "--set", "training.lr=2e-3", "--new-schedule", "--json")
    history = json.loads(call(*again)[1])["history"]
    assert [row["epoch"] for row in history] == [1, 2, 3, 4, 5]
    assert history[2]["lr"] == 0 < history[4]["lr"] < history[3]["lr"] < 2e-3
    written = json.loads(Path("run/configuration.json").read_text())["training"]
    assert (written["schedule_epochs"], written["lr_stages"][0]["after"], written["lr_stages"][0]["lr"]) == (2, 3, 2e-3)
    code, out, err = call(*again)
    assert (code, json.loads(out)["history"]) == (0, history)
    code, _, err = call(*train, "--epochs", "6", "--set", "training.batch_size=32", "--new-schedule")
    assert code == 2
    assert "another training.batch_size: continue it as it was or" in err


def rewrite(path, **training):
    content = json.loads(Path(path).read_text())
    content["training"] |= training
    Path(path).write_text(json.dumps(content))


def test_a_run_keeps_the_most_epochs_it_was_given_and_never_has_fewer_than_are_trained(call):
    train, file = ("train", "tiny.yaml", "--to", "run"), "run/configuration.json"
    assert call(*train)[0] == 0
    # As a run leaves it that was given more, and killed before the first of them.
    rewrite(file, epochs=4, schedule_epochs=2)
    _, out, err = call(*train, "--json")
    assert len(json.loads(out)["history"]) == 4
    assert "run keeps the 4 epochs it was given; the file has 2" in err
    assert "all 4 epochs are trained" in call(*train, "--epochs", "3")[2]
    assert json.loads(Path(file).read_text())["training"]["epochs"] == 4


def test_a_run_goes_on_on_the_device_that_is_there(call):
    train, file = ("train", "tiny.yaml", "--to", "run", "--epochs"), "run/configuration.json"
    assert call(*train, "1")[0] == 0
    for epochs, device in (("2", "auto"), ("3", "cpu")):
        rewrite(file, device="cuda:9", micro_batch=4096)
        code, _, err = call(*train, epochs, "--set", f"training.device={device}", "--set", "training.micro_batch=32")
        assert (code, "run was begun on cuda:9 and goes on on cpu" in err) == (0, True)
        written = json.loads(Path(file).read_text())["training"]
        assert (written["device"], written["micro_batch"]) == ("cpu", 32)
        assert TrainState.load(Path("run/state.safetensors"), *made(file)).micro_batch == 32
    rewrite(file, device="cuda:9", micro_batch=4096)
    assert call(*train, "4", "--set", "training.device=auto")[0] == 0
    assert json.loads(Path(file).read_text())["training"]["micro_batch"] == 64


def made(file):
    """The training and the model of a configuration on file."""
    configuration = read_configuration(Path(file).parent)
    return configuration.training, build(configuration.model, 12, 0)


def test_constants_of_the_parameters_are_trained_under_their_conditions(call):
    constants = "model.hidden_dim: {value: 32, when: {model.num_layers: 2}}"
    Path("tiny.yaml").write_text(TINY + f"  {constants}\n  model.num_layers: {{values: [1, 2]}}\n")
    plain, wide = (
        json.loads(call("train", "tiny.yaml", "--dry-run", "--json", "--set", f"model.num_layers={n}")[1])["parameters"]
        for n in (1, 2)
    )
    # 12 words: 12*8, then layers of 16 or of 32, then three of 8 and a norm.
    assert plain == 12 * 8 + 17 * 16 + 17 * 12 + 3 * 17 * 8 + 16
    assert wide == 12 * 8 + 17 * 32 + 33 * 32 + 33 * 12 + 3 * 33 * 8 + 16


def test_a_preset_is_shown_without_its_gpu_and_refused_without_it(call):
    own = ("--set", "training.precision=fp32")
    anywhere = ("--set", "training.device=auto")
    code, out, err = call("train", "tiny.yaml", "--preset", "l4", "--dry-run", "--json", *anywhere)
    facts = json.loads(out)
    assert (code, facts["batch_size"], facts["precision"]) == (0, 2048, "bf16")
    # The file has 1e-2 at batch 64.
    assert facts["learning_rate"] == pytest.approx(1e-2 * (2048 / 64) ** 0.5)
    assert (
        "preset l4: batch size 2,048, precision bf16, learning rate 0.0566 (lr 0.00707 at batch 32, by lr_rule" in err
    )
    assert "warning: preset l4: batch size 2,048 makes 2 steps an epoch of the 2,340 windows here" in err
    assert "--set training.batch_size=64 makes 37" in err
    code, _, err = call("train", "tiny.yaml", "--preset", "l4", *anywhere)
    assert code == 2
    assert "--dry-run shows what it would choose" in err
    # The file's `device: cpu` has this machine's memory decide; a search keeps what it searches.
    assert call("train", "tiny.yaml", "--preset", "rtx3060", "--to", "run", "--epochs", "1", *own)[0] == 0
    # Begun with it, a run keeps what a preset would now choose otherwise.
    assert call("train", "tiny.yaml", "--preset", "t4", "--to", "run", "--epochs", "2", *own)[0] == 0
    written = json.loads(Path("run/configuration.json").read_text())["training"]
    assert (written["batch_size"], written["epochs"]) == (256, 2)
    plan = json.loads(call("search", "tiny.yaml", "--preset", "t4", "--dry-run", "--json", "--set", "run_cap=1")[1])
    assert "training.batch_size" in plan["spec"]["parameters"]
    assert plan["spec"]["training"]["lr_rule"] == "sqrt"


def test_the_command_of_a_trainings_record_goes_on_with_it(call):
    lower = ("--set", "training.lr=5e-3")
    assert call("train", "tiny.yaml", *lower, "--epochs", "3", "--to", "my run")[0] == 0
    facts = json.loads(Path("my run/provenance.json").read_text())
    assert facts["data"]["stats"]["validation"]["unigram_ppl"] > 1
    assert {"created", "versions", "code", "hardware"} <= facts.keys()
    assert call("report", "my run", "--markdown", "r.md")[0] == 0
    line = next(line for line in Path("r.md").read_text().splitlines() if line.startswith("python -m"))
    words = shlex.split(line)[3:]
    assert words[-5:] == ["--epochs", "6", "--new-schedule", "--to", "my run"]
    code, out, _ = call(*words, "--json")
    assert code == 0
    assert json.loads(out)["history"][3]["lr"] > 1e-3
    # It says how it was begun.
    assert json.loads(Path("my run/provenance.json").read_text()) == facts


def test_a_preset_names_both_rules_and_what_is_trained_with(call):
    own = ("--set", "training.device=auto", "--set", "training.precision=auto")
    both = ("--set", "training.lr_rule=sqrt", "--set", "training.lr_size_rule=original")
    shown = ("train", "tiny.yaml", "--preset", "t4", "--dry-run")
    err = call(*shown, *own, *both)[2]
    assert "(lr 0.01 at batch 32 and 2,739,432 parameters, by lr_rule sqrt and lr_size_rule original)" in err
    err = call(*shown, *own, *both, "--set", "training.lr_rule=none")[2]
    assert "(lr 0.01 at 2,739,432 parameters, by lr_size_rule original)" in err
    # The processor computes as the file says, not as the GPU would.
    err = call(*shown, "--set", "training.batch_size=32", "--set", "training.precision=auto")[2]
    assert "precision auto, " in err
    assert "warning" not in err


def test_a_preset_gives_the_name_no_precision(call, monkeypatch):
    named = []
    monkeypatch.setattr("tune_newllm.cli.training.follow", lambda run, name, as_json: named.append(name))
    # As on its GPU: what a preset sets besides does not matter here.
    monkeypatch.setattr(
        "tune_newllm.cli.training.preset_settings", lambda *given, search: {"training.precision": "bf16"}
    )
    train = ("train", "tiny.yaml", "--name", "auto", "--to", "run")
    assert call(*train, "--preset", "l4")[0] == 0
    monkeypatch.setattr("tune_newllm.cli.training.preset_settings", lambda *given, search: {})
    assert call(*train, "--preset", "l4", "--set", "training.precision=bf16")[0] == 0
    assert named == [NAME, f"{NAME}_bf16"]


def test_a_preset_of_a_search_fits_the_largest_model_and_leaves_what_is_searched(call, monkeypatch):
    measured = []
    real = memory.measure_step
    monkeypatch.setattr(memory, "measure_step", lambda *given: measured.append(given[0].model) or real(*given))
    sizes = "{model.ctx_dim: {values: [8, 32, 16]}, training.lr: {min: 1e-3, max: 1e-2}}"
    search = ("search", "tiny.yaml", "--preset", "t4", "--dry-run", "--json", "--set", "run_cap=1")
    code, out, err = call(*search, "--set", f"parameters={sizes}")
    assert (code, measured[0].ctx_dim) == (0, 32)
    assert "preset t4: batch size 512, precision fp32\npreset t4: a step of the largest configuration needs" in err
    assert "training.lr" in json.loads(out)["spec"]["parameters"]
