"""The child process of ``tests.bench.both_sides``: ``deploy.lifecycle`` with the replica of both sides."""

from deploy import lifecycle
from deploy.settings import Settings

_deploy = lifecycle.deploy


def deploy_both_sides(settings: Settings) -> None:
    """Hand it to Ray Serve. Not sooner: the environment that Ray's import reads is made before."""
    from deploy import app
    from tests.bench.both_sides import ReplicaOfBothSides

    app.ModelReplica = ReplicaOfBothSides  # type: ignore[attr-defined]
    _deploy(settings)


if __name__ == "__main__":
    lifecycle.deploy = deploy_both_sides
    lifecycle.main()
