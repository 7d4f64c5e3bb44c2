"""Errors this package raises on purpose. Each knows the exit code it ends the command line with.

A message states the rule, what was got instead and the next step, on one line where that is possible.
"""


class TuneError(Exception):
    """Base of all named errors; raised itself only for faults of our own."""

    exit_code = 1


class UsageError(TuneError):
    """The user asked for something that cannot be done as asked: wrong option, missing file, taken name."""

    exit_code = 2


class SpecError(UsageError):
    """A sweep file breaks a rule. The message names file, line and key."""


class CorpusError(UsageError):
    """A corpus is unknown, missing, unreadable or empty."""


class CheckpointError(UsageError):
    """A checkpoint is missing, damaged or of another shape than asked for."""


class DamagedCheckpointError(CheckpointError):
    """A checkpoint's bytes are not those that were written."""


class InfeasibleError(TuneError):
    """A configuration needs more memory than there is, however few sequences it reads at once."""

    exit_code = 4


class FolderError(UsageError):
    """A sweep folder is missing, taken, unreadable or not a sweep folder."""


class DivergedError(TuneError):
    """The training loss or its gradient left the finite numbers.

    Args:
        epoch: 1-based epoch in which it happened.
        step: 1-based optimizer step, counted from the start of training.
        loss: the offending value.
    """

    exit_code = 4

    def __init__(self, epoch: int, step: int, loss: float) -> None:
        super().__init__(
            f"the loss or its gradient became {loss} at optimizer step {step} (epoch {epoch}): lower the learning rate"
        )
        self.epoch, self.step, self.loss = epoch, step, loss

    def __reduce__(self) -> tuple[type["DivergedError"], tuple[int, int, float]]:
        return type(self), (self.epoch, self.step, self.loss)


class DegenerateError(DivergedError):
    """What was learnt first is of no use for what is to be learnt next: the training ends before its first epoch."""

    def __init__(self, message: str) -> None:
        TuneError.__init__(self, message)
        self.epoch, self.step, self.loss = 1, 0, float("nan")

    def __reduce__(self) -> tuple[type["DegenerateError"], tuple[str]]:  # type: ignore[override]
        return type(self), (str(self),)
