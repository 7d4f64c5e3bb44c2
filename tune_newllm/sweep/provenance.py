"""Where the numbers of a sweep or a training come from: versions, code, data, machine and command line."""

import os
import platform
import subprocess
import time
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from tune_newllm.data.corpora import PreparedCorpus
from tune_newllm.sweep.code import code_hashes
from tune_newllm.sweep.spec import SweepSpec
from tune_newllm.training.choosing import Choice

PACKAGES = ("tune-newllm", "torch", "ray", "optuna", "transformers", "datasets", "numpy", "pandas", "plotly")


@dataclass(frozen=True)
class Hardware:
    """What a trial runs on, as the process that tried it saw it."""

    device: str
    name: str
    choices: dict[str, Choice[Any]]
    """What was or might have been `auto`, by path."""
    memory: dict[str, Any] = field(default_factory=dict)
    """`MemoryPlan.facts`."""

    def chosen(self) -> dict[str, dict[str, Any]]:
        """The choices as JSON types."""
        return {path: {"chosen": each.value, "reason": each.reason} for path, each in self.choices.items()}


def collect(spec: SweepSpec, corpus: PreparedCorpus, hardware: Hardware, command: list[str]) -> dict[str, Any]:
    """Everything needed to know what a sweep ran with, as JSON types."""
    machine = _machine(hardware.device, hardware.name) | {"max_concurrent": spec.resources.max_concurrent}
    more = {"hardware": machine, "memory": hardware.memory, "choices": hardware.chosen()}
    return _what_ran(corpus, command) | more


def collect_training(corpus: PreparedCorpus, device: str, command: list[str]) -> dict[str, Any]:
    """The same of one training, which runs in this process."""
    name = torch.cuda.get_device_name(device) if device.startswith("cuda") else processor()
    return _what_ran(corpus, command) | {"hardware": _machine(device, name)}


def _what_ran(corpus: PreparedCorpus, command: list[str]) -> dict[str, Any]:
    return {
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "command": command,
        "versions": {"python": platform.python_version(), **versions()},
        "git": git_commit(),
        "code": code_hashes(),
        "data": {"fingerprint": corpus.fingerprint, "folder": str(corpus.folder), "stats": corpus.stats},
    }


def _machine(device: str, name: str) -> dict[str, Any]:
    system = platform.platform(terse=True)
    return {"device": device, "name": name, "machine_cpus": os.cpu_count(), "system": system}


def versions() -> dict[str, str]:
    """Installed versions of what decides the numbers."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def git_commit() -> str | None:
    """Commit of the checkout that this package runs from, with `-dirty` where it was changed; None when installed."""
    here = Path(__file__).parent
    try:
        shown = subprocess.run(
            ["git", "-C", str(here), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"],
            capture_output=True, text=True, timeout=10, check=True,
        )  # fmt: skip
        tracked = subprocess.run(
            ["git", "-C", str(here), "ls-files", "--error-unmatch", Path(__file__).name],
            capture_output=True, timeout=10, check=False,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return shown.stdout.strip() if tracked.returncode == 0 else None


def processor() -> str:
    """The processor's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
