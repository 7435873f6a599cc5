"""The scenarios: ``locust -f loadtest/ --host URL`` runs ``Chat``; name another class, or give ``--tags``."""

import sys
from pathlib import Path

from locust import events

# Locust may be started from any folder.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from loadtest._arrivals import Kind
from loadtest._scenario import Scenario, sending
from loadtest._session import register


class Chat(Scenario):
    """Short questions, answers of a paragraph."""

    workload = "chat"
    tasks = sending("chat")


class Completion(Scenario):
    """Plain completions of fixed lengths."""

    workload = "completion"
    tasks = sending("completion")


class LongContext(Scenario):
    """Prompts beyond the sliding window."""

    workload = "long-context"
    tasks = sending("long-context")


class SharedPrefix(Scenario):
    """Long instructions that many users share."""

    workload = "shared-prefix"
    tasks = sending("shared-prefix")


class MultiTurn(Scenario):
    """Chats of several turns, which keep their history."""

    workload = "multi-turn"
    tasks = sending("multi-turn")


class Mixed(Scenario):
    """Chats, completions and long prompts together."""

    workload = "mixed"
    tasks = sending("mixed")


class Replay(Scenario):
    """A recorded trace: ``--trace FILE``."""

    workload = "replay"
    arrivals: Kind = "trace"
    tasks = sending("replay")


class Cancel(Scenario):
    """Clients that hang up in the middle of an answer."""

    workload = "cancel"
    tasks = sending("cancel")


class Overload(Scenario):
    """More load than the server can take: a rising rate, ``--rate`` to ``--peak``."""

    workload = "overload"
    arrivals: Kind = "ramp"
    tasks = sending("overload")


register(events, default="Chat")
