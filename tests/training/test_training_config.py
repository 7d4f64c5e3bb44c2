import json
import math

import pytest
from pydantic import TypeAdapter, ValidationError

from tune_newllm.training.config import (
    ClipConfig,
    Configuration,
    EarlyStoppingConfig,
    LRScheduleConfig,
    TrainingConfig,
)

ADAPTER = TypeAdapter(Configuration)


def test_a_configuration_survives_json_and_validation():
    config = Configuration(
        training=TrainingConfig(
            clip=ClipConfig("piecewise", table=((0, 0.5), (10, 1.0))),
            lr_schedule=LRScheduleConfig("cosine", 0.1, 0.2, by="epoch", length=2.5, restarts=1),
            early_stopping=None,
        )
    )
    plain = json.loads(json.dumps(config.to_dict()))
    assert plain == config.to_dict()
    assert ADAPTER.validate_python(plain) == config
    assert ADAPTER.validate_python({}) == Configuration()


@pytest.mark.parametrize(
    ("place", "key", "value", "message"),
    [
        ((), "trainig", {}, "trainig"),
        (("training",), "learning_rate", 1, "learning_rate"),
        (("training", "clip"), "max_norm", 1, "max_norm"),
        (("training",), "lr", 0.0, "lr must be a finite number above 0, got 0.0"),
        (("training",), "optimizer", "lion", "optimizer"),
        (("training",), "beta1", 1.0, "beta1 must be at least 0 and below 1, got 1.0"),
        (("training", "lr_schedule"), "warm_up", 0.1, "warm_up"),
        (("training",), "micro_batch", 0, "micro_batch must be auto or a whole number above 0, got 0"),
        (("training", "early_stopping"), "patience", 0, "patience must be a whole number above 0, got 0"),
        (("training", "clip"), "schedule", "piecewise", "clip.table must be given"),
        (("training", "clip"), "table", [[1, 0.5]], "clip.table must start at 0 and increase"),
    ],
)
def test_a_wrong_key_or_value_is_named(place, key, value, message):
    plain = Configuration().to_dict()
    target = plain
    for part in place:
        target = target[part]
    target[key] = value
    with pytest.raises(ValidationError, match=message.replace(".", r"\.")):
        ADAPTER.validate_python(plain)


@pytest.mark.parametrize(
    "make",
    [
        lambda: TrainingConfig(lr=math.nan),
        lambda: TrainingConfig(lr=math.inf),
        lambda: TrainingConfig(batch_size=1.5),
        lambda: TrainingConfig(epochs=0),
        lambda: TrainingConfig(weight_decay=-0.1),
        lambda: TrainingConfig(device="tpu"),
        lambda: TrainingConfig(precision="int8"),
        lambda: TrainingConfig(lr_rule="cube"),
        lambda: TrainingConfig(seed=-1),
        lambda: TrainingConfig(beta2=1.0),
        lambda: TrainingConfig(eps=0.0),
        lambda: TrainingConfig(decay="none"),
        lambda: TrainingConfig(lr_size_rule="sqrt"),
        lambda: TrainingConfig(optimizer="muon", lr_rule="sqrt-sde"),
        lambda: TrainingConfig(batch_size=321, lr_rule="sqrt-sde"),
        lambda: TrainingConfig(epochs=3, lr_schedule=LRScheduleConfig(warmup=3, by="epoch")),
        lambda: ClipConfig("percentiles"),
        lambda: ClipConfig("percentile", percentile=100.5),
        lambda: ClipConfig("linear", final=0.0),
        lambda: ClipConfig("linear", until=0),
        lambda: ClipConfig(by="share"),
        lambda: ClipConfig(norm=0.0),
        lambda: ClipConfig("piecewise", table=((0, 1.0), (5, 2.0), (5, 3.0))),
        lambda: ClipConfig("piecewise", table=((0, 1.0), (5, -2.0))),
        lambda: LRScheduleConfig("exponential"),
        lambda: LRScheduleConfig(by="hours"),
        lambda: LRScheduleConfig(warmup=1.0),
        lambda: LRScheduleConfig(warmup=math.inf, by="step"),
        lambda: LRScheduleConfig(length=1.5),
        lambda: LRScheduleConfig(every=0.0, by="tokens"),
        lambda: LRScheduleConfig(restarts=-1),
        lambda: LRScheduleConfig(restarts=1.5),
        lambda: LRScheduleConfig("step", factor=0.0),
        lambda: LRScheduleConfig("cosine", warmup=100, by="step", length=100),
        lambda: LRScheduleConfig("step", warmup=0.5),
        lambda: LRScheduleConfig("step", warmup=3, by="epoch", every=2),
        lambda: LRScheduleConfig("cosine", final=1.1),
        lambda: EarlyStoppingConfig(min_delta=-1e-9),
    ],
)
def test_impossible_values_are_refused_without_pydantic_too(make):
    with pytest.raises(ValueError, match=r"must .* got"):
        make()


def test_a_key_of_another_schedule_is_not_read():
    for name in ("constant", "linear", "cosine", "one-cycle"):
        LRScheduleConfig(name, warmup=0.5, every=0.1)
    LRScheduleConfig("constant", warmup=9, by="step", length=3)
    for schedule in ("none", "constant", "original", "linear", "percentile"):
        ClipConfig(schedule, table=((0, 1.0),), until=3)
