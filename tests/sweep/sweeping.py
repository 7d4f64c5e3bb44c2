"""A small sweep file, and what its trials report."""

import math

from tune_newllm.records import EpochRecord, TrialCreated, TrialEnded

SPEC = """\
training: {epochs: 8}
parameters:
  training.lr: {distribution: log_uniform_values, min: 1e-4, max: 1e-1}
  training.batch_size: {values: [8, 16, 32]}
points: [{training.lr: 1e-3, training.batch_size: 32}]
balanced: training.batch_size
early_terminate: {type: asha, min_iter: 2, eta: 2, within: training.batch_size}
run_cap: 12
"""


def result(epoch, val_loss, **more):
    """What a trial reports for an epoch."""
    row = {"epoch": epoch, "step": 10 * epoch, "tokens": 100 * epoch, "val_loss": val_loss, "train_loss": val_loss}
    row |= {"val_loss_legacy": val_loss, "val_ppl": math.exp(val_loss), "val_acc": 0.3, "val_ppl_known": 9.0}
    row |= {"grad_norm": 1.0, "clipped_share": 0.0, "tokens_per_s": 1e4, "seconds": 1.0, "peak_memory_bytes": 10**8}
    return row | {"lr": 1e-3, "clip": None, "state": "", "reason": ""} | more


def told(number, config_id, parameters, origin, loss):
    """The records of a trial of one epoch."""
    name = f"t{number:04d}"
    row = {"time": 0.0, "trial_id": name, "config_id": config_id, "number": number, "seed": 0, "origin": origin}
    yield TrialCreated(**row, parameters=parameters)
    yield EpochRecord(time=0.0, trial_id=name, **result(1, loss))
    yield TrialEnded(time=0.0, trial_id=name, state="completed", epoch=1, reason="epochs")
