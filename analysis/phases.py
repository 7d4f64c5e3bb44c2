"""The phases of a learning curve: first fall, plateau, fast and slow descent, overfitting, divergence."""

import math
from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Kind = Literal["fast", "slow", "plateau", "setback", "flat", "overfitting", "divergence"]

LEAST_TURN = 0.01
"""Nats per token by which a curve must leave the straight line between two epochs for a turning point there."""
SHARE_OF_FALL = 0.025
"""Likewise, of the distance from the highest to the lowest loss."""
OF_NOISE = 5.0
"""Likewise, in standard deviations of the noise from epoch to epoch."""
FEWEST_DIFFERENCES = 8
"""From which the noise is estimated."""
MUCH_SLOWER = 0.25
"""Of the rate of a later fall: what falls no faster than this before it stood still."""
FAST = 1 / 3
"""Of the highest rate between two plateaus: what falls at least so fast is the fast descent."""
LEFT = 0.1
"""Share of the fall after a plateau that must be over for the plateau to count as left."""
LEAST_FALL = 0.03
"""Nats per token that must be lost after a plateau in one go, so that it is one."""
LEAST_SETBACK = 0.1
"""Nats per token by which the loss rises in a setback."""
LEAST_RATE = 0.001
"""Nats per token and epoch below which a fall is none, however steady."""
LEAST_RISE = 0.005
"""Nats per token above the lowest loss from which on a rise is a rise."""
DIVERGED = 0.3
"""Nats per token by which both losses rise where training diverges."""
MUCH_LOWER = 0.5
"""Of the highest learning rate: below it at the end the next epochs will not bring what the last ones did."""
LONGEST_TAIL = 10
"""Epochs over which the rate at the end is measured, at most."""


class Phase(NamedTuple):
    """A stretch of a curve; the next one begins in the epoch in which it ends."""

    kind: Kind
    first: int
    last: int
    start: float
    """Validation loss after the epoch `first` (nats per token)."""
    end: float
    """Likewise after the epoch `last`."""

    @property
    def rate(self) -> float:
        """Nats per token and epoch by which the loss fell; NaN for a stretch of one epoch."""
        return (self.start - self.end) / (self.last - self.first) if self.last > self.first else math.nan


class Phases(NamedTuple):
    """What a learning curve did.

    Attributes:
        phases: in the order of the epochs, without gaps; empty below two epochs with a finite loss.
        best: epoch of the lowest loss; 0 where there is none.
        turns: epochs at which the curve bends: its first, its last and its lowest are among them.
        left: when the first plateau was left, counted in finished epochs and their parts; NaN without a plateau.
        level: loss of that plateau; NaN likewise.
        tail: epochs over which the end was measured; 0 below three.
        tail_rate: nats per token and epoch by which the loss fell over them, by least squares.
        doubled: loss that the last doubling of the epochs brought (nats per token), NaN below two epochs or where it
            brought none.
        doubling: what the next doubling brings if the gain goes on shrinking by the factor by which it did last; NaN
            where that is not known.
    """

    phases: list[Phase]
    best: int
    turns: list[int]
    left: float
    level: float
    tail: int
    tail_rate: float
    doubled: float
    doubling: float


NONE = Phases([], 0, [], math.nan, math.nan, 0, math.nan, math.nan, math.nan)


def phases(epochs: Sequence[int], val_loss: Sequence[float], train_loss: Sequence[float] | None = None) -> Phases:
    """Read the phases off a curve.

    The curve is first reduced to the straight pieces that it consists of within its noise (Ramer 1972; Douglas and
    Peucker 1973). Up to the lowest loss a piece is a plateau where the loss stands still and falls faster later, a
    setback where it rises and comes back, else part of the fast or of the slow descent. A fall too small for pieces is
    a slow descent where every epoch takes part in it, else none. What follows the lowest loss is overfitting where the
    training loss goes on falling while the validation loss rises, divergence where both rise.

    Args:
        epochs: rising; some may be missing.
        val_loss: after each of them (nats per token).
        train_loss: likewise; without it nothing is called overfitting.
    """
    at, loss = np.asarray(epochs, dtype="float64"), np.asarray(val_loss, dtype="float64")
    train = np.full(at.shape, np.nan) if train_loss is None else np.asarray(train_loss, dtype="float64")
    finite = np.isfinite(loss)
    at, loss, train = at[finite], loss[finite], train[finite]
    if len(at) < 2:
        return NONE
    tolerance = _tolerance(at, loss)
    lowest = int(np.argmin(loss))
    turns = sorted({*skeleton(at[: lowest + 1], loss[: lowest + 1], tolerance), lowest, len(at) - 1})
    found, left, level = _descent(at, loss, [turn for turn in turns if turn <= lowest], tolerance)
    if lowest < len(at) - 1:
        found = _merged([*found, _after(at, loss, train, lowest)])
    bends = [int(at[turn]) for turn in turns]
    return Phases(found, int(at[lowest]), bends, left, level, *_tail(at, loss), *_doublings(at, loss))


