"""Joins the load test to Locust: what happens when a process starts, a run starts, stops, and is quit."""

import os
import signal
import sys
from typing import Any

import gevent
from locust.runners import MasterRunner, WorkerRunner

from loadtest._agent import Agent, Batch, Go
from loadtest._answer import RequestError
from loadtest._client import check_key
from loadtest._conductor import INTERRUPT_DRAIN_S, UNTRUSTED, Conductor
from loadtest._crew import BATCH, GO, PLAN_OPTION, READY, STOP, Crew, LocalCrew, RemoteCrew
from loadtest._errors import LoadTestError
from loadtest._flags import add_flags
from loadtest._live import Live
from loadtest._live_web import attach
from loadtest._planning import choose, plan_of, resolve
from loadtest._prompts import Conversation
from loadtest._request import ErrorKind, Record
from loadtest._run_plan import RunPlan
from loadtest._server_scraper import Scraper
from loadtest._slo import parse_all

USAGE_ERROR = 2
DISMISS_S = 5.0
MOST_SPAWN_RATE = 100
"""Users per second, where ``-r`` does not say: Locust warns of more."""
ATTRIBUTE = "loadtest_session"


def register(events: Any, default: str) -> None:
    """Listen to Locust. ``default`` names the scenario that runs when none is chosen."""
    events.init_command_line_parser.add_listener(lambda parser, **_: add_flags(parser))
    events.init.add_listener(lambda environment, **_: _init(environment, default))


def session_of(environment: Any) -> "Session":
    """The session of a process."""
    session: Session = getattr(environment, ATTRIBUTE)
    return session


class Session:
    """What every process of a load test has: an agent, and Locust's statistics to feed."""

    def __init__(self, environment: Any) -> None:
        self.environment = environment
        self.agent = Agent(self.deliver, self._request_ended)

    @property
    def api_key(self) -> str | None:
        """The key for the server under test. One in the environment is not passed on to workers elsewhere."""
        return self.environment.parsed_options.api_key or os.environ.get("OPENAI_API_KEY") or None

    def deliver(self, batch: Batch) -> None:
        """Pass on what this process measured."""
        raise NotImplementedError

    def serve(self, scenario: str, conversation: Conversation | None) -> tuple[Conversation | None, float]:
        """One request of a closed-loop user."""
        generator = self.agent.generator
        assert generator is not None
        return generator.serve(scenario, conversation)

    def _request_ended(self, record: Record) -> None:
        kind = None if record.error == ErrorKind.CANCELLED else record.error
        self.environment.events.request.fire(
            request_type=record.api,
            name=record.scenario,
            response_time=record.e2e * 1000,
            response_length=record.output_tokens,
            exception=RequestError(kind, record.detail) if kind else None,
            context={},
        )


class Worker(Session):
    """A worker process: does what the master says."""

    def __init__(self, environment: Any) -> None:
        super().__init__(environment)
        runner = environment.runner
        runner.register_message(GO, lambda environment, msg: self.agent.go(Go(**msg.data)))
        runner.register_message(STOP, lambda environment, msg: self.agent.stop(msg.data["drain_s"]))
        environment.events.test_start.add_listener(lambda **_: self._start())
        environment.events.test_stopping.add_listener(lambda **_: self._stop())
        environment.events.quitting.add_listener(lambda **_: self._stop())

    def deliver(self, batch: Batch) -> None:
        self.environment.runner.send_message(BATCH, batch)

    def interrupt(self) -> None:
        """The process got SIGINT. A terminal sends it to the master too, which ends the run; alone, it leaves."""
        self._stop()
        self.environment.runner.quit()

    def _start(self) -> None:
        try:
            plan = RunPlan.from_json(getattr(self.environment.parsed_options, PLAN_OPTION))
            problem = self.agent.prepare(plan, self.api_key)
        except LoadTestError as error:
            problem = str(error)
        self.environment.runner.send_message(READY, {"problem": problem})

    def _stop(self) -> None:
        self.agent.stop(INTERRUPT_DRAIN_S)
        self.agent.wait(2 * INTERRUPT_DRAIN_S)


