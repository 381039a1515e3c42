"""A server that cannot prove who it is gets neither a password nor a value: the loader answers, and an event tells."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from security.witness import Witness
from servers import IMPATIENT, ServerProcess, free_port, redis_binary, required, running

from novacron_cache import Cache, CacheSettings
from novacron_cache.events import Miss

pytestmark = pytest.mark.servers


def certificate(directory: Path, name: str, *, host: str, days: str = "2") -> tuple[Path, Path]:
    tool = required(Path(found) if (found := shutil.which("openssl")) else None, "openssl")
    cert, key = directory / f"{name}.pem", directory / f"{name}.key"
    subprocess.run(
        [
            *(str(tool), "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
            *("-subj", f"/CN={host}", "-addext", f"subjectAltName=DNS:{host}", "-days", days),
            *("-out", str(cert), "-keyout", str(key)),
        ],
        check=True,
        capture_output=True,
    )
    return cert, key


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tls")


@pytest.fixture(scope="module", params=["another host", "another authority", "an impostor"])
def planted(request: pytest.FixtureRequest, directory: Path) -> Iterator[tuple[str, Path | None]]:
    """A server whose certificate is not what it should be, and the authority that the application trusts."""
    host = "elsewhere" if request.param == "another host" else "localhost"
    cert, key = certificate(directory, "server", host=host)
    genuine, _ = certificate(directory, "genuine", host="localhost")
    trusted = {"another host": cert, "another authority": None, "an impostor": genuine}[request.param]
    port = free_port()
    args = ("--tls-port", port, "--tls-cert-file", cert, "--tls-key-file", key, "--tls-auth-clients", "no")
    with running(required(redis_binary(), "redis-server 7 or later"), args=tuple(map(str, args))) as server:
        server.command("ACL", "SETUSER", "default", "resetpass", ">expected")
        yield f"rediss://:a-long-password@localhost:{port}", trusted


def test_a_server_with_a_wrong_certificate_is_not_spoken_to(planted: tuple[str, Path | None]) -> None:
    url, trusted = planted
    redis = {"url": url, "tls_ca_file": trusted, "connect_timeout": "5s", "socket_timeout": "5s"}
    with Cache(CacheSettings(namespace="shop", redis=redis)) as cache:
        witness = Witness(cache)
        assert cache.get_or_load("k", lambda: "loaded") == "loaded"
        witness.failed("redis", "certificate")
        assert [event.reason for event in witness.of(Miss)] == ["tier_down"]
        # It was not told the password, or it would have refused that.
        assert cache.observer.figures().total("security_events", kind="credentials") == 0


def test_a_server_that_speaks_no_tls_is_not_spoken_to(valkey_server: ServerProcess) -> None:
    url = valkey_server.url.replace("redis://", "rediss://")
    with Cache(CacheSettings(namespace="shop", redis={"url": url, **IMPATIENT})) as cache:
        witness = Witness(cache)
        assert cache.get_or_load("k", lambda: "loaded") == "loaded"
        witness.failed("redis", "redis at rediss://")


def test_verification_is_on_unless_it_is_turned_off_by_name() -> None:
    assert CacheSettings(namespace="shop", redis={"url": "rediss://host"}).redis.tls_verify is True