def skeleton(at: Floats, loss: Floats, tolerance: float) -> list[int]:
    """Indices of the fewest points, found from the ends inwards, whose straight connections keep within `tolerance`."""
    kept, open_ = {0, len(at) - 1}, [(0, len(at) - 1)]
    while open_:
        first, last = open_.pop()
        if last - first < 2:
            continue
        inner = slice(first + 1, last)
        chord = np.interp(at[inner], at[[first, last]], loss[[first, last]])
        away = np.abs(loss[inner] - chord)
        if away.max() > tolerance:
            middle = first + 1 + int(np.argmax(away))
            kept.add(middle)
            open_ += [(first, middle), (middle, last)]
    turns = sorted(kept)
    place = 1
    # Points that were needed early on and are not any more.
    while place < len(turns) - 1:
        first, last = turns[place - 1], turns[place + 1]
        chord = np.interp(at[first:last], at[[first, last]], loss[[first, last]])
        if np.abs(loss[first:last] - chord).max() <= tolerance:
            del turns[place]
            place = max(place - 1, 1)
        else:
            place += 1
    return turns


def _tolerance(at: Floats, loss: Floats) -> float:
    return max(LEAST_TURN, SHARE_OF_FALL * float(np.ptp(loss)), OF_NOISE * _noise(at, loss))


def _noise(at: Floats, loss: Floats) -> float:
    """Standard deviation from epoch to epoch, from the median of the third differences, which bends hardly touch.

    0 where too few epochs follow one another to tell it from bends.
    """
    gaps = np.diff(at)
    follow = (gaps[2:] == 1) & (gaps[1:-1] == 1) & (gaps[:-2] == 1)
    if follow.sum() < FEWEST_DIFFERENCES:
        return 0.0
    # Of independent noise the variance of a third difference is 1 + 9 + 9 + 1 times that of one value.
    return float(np.median(np.abs(np.diff(loss, 3)[follow]))) / (0.6745 * math.sqrt(20))


def _descent(at: Floats, loss: Floats, turns: list[int], tolerance: float) -> tuple[list[Phase], float, float]:
    """The phases up to the lowest loss, and when the first plateau was left and at which loss."""
    if loss[0] - loss[turns[-1]] <= 2 * tolerance:
        kind: Kind = "slow" if _steady(at[: turns[-1] + 1], loss[: turns[-1] + 1]) else "flat"
        small = Phase(kind, int(at[0]), int(at[turns[-1]]), float(loss[0]), float(loss[turns[-1]]))
        return [small] if small.last > small.first else [], math.nan, math.nan
    kinds = _kinds(at, loss, turns, tolerance)
    bounds = [int(at[turn]) for turn in turns]
    left = level = math.nan
    for place in [place for place, kind in enumerate(kinds) if kind == "plateau"][::-1]:
        if place + 1 < len(kinds) and kinds[place + 1] != "plateau":
            left, level = _leaving(at, loss, turns, kinds, place)
            bounds[place + 1] = max(bounds[place] + 1, min(math.floor(left), bounds[place + 2] - 1))
    values = np.interp(bounds, at, loss).tolist()
    pieces = [Phase(kind, *bounds[at : at + 2], *values[at : at + 2]) for at, kind in enumerate(kinds)]
    return _merged(pieces), left, level


def _steady(at: Floats, loss: Floats) -> bool:
    """Whether a small fall is one all the same: every epoch lower than the one before, and by more than nothing."""
    if len(at) < 2:
        return False
    fall = float(loss[0] - loss[-1])
    sure = fall > OF_NOISE * _noise(at, loss) and fall >= LEAST_RATE * float(at[-1] - at[0])
    return sure and bool((np.diff(loss) < 0).all())


def _merged(pieces: Iterable[Phase]) -> list[Phase]:
    """Neighbours of one kind become one phase."""
    found: list[Phase] = []
    for phase in pieces:
        if found and found[-1].kind == phase.kind:
            before = found.pop()
            phase = phase._replace(first=before.first, start=before.start)
        found.append(phase)
    return found


