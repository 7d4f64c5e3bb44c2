"""Which trials' checkpoints a sweep keeps: those it may still need, and those of its best trials."""

from contextlib import suppress

from tune_newllm.records import TrialEnded
from tune_newllm.sweep.folder import SweepFolder
from tune_newllm.sweep.history import History, TrialHistory
from tune_newllm.training.run import PREVIOUS, STATE, WEIGHTS


class Pruner:
    """Deletes weights and training states of ended trials beyond the best ones.

    Unfinished trials keep theirs, because a resume needs them. What is deleted follows from the records alone, so that
    a crash in the middle leaves nothing that the next pruning would not find.
    """

    def __init__(self, folder: SweepFolder) -> None:
        self._folder = folder
        self._pruned: dict[str, TrialEnded] = {}

    def prune(self, history: History, keep: int) -> None:
        """Keep the checkpoints of the `keep` best ended trials: completed ones first, then by value."""
        ended = [trial for trial in history.trials.values() if trial.ended is not None]
        for trial in sorted(ended, key=_rank)[keep:]:
            if self._pruned.get(trial.id) is not trial.ended:
                for name in (WEIGHTS, STATE, PREVIOUS):
                    # A file that cannot be deleted costs space and nothing else.
                    with suppress(OSError):
                        (self._folder.trial(trial.id) / name).unlink()
                assert trial.ended is not None
                self._pruned[trial.id] = trial.ended


def _rank(trial: TrialHistory) -> tuple[int, float, int]:
    order = {"completed": 0, "stopped": 1, "crashed": 2}
    value = float("inf") if trial.value is None else trial.value
    return order.get(trial.state, 3), value, trial.created.number
