"""The benchmarks are programs, no package: their folder is put where they would find each other."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
