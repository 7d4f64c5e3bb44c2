"""The lines of records.jsonl: written and read back, damage left out, and the fields that training reports."""

import dataclasses
import json
import math

import pytest
from pydantic import TypeAdapter

from tune_newllm import records
from tune_newllm.training.metrics import EpochResult


def test_an_epoch_on_record_has_the_fields_that_training_reports():
    own = {"schema_version", "time", "elapsed", "event", "trial_id"}
    assert set(records.EpochRecord.model_fields) - own == {field.name for field in dataclasses.fields(EpochResult)}


@pytest.fixture
def rows():
    numbers = dict.fromkeys(records.EpochRecord.model_fields, 1.0)
    numbers |= {"time": 3.0, "event": "epoch", "trial_id": "t0", "epoch": 1, "clip": None, "train_loss": math.nan}
    return [
        records.SweepStarted(time=1.0, command=["search", "a b"]),
        records.TrialCreated(
            time=2.0, trial_id="t0", config_id="c", number=0, seed=0, origin="grid", parameters={"training.lr": 1e-3}
        ),
        records.EpochRecord(**numbers),
        records.TrialEnded(time=4.0, trial_id="t0", state="completed", epoch=1, reason="epochs"),
    ]


def test_what_is_written_is_read_back(rows, tmp_path):
    path = tmp_path / "records.jsonl"
    path.write_text("".join(map(records.to_line, rows)))
    assert list(map(records.to_line, records.read(path))) == list(map(records.to_line, rows))


def test_torn_damaged_and_unknown_lines_are_left_out_with_a_warning(rows, tmp_path):
    path = tmp_path / "records.jsonl"
    lines = [records.to_line(row) for row in rows]
    odd = ["\xff\n", "7\n", '{"event": "of_tomorrow"}\n', '{"event": "trial_ended"}\n']
    path.write_text("".join([lines[0], *odd, *lines[1:3], lines[3][:20]]))
    warnings = []
    assert [row.event for row in records.read(path, warnings)] == ["sweep_started", "trial_created", "epoch"]
    assert len(warnings) == 5
    assert "line 4: unknown event 'of_tomorrow'" in warnings[2]


def slowly(line):
    """What a line holds by Python's own parser, checked afterwards; None where it is damaged."""
    try:
        row = json.loads(line)
        json.dumps(row, ensure_ascii=False).encode()
        assert all(type(value) is not int or abs(value) < 2**63 for value in row.values())
        return repr(TypeAdapter(records.Record).validate_python(row, strict=True)) if "event" in row else None
    except (ValueError, AttributeError, AssertionError):
        return None


OTHERS = records.EpochRecord.model_fields.keys() - {"event", "trial_id", "step"}
EPOCH = '{"event":"epoch","trial_id":"a",' + ",".join(f'"{name}":1' for name in sorted(OTHERS))
"""The line of an epoch but for its last field, `step`."""


@pytest.mark.parametrize(
    "text",
    [
        *('"\\ud83d\\ude00"', '"\\ud83d"', '"\x01"', '"\xff"', '"caf\xe9"', '"x', "[1]", "{}", "null", "true"),
        *("1", "1.0", "01", "1e400", "-Infinity", "NaN", "9223372036854775807", "9223372036854775808", "1" + 30 * "0"),
        *(
            '1,"step":2',
            '"a","step":2',
            '2,"more":1' + 30 * "0",
            '2,"lr":1' + 30 * "0",
            '2,"clip":null',
            '2,"step":NaN',
        ),
        *('2,"more":' + 150 * "[" + 150 * "]", '2,"more":' + 500 * "[" + 500 * "]", '2,"time":NaN', '2,"epoch":true'),
    ],
)
def test_reading_fast_finds_the_same_as_reading_carefully(text, tmp_path):
    line = f'{EPOCH},"step":{text}}}\n'.encode("latin-1")
    line += f'{{"event":"sweep_ended","time":1,"reason":"finished","detail":{text}}}\n'.encode("latin-1")
    line += f'{{"event":"sweep_started","time":1,"command":[{text}]}}\n'.encode("latin-1")
    (tmp_path / "r").write_bytes(line)
    wanted = [slowly(part) for part in line.splitlines()]
    assert [*map(repr, records.read(tmp_path / "r"))] == [row for row in wanted if row]
