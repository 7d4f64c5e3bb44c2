"""A sweep that cannot be lost: processes are killed at random moments, and nothing may be missing in the end.

`python benchmarks/torture.py WORK [--kills 100] [--seed 0] [--concurrent 1]`: runs one small sweep undisturbed and the
same sweep again under fire, in the folder WORK: the driver, a trial's process, Ray's own processes or all of them at
once are killed, or the driver is sent a signal; each time the sweep is resumed, until it is finished. Where it finishes
before enough was killed, another one follows, with another seed. Prints what was done and what was lost; the exit code
is 1 where anything was. Trials run one at a time, so that the final tables must be equal; with `--concurrent 2` order
depends on chance, and the tables are not compared. Linux only: processes are followed through /proc.
"""

import argparse
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
from family import Life
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from tune_newllm.sweep.folder import SweepFolder
from tune_newllm.sweep.history import History

SWEEP = """\
corpus: {{name: toy, vocab_size: 200, window: 16}}
model: {{embed_dim: 16, hidden_dim: 32, ctx_dim: 16, num_layers: 1, dropout: 0.1}}
training: {{epochs: 4, precision: fp32, device: cpu, seed: {seed}}}
parameters:
  training.lr: {{distribution: log_uniform_values, min: 1e-4, max: 1e-1}}
  training.batch_size: {{values: [16, 32]}}
balanced: training.batch_size
early_terminate: {{min_iter: 1, eta: 2, within: training.batch_size}}
run_cap: {trials}
resources: {{cpus_per_trial: 1, gpus_per_trial: 0, max_concurrent: {concurrent}, retries: 1000}}
"""
WEAPONS = {
    "worker": 35, "driver": 20, "everything": 15, "raylet": 8, "gcs_server": 7,
    "SIGTERM": 4, "SIGINT": 4, "SIGHUP": 3, "SIGUSR1": 4,
}  # fmt: skip
"""What is killed, or which signal the driver is sent, by weight; `everything` is the driver and all it has started."""
STUCK_SECONDS = 120.0
"""Without a new record, or from a blow to the driver's end."""
ORPHAN_SECONDS = 60.0
"""From the driver's end to that of everything it had started."""
AGENTS, AGENT_SECONDS = {"ray::DashboardAgent", "ray::RuntimeEnvAgent"}, 75.0
"""Helpers of Ray that hold nothing of the sweep, and that ask a killed Ray for a minute before they give up."""
DURABLE = {1, 2, 4}
"""Epochs of SWEEP that must be on disk before they are reported: ASHA's rungs and the last one."""
FAULTS = (
    "epochs on record that vanished", "durable epochs trained twice", "configurations suggested twice",
    "trials missing", "study rows left running", "processes left behind", "hangs", "odd exit codes",
    "tables that differ",
)  # fmt: skip
MEASURED = {"time", "elapsed", "seconds", "tokens_per_s", "peak_memory_bytes"}
"""Fields of an epoch that differ from run to run."""


@dataclass
class Tally:
    """What was done, and what should not have come of it."""

    kills: Counter[str] = field(default_factory=Counter)
    codes: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=lambda: Counter(dict.fromkeys(FAULTS, 0)))
    resumes: int = 0
    sweeps: int = 0
    repeated: int = 0
    """Epochs that were trained again because they came after a checkpoint."""

    def fault(self, kind: str, detail: str, number: int = 1) -> None:
        """Count a fault and say it at once."""
        self.faults[kind] += number
        print(f"  FAULT {kind}: {detail[:500]}", flush=True)


