"""Prevents: processes that outlive whoever started them."""

import subprocess
import sys

import psutil

from tests.live.deployment import eventually, has_ended

# A parent that adopts orphans, whose child starts a grandchild and ends at once.
FAMILY = """
import subprocess, sys, time
from deploy.processes import adopt_orphans, end_descendants
adopt_orphans()
grandchild = "import time; time.sleep(600)"
child = f"import subprocess, sys; print(subprocess.Popen([sys.executable, '-c', {grandchild!r}]).pid, flush=True)"
subprocess.run([sys.executable, "-c", child], check=True)
print(end_descendants(), flush=True)
"""
FOLLOWER = """
import os, time
from deploy.processes import die_with_parent
die_with_parent(os.getppid())
print("ready", flush=True)
time.sleep(600)
"""
PARENT = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", sys.argv[1]], stdout=subprocess.PIPE, text=True)
child.stdout.readline()
print(child.pid, flush=True)
time.sleep(600)
"""


def test_an_orphaned_grandchild_is_adopted_and_ended() -> None:
    result = subprocess.run([sys.executable, "-c", FAMILY], capture_output=True, text=True, timeout=60, check=True)
    grandchild, ended = map(int, result.stdout.split())
    assert ended == 1
    assert not psutil.pid_exists(grandchild)


def test_a_child_gets_sigterm_when_its_parent_is_killed() -> None:
    parent = subprocess.Popen([sys.executable, "-c", PARENT, FOLLOWER], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    parent.kill()
    parent.wait(timeout=10)
    eventually(lambda: has_ended(child), 30, "the child has ended")
