"""How long a driver has worked, by the records it wrote."""

from dataclasses import dataclass

from tune_newllm.records import Record, SweepEnded, SweepStarted


@dataclass
class Session:
    """One driver's work on the sweep."""

    time: float
    """Unix time in seconds of its last record."""
    devices: float | None = None
    """What one of its trials had, as `SweepStarted.devices`."""
    worked: float = 0.0
    """Seconds from its start to its last record."""
    elapsed: float | None = None
    """The last reading of its own clock."""
    ended: bool = False

    def add(self, record: Record) -> None:
        """Take in a record that this driver wrote."""
        if record.elapsed is not None:
            self.worked = self.elapsed = record.elapsed
        elif self.elapsed is None:
            # A clock that is set back between two records takes that one gap away, and nothing else.
            self.worked += max(0.0, record.time - self.time)
        self.time, self.ended = record.time, isinstance(record, SweepEnded)

    def wrote(self, record: Record) -> bool:
        """Whether a record can be of the same driver: none follows its last, and its clock never goes back."""
        back = record.elapsed is not None and self.elapsed is not None and record.elapsed < self.elapsed
        return not (self.ended or back or isinstance(record, SweepStarted))
