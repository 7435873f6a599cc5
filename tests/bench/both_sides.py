"""``serve.py`` with a gateway that has two sides: everything on, and everything off for a request whose header says so.

Two starts of one side differ by more than the gateway may cost. So both sides are measured on one replica, in turns.
``python -m tests.bench.both_sides FLAG…`` takes serve.py's flags.
"""

import sys
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

from deploy.gateway.admission import Admission
from deploy.gateway.asgi import App, Receive, Scope, Send, header
from deploy.gateway.stack import Gateway
from deploy.loading import load
from deploy.metered_engine import meter
from deploy.replica import ModelReplica
from deploy.serve_log import serve_log_kept
from deploy.settings import LimitSettings, Settings
from tests.bench.gateway_sides import OFF, OFF_HEADERS

_GROUPS = ("gateway", "guard", "limits", "quotas", "admission", "log", "usage", "tracing")
_is_off: ContextVar[bool] = ContextVar("is_off", default=False)


class BothSides(Gateway):
    """The gateway with everything off; ``on`` serves in its place, but for the requests that ask for this one."""

    def __init__(self, settings: Settings, on: Gateway) -> None:
        nothing = load(argv=OFF)
        super().__init__(settings.model_copy(update={name: getattr(nothing, name) for name in _GROUPS}))
        self._on = on

    def around(
        self,
        app: App,
        served_model: str,
        admission: Admission | None = None,
        engine_is_dead: Callable[[], bool] = lambda: False,
    ) -> App:
        """``app`` behind both."""
        on = self._on.around(app, served_model, admission, engine_is_dead)
        off = super().around(app, served_model, None, engine_is_dead)
        ((name, value),) = OFF_HEADERS.items()

        async def choose(scope: Scope, receive: Receive, send: Send) -> None:
            is_off = scope["type"] == "http" and header(scope, name.encode()) == value.encode()
            _is_off.set(is_off)
            await (off if is_off else on)(scope, receive, send)

        return choose


def meter_both(client: Any, admission: Admission | None, limits: LimitSettings | None) -> None:
    """``meter`` twice: for a request of the side that is off without ``admission`` and ``limits``."""
    generate, add_request = client.generate, client.output_processor.add_request
    meter(client, None)
    off = client.generate
    client.generate, client.output_processor.add_request = generate, add_request
    meter(client, admission, limits)
    on = client.generate
    client.generate = lambda *arguments, **options: (off if _is_off.get() else on)(*arguments, **options)


class ReplicaOfBothSides(ModelReplica):
    """One replica with both sides."""

    async def _start(self, settings: Settings, gateway: Gateway) -> Any:
        with serve_log_kept():
            from deploy import server
        server.meter = meter_both  # type: ignore[attr-defined, assignment]
        return await super()._start(settings, BothSides(settings, gateway))


def main() -> int:
    """Run serve.py."""
    from deploy import cli, supervisor

    supervisor.CHILD = "tests.bench.both_sides_child"
    return cli.main()


if __name__ == "__main__":
    sys.exit(main())
