"""Prevents: two replicas on the same cores, two deployments on the same replica ports,
and leases that outlive their holder.
"""

import subprocess
import sys
from pathlib import Path

import pytest

from deploy.errors import StartError
from deploy.leases import PORT_BLOCK, PROXY_PORTS, free_cores, lease_cores, lease_ports

HOLD = """
import sys
from pathlib import Path
from deploy.leases import lease_cores
held = lease_cores(int(sys.argv[2]), [4, 5, 6], Path(sys.argv[1]))
print(*held.ids, flush=True)
sys.stdin.read()
"""


def test_cores_are_leased_once_and_come_back_when_released(tmp_path: Path) -> None:
    first = lease_cores(2, [4, 5, 6], tmp_path)
    assert first.ids == (4, 5)
    assert free_cores([4, 5, 6], tmp_path) == 1
    third = lease_cores(1, [4, 5, 6], tmp_path)
    assert third.ids == (6,)
    with pytest.raises(StartError, match="needs 1 cores of its own, but 0 of 3 are free"):
        lease_cores(1, [4, 5, 6], tmp_path)
    first.release()
    assert free_cores([4, 5, 6], tmp_path) == 2


def test_a_lease_that_cannot_be_whole_takes_nothing(tmp_path: Path) -> None:
    with pytest.raises(StartError):
        lease_cores(4, [4, 5, 6], tmp_path)
    assert free_cores([4, 5, 6], tmp_path) == 3


def test_a_killed_process_gives_its_cores_back(tmp_path: Path) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path), "2"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "4 5\n"
    other = lease_cores(1, [4, 5, 6], tmp_path)
    assert other.ids == (6,)
    holder.kill()
    holder.wait(timeout=10)
    assert lease_cores(2, [4, 5, 6], tmp_path).ids == (4, 5)


def test_two_deployments_get_different_ports_for_replicas_and_haproxy(tmp_path: Path) -> None:
    *first, held = lease_ports(tmp_path)
    *second, _ = lease_ports(tmp_path)
    assert [len(ports) for ports in (*first, *second)] == [PORT_BLOCK - PROXY_PORTS, PROXY_PORTS] * 2
    assert len({port for ports in (*first, *second) for port in ports}) == 2 * PORT_BLOCK
    held.release()
    assert list(lease_ports(tmp_path)[:2]) == first
