"""Prevents: an operator who is shown a wrapper ("initialization failed") instead of the cause."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from deploy.failure import cause_in_logs, cause_of, last_exception

ENGINE_LOG = """(EngineCore pid=77) ERROR 11-23 16:40:02 [core.py:1374]     copy_(loaded_weight)
(EngineCore pid=77) ERROR 11-23 16:40:02 [core.py:1374] RuntimeError: The size of tensor a must match
"""
REPLICA_LOG = """ray.exceptions.RayTaskError(RuntimeError): \x1b[36mray::ServeReplica:model\x1b[39m (pid=1)
    raise RuntimeError(traceback.format_exc()) from None
RuntimeError: Traceback (most recent call last):
RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}
"""


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        (ENGINE_LOG, "The size of tensor a must match"),
        (REPLICA_LOG, None),
        ("deploy.errors.UsageError: no such file", "no such file"),
        ("ValueError: first\nsomething\nKeyError: 'second'", "'second'"),
        ("all is well", None),
        (
            "ValidationError: 1 validation error for ModelConfig\n  Value error, Unknown method: x [type=value_error]",
            "Unknown method: x",
        ),
    ],
)
def test_the_cause_is_the_last_exception_that_wraps_no_other(text: str, cause: str | None) -> None:
    assert last_exception(text) == cause


def status(state: str, message: str) -> SimpleNamespace:
    return SimpleNamespace(status=state, message="", deployments={"model": SimpleNamespace(message=message)})


def test_a_wrapper_in_the_status_leads_to_the_engines_log(tmp_path: Path) -> None:
    (tmp_path / "worker-1.out").write_text(ENGINE_LOG)
    (tmp_path / "worker-1.err").write_text(REPLICA_LOG)
    assert cause_in_logs(tmp_path) == "The size of tensor a must match"
    expected = "the model could not be loaded: The size of tensor a must match"
    assert cause_of(status("DEPLOYING", REPLICA_LOG), tmp_path) == expected


def test_nothing_is_wrong_while_the_application_deploys(tmp_path: Path) -> None:
    assert cause_of(status("DEPLOYING", "Waiting for replicas to start."), tmp_path) is None


def test_a_failure_without_any_exception_is_still_a_failure(tmp_path: Path) -> None:
    assert cause_of(status("DEPLOY_FAILED", ""), tmp_path) == "the model could not be loaded; its log says why"
