"""The journal that optuna-dashboard opens: a study for each number of epochs that a full trial has had.

It is derived: rebuilt from the records at every start of a driver. A study's rows hold each parameter's coordinate
(`space.Parameter.to_study`) and, as user attributes, the trial's id and real values; a parameter whose `when` does not
hold is in neither. With several seeds a row stands for all replicates. What is told follows DESIGN: stopped trials
are pruned ones; diverged and infeasible ones violate a constraint, because TPE never reads failed rows and would go on
suggesting beyond the edge; crashed and failed ones fail.
"""

from collections.abc import Iterable
from pathlib import Path

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.trial import FrozenTrial, Trial, TrialState

from tune_newllm.sweep.history import Suggestion, TrialHistory
from tune_newllm.sweep.spec import SweepSpec


def study_name(epochs: int) -> str:
    """What a study is called: `8 epochs`."""
    return "1 epoch" if epochs == 1 else f"{epochs} epochs"


class Journal:
    """The file; a new one takes the place of what is there."""

    def __init__(self, path: Path) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        # With the lock of a driver that was killed, which would be waited for.
        for left in (path, *path.parent.glob(f"{path.name}.lock*")):
            left.unlink(missing_ok=True)
        self._storage = JournalStorage(JournalFileBackend(str(path), lock_obj=JournalFileOpenLock(str(path))))

    def study(self, epochs: int) -> optuna.Study:
        """A new study for trials of so many epochs."""
        # It is never asked for values of its own: any sampler but a cheap one would work in vain.
        sampler = optuna.samplers.RandomSampler(seed=0)
        return optuna.create_study(
            storage=self._storage, sampler=sampler, study_name=study_name(epochs), direction="minimize"
        )


class Rows:
    """The rows of one study: one for each suggestion, however many seeds run it."""

    def __init__(self, study: optuna.Study, spec: SweepSpec, suggestions: Iterable[Suggestion] = ()) -> None:
        self._study, self._spec = study, spec
        self._live: dict[int, Trial] = {}
        self._reported: dict[int, set[int]] = {}
        for suggestion in suggestions:
            self.add(suggestion.trials[0])
            self.update(suggestion)

    def all(self) -> list[FrozenTrial]:
        """The rows as they are now, in order of creation."""
        return self._study.get_trials(deepcopy=False)

    def add(self, trial: TrialHistory) -> None:
        """A row for a configuration that was suggested, of which `trial` is the first replicate."""
        space = {path: self._spec.parameters[path] for path in trial.parameters}
        coordinates = {path: parameter.to_study(trial.parameters[path]) for path, parameter in space.items()}
        name = Suggestion(self._spec.seeds, [trial]).id
        self._study.enqueue_trial(coordinates, user_attrs={"trial_id": name, **trial.parameters})
        row = self._study.ask({path: parameter.distribution_in_study for path, parameter in space.items()})
        self._live[trial.created.number], self._reported[trial.created.number] = row, set()

    def update(self, suggestion: Suggestion) -> None:
        """Tell what is new of a suggestion: the mean of its replicates after each epoch, and its end."""
        number = suggestion.trials[0].created.number
        row, reported = self._live[number], self._reported[number]
        for epoch in sorted({epoch for trial in suggestion.trials for epoch in trial.epochs} - reported):
            if (level := suggestion.level(epoch)) is not None:
                row.report(level, epoch)
                reported.add(epoch)
        if suggestion.state == "completed":
            self._study.tell(row, suggestion.value)
        elif suggestion.state in ("stopped", "diverged", "infeasible"):
            if suggestion.state != "stopped":
                row.set_constraint("usable", 1.0)
            self._study.tell(row, state=TrialState.PRUNED)
        elif suggestion.state in ("crashed", "failed"):
            self._study.tell(row, state=TrialState.FAIL)

    def close(self) -> None:
        """What has no end in this study will never get one here: it counts as pruned."""
        for row in self.all():
            if not row.state.is_finished():
                self._study.tell(row.number, state=TrialState.PRUNED)
