"""When, on what and with what the sweep ran, and on which data."""

import shlex
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from tune_newllm.records import SweepStarted

from ..load import Sweep
from ..markdown import bullets, code, plain, table
from ..tables import configured
from ..words import cut, digits, duration, shown

LONGEST_FACT = 160
LONGEST_COMMAND = 2000
_SPLITS = ("train", "validation", "test")


def environment(sweep: Sweep) -> list[str]:
    """A list of facts, and a table of the corpus."""
    made = ["## Environment"]
    if facts := [f"**{plain(name)}** {text}" for name, text in _facts(sweep)]:
        made.append(bullets(facts))
    if data := _data(sweep):
        made.append(data)
    if not sweep.provenance:
        made.append("provenance.json is missing or cannot be read, so machine, versions and data are not known.")
    return made


def moment(seconds: float) -> str:
    """`2026-11-26 09:11 UTC`."""
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")
    except (OverflowError, ValueError, OSError):
        # Anybody may have written the records.
        return "at no time of any calendar"


def span(sweep: Sweep) -> tuple[float, float] | None:
    """Unix times of the first and the last record; None without records."""
    moments = [event.time for event in sweep.events] + sweep.epochs["time"].tolist()
    return (min(moments), max(moments)) if moments else None


def _facts(sweep: Sweep) -> Iterator[tuple[str, str]]:
    known = sweep.provenance
    if times := span(sweep):
        # Of a training whose beginning is not on record the end alone is known.
        began = f"{moment(times[0])} to " if times[0] < times[1] else "until "
        yield "time", f"{began}{moment(times[1])}, {duration(sweep.wall)} of work"
    for number, (text, overrides) in enumerate(_commands(sweep)):
        yield "command" if not number else "then", code(cut(text, LONGEST_COMMAND)) + overrides
    machine = {key: configured(known, f"hardware.{key}") for key in ("name", "device", "machine_cpus", "system")}
    if any(machine.values()):
        yield "machine", _machine(machine)
    if at_once := configured(known, "hardware.max_concurrent"):
        share = configured(sweep.spec, "resources.gpus_per_trial") or 0
        each = f"{digits(share)} GPU" if share else f"{shown(configured(sweep.spec, 'resources.cpus_per_trial'))} CPU"
        yield "at once", plain(f"{shown(at_once)} trials, {each} each")
    peak = sweep.epochs["peak_memory_bytes"].max() if len(sweep.epochs) else 0
    if peak > 0:
        yield "peak memory", f"{digits(peak / 2**20, 3)} MiB" + (" in a trial" if len(sweep.trials) > 1 else "")
    if known.get("git"):
        yield "commit", code(cut(str(known["git"]), LONGEST_FACT))
    versions = known.get("versions")
    if isinstance(versions, Mapping):
        named = ", ".join(f"{name} {shown(value)}" for name, value in versions.items())
        yield "versions", plain(cut(named, 2 * LONGEST_FACT))


def _commands(sweep: Sweep) -> Iterator[tuple[str, str]]:
    """Every command line that worked on the sweep, and the overrides that its resumes had in force."""
    for event in sweep.events:
        if isinstance(event, SweepStarted) and event.command:
            given = f" with {plain(cut(', '.join(event.overrides), LONGEST_FACT))}" if event.overrides else ""
            yield shlex.join(event.command), given


def _machine(found: Mapping[str, Any]) -> str:
    cpus = f"{shown(found['machine_cpus'])} CPUs" if found["machine_cpus"] else None
    parts = [found["name"], found["device"] and f"device {shown(found['device'])}", cpus, found["system"]]
    return plain(cut(", ".join(shown(part) for part in parts if part), LONGEST_FACT))


def _data(sweep: Sweep) -> str:
    """The corpus in numbers."""
    stats = configured(sweep.provenance, "data.stats")
    if not isinstance(stats, Mapping):
        return ""
    splits = {name: stats[name] for name in _SPLITS if isinstance(stats.get(name), Mapping)}
    columns = [column for column in ("texts", "words", "tokens", "windows", "targets", "unk_share", "unigram_ppl")
               if any(column in each for each in splits.values())]  # fmt: skip
    if not columns:
        return ""
    names = {"unk_share": "unknown words", "unigram_ppl": "perplexity of word frequencies"}
    rows = [[name, *(_number(column, each.get(column)) for column in columns)] for name, each in splits.items()]
    made = table(["data", *(names.get(column, column) for column in columns)], rows)
    mark = configured(sweep.provenance, "data.fingerprint")
    return f"{made}\n\nFingerprint of the data: {code(str(mark)[:LONGEST_FACT])}." if mark else made


def _number(column: str, value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return ""
    if column == "unk_share":
        return f"{100 * value:.1f} %"
    return f"{value:.2f}" if column == "unigram_ppl" else f"{value:,}"
