"""Prevents: HAProxy listening wider than asked, bare error pages, lost request ids,
and a silent change in Ray's template.
"""

import json
import re
from pathlib import Path

import pytest

from deploy.proxy import error_body, mend, write_launcher

WRITTEN_BY_RAY = """global
    maxconn 4096
defaults
    mode http
    errorfile 502 /tmp/error.http
    errorfile 503 /tmp/error.http
    errorfile 504 /tmp/error.http
    balance leastconn
frontend prometheus
    bind :9101
    mode http
frontend http_frontend
    bind 127.0.0.1:8000
    default_backend default_backend
backend default_backend
    http-request return status 404 content-type text/plain lf-string "Path \\'%[path]\\' not found."
listen stats
  bind *:8404
  stats enable
"""


def binds(config: str) -> dict[str, str]:
    return dict(re.findall(r"^(?:frontend|listen) (\w+)\n\s*bind (\S+)$", config, re.MULTILINE))


def test_metrics_and_statistics_listen_on_loopback_only() -> None:
    assert binds(mend(WRITTEN_BY_RAY, None)) == {
        "prometheus": "127.0.0.1:9101",
        "http_frontend": "127.0.0.1:8000",
        "stats": "127.0.0.1:8404",
    }


def test_the_public_frontend_listens_where_the_operator_asked() -> None:
    assert binds(mend(WRITTEN_BY_RAY, "0.0.0.0:8080"))["http_frontend"] == "0.0.0.0:8080"


def test_error_pages_are_openais_error_object_with_the_right_status() -> None:
    mended = mend(WRITTEN_BY_RAY, None)
    pages = dict(re.findall(r"http-error status (\d+) content-type application/json string '(.*?)'", mended))
    assert {key: json.loads(page)["error"]["code"] for key, page in pages.items()} == {
        "400": "bad_request",
        "408": "timeout",
        "502": "replica_lost",
        "503": "unavailable",
        "504": "timeout",
    }
    assert "errorfile" not in mended


def test_error_bodies_have_every_field_that_the_openai_client_reads() -> None:
    assert json.loads(error_body("It is full.", "full")) == {
        "error": {"message": "It is full.", "type": "server_error", "param": None, "code": "full"}
    }


def test_a_method_that_replicas_cannot_read_is_refused_with_openais_error_object() -> None:
    (rule,) = [line for line in mend(WRITTEN_BY_RAY, None).splitlines() if "return status 405" in line]
    assert json.loads(re.findall("string '(.*)' unless", rule)[0])["error"]["code"] == "method_not_allowed"
    assert rule.endswith("unless { method GET HEAD POST PUT PATCH DELETE OPTIONS TRACE }")


def test_mending_twice_changes_nothing_more() -> None:
    once = mend(WRITTEN_BY_RAY, None)
    assert mend(once, None) == once


@pytest.mark.parametrize(
    "line",
    [
        "    balance leastconn\n",
        "    bind :9101\n",
        "  bind *:8404\n",
        "    bind 127.0.0.1:8000\n",
        "backend default_backend\n",
    ],
)
def test_a_configuration_without_a_line_that_must_be_mended_is_refused(line: str) -> None:
    with pytest.raises(ValueError, match="this Ray version is not supported"):
        mend(WRITTEN_BY_RAY.replace(line, ""), None)


def test_the_launcher_runs_this_python_for_every_user(tmp_path: Path) -> None:
    launcher = write_launcher(tmp_path / "haproxy")
    assert launcher.stat().st_mode & 0o777 == 0o755
    assert launcher.read_text().startswith("#!/bin/sh\nexec ")
