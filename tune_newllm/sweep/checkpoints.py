"""Which trials' checkpoints a sweep keeps: those it may still need, and those of its best trials."""

from contextlib import suppress

from tune_newllm.records import TrialEnded
from tune_newllm.sweep.folder import SweepFolder
from tune_newllm.sweep.history import History, Suggestion, TrialHistory
from tune_newllm.training.checkpoints import PREVIOUS, STATE, WEIGHTS


class Pruner:
    """Deletes weights and training states of ended trials beyond the best ones.

    Unfinished trials keep theirs, because a resume needs them. What is deleted follows from the records alone, so that
    a crash in the middle leaves nothing that the next pruning would not find.
    """

    def __init__(self, folder: SweepFolder) -> None:
        self._folder = folder
        self._pruned: dict[str, TrialEnded] = {}

    def prune(self, history: History, keep: int) -> None:
        """Keep the checkpoints of at least `keep` ended trials: of whole configurations, completed ones first, then by
        the mean of their replicates."""
        kept = 0
        # A configuration is not judged before all its seeds have ended.
        ended = [each for each in history.suggestions.values() if each.state not in ("waiting", "running")]
        for suggestion in sorted(ended, key=_rank):
            if kept >= keep:
                self._delete(suggestion.trials)
            kept += len(suggestion.trials)

    def _delete(self, trials: list[TrialHistory]) -> None:
        for trial in trials:
            if self._pruned.get(trial.id) is not trial.ended:
                for name in (WEIGHTS, STATE, PREVIOUS):
                    # A file that cannot be deleted costs space and nothing else.
                    with suppress(OSError):
                        (self._folder.trial(trial.id) / name).unlink()
                assert trial.ended is not None
                self._pruned[trial.id] = trial.ended


def _rank(suggestion: Suggestion) -> tuple[int, float, int]:
    order = {"completed": 0, "stopped": 1, "crashed": 2}
    value = float("inf") if suggestion.value is None else suggestion.value
    return order.get(suggestion.state, 3), value, suggestion.trials[0].created.number
