"""The base of every scenario: a Locust user that sends what the run's plan says."""

from collections.abc import Callable
from typing import Any

from locust import User, tag

from loadtest._arrivals import Kind
from loadtest._prompts import Conversation
from loadtest._session import session_of


class Scenario(User):  # type: ignore[misc] # Locust has no types
    """In a closed loop a user sends one request after the other. In an open loop users only wait: requests are sent
    on schedule, whatever became of those before.
    """

    abstract = True
    workload: str
    """Name of a workload, or the path of a file."""
    arrivals: Kind = "closed"
    """What ``--arrivals`` is when it is not given."""

    def __init__(self, environment: Any) -> None:
        super().__init__(environment)
        self._conversation: Conversation | None = None
        self._think_s = 0.0

    def wait_time(self) -> float:
        """Seconds until the next request; Locust calls it."""
        return self._think_s

    def send_next(self) -> None:
        """Send the next request and wait for its end."""
        session = session_of(self.environment)
        self._conversation, self._think_s = session.serve(type(self).__name__, self._conversation)


def sending(name: str) -> list[Callable[[Any], None]]:
    """The tasks of a scenario, tagged with its name for ``--tags``."""

    def request(user: Scenario) -> None:
        user.send_next()

    tasks: list[Callable[[Any], None]] = [tag(name)(request)]
    return tasks
