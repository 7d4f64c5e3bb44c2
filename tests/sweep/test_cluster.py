"""The local Ray as the machine sees it: who listens where, and what it was told."""

import ipaddress
import json
import subprocess
import sys
from pathlib import Path

import pytest
from processes import family

CHILD = """\
import json, os
from tune_newllm.sweep.cluster import cluster
with cluster("local"):
    import ray
    environment = lambda: dict(os.environ)
    print(json.dumps(ray.get(ray.remote(environment).remote())), flush=True)
    input()
"""
LISTENS = "0A"


def sockets(pids):
    """Inodes of the sockets that processes hold."""
    for pid in pids:
        for descriptor in Path(f"/proc/{pid}/fd").glob("*"):
            try:
                target = str(descriptor.readlink())
            except OSError:
                continue
            if target.startswith("socket:["):
                yield int(target[len("socket:[") : -1])


def listening(pids):
    """Addresses on which the processes accept TCP connections."""
    own = set(sockets(pids))
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == LISTENS and int(fields[9]) in own:
                # Each group of four bytes is written as one number of this machine's byte order.
                words = bytes.fromhex(fields[1].partition(":")[0])
                raw = b"".join(words[at : at + 4][::-1] for at in range(0, len(words), 4))
                yield ipaddress.ip_address(raw)


def on_this_machine(address):
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback


@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="reads Linux's tables of sockets")
def test_a_local_ray_listens_on_loopback_only_sends_nothing_home_and_shows_no_dashboard():
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    try:
        environment = json.loads(child.stdout.readline())
        pids = family(child.pid)
        addresses = list(listening(pids))
        commands = [Path(f"/proc/{pid}/cmdline").read_bytes() for pid in pids]
    finally:
        child.communicate(b"\n", timeout=60)
    assert len(addresses) >= 2
    assert [str(each) for each in addresses if not on_this_machine(each)] == []
    assert environment["RAY_USAGE_STATS_ENABLED"] == "0"
    assert [each for each in commands if b"dashboard.py" in each and b"--disable-frontend" not in each] == []
