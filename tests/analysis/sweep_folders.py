"""Sweep folders written record by record, as a driver would write them."""

import json
import math
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from ruamel.yaml import YAML

from tune_newllm import records

START = 1_700_000_000.0

SPEC: dict[str, Any] = {
    "name": "lr_batch",
    "description": "learning rate and batch size on the built-in corpus",
    "corpus": {"name": "python-docs", "vocab_size": 1000, "window": 32, "windowing": "complete"},
    "model": {"family": "context_vector", "embed_dim": 64, "ctx_dim": 64, "num_layers": 2},
    "training": {"lr": 0.001, "batch_size": 32, "epochs": 8, "lr_rule": "none", "optimizer": "adam"},
    "method": "bayes",
    "metric": {"name": "val_loss", "goal": "minimize"},
    "parameters": {
        "training.lr": {"distribution": "log_uniform_values", "min": 1e-4, "max": 3e-2},
        "training.batch_size": {"distribution": "categorical", "values": [8, 16, 32, 64, 128]},
    },
    "early_terminate": {"type": "asha", "min_iter": 4, "eta": 2.0, "within": "training.batch_size"},
    "run_cap": 40,
}

PROVENANCE = {
    "versions": {"python": "3.11.7", "torch": "2.13.0"},
    "git": None,
    "data": {"fingerprint": "9f86d081884c7d65", "stats": {"train": {"texts": 2000, "unk_share": 0.0123456}}},
    "command": ["python", "-m", "tune_newllm", "search", "search_spaces/lr_batch.yaml"],
}


@dataclass
class Trial:
    """What a test says of one trial; `state` None leaves it without an end."""

    parameters: dict[str, Any]
    losses: Sequence[float]
    state: Any = "completed"
    reason: str = "epochs"
    created: Mapping[str, Any] = field(default_factory=dict)
    """Fields of `TrialCreated` that differ from what `write_sweep` writes."""
    signals: Sequence[Mapping[str, Any]] = ()
    """Further fields of each epoch."""


@dataclass
class Driver:
    """Writes records; every epoch takes two seconds, everything else none."""

    now: float = START
    lines: list[str] = field(default_factory=list)

    def write(self, make: Callable[..., records.Record], **fields: Any) -> None:
        self.lines.append(records.to_line(make(time=self.now, **fields)))

    def epoch(self, trial_id: str, epoch: int, loss: float, **changes: Any) -> None:
        self.now += 2.0
        fields = {
            "trial_id": trial_id, "epoch": epoch, "step": 100 * epoch, "tokens": 50_000 * epoch,
            "train_loss": loss + 0.1, "val_loss": loss, "val_loss_legacy": loss, "val_ppl": math.exp(min(loss, 700)),
            "val_acc": 0.2, "val_ppl_known": 50.0, "grad_norm": 1.0, "clipped_share": 0.1, "tokens_per_s": 25_000.0,
            "seconds": 2.0, "peak_memory_bytes": 10**8, "lr": 0.001, "clip": None,
        }  # fmt: skip
        self.write(records.EpochRecord, **fields | changes)

    def trial(self, number: int, trial: Trial) -> None:
        name = f"t{number:04d}" + (f"-{trial.created['replicate']}" if "replicate" in trial.created else "")
        identity = {"trial_id": name, "config_id": f"c{number}", "number": number, "seed": number, "origin": "sampler"}
        identity |= {"parameters": trial.parameters, "lr": trial.parameters.get("training.lr")}
        self.write(records.TrialCreated, **identity | trial.created)
        self.write(records.TrialStarted, trial_id=name)
        for epoch, loss in enumerate(trial.losses, 1):
            self.epoch(name, epoch, loss, **(trial.signals[epoch - 1] if trial.signals else {}))
        if trial.state:
            end = {"state": trial.state, "epoch": len(trial.losses), "reason": trial.reason}
            self.write(records.TrialEnded, trial_id=name, **end)


