"""Where Ray Serve listens, which on a cluster is not what the application's settings say.

Whoever started Ray Serve there chose its address: ``http_options`` of a Serve configuration, the first application's
``server.host``, or Ray's own default, which with ``RAY_SERVE_ENABLE_HA_PROXY=1`` is every interface
(``ray/serve/_private/constants.py``).
"""

from deploy.settings import Settings


async def serve_host() -> str | None:
    """The address on which Ray Serve takes requests, as its controller knows it; ``None`` when it takes none.

    Only within a replica.
    """
    import ray
    from ray.serve._private.constants import SERVE_CONTROLLER_NAME, SERVE_NAMESPACE

    controller = ray.get_actor(SERVE_CONTROLLER_NAME, namespace=SERVE_NAMESPACE)
    options = await controller.get_http_config.remote()
    host: str | None = options.host
    return host


def listening_at(host: str | None, settings: Settings) -> Settings:
    """``settings`` with ``server.host`` of ``host``, if that is reached from beyond this machine.

    On loopback nothing changes: where ``serve.py`` starts Ray itself, HAProxy listens on ``server.host`` by our doing
    and Ray Serve knows of loopback only.
    """
    if host is None:
        return settings
    server = settings.server.model_copy(update={"host": host})
    return settings if server.is_loopback else settings.model_copy(update={"server": server})
