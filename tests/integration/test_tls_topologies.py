"""Sentinels, masters and cluster nodes that speak TLS."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from servers import PATIENT, SentinelProcess, ServerProcess, free_port, free_ports, redis_binary, required, wait_until

from novacron_cache import Cache, CacheSettings
from novacron_cache.effects import Fetch, Item, Store
from novacron_cache.errors import TierUnavailableError
from novacron_cache.link import LinkState

pytestmark = pytest.mark.servers


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate for `127.0.0.1` that is its own authority."""
    openssl = required(Path(found) if (found := shutil.which("openssl")) else None, "openssl")
    directory = tmp_path_factory.mktemp("tls")
    cert, key = directory / "cert.pem", directory / "key.pem"
    subprocess.run(
        [
            *(str(openssl), "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1"),
            *("-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(cert)),
        ],
        check=True,
        capture_output=True,
    )
    return cert, key


def tls_options(certificate: tuple[Path, Path], port: int) -> dict[str, str]:
    cert, key = map(str, certificate)
    return {
        "tls-port": str(port), "tls-cert-file": cert, "tls-key-file": key, "tls-ca-cert-file": cert,
        "tls-auth-clients": "no", "tls-replication": "yes",
    }  # fmt: skip


def as_arguments(options: dict[str, str]) -> tuple[str, ...]:
    return tuple(word for name, value in options.items() for word in (f"--{name}", value))


def as_lines(options: dict[str, str]) -> str:
    return "".join(f"{name} {value}\n" for name, value in options.items())


@pytest.fixture
def behind_sentinel(certificate: tuple[Path, Path]) -> Iterator[dict[str, Any]]:
    binary = required(redis_binary(), "redis-server 7 or later")
    master_port, sentinel_port = free_port(), free_port()
    master = ServerProcess(binary, args=as_arguments(tls_options(certificate, master_port)))
    config = (
        as_lines(tls_options(certificate, sentinel_port)) + f"sentinel monitor mymaster 127.0.0.1 {master_port} 1\n"
    )
    sentinel = SentinelProcess(binary, config)
    with contextlib.ExitStack() as stack:
        for server in (master, sentinel):
            stack.callback(server.close)
            server.start()
        yield {"mode": "sentinel", "addresses": [f"127.0.0.1:{sentinel_port}"], "sentinel_master": "mymaster"}


@pytest.fixture
def in_a_cluster(certificate: tuple[Path, Path]) -> Iterator[dict[str, Any]]:
    binary = required(redis_binary(), "redis-server 7 or later")
    (port,) = free_ports(1)
    options = {**tls_options(certificate, port), "tls-cluster": "yes", "cluster-enabled": "yes"}
    node = ServerProcess(binary, args=as_arguments(options))
    try:
        node.start()
        assert node.command("CLUSTER", "ADDSLOTSRANGE", "0", "16383").startswith(b"+OK")
        wait_until(lambda: b"cluster_state:ok" in node.command("CLUSTER", "INFO"))
        yield {"mode": "cluster", "addresses": [f"127.0.0.1:{port}"]}
    finally:
        node.close()


@pytest.fixture(params=["behind_sentinel", "in_a_cluster"])
def deployment(request: pytest.FixtureRequest) -> dict[str, Any]:
    return request.getfixturevalue(request.param)  # type: ignore[no-any-return]  # pytest's fixtures are untyped


@pytest.fixture
def open_cache(deployment: dict[str, Any]) -> Iterator[Callable[..., Cache]]:
    with contextlib.ExitStack() as stack:

        def open_(**more: Any) -> Cache:
            return stack.enter_context(Cache(CacheSettings(namespace="shop", redis={**deployment, **PATIENT, **more})))

        yield open_


def test_everything_speaks_tls(open_cache: Callable[..., Cache], certificate: tuple[Path, Path]) -> None:
    cache = open_cache(tls_ca_file=certificate[0])
    tier = cache.engine.shared[0]
    tier.perform(Store([Item("k", b"v", 60)]))
    assert tier.perform(Fetch(["k"])).payloads == [b"v"]
    assert asyncio.run(tier.aperform(Fetch(["k"]))).payloads == [b"v"]
    cache.get("anything")
    wait_until(lambda: cache.engine.link and cache.engine.link.state is LinkState.UP)


@pytest.mark.parametrize("more", [{"tls": True}, {}], ids=["another authority", "no TLS"])
def test_a_certificate_that_nothing_vouches_for_is_refused(open_cache: Callable[..., Cache], more: Any) -> None:
    tier = open_cache(**more, connect_timeout=0.25, socket_timeout=0.25).engine.shared[0]  # nobody answers
    with pytest.raises(TierUnavailableError):
        tier.perform(Fetch(["k"]))
    with pytest.raises(TierUnavailableError):
        asyncio.run(tier.aperform(Fetch(["k"])))
