"""For how long drivers were at work on a sweep."""

from tune_newllm.records import CodeForced, Record, SweepEnded, SweepExtended, SweepStarted


class WorkTime:
    """The seconds of all drivers, each from its start to its last record, added up record by record.

    Every driver carries a clock that nobody sets; records of older sweeps have only the time of day, of which a clock
    that is set back takes away that one step.
    """

    def __init__(self) -> None:
        self._earlier = self._worked = 0.0
        self._elapsed: float | None = None
        self._time: float | None = None
        """Of the driver's last record; None: no driver is at work."""

    @property
    def seconds(self) -> float:
        return self._earlier + self._worked

    def add(self, record: Record) -> None:
        """Take in the next record."""
        if isinstance(record, SweepExtended | CodeForced):
            return
        back = record.elapsed is not None and self._elapsed is not None and record.elapsed < self._elapsed
        if self._time is None or back or isinstance(record, SweepStarted):
            self._earlier, self._worked, self._elapsed, self._time = self.seconds, 0.0, None, record.time
        if record.elapsed is not None:
            self._worked = self._elapsed = record.elapsed
        elif self._elapsed is None:
            self._worked += max(0.0, record.time - self._time)
        self._time = None if isinstance(record, SweepEnded) else record.time
