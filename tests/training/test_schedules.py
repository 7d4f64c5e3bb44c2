import math

import pytest

from tune_newllm.training.schedules import LRScheduleConfig, Position, lr_at


def rates(schedule, steps_per_epoch=10, epochs=1, tokens_per_step=100, peak=1.0):
    """The rate of every step of a run."""
    tokens_per_epoch = steps_per_epoch * tokens_per_step
    return [
        lr_at(Position(step, steps_per_epoch, epochs, step * tokens_per_step, tokens_per_epoch), peak, schedule)
        for step in range(steps_per_epoch * epochs)
    ]


def test_a_position_in_every_unit():
    position = Position(step=5, steps_per_epoch=4, epochs=3, tokens=70, tokens_per_epoch=50)
    assert [position.at(unit) for unit in ("share", "epoch", "step", "tokens")] == [5 / 12, 1.25, 5, 70]
    assert [position.end(unit) for unit in ("share", "epoch", "step", "tokens")] == [1, 3, 12, 150]


def test_constant_with_and_without_warmup():
    assert rates(LRScheduleConfig(), peak=0.5) == [0.5] * 10
    quarters = pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0])
    for by, warmup in (("share", 0.4), ("epoch", 0.4), ("step", 4), ("tokens", 400)):
        assert rates(LRScheduleConfig(warmup=warmup, by=by)) == quarters, by
    assert rates(LRScheduleConfig(warmup=2.5, by="step"))[:4] == pytest.approx([0.4, 0.8, 1.0, 1.0])
    assert rates(LRScheduleConfig("cosine", warmup=20, by="step"))[9] == pytest.approx(0.5)


def test_linear_falls_to_its_floor_and_stays_there():
    schedule = LRScheduleConfig("linear", warmup=2, final=0.2, by="step", length=6)
    expected = [0.5, 1.0, 1.0, 0.8, 0.6, 0.4, 0.2, 0.2, 0.2, 0.2]
    assert rates(schedule) == pytest.approx(expected)
    assert rates(LRScheduleConfig("linear"), peak=2.0) == pytest.approx([2 - step / 5 for step in range(10)])


def test_cosine_by_hand():
    root = math.sqrt(0.5)
    got = rates(LRScheduleConfig("cosine", warmup=0.2, final=0.1), peak=2.0)
    assert got[:3] == pytest.approx([1.0, 2.0, 2.0])
    for step, share in {4: (1 + root) / 2, 6: 0.5, 8: (1 - root) / 2}.items():
        assert got[step] == pytest.approx(2 * (0.1 + 0.9 * share)), step
    assert rates(LRScheduleConfig("cosine", final=0.1, by="step", length=5))[5:] == pytest.approx([0.1] * 5)


def test_cosine_restarts_after_equal_cycles():
    cycle = [1.0, 0.75, 0.25]
    assert rates(LRScheduleConfig("cosine", restarts=2), 9) == pytest.approx(cycle * 3)
    # In binary (0.6 - 0.2) / 0.8 is less than a half, where the second cycle begins.
    assert rates(LRScheduleConfig("cosine", warmup=0.2, restarts=1), 5) == pytest.approx([1.0, 1.0, 0.5, 1.0, 0.5])
    # Three cycles of three steps behind a warm-up, then the floor.
    shares = rates(LRScheduleConfig("cosine", warmup=0.1, restarts=2, by="epoch", length=1.0), 10, epochs=2)
    assert shares == pytest.approx([1.0, *cycle * 3, *[0.0] * 10])


def test_step_drops_at_multiples_that_lie_before_the_length():
    assert rates(LRScheduleConfig("step"), 9) == [1.0] * 3 + [0.5] * 3 + [0.25] * 3
    # 0.3 / 0.1 is less than 3.
    assert rates(LRScheduleConfig("step", by="epoch", every=0.1)) == [0.5**drops for drops in range(10)]
    schedule = LRScheduleConfig("step", by="epoch", every=0.1, length=0.3, factor=0.1)
    assert rates(schedule) == pytest.approx([1.0, 0.1] + [0.01] * 8)
    warm = LRScheduleConfig("step", by="tokens", warmup=200, every=300, factor=0.5)
    assert rates(warm) == [0.5, 1.0, 1.0] + [0.5] * 3 + [0.25] * 3 + [0.125]


def test_one_cycle_rises_from_a_25th_and_falls_to_its_floor():
    got = rates(LRScheduleConfig("one-cycle", final=0.3), peak=25.0)
    assert got == pytest.approx([1.0, 9.0, 17.0, *(25 - 2.5 * step for step in range(7))])
    assert rates(LRScheduleConfig("one-cycle", by="step", length=5, warmup=2))[:6] == pytest.approx(
        [0.04, 0.52, 1.0, 2 / 3, 1 / 3, 0.0]
    )


@pytest.mark.parametrize("name", ["constant", "linear", "cosine", "step", "one-cycle"])
def test_by_tokens_two_batch_sizes_learn_alike_at_the_same_tokens(name):
    schedule = LRScheduleConfig(name, warmup=400, by="tokens", length=3000, every=500)
    small = rates(schedule, steps_per_epoch=20, epochs=2, tokens_per_step=100)
    large = rates(schedule, steps_per_epoch=5, epochs=2, tokens_per_step=400)
    # A warm-up step is larger by what the batch is larger; from its end on the two are the same course.
    assert small[4::4] == pytest.approx(large[1:])
    assert len(set(small)) > 3
