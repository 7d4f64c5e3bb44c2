"""The code that decides a sweep's numbers, by hash: whether it is still what the sweep began with."""

import hashlib
from pathlib import Path

import tune_newllm

DECISIVE = ("data", "models", "training")
"""Packages below ours whose change may change a loss."""


def code_hashes() -> dict[str, str]:
    """A short hash of every source file that decides the numbers, by its path below the package."""
    root = Path(tune_newllm.__file__).parent
    files = (path for package in DECISIVE for path in (root / package).rglob("*.py"))
    return {path.relative_to(root).as_posix(): _hash(path) for path in sorted(files)}


def changes(before: dict[str, str], now: dict[str, str]) -> list[str]:
    """The files that are not what they were: `training/loop.py changed`, `... added`, `... removed`."""
    found = []
    for name in sorted(before | now):
        if before.get(name) != now.get(name):
            word = "added" if name not in before else "removed" if name not in now else "changed"
            found.append(f"{name} {word}")
    return found


def _hash(path: Path) -> str:
    # A checkout may have other line ends, which change nothing.
    return hashlib.sha256(path.read_bytes().replace(b"\r\n", b"\n")).hexdigest()[:16]
