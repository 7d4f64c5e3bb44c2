"""`report` with several sweeps: the answers side by side, the files, and what is refused."""

import json
import math
from pathlib import Path

import pytest
from click.testing import CliRunner

from tune_newllm import records
from tune_newllm.cli.side_by_side import side_by_side
from tune_newllm.cli.sweeps import report
from tune_newllm.errors import FolderError, UsageError


def write(folder, loss, epochs=2):
    """A sweep of one trial."""
    names = {"trial_id": "t0000", "config_id": "c", "number": 0, "seed": 0, "origin": "point"}
    rows = [
        records.SweepStarted(time=0.0, command=["search"]),
        records.TrialCreated(time=0.0, parameters={"training.lr": 1e-3}, **names),
    ]
    whole = {"tokens": 100, "step": 10, "peak_memory_bytes": 10**8, "clip": None}
    for epoch in range(1, epochs + 1):
        values = whole | {name: 1.0 for name in records.EpochRecord.model_fields if name.endswith(("_loss", "_acc"))}
        values |= {"val_loss": loss + epochs - epoch, "val_ppl": math.exp(loss), "val_loss_legacy": loss, "lr": 1e-3}
        values |= {"val_ppl_known": 9.0, "grad_norm": 1.0, "clipped_share": 0.0, "tokens_per_s": 1e3, "seconds": 1.0}
        rows.append(records.EpochRecord(time=float(epoch), trial_id="t0000", epoch=epoch, **values))
    rows.append(records.TrialEnded(time=9.0, trial_id="t0000", state="completed", epoch=epochs, reason="epochs"))
    rows.append(records.SweepEnded(time=9.0, reason="finished"))
    folder.mkdir(parents=True)
    (folder / "records.jsonl").write_text("".join(map(records.to_line, rows)))
    spec = {"training": {"epochs": epochs}, "parameters": {"training.lr": {"values": [1e-3]}}}
    (folder / "sweep.yaml").write_text(json.dumps(spec))
    provenance = {"data": {"fingerprint": "f"}}
    (folder / "provenance.json").write_text(json.dumps(provenance))
    return folder


@pytest.fixture
def sweeps(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return [write(Path("sweeps") / name, loss) for name, loss in (("a", 4.0), ("b", 4.1))]


def call(*args):
    """What `report` prints on stdout and on stderr."""
    ended = CliRunner().invoke(report, [*map(str, args)], standalone_mode=False)
    if ended.exception:
        raise ended.exception
    assert ended.return_value == 0
    return ended.stdout, ended.stderr


def test_answers_side_by_side_and_one_page(sweeps):
    out, err = call(*sweeps)
    lines = out.splitlines()
    assert lines[0] == "a has the lowest validation loss, 4; b is 0.1 nats per token behind."
    assert lines[-1] == f"report: {Path('a-vs-b-report') / 'report.html'}"
    row = next(line for line in lines if line.startswith("validation loss"))
    assert row.index("4 (perplexity 54.6), epoch 2 of 2") < row.index("4.1 (perplexity 60.34), epoch 2 of 2")
    assert err == ""
    assert {path.name for path in Path("a-vs-b-report").iterdir()} == {"report.html", "summary.json"}
    assert not (sweeps[0] / "report.html").exists()
    out, _ = call(*sweeps, "--out", "elsewhere", "--json")
    assert json.loads(out) == json.loads(Path("elsewhere/summary.json").read_text())
    assert Path("elsewhere/report.html").stat().st_size > 1_000_000


def test_warnings_name_the_sweep(sweeps):
    (sweeps[1] / "provenance.json").unlink()
    _, err = call(*sweeps)
    assert err == "warning: b: provenance.json is missing\n"


def test_what_cannot_be_compared_is_refused(sweeps):
    with pytest.raises(UsageError, match="named twice"):
        call(sweeps[0], sweeps[0].resolve())
    with pytest.raises(FolderError, match="absent does not"):
        call(*sweeps, "absent")
    Path("file").write_text("")
    with pytest.raises(FolderError, match="--out"):
        call(*sweeps, "--out", "file/below")


def test_a_narrow_terminal_gets_one_sweep_under_the_other():
    rows = [{"question": "state", "answers": ["finished", ""]}, {"question": "loss", "answers": ["4 " * 30, "5"]}]
    wide = side_by_side(["a", "b"], rows, width=90).splitlines()
    assert wide[1].split() == ["state", "finished"]
    assert max(map(len, wide)) <= 90
    assert len(wide) == 4, "the long answer takes two lines"
    narrow = side_by_side(["a", "b"], rows, width=40).splitlines()
    assert narrow == ["state", "  a: finished", "loss", f"  a: {'4 ' * 30}", "  b: 5"]


def test_the_record_is_written_where_it_is_asked_for(sweeps, tmp_path):
    out, _ = call(sweeps[0], "--markdown")
    assert out.splitlines()[-1] == f"record: {sweeps[0] / 'record.md'}"
    text = (sweeps[0] / "record.md").read_text()
    assert text.startswith("# a\n")
    call(sweeps[0], "--markdown", "deep/own.md")
    assert (tmp_path / "deep" / "own.md").read_text() == text
    out, _ = call(*sweeps, "--markdown", "--out", "both")
    assert out.splitlines()[-1] == f"record: {Path('both') / 'record.md'}"
    assert (tmp_path / "both" / "record.md").read_text().startswith("# a and b\n")
    # A sweep named after the option is no file to write.
    with pytest.raises(UsageError, match=r"ends in \.md, got sweeps/b: name sweeps before it"):
        call(sweeps[0], "--markdown", sweeps[1])


def test_a_training_by_hand_has_a_record_too(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    state = {"history": [{"epoch": 1, "step": 10, "tokens": 99, "clip": None, "peak_memory_bytes": 0}]}
    state["history"][0] |= dict.fromkeys(("train_loss", "val_loss", "val_loss_legacy", "val_ppl", "val_acc"), 1.0)
    state["history"][0] |= dict.fromkeys(("val_ppl_known", "grad_norm", "clipped_share", "tokens_per_s"), 1.0)
    state["history"][0] |= {"seconds": 1.0, "lr": 1e-3}
    header = json.dumps({"__metadata__": {"state": json.dumps(state)}}).encode()
    Path("one").mkdir()
    Path("one/configuration.json").write_text(json.dumps({"training": {"epochs": 1}}))
    Path("one/state.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    out, _ = call("one", "--markdown")
    assert out == f"record: {Path('one') / 'record.md'}\n"
    assert Path("one/record.md").read_text().startswith("# one\n")
    with pytest.raises(UsageError, match="holds one training, no sweep: add --markdown"):
        call("one")
    with pytest.raises(UsageError, match="--json is for sweeps"):
        call("one", "--markdown", "one.md", "--json")
    with pytest.raises(UsageError, match="one hold one training each: `evaluate` compares trainings"):
        call("one", "other", "--markdown")
