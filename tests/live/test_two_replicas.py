"""Prevents: replicas that count a quota apart, a stated wait that is not true, and usage lost or doubled by a death.

One deployment with two replicas for all tests of this module.
"""

import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from deploy.gateway.quota_book import token_window
from tests.live.deployment import eventually, serving
from tests.live.gateway.guarded import Guarded, new_key, report

pytestmark = pytest.mark.live
QUOTA, TOKENS_QUOTA = 6, 40
TOKENS = 10
LONG = 900
"""Tokens of a stream that goes on for longer than the test needs until it kills a replica."""
COMPLETION = {"model": "demo", "prompt": "Hi there", "max_tokens": TOKENS, "ignore_eos": True}
PROGRESS_S = 1
LONGEST_TOKENS_S = 20
"""What the charging of tokens takes at most; it must not go on into the next window."""


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    directory = tmp_path_factory.mktemp("pair")
    file, usage = directory / "keys.yaml", directory / "usage"
    key = new_key(file, "--name", "free")
    limited = new_key(file, "--name", "limited", "--requests-per-minute", str(QUOTA))
    flags = ["--replicas", "2", "--gateway.keys-file", str(file), "--usage.directory", str(usage)]
    with serving(*flags, "--usage.progress-s", str(PROGRESS_S)) as server:
        yield Guarded(server, file, usage, key, limited, [key, limited])


def lines_of(usage: Path, key: str) -> dict[str, list[dict[str, Any]]]:
    """The lines of a key in each file, so of each replica."""
    found = {path.name: [json.loads(line) for line in path.read_text().splitlines()] for path in usage.iterdir()}
    return {name: own for name, lines in found.items() if (own := [line for line in lines if line["key"] == key])}


def test_a_quota_holds_over_both_replicas_and_the_wait_that_is_told_is_true(pair: Guarded) -> None:
    limited = pair.restricted
    with ThreadPoolExecutor(2 * QUOTA) as pool:
        answers = list(pool.map(lambda _: pair.post("/v1/completions", COMPLETION, limited), range(2 * QUOTA)))
    assert Counter(answer.status_code for answer in answers) == {200: QUOTA, 429: QUOTA}
    eventually(lambda: len(lines_of(pair.usage, "limited")) == 2, 10, "both replicas wrote down their part")
    told = max(int(answer.headers["retry-after"]) for answer in answers if answer.status_code == 429)
    assert 1 <= told <= 60
    time.sleep(told)
    assert pair.post("/v1/completions", COMPLETION, limited).status_code == 200


def test_tokens_are_charged_over_both_replicas(pair: Guarded) -> None:
    key = pair.new_key("--name", "tokens", "--tokens-per-minute", str(TOKENS_QUOTA))
    # A replica looks at the key file at most once a second.
    time.sleep(1.1)
    _, rest_s = token_window("tokens")
    if rest_s < LONGEST_TOKENS_S:
        time.sleep(rest_s)
    answers = []
    for _ in range(6):
        answers.append(pair.post("/v1/completions", COMPLETION, key))
        # The charge follows the answer.
        time.sleep(0.2)
    # Each takes 12 of the 40, and any rest admits.
    assert [answer.status_code for answer in answers] == [200, 200, 200, 200, 429, 429]
    left = [answer.headers["x-ratelimit-remaining-tokens"] for answer in answers]
    assert left == ["40", "28", "16", "4", "0", "0"]


class Reader(threading.Thread):
    """Reads a stream as far as it comes."""

    def __init__(self, pair: Guarded) -> None:
        super().__init__()
        self.url, self.headers = f"{pair.server.url}/v1/completions", {"authorization": f"Bearer {pair.key}"}
        self.chunks = 0
        self.done = False

    def run(self) -> None:
        body = COMPLETION | {"max_tokens": LONG, "stream": True}
        try:
            with httpx.stream("POST", self.url, json=body, headers=self.headers, timeout=120) as response:
                for line in response.iter_lines():
                    self.chunks += line.startswith('data: {"id"')
                    self.done = self.done or line == "data: [DONE]"
        except httpx.HTTPError:
            pass


def test_the_usage_log_survives_a_killed_replica_without_counting_twice(pair: Guarded) -> None:
    readers = [Reader(pair) for _ in range(4)]
    for reader in readers:
        reader.start()
    eventually(lambda: all(reader.chunks > 20 for reader in readers), 120, "all four stream")
    at_least = sum(reader.chunks for reader in readers)
    # Everything that came by now is written down by then.
    time.sleep(2 * PROGRESS_S)
    victim: psutil.Process = pair.server.named(r"^ray::ServeReplica")[0]
    victim.kill()
    for reader in readers:
        reader.join()
    finished = sum(reader.done for reader in readers)
    assert 0 < finished < len(readers), "each replica had some"
    eventually(lambda: len(pair.server.named(r"^VLLM::EngineCore")) == 2, 120, "the replica comes back")
    counted = (4, 4 - finished, 0)
    names = ("requests", "unfinished", "errors")

    def row_of_free() -> dict[str, Any]:
        (row,) = [row for row in report(pair.usage) if row["key"] == "free"]
        return row

    # The end of a stream is written down a moment after the client saw it.
    eventually(lambda: tuple(row_of_free()[name] for name in names) == counted, 10, f"{names} are {counted}")
    row = row_of_free()
    assert row["prompt_tokens"] == 4 * 2
    assert at_least <= row["completion_tokens"] <= 4 * LONG
    # The streams that went on are whole; those that were cut count what was written down, once.
    lines = [line for own in lines_of(pair.usage, "free").values() for line in own]
    last = {line["record"]: line for line in lines}
    assert sorted(line["completion_tokens"] for line in last.values() if line["final"]) == [LONG] * finished
    assert sum(line["completion_tokens"] for line in last.values()) == row["completion_tokens"]
    assert pair.post("/v1/completions", COMPLETION).status_code == 200
    eventually(lambda: report(pair.usage)[0]["requests"] == 5, 10, "the next request is counted beside them")
