"""What must be done when a request ends, before anybody is told of its end."""

from collections.abc import Callable
from contextvars import ContextVar

from deploy.gateway.request import RequestRecord

_actions: ContextVar[list[Callable[[], None]]] = ContextVar("at_end")


def observe(record: RequestRecord) -> None:
    """An observer, which must be the first: runs the request's actions when it ended, the latest one first."""
    if record.ended is None:
        _actions.set([])
        return
    for action in reversed(_actions.get()):
        action()


def at_end(action: Callable[[], None]) -> None:
    """Have ``action`` done when the request that this task serves has ended, after the actions that are added later.

    Raises:
        LookupError: ``observe`` was not told of a request.
    """
    _actions.get().append(action)
