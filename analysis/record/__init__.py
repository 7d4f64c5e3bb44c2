"""The experiment record: what the original research wrote down by hand of each experiment, as Markdown."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tune_newllm.errors import FolderError

from ..answers import findings
from ..best import best
from ..files import replace
from ..load import Sweep
from ..markdown import bullets, commands, paragraph, plain
from ..run_folder import is_run
from ..summary import summary
from ..words import counted, cut
from .against import against
from .course import course
from .environment import environment, moment, span
from .results import results
from .run import run_record
from .settings import settings
from .several import several
from .step import Step
from .steps import steps

__all__ = ["RECORD_FILE", "record", "run_record", "several", "write_record"]

RECORD_FILE = "record.md"
LONGEST_QUESTION = 2000


def record(
    sweep: Sweep, defaults: Mapping[str, Any] | None = None, beside: Path | None = None, test_loss: float | None = None
) -> str:
    """The record of a sweep: question, findings, settings, environment, results, comparison, next steps.

    The same records give the same text, whenever and wherever it is written.

    Args:
        defaults: of `corpus`, `model` and `training`; settings that equal them are left out.
        beside: the folder in which the report leaves `next.yaml`; the sweep's own if None.
        test_loss: see `summary`.
    """
    content = summary(sweep, test_loss, importances=False)
    first = best(sweep, 1).trials["trial_id"].tolist()
    one = course(sweep, first[0]) if first else None
    blocks = [f"# {plain(sweep.name)}", *_opening(sweep)]
    blocks += ["## Findings", bullets(map(plain, findings(sweep, test_loss)))]
    blocks += [*settings(sweep, defaults or {}), *environment(sweep)]
    blocks += [*results(sweep, one)] if one or len(sweep.trials) else []
    blocks += [*against(sweep, one, content)] if one else []
    blocks += _next(steps(sweep, one, content, beside or sweep.folder))
    if sweep.warnings:
        blocks += ["## Left out while reading", bullets(map(plain, sweep.warnings))]
    return "\n\n".join(blocks) + "\n"


def write_record(
    sweeps: Sweep | Sequence[Sweep],
    path: Path | str,
    defaults: Mapping[str, Any] | None = None,
    beside: Path | None = None,
) -> Path:
    """Write the record of one sweep, of several side by side, or of what `load_run` read, in one step; the arguments
    are those of `record`.

    Returns:
        the path.

    Raises:
        FolderError: it cannot be written there.
    """
    if not isinstance(sweeps, Sweep):
        text = several(sweeps)
    elif is_run(sweeps.folder):
        text = run_record(sweeps, defaults)
    else:
        text = record(sweeps, defaults, beside)
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        replace(path, text)
    except OSError as error:
        raise FolderError(f"a record needs a place that can be written to: {error}; give another FILE") from error
    return path


def _opening(sweep: Sweep) -> Iterable[str]:
    times = span(sweep)
    date = f"{moment(times[0])[:10]}. " if times else ""
    status = {
        "open": "not ended when the records were read",
        "finished": "finished",
        "interrupted": "interrupted",
        "budget": "stopped by its budget",
        "failing": "stopped, as its first trials all failed",
        "halted": "stopped by a fault",
    }[sweep.status]
    yield paragraph(f"Experiment record. {date}{counted(len(sweep.trials), 'trial')}, {status}.")
    question = str(sweep.spec.get("description") or "")
    if question:
        yield paragraph(f"**Question:** {plain(cut(question, LONGEST_QUESTION))}")


def _next(found: Sequence[Step]) -> list[str]:
    if not found:
        return ["## Next steps", "The numbers ask for none."]
    made = ["## Next steps"]
    for number, step in enumerate(found, 1):
        made.append(paragraph(plain(step.reason), "   ", f"{number}. "))
        if step.command:
            made.append(commands([step.command], "   "))
    return made
