"""Ray: started quietly on this machine or joined at an address, and what it has to give."""

import logging
import os
import signal
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tune_newllm.errors import TuneError, UsageError

_logger = logging.getLogger(__name__)

QUIET = {
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_AUTH_MODE": "disabled",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "1000000",
    "TUNE_WARN_INSUFFICENT_RESOURCE_THRESHOLD_S": "1000000",
}
"""No banner, no telemetry, nothing written but what we write; set before Ray is imported."""
OBJECT_STORE_BYTES = 100_000_000
"""Trials pass paths, not arrays, so Ray's shared memory stays small (the least it accepts is 75 MB)."""
GRACE_SECONDS = 15.0
"""What is left to a driver whose Ray is lost to end by itself."""
LONGEST_TEMPORARY_PATH = 40
"""Ray puts sockets below its temporary folder, and a socket's path has at most 107 characters."""


@contextmanager
def cluster(address: str, gpus: int | None = None) -> Iterator[list[dict[str, float]]]:
    """What each machine has to give (`CPU`, `GPU`, ...), for as long as the context lasts.

    Args:
        address: `local` starts Ray on this machine alone; anything else is the address of a running cluster.
        gpus: what a local Ray takes for the number of GPUs; None: those that it finds.

    Raises:
        UsageError: no cluster answers at the address.
        TuneError: Ray does not start here.
    """
    os.environ.update({key: value for key, value in QUIET.items() if key not in os.environ})
    import ray

    for name in ("ray", "ray.tune", "ray.data"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    if ray.is_initialized():
        yield _machines()
        return
    terminate = signal.getsignal(signal.SIGTERM)
    _connect(address, gpus)
    # Ray has its own idea of how a driver ends at SIGTERM.
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, terminate)
    try:
        yield _machines()
    finally:
        ray.shutdown()


def _connect(address: str, gpus: int | None) -> None:
    import ray

    quiet: dict[str, Any] = {"logging_level": logging.CRITICAL, "log_to_driver": False}
    if address != "local":
        try:
            ray.init(address=address, **quiet)
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise UsageError(
                f"resources.address: no Ray cluster answers at {address!r} ({error}); use `local`"
            ) from None
        return
    try:
        ray.init(
            address="local",
            num_cpus=_allowed_cpus(),
            num_gpus=gpus,
            include_dashboard=False,
            object_store_memory=OBJECT_STORE_BYTES,
            _temp_dir=_short_temporary_folder(),
            **quiet,
        )
    except Exception as error:
        raise TuneError(f"Ray did not start on this machine ({error}): try again") from error


def lost_processes() -> list[str]:
    """Ray's own processes on this machine that died though this process started them: without them nothing goes on."""
    import ray

    # Ray tells a driver of such a loss late or never; it waits for an answer that nobody gives any more.
    node = getattr(getattr(ray._private, "worker", None), "_global_node", None)
    dead: list[tuple[str, Any]] = getattr(node, "dead_processes", list)()
    return [name for name, _ in dead]


@contextmanager
def watched(advice: str) -> Iterator[None]:
    """End this process if Ray's own processes are lost and the context does not end by itself soon after.

    Args:
        advice: what the user is told to do then.
    """
    over = threading.Event()

    def watch() -> None:
        while not over.wait(1.0):
            if lost := lost_processes():
                _logger.error("Ray's own processes were lost (%s); %s", ", ".join(lost), advice)
                if not over.wait(GRACE_SECONDS):
                    os._exit(1)
                return

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _machines() -> list[dict[str, float]]:
    import ray

    return [node["Resources"] for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]


def _allowed_cpus() -> int | None:
    """Processors this process is pinned to; None where it is not, so that Ray looks for a container's quota."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return None if allowed == os.cpu_count() else allowed


def _short_temporary_folder() -> str | None:
    """None where Ray's own choice is short enough for its sockets."""
    usual = os.environ.get("RAY_TMPDIR") or tempfile.gettempdir()
    return None if len(usual) <= LONGEST_TEMPORARY_PATH else str(Path("/tmp") / f"ray-{os.getuid()}")
