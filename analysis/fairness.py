"""Whether the losses of several sweeps can be compared, and who had an advantage."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from .best import best
from .load import Sweep
from .tables import configured
from .words import listed, shown
from .yardstick import by_value, complete, differing, yardstick

MANY_MORE = 1.5
"""Times as many configurations give an advantage worth saying."""


class Fairness(NamedTuple):
    comparable: bool | None
    """Whether all losses were measured alike; None where the folders do not say."""
    reasons: list[str]
    """Why they were not."""
    budget: list[str]
    """What else of the training differs in amount: epochs, data."""
    notes: list[str]
    """What makes smaller differences."""

    @property
    def fair(self) -> bool:
        return self.comparable is True and not self.budget


def fairness(sweeps: Sequence[Sweep], names: Sequence[str]) -> Fairness:
    """One sentence for each thing that stands between the sweeps.

    Args:
        names: what the sentences call the sweeps.
    """
    found = differing(sweeps, names)
    reasons = found or []
    if found is None:
        silent = [name for sweep, name in zip(sweeps, names, strict=True) if not complete(yardstick(sweep))]
        reasons = [f"No record of how the losses were measured: {listed(silent)}."]
    comparable = None if found is None else not found
    return Fairness(
        comparable, reasons, _on_budget(sweeps, names), _on_chance(sweeps, names) + _on_program(sweeps, names)
    )


def _on_budget(sweeps: Sequence[Sweep], names: Sequence[str]) -> list[str]:
    """Epochs and tokens of the best trials."""
    said, firsts = [], [best(sweep, 1).trials.index[:1] for sweep in sweeps]
    asked = [_asked(sweep, first) for sweep, first in zip(sweeps, firsts, strict=True)]
    if len(set(asked)) > 1:
        said.append(f"The epochs of a full trial differ: {by_value(asked, names)}; longer training has the advantage.")
    tokens = [_tokens(sweep, first) for sweep, first in zip(sweeps, firsts, strict=True)]
    known = {count for count in tokens if count is not None}
    if len(known) > 1:
        texts = ["not known" if count is None else f"{count:,}" for count in tokens]
        said.append(f"The tokens of an epoch differ: {by_value(texts, names)}; more data has the advantage.")
    return said


def _asked(sweep: Sweep, first: Any) -> str:
    values = sweep.setting("training.epochs")[first].tolist() or [configured(sweep.spec, "training.epochs")]
    return shown(values[0]) if values[0] is not None else "not known"


def _tokens(sweep: Sweep, first: Any) -> int | None:
    """Of an epoch of the best trial."""
    rows = sweep.epochs[sweep.epochs["trial_id"].isin(sweep.trials.loc[first, "trial_id"])]
    return None if rows.empty else round(float(rows["tokens"].iloc[-1] / rows["epoch"].iloc[-1]))


def _on_chance(sweeps: Sequence[Sweep], names: Sequence[str]) -> list[str]:
    said = []
    tried = [int(sweep.trials.loc[sweep.trials["value"].notna(), "number"].nunique()) for sweep in sweeps]
    some = [count for count in tried if count]
    if some and max(some) > MANY_MORE * min(some):
        texts = [f"{count:,}" for count in tried]
        said.append(
            f"The configurations tried differ in number: {by_value(texts, names)}; the best of more is lower by chance "
            "alone."
        )
    seeds = [str(sweep.seeds) for sweep in sweeps]
    if len(set(seeds)) > 1:
        said.append(f"The seeds of a configuration differ in number: {by_value(seeds, names)}.")
    return said


def _on_program(sweeps: Sequence[Sweep], names: Sequence[str]) -> list[str]:
    """Code that is not the same, and machines whose seconds are not."""
    said = []
    codes = [configured(sweep.provenance, "code") for sweep in sweeps]
    hashes = [code for code in codes if isinstance(code, dict)]
    if len(hashes) == len(sweeps):
        files = sorted({file for code in hashes for file in code})
        changed = [file for file in files if len({str(code.get(file)) for code in hashes}) > 1]
        if changed:
            said.append(f"They ran different versions of the program; other files: {listed(changed)}.")
    machines = [_machine(sweep) for sweep in sweeps]
    if len(set(machines)) > 1:
        said.append(f"The machines differ, so seconds say little: {by_value(machines, names)}.")
    return said


def _machine(sweep: Sweep) -> str:
    name, at_once = (configured(sweep.provenance, f"hardware.{key}") for key in ("name", "max_concurrent"))
    if not isinstance(name, str):
        return "not known"
    return f"{name} ({at_once} at once)" if isinstance(at_once, int) else name
