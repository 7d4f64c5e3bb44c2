"""Small sweeps without Ray: a driver on a real folder, fed by hand."""

import pytest
from sweeping import SPEC

from tune_newllm.sweep.driver import Driver
from tune_newllm.sweep.folder import SweepFolder
from tune_newllm.sweep.loading import parse_spec
from tune_newllm.sweep.source import parse_yaml


@pytest.fixture
def make_driver(tmp_path):
    """`make_driver(yaml)` -> (driver, records heard); called again it opens the same folder."""

    def make(text=SPEC, name="sweep"):
        heard = []
        path = tmp_path / name
        spec = parse_spec(parse_yaml(text, "test.yaml"))
        folder = SweepFolder.open(path) if path.exists() else SweepFolder.create(path, spec, {})
        return Driver(folder, spec, 100, heard.append), heard

    return make
