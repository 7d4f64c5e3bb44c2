"""The command line as a user meets it: the whole main job, and every mistake one clear line."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tune_newllm.cli.ending import conclude
from tune_newllm.cli.main import main
from tune_newllm.errors import TuneError
from tune_newllm.sweep.engine import Outcome

ROOT = Path(__file__).parents[2]
TINY = """\
corpus: {name: toy, vocab_size: 100, window: 16}
model: {embed_dim: 8, hidden_dim: 16, ctx_dim: 8, num_layers: 1}
training: {epochs: 2, precision: fp32, batch_size: 64, lr: 1e-2}
parameters:
  training.lr: {distribution: log_uniform_values, min: 1e-3, max: 1e-1}
early_terminate: {min_iter: 1, eta: 2}
run_cap: 3
"""


@pytest.fixture(scope="module")
def sweep_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("files") / "tiny.yaml"
    path.write_text(TINY)
    return path


def run(*args, cwd, check=0):
    command = [sys.executable, "-m", "tune_newllm", *map(str, args)]
    ended = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=300)
    assert ended.returncode == check, ended.stderr[-3000:]
    return ended


@pytest.fixture
def call(capsys, monkeypatch):
    """Run a command in this process: (exit code, stdout, stderr)."""

    def run_here(*args):
        monkeypatch.setattr(sys, "argv", ["tune_newllm", *map(str, args)])
        with pytest.raises(SystemExit) as ended:
            main()
        out = capsys.readouterr()
        return ended.value.code, out.out, out.err

    return run_here


@pytest.fixture(scope="module")
def finished(sweep_file, ray_address, tmp_path_factory):
    """A finished sweep and what the command printed."""
    root = tmp_path_factory.mktemp("root")
    ended = run("search", sweep_file, "--set", f"resources.address={ray_address}", cwd=root)
    return root / "sweeps" / "tiny", ended


def test_search_reports_exports_and_says_what_to_do_next(finished):
    sweep, ended = finished
    for name in ("report.html", "trials.csv", "summary.json", "best/model.safetensors", "best/config.json"):
        assert (sweep / name).exists()
    assert "best configuration" in ended.stdout
    assert "test" in ended.stdout
    assert "python -m tune_newllm generate sweeps/tiny/best" in ended.stdout
    events = [json.loads(line)["event"] for line in ended.stderr.splitlines()]
    assert (events[0], events[-1]) == ("sweep_started", "sweep_ended")
    assert events.count("trial_created") == events.count("trial_ended") == 3


def test_the_reading_commands_agree_on_the_best_trial(finished, call, tmp_path):
    sweep, _ = finished
    code, out, _ = call("status", sweep, "--json")
    status = json.loads(out)
    assert code == 0
    assert status["trials"]["total"] == 3
    best = status["best"][0]
    code, out, _ = call(
        "evaluate", sweep / "best", sweep / "trials" / best["trial_id"], "--split", "validation", "--json"
    )
    losses = [row["loss"] for row in json.loads(out)["scores"]]
    assert losses == pytest.approx([best["value"]] * 2, abs=1e-5)
    code, out, _ = call("evaluate", sweep / "best", "--json")
    assert json.loads(out)["scores"][0]["loss"] == pytest.approx(status["test_loss"], abs=1e-5)
    code, out, _ = call("report", sweep, "--out", tmp_path / "elsewhere")
    assert (tmp_path / "elsewhere" / "report.html").stat().st_size > 1_000_000


@pytest.fixture
def read_only(finished, tmp_path):
    """A copy of the finished sweep on a drive that takes no writes, not even root's."""
    copy = tmp_path / "drive" / "tiny"
    shutil.copytree(finished[0], copy)
    mounts = [["mount", "--bind", copy.parent, copy.parent], ["mount", "-o", "remount,bind,ro", copy.parent]]
    for command in mounts:
        done = subprocess.run(command, capture_output=True, text=True) if shutil.which("mount") else None
        if done is None or done.returncode:
            pytest.skip(f"no read-only mount can be made here: {done.stderr.strip() if done else 'no mount command'}")
    yield copy
    subprocess.run(["umount", copy.parent], check=True)


