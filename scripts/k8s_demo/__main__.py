"""``python -m scripts.k8s_demo``: install, ask, test, upgrade, kill, drain, uninstall, on a real cluster.

Needs ``kubectl`` and ``helm``, a cluster with KubeRay's operator that they reach, and the CPU image on its nodes; or a
test cluster (``--cluster``) that brings all of that. Everything happens in a namespace of its own.
"""

import argparse
import secrets
import shlex
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from scripts.k8s_demo.cluster import Cluster, DemoError, say, test_cluster
from scripts.k8s_demo.release import Release


def main() -> int:
    """Run the sequence; 0 when every step went as it must."""
    parser = argparse.ArgumentParser(prog="python -m scripts.k8s_demo", description=__doc__)
    parser.add_argument("--image", required=True, help="name of the CPU image, with its tag")
    parser.add_argument("--archive", type=Path, help="the image's archive, which --cluster loads on its node")
    parser.add_argument("--cluster", type=Path, help="program that starts and stops a test cluster")
    parser.add_argument("--exec", default="", help="words in front of every kubectl and helm")
    arguments = parser.parse_args()
    # Ended from outside, it still takes down what it has started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    try:
        with prefix(arguments) as words:
            run(Cluster(f"k8s-demo-{secrets.token_hex(3)}", words), arguments.image)
    except DemoError as error:
        say(f"FAILED: {error}")
        return 1
    say("passed")
    return 0


@contextmanager
def prefix(arguments: argparse.Namespace) -> Iterator[tuple[str, ...]]:
    """The words that reach the cluster; a test cluster lives as long as they are used."""
    if arguments.cluster is None:
        yield tuple(shlex.split(arguments.exec))
    else:
        with test_cluster(arguments.cluster, arguments.image, arguments.archive) as words:
            yield words


def run(cluster: Cluster, image: str) -> None:
    """Every step of a release's life."""
    cluster.kubectl("get", "crd", "rayservices.ray.io")
    release = Release(cluster, image)
    try:
        say(f"installing into the namespace {cluster.namespace}")
        release.prepare()
        release.install()
        release.check_answers()
        release.test()
        release.upgrade_in_place()
        release.kill_a_worker()
        release.drain_a_worker()
        release.uninstall()
    except DemoError:
        cluster.diagnose()
        raise
    finally:
        release.remove()


if __name__ == "__main__":
    sys.exit(main())