class Lead(Session):
    """The master, or the only process: conducts the run and makes its result.

    Raises LoadTestError for what is wrong with the flags.
    """

    def __init__(self, environment: Any, default: str) -> None:
        super().__init__(environment)
        self._run_time: int | None = None
        self._check(default)
        self.live = Live(parse_all(environment.parsed_options.slo or []))
        self.crew: Crew = (
            RemoteCrew(environment)
            if isinstance(environment.runner, MasterRunner)
            else LocalCrew(self.agent, self.api_key)
        )
        self.conductor = Conductor(self.crew, self.live if environment.web_ui else None, self._ended)
        environment.events.test_start.add_listener(lambda **_: self._start())
        environment.events.test_stopping.add_listener(lambda **_: self.conductor.stop())
        environment.events.quitting.add_listener(lambda **_: self.conductor.stop(INTERRUPT_DRAIN_S))
        attach(environment, self.live, self._server_samples)

    def deliver(self, batch: Batch) -> None:
        if self.conductor.collector is not None:
            self.conductor.collector.take(batch)

    def interrupt(self) -> None:
        """The process got SIGINT: the run ends with a result, and the process with its exit code."""
        if self.conductor.active:
            self.conductor.stop(INTERRUPT_DRAIN_S)
        self._quit()

    def _check(self, default: str) -> None:
        """Find mistakes before anything starts."""
        options = self.environment.parsed_options
        self.environment.user_classes = choose(options, self.environment.user_classes, default)
        try:
            check_key(self.api_key)
        except ValueError as error:
            raise LoadTestError(str(error)) from None
        if options.server_metrics:
            # Made for its check of the addresses.
            Scraper(self.environment.host or "", options.server_metrics)
        if options.headless or options.autostart:
            self._plan(options.run_time)
            # A run begins with its first request, later than Locust's clock; so its end is watched by the conductor.
            self._run_time, options.run_time = options.run_time, None
            if options.spawn_rate is None:
                options.spawn_rate = min(MOST_SPAWN_RATE, options.num_users or 1)

    def _plan(self, run_time: int | None) -> RunPlan:
        environment = self.environment
        return plan_of(environment.parsed_options, run_time, environment.host, environment.user_classes)

    def _start(self) -> None:
        options = self.environment.parsed_options
        # Of the web UI's form, in which an empty field would leave the time of the run before.
        run_time, options.run_time = options.run_time or self._run_time, None
        try:
            plan = resolve(self._plan(run_time), self.api_key)
            scraper = Scraper(plan.host, options.server_metrics or (), self.api_key)
            self.conductor.begin(plan, scraper, options.slo or [], options.report or None)
        except LoadTestError as error:
            print(f"loadtest: {error}", file=sys.stderr)
            gevent.spawn(self._ended, USAGE_ERROR)
        except Exception:
            # Locust tells of it and goes on. A mistake of this program must not leave a run that never ends.
            gevent.spawn(self._ended, UNTRUSTED)
            raise

    def _ended(self, code: int) -> None:
        self.environment.process_exit_code = code
        options = self.environment.parsed_options
        if options.headless or options.autoquit not in (None, -1):
            gevent.sleep(max(0, options.autoquit) if not options.headless else 0)
            self._quit()
        else:
            self.environment.runner.stop()

    def _quit(self) -> None:
        self.environment.runner.quit()
        if self.environment.web_ui is not None:
            self.environment.web_ui.stop()

    def _server_samples(self, start: float) -> Any:
        return self.conductor.scraper.samples(start) if self.conductor.scraper is not None else []


def _init(environment: Any, default: str) -> None:
    session: Worker | Lead
    if isinstance(environment.runner, WorkerRunner):
        session = Worker(environment)
    else:
        try:
            session = Lead(environment, default)
        except LoadTestError as error:
            print(f"loadtest: {error}", file=sys.stderr)
            _dismiss_workers(environment)
            sys.exit(USAGE_ERROR)
    setattr(environment, ATTRIBUTE, session)
    # A KeyboardInterrupt could hit any greenlet, and lose what that one was measuring.
    gevent.signal_handler(signal.SIGINT, session.interrupt)


def _dismiss_workers(environment: Any) -> None:
    """Tell the children of ``--processes`` to end: left alone they wait a minute for their parent."""
    runner, children = environment.runner, environment.parsed_options.processes
    if not children:
        return
    with gevent.Timeout(DISMISS_S, False):
        while len(runner.clients) < children:
            gevent.sleep(0.05)
    runner.quit()
