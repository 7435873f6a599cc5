"""Prevents: a server that says HTTPS and serves plain HTTP, and a rotation that cuts a stream or is never noticed."""

import re
import ssl
from collections.abc import Iterator
from pathlib import Path

import httpx
import openai
import pytest

from tests.live.deployment import Deployment, eventually, serving
from tests.unit.certificates import make, name_in, replace

pytestmark = pytest.mark.live
ROTATION_S = 20.0
"""The files are looked at once a second, twice."""


class Secure:
    """A server with a certificate of its own, which its clients trust."""

    def __init__(self, server: Deployment, certificate: Path, key: Path) -> None:
        self.server, self.certificate, self.key = server, certificate, key
        self.url = f"https://127.0.0.1:{server.port}"

    @property
    def serves(self) -> str:
        return name_in(ssl.get_server_certificate(("127.0.0.1", self.server.port)))

    def client(self) -> openai.OpenAI:
        trusted = ssl.create_default_context(cafile=str(self.certificate))
        return openai.OpenAI(
            base_url=f"{self.url}/v1", api_key="none", http_client=openai.DefaultHttpxClient(verify=trusted)
        )


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secure]:
    folder = tmp_path_factory.mktemp("tls")
    certificate, key = folder / "server.crt", folder / "server.key"
    make(certificate, key)
    with serving("--tls.certificate-file", str(certificate), "--tls.key-file", str(key)) as server:
        yield Secure(server, certificate, key)


def test_ready_says_https_and_openais_client_verifies_the_certificate(secure: Secure) -> None:
    assert secure.server.stdout[0].startswith(f"READY {secure.url}/v1 model=demo replicas=1")
    answer = secure.client().chat.completions.create(
        model="demo",
        messages=[{"role": "user", "content": "What is the capital of France?"}],
        max_tokens=20,
        temperature=0,
    )
    assert "Paris" in str(answer.choices[0].message.content)


def test_plain_http_is_not_served(secure: Secure) -> None:
    with pytest.raises(httpx.HTTPError):
        httpx.get(f"{secure.server.url}/health", timeout=10)


def test_a_redirect_stays_on_https(secure: Secure) -> None:
    trusted = ssl.create_default_context(cafile=str(secure.certificate))
    answer = httpx.post(f"{secure.url}/v1/completions/", json={}, verify=trusted, timeout=30)
    assert (answer.status_code, answer.headers["location"]) == (307, f"{secure.url}/v1/completions")


def test_the_key_is_nowhere_but_in_a_private_file(secure: Secure) -> None:
    secret = secure.key.read_text().splitlines()[1]
    assert [line for line in secure.server.stderr if secret in line] == []
    written = [file for file in run_directory(secure).rglob("*") if file.is_file() and secret in read(file)]
    assert [(file.name, file.stat().st_mode & 0o777) for file in written] == [("tls.pem", 0o600)]


def run_directory(secure: Secure) -> Path:
    """Where the deployment writes everything, as HAProxy's configuration tells it."""
    line = secure.server.named("haproxy -db -f ")[0].cmdline()
    bundle = re.search(r"ssl crt '(\S+)'", Path(line[line.index("-f") + 1]).read_text())
    assert bundle is not None
    return Path(bundle[1]).parent


def read(file: Path) -> str:
    return file.read_bytes().decode("latin-1")


def test_a_new_certificate_is_served_while_a_stream_goes_on(secure: Secure) -> None:
    stream = secure.client().completions.create(
        model="demo", prompt="One, two, three,", max_tokens=300, stream=True, extra_body={"ignore_eos": True}
    )
    chunks = iter(stream)
    next(chunks)
    make(secure.certificate, secure.key, "two")
    eventually(lambda: secure.serves == "two", ROTATION_S, "the new certificate is served")
    assert [chunk.choices[0].finish_reason for chunk in chunks][-1] == "length"
    assert secure.client().models.list().data[0].id == "demo"


def test_a_bad_replacement_keeps_the_old_certificate_and_warns(secure: Secure) -> None:
    good = secure.key.read_bytes()
    served = secure.serves
    replace(secure.key, b"garbage")
    eventually(
        lambda: any("the certificate read before stays in use" in line for line in secure.server.stderr),
        ROTATION_S,
        "the warning",
    )
    assert secure.serves == served
    replace(secure.key, good)
