"""What all tests share: a cache of their own, one thread, and one local Ray."""

import os

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["RAY_AUTH_MODE"] = "disabled"

import pytest


@pytest.fixture(scope="session", autouse=True)
def caches(tmp_path_factory):
    """Prepared corpora, and transformers' copies of exported code, are kept out of the user's caches; processes that
    tests start find them too."""
    path = tmp_path_factory.mktemp("caches")
    os.environ["TUNE_NEWLLM_CACHE"] = str(path / "corpora")
    os.environ["HF_MODULES_CACHE"] = str(path / "modules")


@pytest.fixture(scope="session")
def ray_address():
    """One local Ray with two processors and one GPU that exists in name only."""
    from tune_newllm.sweep.cluster import cluster

    with cluster("local", gpus=1):
        import ray

        yield ray.get_runtime_context().gcs_address
