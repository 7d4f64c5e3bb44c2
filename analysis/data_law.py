"""Whether more data pays: the perplexity of the best configuration against the amount of training data."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pandas as pd

from .best import best
from .floor_law import FloorLaw, fit_floor_law
from .load import Sweep
from .plateau import plateau
from .power_law import LEAST_SIZES, PowerLaw, Prediction, fit_power_law
from .words import counted, label, listed
from .yardstick import complete, conjoined, yardstick

DATA = "corpus.max_samples"

FURTHER = (2, 4, 10)
"""Multiples of the largest amount of data for which the law is asked."""


@dataclass(frozen=True)
class DataLaw:
    """Perplexity against training tokens, like against like.

    Attributes:
        points: one row per amount of data, the smallest first: `tokens`, `ppl`, `loss` (nats per token, the mean over
            the seeds), `replicates`, `configurations` (how many of them ran to their end), `trial_id`, `source` (index
            of its sweep) and `texts` (`corpus.max_samples`, NaN for all). The perplexity is that of the mean loss.
            Tokens are the words predicted in one epoch; with `windowing: original`, where windows overlap, a word
            counts as often as windows hold it.
        tried: one row per configuration, of which the points are the best ones.
        law: the fit to the points.
        floor: the same with an irreducible floor.
        epochs: for which every one of them was trained; None where there are none.
        cautions: what keeps the points from being alike, one sentence each.
    """

    points: pd.DataFrame
    tried: pd.DataFrame
    law: PowerLaw
    floor: FloorLaw
    epochs: int | None
    cautions: list[str]

    @property
    def sentences(self) -> list[str]:
        """What was found, the most important first."""
        verdict = self.law.verdict
        if not self.law.determined:
            verdict = f"How perplexity changes with the amount of data is {verdict}"
        said = [verdict, *([self.law.curvature_verdict] if self.law.bends else [])]
        if self.floor.above_zero:
            said.append(self.floor.verdict)
        if self.law.reason:
            said.append(
                f"Let trials of at least {counted(LEAST_SIZES, 'amount')} of data run to their end: more values of "
                f"{DATA}, and early_terminate.within: {DATA} where early stopping leaves no finalist of one."
            )
        return [*said, *self.cautions]

    def extrapolation(self) -> list[Prediction]:
        """What the law says of `FURTHER` times the largest amount of data; empty where there is no law."""
        return [] if self.law.reason else [self.law.predict(self.law.measured[1] * times) for times in FURTHER]

    def numbers(self) -> dict[str, Any]:
        """All of it as mappings and lists; numbers that are not known are NaN or infinite."""
        floor = {name: value for name, value in vars(self.floor).items() if name != "allowed"}
        return {
            "sentences": self.sentences,
            "epochs": self.epochs,
            "points": self.points.drop(columns="source").to_dict("records"),
            "law": asdict(self.law),
            "floor": floor,
            "extrapolation": [asdict(prediction) for prediction in self.extrapolation()],
        }


def data_law(sweeps: Sweep | Sequence[Sweep]) -> DataLaw | None:
    """The law of one sweep that searched `corpus.max_samples`, or of sweeps on different amounts of data.

    The best configuration of each amount counts, of those that ran to their end. Configurations trained for another
    number of epochs than most, and sweeps whose losses were measured in another way, are left out and named.

    Returns:
        None where the amount of data was never varied.
    """
    several = [sweeps] if isinstance(sweeps, Sweep) else list(sweeps)
    if not _varies(several):
        return None
    alike, cautions = _alike(several)
    tables = [_configurations(sweep, at) for at, sweep in enumerate(several) if at in alike]
    tried = pd.concat(tables, ignore_index=True)
    tried, epochs, left_out = _equally_long(tried)
    tried = tried.sort_values(["tokens", "loss"], kind="stable", ignore_index=True)
    counts = tried.groupby("tokens")["tokens"].transform("size")
    points = tried.assign(configurations=counts).drop_duplicates("tokens").reset_index(drop=True)
    cautions += [*left_out, *_on_plateau(several, points), *_on_models(several, points)]
    cautions += _on_choice(several, points)
    law, floor = fit_power_law(points["tokens"], points["ppl"]), fit_floor_law(points["tokens"], points["ppl"])
    return DataLaw(points.drop(columns="asked"), tried.drop(columns="asked"), law, floor, epochs, cautions)


def _varies(sweeps: Sequence[Sweep]) -> bool:
    if any(DATA in sweep.searched for sweep in sweeps):
        return True
    return len({round(tokens) for sweep in sweeps for tokens in _of_an_epoch(sweep.epochs.tail(1))}) > 1


def _tokens(sweep: Sweep) -> pd.Series:
    """Training tokens of one epoch, by trial."""
    return _of_an_epoch(sweep.epochs.groupby("trial_id")[["tokens", "epoch"]].last())


def _of_an_epoch(rows: pd.DataFrame) -> pd.Series:
    return (rows["tokens"] / rows["epoch"]).astype("float64").round()


def _alike(sweeps: Sequence[Sweep]) -> tuple[set[int], list[str]]:
    """The sweeps whose losses can be compared, as many as possible, and a sentence on the others."""
    if len(sweeps) == 1:
        return {0}, []
    sticks = [yardstick(sweep) for sweep in sweeps]
    known = [at for at, stick in enumerate(sticks) if complete(stick)] or [0]
    common = max((sticks[at] for at in known), key=[sticks[at] for at in known].count)
    alike = {at for at in known if sticks[at] == common}
    others = [sweep.name for at, sweep in enumerate(sweeps) if at not in alike]
    why = "losses measured on other text or in other words, or it is not known in which"
    return alike, [f"Left out: {conjoined(others)} ({why})."] if others else []


def _configurations(sweep: Sweep, source: int) -> pd.DataFrame:
    """One row per configuration that ran to its end."""
    ranking = best(sweep, len(sweep.trials))
    rows = ranking.trials if ranking.full_fidelity else ranking.trials.head(0)
    table = pd.DataFrame(
        {
            "tokens": rows["trial_id"].map(_tokens(sweep)).astype("float64"),
            "ppl": rows["mean"].map(lambda loss: math.exp(loss) if loss < 700 else math.inf).astype("float64"),
            "loss": rows["mean"].astype("float64"),
            "replicates": rows["replicates"].astype("int64"),
            "trial_id": rows["trial_id"].astype("str"),
            "source": source,
            "texts": pd.to_numeric(sweep.setting(DATA)[rows.index], errors="coerce").astype("float64"),
            "asked": pd.to_numeric(sweep.setting("training.epochs")[rows.index], errors="coerce").astype("float64"),
        }
    )
    return table[table["tokens"] > 0]


def _equally_long(tried: pd.DataFrame) -> tuple[pd.DataFrame, int | None, list[str]]:
    """Those trained for one number of epochs: the one with the most amounts of data, of equals the longest."""
    if tried.empty:
        return tried, None, []
    asked = tried["asked"].fillna(0)
    amounts = tried.groupby(asked)["tokens"].nunique()
    chosen = max(amounts.index, key=lambda epochs: (amounts[epochs], epochs))
    kept = tried[asked == chosen]
    said = []
    if left := len(tried) - len(kept):
        does = "does" if left == 1 else "do"
        said = [
            f"{counted(left, 'configuration')} trained for a number of epochs other than {chosen:g} {does} not count."
        ]
    return kept, int(chosen) or None, said


def _on_plateau(sweeps: Sequence[Sweep], points: pd.DataFrame) -> list[str]:
    """A warning where models count that learned little more than how often each word occurs."""
    stuck = 0
    for at, sweep in enumerate(sweeps):
        trials = plateau(sweep)
        never = trials.loc[trials["plateau_step"].isna(), "trial_id"]
        stuck += int((points["trial_id"].isin(never) & (points["source"] == at)).sum())
    if not stuck:
        return []
    return [
        f"{stuck} of the {len(points)} models never left the unigram plateau: what they show is how fast training gets "
        "there, not what more data is worth."
    ]


def _on_models(sweeps: Sequence[Sweep], points: pd.DataFrame) -> list[str]:
    """A warning where the best configurations are different models."""
    paths = {path for sweep in sweeps for path in sweep.searched if path.startswith("model.")}
    if len(sweeps) > 1:
        written = [sweep.spec.get("model") for sweep in sweeps]
        paths |= {f"model.{key}" for model in written if isinstance(model, Mapping) for key in model}
    found: dict[str, set[str]] = {path: set() for path in sorted(paths)}
    for trial_id, source in zip(points["trial_id"], points["source"], strict=True):
        sweep = sweeps[source]
        row = sweep.trials.index[sweep.trials["trial_id"] == trial_id][0]
        for path, values in found.items():
            values.add(str(sweep.setting(path)[row]))
    varied = [label(path) for path, values in found.items() if len(values) > 1]
    if not varied:
        return []
    return [f"The best models of the amounts differ ({listed(varied)}), so not all of the change is due to the data."]


def _on_choice(sweeps: Sequence[Sweep], points: pd.DataFrame) -> list[str]:
    """A warning where the best of an amount was hardly chosen, although there was something to choose."""
    others = {path for sweep in sweeps for path in sweep.searched} - {DATA}
    once = int((points["configurations"] == 1).sum())
    if not others or not once or len(points) < LEAST_SIZES:
        return []
    return [
        f"{once} of {counted(len(points), 'amount')} of data {'has' if once == 1 else 'have'} one finished "
        "configuration only, which need not be a good one."
    ]
