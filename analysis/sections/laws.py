"""What follows from the trials together."""

from .. import figures
from ..load import Sweep
from ..markup import Section


def lr_batch(sweep: Sweep) -> Section | None:
    if figures.lr_batch_data(sweep) is None:
        return None
    guide = (
        "Each dot is a trial that ran to its end, coloured by its validation loss; small circles were stopped early, "
        "crosses diverged or failed. Rings mark the best trial of each batch size."
    )
    return Section("lr-batch", "Learning rate and batch size", guide, [figures.lr_batch(sweep)])
