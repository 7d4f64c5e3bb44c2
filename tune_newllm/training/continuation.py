"""What a run that is given more epochs trains by: its own schedules, going on where they stand, or a new one."""

from dataclasses import replace

from tune_newllm.training.config import TrainingConfig
from tune_newllm.training.schedules import LRScheduleConfig, LRStage


def continued(begun: TrainingConfig, epochs: int) -> TrainingConfig:
    """The same training for another number of epochs.

    Its learning rate, clipping and early stopping go on where they stand. How long a schedule is was decided when the
    run began: one that has reached its end stays at its last value.
    """
    if epochs == begun.epochs:
        return begun
    return replace(begun, epochs=epochs, schedule_epochs=begun.laid_out_over)


def rescheduled(
    begun: TrainingConfig, done: int, epochs: int, lr: float, lr_schedule: LRScheduleConfig
) -> TrainingConfig:
    """The same training, whose learning rate follows a new course over the epochs still to come.

    Clipping goes on where it stands. Early stopping has all of its patience again, and still asks for less than the
    best loss so far. The same asked again changes nothing, so that a command can be repeated after a kill.

    Args:
        begun: how it was trained so far.
        done: finished epochs.
        epochs: of the whole run from now on.
        lr: as `training.lr`, which the run's scaling rules scale.
        lr_schedule: the course, laid out over `epochs` - `done`.

    Raises:
        ValueError: no epoch is to come, or the schedule is impossible in so few.
    """
    for under_way in begun.lr_stages[-1:]:
        end = under_way.after + under_way.epochs
        if under_way.after <= done and (end, under_way.lr, under_way.lr_schedule) == (epochs, lr, lr_schedule):
            return continued(begun, epochs)
    if epochs <= done:
        raise ValueError(f"a new schedule needs epochs to come: epochs must be above the {done} trained, got {epochs}")
    stage = LRStage(done, epochs - done, lr, lr_schedule)
    # One that was chosen at this same place has never been followed.
    kept = [each for each in begun.lr_stages if each.after < done]
    return replace(continued(begun, epochs), lr_stages=(*kept, stage))