def _kinds(at: Floats, loss: Floats, turns: list[int], tolerance: float) -> list[Kind]:
    """What each piece between two turning points is."""
    falls = -np.diff(loss[turns])
    rates = falls / np.diff(at[turns])
    sure = np.where(falls > max(LEAST_FALL, 2 * tolerance), rates, 0.0)
    later = [sure[place + 1 :].max(initial=0.0) for place in range(len(rates))]
    still = [most > 0 and rate <= MUCH_SLOWER * most for rate, most in zip(rates, later, strict=True)]
    kinds: list[Kind] = ["plateau" if one else "slow" for one in still]
    for place, fall in enumerate(falls):
        if fall < -max(LEAST_SETBACK, 2 * tolerance):
            kinds[place] = "setback"
            back = place + 1
            while back < len(kinds) and loss[turns[back]] > loss[turns[place]]:
                kinds[back] = "setback"
                back += 1
    return _fast(kinds, rates, sure)


def _fast(kinds: list[Kind], rates: Floats, sure: Floats) -> list[Kind]:
    """The same with the fast pieces named, by themselves between one plateau or setback and the next.

    After a slow piece one that may be noise is not fast.
    """
    named = list(kinds)
    for still, block in groupby(range(len(kinds)), key=lambda place: kinds[place] != "slow"):
        if still:
            continue
        places = list(block)
        fastest = max(sure[places].max(), rates[places[0]])
        for place in places:
            may = place == places[0] or sure[place] or named[place - 1] == "fast"
            named[place] = "fast" if may and rates[place] >= FAST * fastest else "slow"
    return named


def _leaving(at: Floats, loss: Floats, turns: list[int], kinds: list[Kind], place: int) -> tuple[float, float]:
    """When the loss had gone a tenth of the way from the plateau to the end of the descent after it, and the level."""
    first = place
    while first and kinds[first - 1] == "plateau":
        first -= 1
    level = float(np.median(loss[turns[first] : turns[place + 1] + 1]))
    until = place + 2
    while until < len(kinds) and kinds[until] == kinds[place + 1]:
        until += 1
    wanted = level - LEFT * (level - float(loss[turns[until]]))
    below = [point for point in range(turns[first] + 1, turns[until] + 1) if loss[point] <= wanted]
    # The last time that it came below for good.
    point = next((one for one in below if (loss[one : turns[until] + 1] <= wanted).all()), turns[until])
    above, under = float(loss[point - 1]), float(loss[point])
    part = (above - wanted) / (above - under) if above > under else 1.0
    return float(at[point - 1] + min(max(part, 0.0), 1.0) * (at[point] - at[point - 1])), level


def _after(at: Floats, loss: Floats, train: Floats, lowest: int) -> Phase:
    """What came after the lowest loss."""
    rise = float(loss[-1] - loss[lowest])
    learned = float(train[lowest] - train[-1])
    kind: Kind = "flat"
    if rise > DIVERGED and learned <= 0:
        kind = "divergence"
    elif rise > max(LEAST_RISE, 2 * _noise(at, loss)) and learned > LEAST_RISE:
        kind = "overfitting"
    return Phase(kind, int(at[lowest]), int(at[-1]), float(loss[lowest]), float(loss[-1]))


def _tail(at: Floats, loss: Floats) -> tuple[int, float]:
    """Epochs that count as the end, and how fast the loss fell there."""
    if len(at) < 3:
        return 0, math.nan
    points = min(max(2, len(at) // 5), LONGEST_TAIL) + 1
    slope = np.polyfit(at[-points:] - at[-1], loss[-points:], 1)[0]
    return int(at[-1] - at[-points]), -float(slope)


def _doublings(at: Floats, loss: Floats) -> tuple[float, float]:
    """What the last doubling of the epochs brought, and what the next one does if the gain goes on shrinking so.

    As for a power law of the epochs, whose gains by doubling are a geometric series.
    """
    best = np.minimum.accumulate(loss)
    moments = [at[-1] / 4, at[-1] / 2, at[-1]]
    quarter, half, end = (float(np.interp(moment, at, best)) if moment >= at[0] else math.nan for moment in moments)
    earlier, last = quarter - half, half - end
    if not last > 0:
        return math.nan, math.nan
    return last, last * last / earlier if last < earlier else math.nan
