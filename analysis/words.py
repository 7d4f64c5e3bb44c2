"""How things are said: names of parameters and states, and numbers in few digits."""

import json
import math
import numbers
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

LABELS = {
    "corpus.max_samples": "training texts",
    "training.lr": "learning rate",
    "training.batch_size": "batch size",
    "training.beta1": "beta 1",
    "training.beta2": "beta 2",
    "training.decay": "decayed parameters",
    "training.clip": "clipping",
    "training.clip.by": "clip unit",
    "training.clip.final": "last clip norm",
    "training.clip.norm": "clip norm",
    "training.clip.percentile": "clip percentile",
    "training.clip.schedule": "clip schedule",
    "training.clip.table": "clip table",
    "training.clip.until": "clip norm changes until",
    "training.early_stopping.min_delta": "least progress",
    "training.lr_schedule.by": "lr unit",
    "training.lr_schedule.every": "lr drops every",
    "training.lr_schedule.factor": "lr drop factor",
    "training.lr_schedule.final": "last lr share",
    "training.lr_schedule.length": "lr decay length",
    "training.lr_schedule.name": "lr schedule",
    "training.lr_schedule.restarts": "lr restarts",
    "training.lr_schedule.warmup": "lr warm-up",
    "model.ctx_dim": "context size",
    "model.ffn": "hidden layers",
    "model.init": "initial weights",
    "model.num_layers": "layers",
    "model.embed_dim": "embedding size",
    "model.hidden_dim": "hidden size",
    "model.tied": "tied embedding",
}
"""Parameters whose name in the sweep file does not say enough by itself."""

STATES = {
    "completed": "completed",
    "stopped": "stopped early",
    "running": "running",
    "interrupted": "interrupted",
    "diverged": "diverged",
    "infeasible": "infeasible",
    "crashed": "crashed",
    "failed": "failed",
}
"""Every state a trial can have and the word for it, from the one hoped for to the one feared."""


ABSENT = "unused"
"""Stands for a parameter that a trial does not have; `none` may be one of its values."""


def label(path: str) -> str:
    """A parameter's name in prose; a path without one keeps its last part."""
    return LABELS.get(path, path.rsplit(".", 1)[-1].replace("_", " "))


def digits(value: float, significant: int = 4) -> str:
    """A number in few significant digits: `0.003162`, `3.2e-5`, `12,350`; whole numbers below a million stay whole."""
    if isinstance(value, numbers.Integral) and abs(value) < 1_000_000:
        return f"{value:,}" if abs(value) >= 10_000 else str(value)
    if not math.isfinite(value):
        return str(float(value))
    if value and not 1e-4 <= abs(value) < 1e6:
        return re.sub(
            r"\.?0*e([+-])0*(\d)", lambda part: f"e{part[1].strip('+')}{part[2]}", f"{value:.{significant - 1}e}"
        )
    rounded = float(f"{value:.{significant}g}")
    return f"{rounded:,.0f}" if abs(rounded) >= 10**significant else f"{rounded:.{significant}g}"


def fixed(value: float, significant: int = 4) -> str:
    """A number for a column: trailing zeros are kept, so that the digits of neighbours align."""
    if not math.isfinite(value) or not 1e-4 <= abs(value) < 1e5:
        return digits(value, significant)
    places = max(0, significant - 1 - math.floor(math.log10(abs(value))))
    return f"{value:,.{places}f}"


def shown(value: Any) -> str:
    """A parameter's value as a person would write it; `ABSENT` for NaN. Tables hold mappings as JSON text."""
    if isinstance(value, str) and value.startswith("{"):
        value = _parsed(value)
    if isinstance(value, Mapping):
        return ", ".join(shown(v) if key in ("schedule", "name") else f"{key} {shown(v)}" for key, v in value.items())
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, numbers.Real):
        number = float(value)
        return ABSENT if math.isnan(number) else digits(int(number) if number.is_integer() else number)
    return value if isinstance(value, str) else json.dumps(value)


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def counted(number: int, noun: str) -> str:
    """`1 trial`, `2 trials`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


LONGEST_REASON = 160
"""Characters of an error that a sentence or a table shows; trials.csv and summary.json hold all of it."""

MOST_NAMES = 12
"""Trials or files listed by name in a sentence."""


def listed(names: Sequence[str]) -> str:
    """`a, b, c`; of many the first ones, ` and 3 more`."""
    more = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
    return ", ".join(names[:MOST_NAMES]) + more


def cut(text: str, most: int) -> str:
    """A text on one line, of at most `most` characters, ended between two words where it can be."""
    line = " ".join(text.split())
    if len(line) <= most:
        return line
    head = line[: most - 1]
    return (head.rsplit(" ", 1)[0] if " " in head[most // 2 :] else head).rstrip(".,:; ") + "…"


def duration(seconds: float | None) -> str:
    """`48 s`, `9 min 40 s`, `3 h 5 min`; of what is no number of seconds `an unknown time`."""
    if seconds is None or not math.isfinite(seconds):
        return "an unknown time"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600:,} h {whole % 3600 // 60} min"


def resume_command(folder: Path, settings: Mapping[str, float]) -> str:
    """The command line that goes on with a sweep, with some of its settings changed."""
    changes = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
    return shlex.join(["python", "-m", "tune_newllm", "resume", str(folder), *changes])


def export_command(folder: Path, trial_id: str) -> str:
    """The command line that writes a trial's checkpoint, quoted for a shell."""
    target = f"exports/{folder.resolve().name}-{trial_id}"
    return shlex.join(["python", "-m", "tune_newllm", "export", str(folder), "--trial", trial_id, "--to", target])