class Sweep:
    """One sweep folder, the drivers that work on it one after the other, and what they must not lose."""

    def __init__(self, work: Path, name: str, spec: str, tally: Tally) -> None:
        self.path, self.tally = work / "sweeps" / name, tally
        self._spec = work / f"{name}.yaml"
        self._spec.write_text(spec)
        self.log = work / f"{name}.log"
        # Ray puts its sockets there, and what killed processes leave lying there goes with it.
        self._scratch = Path(tempfile.mkdtemp(prefix="torture-", dir="/tmp"))
        self._environment = {name: text for name, text in os.environ.items() if not name.startswith("RAY_")} | {
            "TMPDIR": str(self._scratch),
            "TUNE_NEWLLM_CACHE": str(work / "cache"),
            "PYTHONPATH": str(_frozen_code(work)),
        }
        self._known = b""
        self._gone: list[Life] = []
        self.life = self._begin()

    def _begin(self) -> Life:
        self.grown = time.monotonic()
        if (self.path / "records.jsonl").exists():
            command = ["resume", str(self.path), "--quiet"]
        else:
            command = ["search", str(self._spec), "--root", str(self.path.parent), "--name", self.path.name, "--quiet"]
        return Life(command, self._environment, self.log)

    def resume(self) -> None:
        """The next driver, at once: what is left of the last one may still live."""
        self._gone.append(self.life)
        self.tally.resumes += 1
        self.life = self._begin()

    def look(self) -> int:
        """Number of whole records, after checking that those known before are still there."""
        with suppress(FileNotFoundError):
            records = (self.path / "records.jsonl").read_bytes()
            if not records.startswith(self._known):
                lost = set(_epochs(self._known)) - set(_epochs(records))
                self.tally.fault(FAULTS[0], f"{len(lost)}, or the order is another", len(lost) or 1)
            whole = records[: records.rfind(b"\n") + 1]
            if len(whole) > len(self._known):
                self.grown = time.monotonic()
            self._known = whole
        for gone in [life for life in self._gone if life.over()]:
            after = time.monotonic() - gone.ended
            kinds = [each.kind for each in gone.alive().values() if each.kind not in AGENTS or after > AGENT_SECONDS]
            if kinds and after > ORPHAN_SECONDS:
                self.tally.fault("processes left behind", str(dict(Counter(kinds))), len(kinds))
                gone.strike("everything")
        return self._known.count(b"\n")

    def wait(self, until: Callable[[], bool] = lambda: False, seconds: float = float("inf")) -> None:
        """Watch until something holds, the time is up, the driver has ended or hangs."""
        end = time.monotonic() + seconds
        while not self.life.over() and not until() and not self.stuck and time.monotonic() < end:
            self.look()
            time.sleep(0.1)

    @property
    def stuck(self) -> bool:
        """Whether nothing was recorded for too long."""
        return time.monotonic() - self.grown > STUCK_SECONDS

    def __enter__(self) -> "Sweep":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Wait for what must end by itself, and clear up."""
        self._gone.append(self.life)
        while kind is None and any(each.kind not in AGENTS for life in self._gone for each in life.alive().values()):
            self.look()
            time.sleep(0.2)
        for life in self._gone:
            life.strike("everything")
        shutil.rmtree(self._scratch, ignore_errors=True)


def _frozen_code(work: Path) -> Path:
    """A copy of the program, since a sweep refuses to go on after changes in the code."""
    frozen = work / "code"
    for package in ("tune_newllm", "analysis"):
        if not (frozen / package).exists():
            shutil.copytree(Path(__file__).parents[1] / package, frozen / package)
    return frozen


def _epochs(records: bytes) -> list[bytes]:
    return [line for line in records.splitlines() if b'"event":"epoch"' in line]


def under_fire(sweep: Sweep, blows: list[str], chance: random.Random) -> None:
    """Strike, each blow leaving the list as it falls, until the sweep is finished."""
    tally = sweep.tally
    while True:
        weapon = blows[0] if blows else "nothing"
        if blows and _struck(sweep, weapon, chance):
            tally.kills[blows.pop(0)] += 1
            print(f"  {weapon:11} after {sweep.look():4} records", flush=True)
            sweep.grown = time.monotonic()
            if weapon == "worker":
                # The driver has to get over that by itself.
                continue
        sweep.wait()
        if not sweep.life.over():
            tally.fault("hangs", f"neither a record nor an end for {STUCK_SECONDS:.0f} s after {weapon}")
            sweep.life.strike("everything")
        code = sweep.life.driver.wait()
        tally.codes[f"{code} after {weapon}"] += 1
        if code in (2, 5) or (code == 1 and weapon not in ("raylet", "gcs_server")):
            tally.fault("odd exit codes", f"{code} after {weapon}; see {sweep.log}")
        if code in (0, 3, 4):
            return
        sweep.resume()


def _struck(sweep: Sweep, weapon: str, chance: random.Random) -> bool:
    """Wait for a random moment and for a process to strike; False where the driver ended or hung before."""
    if chance.random() < 0.25 and weapon != "worker":
        # Perhaps while it is still starting.
        sweep.wait(seconds=chance.uniform(0, 12))
    else:
        goal = sweep.look() + chance.randint(1, 6)
        sweep.wait(lambda: sweep.look() >= goal)
        sweep.wait(seconds=chance.uniform(0, 1))
    while not sweep.life.over() and not sweep.stuck:
        if sweep.life.strike(weapon):
            return True
        sweep.wait(seconds=0.1)
    return False


def table(path: Path) -> dict[str, Any]:
    """What interruptions must not change: configurations, how they ended, every epoch but for what it cost."""
    trials = History(SweepFolder.open(path).read()).trials.values()
    return {
        trial.id: (
            trial.parameters,
            trial.ended and (trial.ended.state, trial.ended.epoch, trial.ended.reason),
            [row.model_dump(exclude=MEASURED) for _, row in sorted(trial.epochs.items())],
        )
        for trial in trials
    }


def judge(sweep: Sweep, trials: int, reference: dict[str, Any] | None) -> None:
    """Look through a finished sweep; `reference` is the table of the undisturbed one where it has to be equal."""
    fault, rows = sweep.tally.fault, table(sweep.path)
    for log in sweep.path.glob("trials/*/log.txt"):
        epochs = Counter(line.split()[1] for line in log.read_text().splitlines() if line.startswith("epoch "))
        sweep.tally.repeated += epochs.total() - len(epochs)
        if more := sum(times - 1 for epoch, times in epochs.items() if int(epoch) in DURABLE):
            fault("durable epochs trained twice", f"{log.parent.name}: {dict(epochs)}", more)
    suggested = Counter(str(sorted(parameters.items())) for parameters, _, _ in rows.values())
    if more := suggested.total() - len(suggested):
        fault("configurations suggested twice", str(suggested.most_common(2)), more)
    unended = [name for name, (_, ending, _) in rows.items() if ending is None]
    if len(rows) != trials or unended:
        fault("trials missing", f"{len(rows)} of {trials}, without an end: {unended}")
    storage = JournalStorage(JournalFileBackend(str(sweep.path / "study.journal")))
    for study in optuna.get_all_study_summaries(storage):
        states = Counter(
            row.state.name for row in optuna.load_study(study_name=study.study_name, storage=storage).trials
        )
        if states["RUNNING"] or states["WAITING"] or states.total() != len(rows):
            fault("study rows left running", str(dict(states)), states["RUNNING"] + states["WAITING"] or 1)
    if reference is not None and rows != reference:
        names = [name for name in sorted({*rows, *reference}) if rows.get(name) != reference.get(name)]
        fault("tables that differ", f"{names}, e.g. {rows.get(names[:1][0])} for {reference.get(names[0])}", len(names))


def torture(work: Path, blows: list[str], seed: int = 0, concurrent: int = 1, trials: int = 12) -> Tally:
    """Sweeps under fire until all blows have fallen."""
    tally, chance, blows = Tally(), random.Random(seed), [*blows]
    while blows:
        spec = SWEEP.format(seed=seed + tally.sweeps, concurrent=concurrent, trials=trials)
        reference = _undisturbed(work, spec, trials, tally.sweeps) if concurrent == 1 else None
        print(f"sweep {tally.sweeps}: {len(blows)} blows to go", flush=True)
        with Sweep(work, f"tortured-{tally.sweeps}", spec, tally) as sweep:
            tally.sweeps += 1
            under_fire(sweep, blows, chance)
        judge(sweep, trials, reference)
    return tally


def _undisturbed(work: Path, spec: str, trials: int, number: int) -> dict[str, Any]:
    """The table of a sweep that nothing happens to."""
    with Sweep(work, f"undisturbed-{number}", spec, Tally()) as sweep:
        under_fire(sweep, [], random.Random())
    judge(sweep, trials, None)
    return table(sweep.path)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path, help="a new folder for the sweeps")
    for name, default in (("kills", 100), ("seed", 0), ("concurrent", 1), ("trials", 12)):
        parser.add_argument(f"--{name}", type=int, default=default)
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True)
    # A torture that is stopped takes its victims with it.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    began = time.monotonic()
    blows = random.Random(arguments.seed).choices(list(WEAPONS), list(WEAPONS.values()), k=arguments.kills)
    tally = torture(arguments.work.resolve(), blows, arguments.seed, arguments.concurrent, arguments.trials)
    print(f"\n{tally.kills.total()} kills in {tally.sweeps} sweeps, {tally.resumes} resumes, ", end="")
    print(f"{(time.monotonic() - began) / 60:.0f} minutes")
    for title, counts in (("kills", tally.kills), ("exit codes", tally.codes)):
        print(f"{title}: " + ", ".join(f"{number} {name}" for name, number in sorted(counts.items())))
    print(f"epochs since a checkpoint that were trained again: {tally.repeated}")
    for name, number in tally.faults.items():
        print(f"{number:5} {name}")
    print("verdict: " + ("LOST SOMETHING" if tally.faults.total() else "nothing was lost"))
    return int(tally.faults.total() > 0)


if __name__ == "__main__":
    sys.exit(main())
