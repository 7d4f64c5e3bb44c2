"""The short version of `benchmarks/torture.py`: after three kills the table is that of an undisturbed sweep."""

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="follows processes through /proc")
def test_a_sweep_whose_processes_are_killed_ends_as_an_undisturbed_one(tmp_path):
    from torture import torture

    tally = torture(tmp_path, ["worker", "driver", "everything"], seed=3, trials=3)
    assert dict(tally.kills) == {"worker": 1, "driver": 1, "everything": 1}
    assert tally.resumes >= 2
    assert +tally.faults == {}
