"""What launching trials costs: this program against a plain Ray Tune script and plain Optuna in one process.

`python benchmarks/sweep.py [--trials 40] [--epochs 2] [--samples 2000]`: the same configurations, trained by the same
loop, in turns. The overhead of a trial is the time from the first training step to the last, times the trials at once,
less the seconds of training, divided by the trials; plain Optuna has no processes and no checkpoints. Also prints how
long it takes until the first training step, and what `--help` and `status` take.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from tune_newllm.data.config import CorpusConfig
from tune_newllm.data.corpora import open_prepared, prepare
from tune_newllm.models import ModelConfig
from tune_newllm.sweep.provenance import processor, versions
from tune_newllm.training.config import Configuration, TrainingConfig

MODEL = ModelConfig(embed_dim=32, hidden_dim=64, ctx_dim=32, num_layers=2)
ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Work:
    """What all of them train."""

    trials: int
    epochs: int
    samples: int
    concurrent: int

    def configuration(self, seed: int) -> Configuration:
        """Of one trial; they differ in their seeds alone."""
        corpus = CorpusConfig(vocab_size=500, window=24, max_samples=self.samples)
        training = TrainingConfig(epochs=self.epochs, seed=seed, precision="fp32", device="cpu", micro_batch=256)
        return Configuration(corpus, MODEL, training)

    def sweep_file(self) -> dict[str, Any]:
        """The same as a sweep."""
        plain = self.configuration(0).to_dict()
        return {
            **plain,
            "method": "grid",
            "parameters": {"training.clip.norm": {"values": [1 + index / 1000 for index in range(self.trials)]}},
            "resources": {"cpus_per_trial": 1, "max_concurrent": self.concurrent},
        }


@dataclass
class Timing:
    """One way of running all trials, times in seconds."""

    start: float
    """Until the first training step."""
    span: float
    """From the first training step to the last."""
    training: float
    """Sum over all epochs of all trials."""
    concurrent: int
    trials: int

    @property
    def overhead(self) -> float:
        """Of one trial, in seconds of its slot."""
        return (self.span * self.concurrent - self.training) / self.trials

    @property
    def beyond_ideal(self) -> float:
        """Share by which the span is longer than training alone would be."""
        return self.span * self.concurrent / self.training - 1


def train(configuration: dict[str, Any], corpus: str) -> list[tuple[float, float]]:
    """One trial by the project's loop: when each epoch ended, and its seconds."""
    import torch
    from pydantic import TypeAdapter

    from tune_newllm.models import build
    from tune_newllm.training.loop import fit
    from tune_newllm.training.state import TrainState

    torch.set_num_threads(1)
    made = TypeAdapter(Configuration).validate_python(configuration)
    data = open_prepared(Path(corpus)).first(made.corpus.max_samples)
    state = TrainState.create(made.training, build(made.model, len(data.tokenizer), made.training.seed))
    return [(time.time(), each.seconds) for each in fit(state, data.train, data.validation, made.training)]


def ours(work: Work, corpus: Path) -> Timing:
    """A sweep in a process of its own, by its records."""
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "sweep.yaml"
        path.write_text(json.dumps(work.sweep_file()))
        command = [sys.executable, "-m", "tune_newllm", "search", str(path), "--root", scratch, "--quiet"]
        began = time.time()
        subprocess.run(command, check=True, capture_output=True, cwd=ROOT)
        rows = [json.loads(line) for line in (Path(scratch) / "sweep" / "records.jsonl").read_text().splitlines()]
    # A record's time is its writing; the epoch began so many seconds before.
    epochs = [(row["time"], row["seconds"]) for row in rows if "val_loss" in row]
    return _timing(began, epochs, work.concurrent, work.trials)


def plain_ray(work: Work, corpus: Path) -> Timing:
    """A script as Ray's documentation teaches it, in a process of its own."""
    command = [sys.executable, __file__, "--plain-ray", json.dumps(asdict(work)), str(corpus)]
    began = time.time()
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT)
    return _timing(began, json.loads(done.stdout.splitlines()[-1]), work.concurrent, work.trials)


def _plain_ray(work: Work, corpus: str) -> None:
    from ray import tune

    def trainable(config: dict[str, Any]) -> None:
        for ended, seconds in train(config["configuration"], corpus):
            tune.report({"ended": ended, "seconds": seconds})

    space = {"configuration": tune.grid_search([work.configuration(seed).to_dict() for seed in range(work.trials)])}
    options = tune.TuneConfig(max_concurrent_trials=work.concurrent, reuse_actors=True)
    results = tune.Tuner(trainable, param_space=space, tune_config=options).fit()
    frames = [each.metrics_dataframe for each in results]
    print(json.dumps([pair for frame in frames for pair in frame[["ended", "seconds"]].to_numpy().tolist()]))


def plain_optuna(work: Work, corpus: Path) -> Timing:
    """One trial after the other in this process."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    began, epochs = time.time(), []

    def objective(trial: optuna.Trial) -> float:
        trial.suggest_float("x", 0, 1)
        epochs.extend(train(work.configuration(trial.number).to_dict(), str(corpus)))
        return epochs[-1][1]

    optuna.create_study().optimize(objective, n_trials=work.trials)
    return _timing(began, epochs, 1, work.trials)


def _timing(began: float, epochs: list[tuple[float, float]], concurrent: int, trials: int) -> Timing:
    first = min(ended - seconds for ended, seconds in epochs)
    last = max(ended for ended, _ in epochs)
    return Timing(first - began, last - first, sum(seconds for _, seconds in epochs), concurrent, trials)


def command_seconds(*words: str) -> float:
    """Shortest of three runs of a command."""
    times = []
    for _ in range(3):
        began = time.perf_counter()
        subprocess.run([sys.executable, "-m", "tune_newllm", *words], check=False, capture_output=True, cwd=ROOT)
        times.append(time.perf_counter() - began)
    return min(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=40)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--samples", type=int, default=2000, help="texts of the built-in corpus")
    parser.add_argument("--concurrent", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--status", type=Path, help="a sweep whose `status` is timed")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plain-ray", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.plain_ray:
        _plain_ray(Work(**json.loads(arguments.plain_ray[0])), arguments.plain_ray[1])
        return
    work = Work(arguments.trials, arguments.epochs, arguments.samples, arguments.concurrent)
    corpus = prepare(replace(work.configuration(0).corpus, max_samples=None)).folder
    result: dict[str, Any] = {"machine": {"processor": processor(), **versions()}, "work": asdict(work), "runs": []}
    print(f"{processor()}; {work}")
    print(f"{'':14}{'start s':>9}{'span s':>9}{'training s':>12}{'overhead ms a trial':>21}{'beyond ideal':>14}")
    for _ in range(arguments.rounds):
        for way in (ours, plain_ray, plain_optuna):
            timing = way(work, corpus)
            shown = {**asdict(timing), "overhead": timing.overhead, "beyond_ideal": timing.beyond_ideal}
            result["runs"].append({"way": way.__name__, **shown})
            print(f"{way.__name__:14}{timing.start:>9.1f}{timing.span:>9.1f}{timing.training:>12.1f}"
                  f"{1000 * timing.overhead:>21.0f}{timing.beyond_ideal:>14.1%}", flush=True)  # fmt: skip
    result["help_seconds"] = command_seconds("--help")
    print(f"--help {result['help_seconds']:.2f} s")
    if arguments.status:
        result["status_seconds"] = command_seconds("status", str(arguments.status))
        print(f"status {result['status_seconds']:.2f} s")
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
