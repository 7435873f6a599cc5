"""Counts every request in the metrics of ``deploy.metrics``."""

from deploy.gateway.observed import broken, stages
from deploy.gateway.request import RequestRecord
from deploy.metrics import BROKEN_ANSWERS, HANG_UPS, ONGOING, REQUESTS, STAGE_SECONDS, TOKENS


def observe(record: RequestRecord) -> None:
    """An observer: ``ONGOING`` when a request comes, everything else when it ended.

    The status of a request that got no answer is ``0``.
    """
    if record.ended is None:
        ONGOING.inc()
        return
    ONGOING.dec()
    key = record.key_name
    REQUESTS.labels(key, record.route, str(record.status)).inc()
    if broken(record):
        BROKEN_ANSWERS.labels(key, record.route).inc()
    # A request that produced nothing makes no time series.
    if record.prompt_tokens:
        TOKENS.labels(key, "prompt").inc(record.prompt_tokens)
    if record.completion_tokens:
        TOKENS.labels(key, "completion").inc(record.completion_tokens)
    if record.hung_up:
        HANG_UPS.labels(key).inc()
    for stage in stages(record):
        STAGE_SECONDS.labels(stage.name).observe(stage.seconds)