def test_a_read_only_copy_can_be_read_and_reported(read_only, call, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    code, out, err = call("status", read_only, "--json")
    assert (code, err, json.loads(out)["status"]) == (0, "", "finished")
    code, out, err = call("report", read_only)
    assert code == 0
    assert re.fullmatch(r"warning: .*/tiny cannot be written to \(.*\), so the report goes to tiny-report/\n", err)
    assert out.splitlines()[-1] == f"report: {Path('tiny-report/report.html')}"
    assert {path.name for path in Path("tiny-report").iterdir()} == {"report.html", "trials.csv", "summary.json"}
    code, _, err = call("report", read_only, "--out", read_only / "sub")
    assert (code, err.count("\n")) == (2, 1)
    assert "--out" in err


def test_generate_continues_a_prompt_and_is_repeatable(finished, call):
    sweep, _ = finished
    texts = [call("generate", sweep / "best", "--prompt", "ba de", "--tokens", "8", "--seed", "3")[1] for _ in range(2)]
    assert texts[0] == texts[1]
    assert texts[0].startswith("ba de")
    assert "<UNK>" not in texts[0]


def test_export_writes_a_named_trial_once(finished, call, tmp_path):
    sweep, _ = finished
    code, out, _ = call("export", sweep, "--trial", "t0001", "--to", tmp_path / "out", "--json")
    assert (code, json.loads(out)["folder"]) == (0, str(tmp_path / "out"))
    code, _, err = call("export", sweep, "--trial", "t0001", "--to", tmp_path / "out")
    assert (code, err.count("\n")) == (2, 1)
    code, _, err = call("export", sweep, "--trial", "t9", "--to", tmp_path / "other")
    assert code == 2
    assert "no trial 't9'" in err


def test_int8_of_a_trial_is_of_its_best_epoch_and_keeps_where_it_comes_from(finished, call, tmp_path, monkeypatch):
    sweep, _ = finished
    monkeypatch.setattr("tune_newllm.cli.checkpoints.SAME_LOSS", 1e-6)
    code, out, err = call("export", sweep, "--int8", "--to", tmp_path / "small", "--json")
    result = json.loads(out)
    assert abs(result["val_loss"] - result["int8"]["fp32_val_loss"]) > 1e-6
    assert (code, "a checkpoint was lost" in err) == (0, False)
    code, out, _ = call("export", sweep / "best", "--int8", "--to", tmp_path / "again", "--json")
    assert (code, json.loads(out)["trial_id"]) == (0, result["trial_id"])
    before, after = (json.loads((tmp_path / name / "provenance.json").read_text()) for name in ("small", "again"))
    assert before["versions"]
    assert before.items() <= after.items()
    assert "--int8" in after["export_command"]


def test_ctrl_c_stops_cleanly_and_resume_finishes(sweep_file, ray_address, tmp_path):
    command = [sys.executable, "-m", "tune_newllm", "search", str(sweep_file), "--trials", "6"]
    command += ["--set", f"resources.address={ray_address}", "--set", "training.epochs=4", "--max-concurrent", "1"]
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        lines = iter(process.stderr.readline, "")
        assert next(line for line in lines if '"event":"epoch"' in line)
        process.send_signal(signal.SIGINT)
        rest = process.stderr.read()
        assert process.wait(60) == 130, rest
    assert "python -m tune_newllm resume sweeps/tiny" in rest
    ended = run("resume", "sweeps/tiny", "--quiet", "--json", cwd=tmp_path)
    assert json.loads(ended.stdout)["trials"]["total"] == 6
    assert ended.stderr == ""


def test_a_spent_budget_ends_with_code_5_a_report_and_the_way_on(sweep_file, ray_address, call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, err = call("search", sweep_file, "-q", "--max-concurrent", "1", "--set", "budget.epochs=2")
    assert code == 5
    assert "budget spent (2 of 2 epochs)" in err
    assert "python -m tune_newllm resume sweeps/tiny --set budget.epochs=4" in err
    assert "best configuration" in out
    assert Path("sweeps/tiny/report.html").exists()
    assert Path("sweeps/tiny/best/model.safetensors").exists()
    again = call("resume", "sweeps/tiny", "-q")
    assert again == (5, "", err)
    elsewhere = call("resume", "sweeps/tiny", "-q", "--set", "resources.address=a b", "--set", "budget.epochs=1")[2]
    assert elsewhere.endswith("resume sweeps/tiny --set 'resources.address=a b' --set budget.epochs=4\n")


def test_dry_run_shows_the_plan_and_writes_nothing(sweep_file, call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, _ = call("search", sweep_file, "--dry-run", "--json")
    plan = json.loads(out)
    assert code == 0
    assert len(plan["samples"]) == 3
    assert all(1e-3 <= sample["training.lr"] <= 1e-1 for sample in plan["samples"])
    assert plan["rungs"] == [{"epoch": 1, "share": 0.5}]
    assert plan["cost"]["seconds"] > 0
    assert "first configurations" in call("search", sweep_file, "--dry-run")[1]
    assert not list(tmp_path.iterdir())


def test_train_counts_trains_continues_and_starts_from_a_checkpoint(sweep_file, call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, _ = call("train", sweep_file, "--dry-run", "--json")
    facts = json.loads(out)
    # 12 words: 12*8 + (16*16 + 16) + (16*12 + 12) + 3 * (16*8 + 8) + 2*8
    assert facts["parameters"] == 996
    assert facts["steps_per_epoch"] == -(-facts["train_windows"] // 64)
    assert facts["validation_windows"] > 0
    assert call("train", sweep_file, "--to", "run")[0] == 0
    code, out, err = call("train", sweep_file, "--epochs", "3", "--to", "run", "--json")
    assert [row["epoch"] for row in json.loads(out)["history"]] == [1, 2, 3]
    assert "going on after epoch 2" in err
    code, _, err = call("train", sweep_file, "--set", "training.lr=1e-3", "--to", "run")
    assert code == 2
    assert "training.lr" in err
    code, out, err = call("train", sweep_file, "--from", "run", "--to", "tuned", "--epochs", "1", "--json")
    assert "whose 12 words number the corpus; all others are <UNK>: 0.0% of train and 0.0% of validation" in err
    trained = json.loads((Path("run") / "configuration.json").read_text())
    assert json.loads((Path("tuned") / "configuration.json").read_text())["corpus"] == trained["corpus"]
    first = json.loads(out)["history"][0]["val_loss"]
    fresh = json.loads(call("train", sweep_file, "--to", "fresh", "--epochs", "1", "--json")[1])["history"][0][
        "val_loss"
    ]
    assert first < fresh
    code, _, err = call("train", sweep_file, "--from", "run", "--to", "x", "--set", "model.ctx_dim=4")
    assert code == 2
    assert re.search("has model.ctx_dim: 8; the file must say the same", err)
    assert not Path("x").exists()


@pytest.mark.parametrize("family", ["context_vector", "gpt2"])
def test_train_on_other_words(family, sweep_file, call, tmp_path, monkeypatch):
    """Two of the toy language's eight words and two of its own: the first two lose nothing, the others get rows."""
    monkeypatch.chdir(tmp_path)
    model = ("--set", f"model.family={family}")
    assert call("train", sweep_file, *model, "--to", "run")[0] == 0
    for split in ("train", "validation"):
        Path(f"{split}.txt").write_text("bal ho dor hi ho\n" * 70)
    other = "corpus={name: text, train: train.txt, validation: validation.txt, window: 16}"
    asked = ("train", sweep_file, *model, "--set", other, "--from", "run", "--to", "tuned")
    code, _, err = call(*asked, "--dry-run")
    assert "all others are <UNK>: 50.0% of train and 50.0% of validation (--new-words N gives" in err
    with monkeypatch.context() as patch:
        # Whether GPT-2's embedding can be had is nothing to a training that begins with other weights.
        patch.setattr("tune_newllm.training.gpt2_embedding.as_had", lambda *_: pytest.fail("asked for it"))
        code, out, err = call(*asked, "--new-words", "1", "--epochs", "1", "--json")
    assert "1 more got rows of their own, all others are <UNK>: 16.7% of train" in err
    before = float(re.search(r"epoch   0  val ([0-9.]+)", err)[1])
    assert json.loads(out)["history"][0]["val_loss"] < before
    # The checkpoint is needed no more, and what is found where it lay, or lies now, is not asked for.
    shutil.rmtree("run")
    code, out, err = call(*asked, "--from", "moved", "--new-words", "1", "--epochs", "2", "--json")
    assert (code, len(json.loads(out)["history"])) == (0, 2)
    assert f"the weights of {tmp_path / 'run'}; {tmp_path / 'moved'} is not read" in err
    assert "epoch   0" not in err
    tokenizer = json.loads(Path("tuned/tokenizer.json").read_text())
    assert tokenizer["model"]["vocab"]["ho"] == 12
    code, _, err = call("train", sweep_file, "--new-words", "1", "--to", "x")
    assert (code, "give it with --from" in err) == (2, True)
    code, _, err = call("train", sweep_file, "--from", "gone", "--to", "x")
    assert (code, "gone is no checkpoint that can be read" in err) == (2, True)
    assert not Path("x").exists()


def test_a_diverged_training_ends_with_code_4(sweep_file, call, tmp_path):
    code, _, err = call("train", sweep_file, "--set", "training.lr=1e30", "--to", tmp_path / "run")
    assert code == 4
    assert "optimizer step" in err


@pytest.mark.parametrize(
    ("change", "args", "words"),
    [
        ("epohs: 2", [], "epohs"),
        ("epochs: 0", [], "training.epochs"),
        ("", ["--set", "training.lrr=1"], "lrr"),
        ("", ["--set", "corpus.name=wikitext"], "no corpus 'wikitext'"),
        ("", ["--set", "corpus={name: text, train: absent.txt, validation: absent.txt}"], "absent.txt"),
        ("", ["--set", "corpus={name: text, train: empty.txt, validation: empty.txt}"], "empty.txt"),
        ("", ["--set", "parameters.training.lr={min: 2.5, max: 1}"], "`min` < `max`"),
        ("", ["--name", "taken"], "exists already"),
        ("", ["--name", "a/b"], "one folder name"),
        ("", ["--name", "a" * 256], "one folder name"),
        ("", ["--name", "a\nb"], "one folder name"),
        ("", ["--trials", "none"], "--trials"),
        ("", ["--root", "empty.txt"], "empty.txt"),
    ],
)
def test_mistakes_are_one_clear_line_with_code_2_and_leave_nothing(change, args, words, call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taken").mkdir()
    (tmp_path / "empty.txt").write_text("\n \n")
    (tmp_path / "s.yaml").write_text(TINY.replace("epochs: 2", change) if change else TINY)
    before = sorted(tmp_path.rglob("*"))
    code, out, err = call("search", "s.yaml", "--root", ".", *args)
    assert (code, out) == (2, "")
    assert words in err
    assert "Traceback" not in err
    assert sum(line.lower().startswith("error: ") for line in err.splitlines()) == 1
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("command", ["resume", "status", "report", "export", "generate", "evaluate"])
def test_folders_that_are_not_there_are_one_clear_line(command, call, tmp_path):
    extra = ["--to", tmp_path / "x"] if command == "export" else []
    code, out, err = call(command, tmp_path / "absent", *extra)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("error: ")


@pytest.mark.skipif(os.getuid() == 0, reason="nothing is unreadable for root")
def test_an_unreadable_folder_is_one_clear_line(finished, call, tmp_path):
    shutil.copytree(finished[0], tmp_path / "sweep")
    (tmp_path / "sweep").chmod(0)
    for command in ("resume", "status", "report", "generate"):
        code, _, err = call(command, tmp_path / "sweep")
        assert (code, err.count("\n")) == (2, 1)


def test_missing_rights_are_one_clear_line(call, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "is_dir", refuse)
    code, out, err = call("status", "sweep")
    assert (code, out, err) == (2, "", "error: no permission to use sweep: change its rights or give another place\n")


def test_a_failing_export_costs_neither_report_nor_earlier_best(finished, tmp_path, monkeypatch, capsys):
    shutil.copytree(finished[0], tmp_path / "sweep")
    (tmp_path / "sweep" / "report.html").unlink()

    def fail(*arguments):
        raise TuneError("the cache cannot be written")

    monkeypatch.setattr("tune_newllm.cli.checkpoints.export_trial", fail)
    with pytest.raises(TuneError, match="the cache"):
        conclude(Outcome(tmp_path / "sweep", finished=True, signal=None), as_json=False)
    assert "best configuration" in capsys.readouterr().out
    assert (tmp_path / "sweep" / "report.html").exists()
    assert (tmp_path / "sweep" / "best" / "model.safetensors").exists()


def test_a_sweep_without_a_usable_trial_ends_with_code_4(sweep_file, ray_address, tmp_path):
    extra = ["--set", "parameters.training.lr={distribution: log_uniform_values, min: 1e29, max: 1e30}"]
    ended = run("search", sweep_file, "-q", "--set", f"resources.address={ray_address}", *extra, cwd=tmp_path, check=4)
    assert "no trial ran to its end" in ended.stderr
    assert (tmp_path / "sweeps" / "tiny" / "report.html").exists()


def test_every_command_has_help_with_an_example_or_options(call):
    for command in ("search", "resume", "status", "report", "export", "train", "generate", "evaluate"):
        code, out, _ = call(command, "--help")
        assert code == 0
        assert f"python -m tune_newllm {command} " in out


def test_a_closed_pipe_is_no_error():
    command = f"{sys.executable} -m tune_newllm search --help | head -n 1; exit ${{PIPESTATUS[0]}}"
    ended = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stderr) == (0, "")


@pytest.mark.slow
def test_interrupting_twice_is_possible(sweep_file, ray_address, tmp_path):
    """The second Ctrl-C ends the process at once; what is on record stays resumable."""
    command = [sys.executable, "-m", "tune_newllm", "search", str(sweep_file), "--set", "training.epochs=200"]
    command += ["--set", f"resources.address={ray_address}"]
    with subprocess.Popen(
        command, cwd=tmp_path, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    ) as process:
        assert next(line for line in iter(process.stderr.readline, "") if '"event":"epoch"' in line)
        process.send_signal(signal.SIGINT)
        time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
        assert process.returncode in (130, -signal.SIGINT)
    assert os.path.getsize(tmp_path / "sweeps" / "tiny" / "records.jsonl") > 0
