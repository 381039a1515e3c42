"""The pytest plugin: fixtures for tests of an application that caches.

pytest loads it wherever the package is installed. So it imports nothing but pytest until one of its fixtures is used,
and changes nothing about a session that uses none.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest

if TYPE_CHECKING:
    from .fleet import Fleet
    from .isolating import IsolatedCache

_MARK = "novacron"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option that gives tests a real server."""
    about = "URL of a Redis or Valkey server for the fixtures of novacron_cache, or 'embedded'"
    parser.getgroup("novacron_cache").addoption("--novacron-server", metavar="URL", default=None, help=about)
    parser.addini("novacron_server", about, default="")


def pytest_configure(config: pytest.Config) -> None:
    """Declare the mark."""
    config.addinivalue_line(
        "markers", f"{_MARK}(**settings): settings of the cache of this test, as CacheSettings takes them; disk=True"
    )


@pytest.fixture
def novacron_settings() -> dict[str, Any]:
    """Settings for the caches of all tests that see this fixture; override it where tests need others."""
    return {}


@pytest.fixture
def novacron(
    request: pytest.FixtureRequest, novacron_settings: dict[str, Any], tmp_path: Path
) -> Iterator[IsolatedCache]:
    """A cache of the test's own, which is the default one meanwhile: process memory, and a clock moved by hand.

    `@pytest.mark.novacron(...)` gives it settings; `disk=True` gives it a directory. With `--novacron-server` it has a
    server, and real time.
    """
    from .isolating import isolated

    with isolated(**_settings(request, novacron_settings, tmp_path)) as here:
        yield here


@pytest.fixture
def novacron_fleet(
    request: pytest.FixtureRequest, novacron_settings: dict[str, Any], tmp_path: Path
) -> Iterator[Fleet]:
    """Several processes over one directory, or over one server with `--novacron-server`; time passes by itself."""
    from .fleet import Fleet
    from .isolating import isolated

    settings = _settings(request, novacron_settings, tmp_path)
    if not {"redis", "disk"} & settings.keys():
        settings["disk"] = {"path": tmp_path / "novacron"}
    with isolated(real_time=True, **settings) as here:
        fleet = Fleet(here, settings)
        try:
            yield fleet
        finally:
            fleet.close()


def _settings(request: pytest.FixtureRequest, given: dict[str, Any], tmp_path: Path) -> dict[str, Any]:
    marks = [mark.kwargs for mark in reversed(list(request.node.iter_markers(_MARK)))]
    settings: dict[str, Any] = {"namespace": f"test-{uuid4().hex[:12]}"}
    for source in (given, *marks):
        settings |= source
    server = request.config.getoption("--novacron-server") or request.config.getini("novacron_server")
    if server and "redis" not in settings:
        # What a test asks for by itself is not overruled.
        settings["redis"] = {"mode": "embedded"} if server == "embedded" else {"url": server}
    if settings.get("disk") is True:
        settings["disk"] = {"path": tmp_path / "novacron"}
    elif settings.get("disk") is False:
        del settings["disk"]
    return settings