def write_sweep(
    folder: Path, trials: Sequence[Trial], spec: Mapping[str, Any] | None = None, end: str | None = "finished"
) -> Path:
    """A sweep whose trials, named t0000, t0001, …, ran one after the other; `end` None leaves it without an end.

    Each trial that says which replicate it is has the number of the replicate 0 before it.
    """
    driver = Driver()
    driver.write(records.SweepStarted, command=["search", "search_spaces/lr_batch.yaml"], host=socket.gethostname())
    number = -1
    for trial in trials:
        number += not trial.created.get("replicate")
        driver.trial(number, trial)
    if end:
        driver.write(records.SweepEnded, reason=end)
    return write_files(folder, driver, spec)


def write_files(folder: Path, driver: Driver, spec: Mapping[str, Any] | None = None) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    YAML().dump(dict(SPEC if spec is None else spec), folder / "sweep.yaml")
    (folder / "records.jsonl").write_text("".join(driver.lines), encoding="utf-8")
    (folder / "provenance.json").write_text(json.dumps(PROVENANCE), encoding="utf-8")
    return folder


def lr_batch(lr: float, batch: int) -> dict[str, Any]:
    return {"training.lr": lr, "training.batch_size": batch}


def realistic_trials(count: int = 40, epochs: int = 8, seed: int = 0) -> list[Trial]:
    """A sweep as it comes out: best lr ~ sqrt(batch), ASHA stops the worse half, two trials diverge, one fails."""
    rng = np.random.default_rng(seed)
    trials = []
    for number in range(count):
        batch, lr = [8, 16, 32, 64, 128][number % 5], float(10 ** rng.uniform(-4, math.log10(3e-2)))
        off = math.log(lr / (2e-3 * math.sqrt(batch / 32)))
        floor = 4.2 + 0.09 * off**2 + 0.03 * abs(math.log2(batch / 32)) + rng.normal(0, 0.01)
        curve = [floor + 1.6 * math.exp(-0.45 * epoch) + rng.normal(0, 0.012) for epoch in range(1, epochs + 1)]
        if number in (7, 22):
            reason = f"the loss became nan at optimizer step {100 + number} (epoch {number % 2 + 1})"
            trials.append(Trial(lr_batch(0.028, batch), [curve[0] + 2.2][: number % 2], "diverged", reason))
        elif number == 11:
            trials.append(Trial(lr_batch(lr, batch), curve[:3], "failed", "RuntimeError: the disk is full"))
        elif floor > 4.4:
            trials.append(Trial(lr_batch(lr, batch), curve[: epochs // 2], "stopped", "asha"))
        else:
            trials.append(Trial(lr_batch(lr, batch), curve))
    return trials


def replicates(parameters: dict[str, Any], *ends: Sequence[float], states: Sequence[str] = ()) -> list[Trial]:
    """One trial for each seed of a configuration."""
    states = [*states, *["completed"] * (len(ends) - len(states))]
    return [
        Trial(parameters, losses, state, created={"replicate": index, "seed": index})
        for index, (losses, state) in enumerate(zip(ends, states, strict=True))
    ]


def eventful_sweep(folder: Path, text: str = "CUDA error") -> Path:
    """Everything that can befall a sweep: little memory, lost workers, an extension, changed code, trials that fail in
    every way, a full disk. `text` is in every reason."""
    spec = SPEC | {"training": SPEC["training"] | {"epochs": 4, "micro_batch": 32}, "run_cap": 3}
    driver = Driver()
    driver.write(records.SweepStarted, command=["search"])
    halved = [{"micro_batch": size} for size in (32, 32, 16, 32)]
    driver.trial(0, Trial(lr_batch(2e-3, 64), [5.0, 4.6, 4.4, 4.3], signals=halved))
    driver.trial(1, Trial(lr_batch(1e-3, 8), [5.0, 4.7, 4.5, 4.4], signals=[{"micro_batch": 8}] * 4))
    driver.trial(2, Trial(lr_batch(4e-4, 32), [5.5], None))
    for attempt in (1, 2):
        driver.write(records.TrialCrashed, trial_id="t0002", epoch=1, attempt=attempt, reason=text)
        driver.write(records.TrialStarted, trial_id="t0002", epoch=1)
    driver.epoch("t0002", 2, 5.4)
    driver.write(records.TrialEnded, trial_id="t0002", state="stopped", epoch=2, reason="asha")
    driver.write(records.SweepEnded, reason="finished")
    driver.write(records.SweepExtended, run_cap=7, epochs=8, continued=["t0000"])
    driver.write(records.SweepStarted, command=["extend"], resumed=True)
    driver.write(records.CodeForced, changed=["models/recurrence.py", f"data/{text}.py"], code={})
    driver.write(records.TrialStarted, trial_id="t0000", epoch=4)
    driver.epoch("t0000", 5, 4.2, micro_batch=32)
    for number, state in enumerate(("failed", "crashed", "infeasible", "diverged"), 3):
        driver.trial(number, Trial(lr_batch(1e-2, 16), [6.0] * (number % 2), state, f"{state}: {text} " * 30))
    driver.write(records.SweepEnded, reason="halted", detail=f"[Errno 28] No space left on device: {text}")
    return write_files(folder, driver, spec)


CONDITIONAL = SPEC | {
    "parameters": {
        "training.lr": {"distribution": "log_uniform_values", "min": 1e-4, "max": 3e-2},
        "training.clip.schedule": {"distribution": "categorical", "values": ["constant", "linear", "none"]},
        "training.clip.norm": {
            **{"distribution": "log_uniform_values", "min": 0.1, "max": 10.0},
            "when": {"training.clip.schedule": ["constant", "linear"]},
        },
        "training.clip.final": {"values": [2.0, 4.0], "when": {"training.clip.schedule": "linear"}},
        "training.lr_schedule": {
            "values": ["constant", {"name": "cosine", "warmup": 0.1}, {"name": "cosine", "warmup": 0.2, "final": 0.1}]
        },
    },
    "early_terminate": None,
}
"""A sweep file with a number, a category and a mapping, some of which not every trial has."""


def conditional_trials(count: int = 24, seed: int = 0) -> list[Trial]:
    """Trials of `CONDITIONAL`, which hold only the parameters they have."""
    rng = np.random.default_rng(seed)
    rules = CONDITIONAL["parameters"]
    trials = []
    for number in range(count):
        schedule = rules["training.clip.schedule"]["values"][number % 3]
        given = {"training.lr": float(10 ** rng.uniform(-4, -1.6)), "training.clip.schedule": schedule}
        if schedule != "none":
            given["training.clip.norm"] = float(10 ** rng.uniform(-1, 1))
        if schedule == "linear":
            given["training.clip.final"] = [2.0, 4.0][number // 3 % 2]
        given["training.lr_schedule"] = rules["training.lr_schedule"]["values"][number // 2 % 3]
        end = 4.2 + 0.1 * math.log(given["training.lr"] / 3e-3) ** 2 + rng.normal(0, 0.02)
        trials.append(Trial(given, [end + 1.5 * math.exp(-0.5 * epoch) for epoch in range(1, 9)]))
    return trials


def with_signals(trials: Sequence[Trial], seed: int = 0) -> list[Trial]:
    """The same trials with learning signals as training gives them: 100 steps an epoch, contexts of 64 dimensions.

    Low learning rates leave the unigram plateau late or not at all, high ones kill hidden units.
    """
    rng = np.random.default_rng(seed)
    made = []
    for trial in trials:
        lr = trial.parameters["training.lr"]
        left = int(40 * (3e-3 / lr) ** 0.9 * math.exp(rng.normal(0, 0.3))) + 5
        rows = []
        for epoch in range(1, len(trial.losses) + 1):
            learned = max(0.0, 1 - left / (100 * epoch))
            row = {
                "noise_scale": 8 * math.exp(3.2 * learned + rng.normal(0, 0.25)),
                "update_ratio": 0.6 * lr * (1 - 0.5 * learned) * math.exp(rng.normal(0, 0.05)),
                "dead_relu": min(0.9, 0.02 + 9 * lr * learned),
                "ctx_norm": 0.3 + 6 * learned + rng.normal(0, 0.1) ** 2,
                "ctx_rank": 1.2 + 30 * learned,
                "plateau_step": left if left <= 100 * epoch else None,
            }
            rows.append(row)
        made.append(replace(trial, signals=rows))
    return made
