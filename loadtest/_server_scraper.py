"""Reads the server's Prometheus pages once a second while a run lasts, in a greenlet of its own."""

import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from http.client import HTTPException
from urllib.parse import urlsplit

import gevent
from gevent.event import Event

from loadtest._errors import LoadTestError
from loadtest._run_data import shown
from loadtest._server_metrics import Sample, parse

PERIOD_S = 1.0
TIMEOUT_S = 2.0
LARGEST_PAGE = 8 << 20
"""Bytes."""
MOST_ROUNDS = 7200
"""Two hours at one a second. Past it every second round is dropped and the period doubles."""
DETAIL = 200


class NoRedirects(urllib.request.HTTPRedirectHandler):
    """A redirect is an error: urllib would take the key along to the new address."""

    def redirect_request(self, *_: object) -> None:
        """urllib calls it."""


OPENER = urllib.request.build_opener(NoRedirects, urllib.request.ProxyHandler({}))


class Scraper:
    """Samples of one or several pages. Times are ``perf_counter`` seconds until ``samples`` brings them on the run's.

    Without ``urls`` the page is ``host/metrics``. The key goes to the host under test only, never to another address.
    """

    def __init__(
        self, host: str, urls: Sequence[str] = (), api_key: str | None = None, period_s: float = PERIOD_S
    ) -> None:
        """Raises LoadTestError for a URL that is no http(s) address."""
        self._requests = [_request(url, host, api_key) for url in urls or [f"{host.rstrip('/')}/metrics"]]
        self._period_s = period_s
        self._rounds: list[list[Sample]] = []
        self._stop = Event()
        self._greenlet: gevent.Greenlet | None = None

    def start(self) -> None:
        """Begin; called again it begins anew and forgets what it has."""
        self.stop()
        self._rounds.clear()
        self._stop.clear()
        self._greenlet = gevent.spawn(self._run)

    def stop(self) -> None:
        """End with a last round, so that the counters hold what came since the one before."""
        self._stop.set()
        if self._greenlet is not None:
            self._greenlet.join(TIMEOUT_S + 1)
            self._greenlet = None
            self._sample(time.perf_counter())

    def samples(self, start: float) -> list[Sample]:
        """Every sample so far, ``t`` in seconds since ``start``, a ``perf_counter`` time."""
        return [{**sample, "t": round(sample["t"] - start, 3)} for samples in self._rounds for sample in samples]

    def _run(self) -> None:
        due = time.perf_counter()
        while not self._stop.is_set():
            self._sample(due)
            self._thin()
            # A page that is slower than the period delays the next round instead of piling rounds up.
            due = max(due + self._period_s, time.perf_counter())
            self._stop.wait(due - time.perf_counter())

    def _thin(self) -> None:
        if len(self._rounds) > MOST_ROUNDS:
            self._rounds = self._rounds[::2]
            self._period_s *= 2

    def _sample(self, t: float) -> None:
        self._rounds.append([{**sample, "t": t} for sample in self._round()])

    def _round(self) -> list[Sample]:
        jobs = [gevent.spawn(_read, request) for request in self._requests]
        gevent.joinall(jobs, timeout=TIMEOUT_S)
        gevent.killall(jobs)
        late = f"no answer within {TIMEOUT_S:g} s"
        answers = [
            job.value if isinstance(job.value, list) else [_failed(shown(request.full_url), late)]
            for job, request in zip(jobs, self._requests, strict=True)
        ]
        return [sample for answer in answers for sample in answer]


def _request(url: str, host: str, api_key: str | None) -> urllib.request.Request:
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise LoadTestError(f"--server-metrics {url!r} is no address: write http://HOST:PORT/metrics")
    own = parts[:2] == urlsplit(host)[:2]
    headers = {"authorization": f"Bearer {api_key}"} if api_key and own else {}
    return urllib.request.Request(url, headers=headers)  # noqa: S310 (checked above)


def _read(request: urllib.request.Request) -> list[Sample]:
    source = shown(request.full_url)
    try:
        with OPENER.open(request, timeout=TIMEOUT_S) as answer:
            page = answer.read(LARGEST_PAGE + 1)
    except urllib.error.HTTPError as error:
        return [_failed(source, f"HTTP {error.code}")]
    except (OSError, ValueError, HTTPException) as error:
        return [_failed(source, str(getattr(error, "reason", error)))]
    if len(page) > LARGEST_PAGE:
        return [_failed(source, f"the page is larger than {LARGEST_PAGE >> 20} MiB")]
    try:
        samples = parse(page.decode(), source)
    except ValueError:
        return [_failed(source, "the page is not in Prometheus' text format")]
    return samples or [_failed(source, "the page holds no metric of vLLM or of this server")]


def _failed(source: str, why: str) -> Sample:
    return {"source": source, "replica": None, "error": " ".join(why.split())[:DETAIL]}
