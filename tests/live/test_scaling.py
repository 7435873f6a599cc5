"""Prevents: requests lost or cut while the number of replicas changes under load."""

import pytest

from tests.live.deployment import eventually, serving
from tests.live.streams import load

pytestmark = pytest.mark.live
TOKENS = 60


def test_scaling_from_one_to_two_and_back_under_streaming_load_loses_nothing() -> None:
    scaling = {"upscale-delay-s": 1, "downscale-delay-s": 5, "look-back-s": 2, "target-ongoing-requests": 3}
    flags = [f"--scaling.{name}={value}" for name, value in scaling.items()]
    with serving("--min-replicas", "1", "--max-replicas", "2", *flags) as deployment:
        assert len(deployment.engines()) == 1
        with load(deployment.url, 1, TOKENS) as light:
            with load(deployment.url, 7, TOKENS) as heavy:
                eventually(lambda: len(deployment.engines()) == 2, 180, "a second engine starts")
                eventually(lambda: len(deployment.serving_ports()) == 2, 120, "the second replica serves")
                heavy.finish_more(14)
            eventually(lambda: len(deployment.engines()) == 1, 120, "the second engine ends")
            light.finish_more(2)
        assert heavy.broken() == []
        assert light.broken() == []
