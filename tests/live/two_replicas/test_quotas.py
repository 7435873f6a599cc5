"""Prevents: replicas that count a quota apart, and a stated wait that is not true."""

import itertools
import time
from collections import Counter

import pytest

from deploy.gateway.quota_book import token_window
from tests.live.deployment import eventually
from tests.live.gateway.guarded import Guarded
from tests.live.two_replicas.conftest import COMPLETION, QUOTA, Exhausted

pytestmark = pytest.mark.live
TOKENS_QUOTA = 40
LONGEST_TOKENS_S = 20
"""What the charging of tokens takes at most; it must not go on into the next window."""


def test_a_quota_holds_over_both_replicas(exhausted: Exhausted) -> None:
    assert Counter(answer.status_code for answer in exhausted.answers) == {200: QUOTA, 429: QUOTA}


def test_tokens_are_charged_over_both_replicas(pair: Guarded) -> None:
    key = pair.new_key("--name", "tokens", "--tokens-per-minute", str(TOKENS_QUOTA))
    # A replica looks at the key file at most once a second.
    time.sleep(1.1)
    _, rest_s = token_window("tokens")
    if rest_s < LONGEST_TOKENS_S:
        time.sleep(rest_s)

    def left() -> str:
        """What a request is told that is refused for its body, and so takes nothing."""
        answer = pair.post("/v1/completions", {"model": "demo", "prompt": 7}, key)
        return str(answer.headers["x-ratelimit-remaining-tokens"])

    # Each takes 12 of the 40, and any rest admits. The charge follows the answer.
    for before, after in itertools.pairwise((40, 28, 16, 4, 0)):
        answer = pair.post("/v1/completions", COMPLETION, key)
        assert (answer.status_code, answer.headers["x-ratelimit-remaining-tokens"]) == (200, str(before))
        eventually(lambda rest=after: left() == str(rest), 30, f"{after} tokens are left")
    # Of two in a row, each replica may have one.
    refused = [pair.post("/v1/completions", COMPLETION, key) for _ in range(2)]
    assert [answer.status_code for answer in refused] == [429, 429]
    assert [answer.headers["x-ratelimit-remaining-tokens"] for answer in refused] == ["0", "0"]


def test_the_wait_that_is_told_is_true(exhausted: Exhausted) -> None:
    assert 1 <= exhausted.told <= 60
    assert exhausted.after_it.result(timeout=120).status_code == 200
