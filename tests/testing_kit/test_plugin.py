"""The pytest plugin, in sessions of its own: what its fixtures give, and that a session without them pays nothing."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from importlib.metadata import entry_points
from pathlib import Path
from typing import NamedTuple

import pytest
from servers import ServerProcess

PLUGIN = "novacron_cache.testing.plugin"


class Session(NamedTuple):
    """What a pytest session of its own came to."""

    code: int
    text: str

    def passed(self, count: int) -> None:
        assert self.code == 0, self.text
        assert f"{count} passed" in self.text, self.text


class Project:
    """A project with tests that use the package."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.write("pytest.ini", "[pytest]\naddopts = --strict-markers -p no:randomly\nfilterwarnings = error\n")

    def write(self, name: str, text: str) -> None:
        (self.path / name).write_text(textwrap.dedent(text), encoding="utf-8")

    def test(self, text: str, *options: str) -> Session:
        """Write a test module, and run it in a session of its own."""
        self.write("test_it.py", text)
        # Where the package is installed it brings the plugin; from a checkout that was not installed anew it may not.
        installed = any(point.value == PLUGIN for point in entry_points(group="pytest11"))
        given = [] if installed else ["-p", PLUGIN]
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "COV"))}
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
        done = subprocess.run(
            [sys.executable, "-m", "pytest", *given, "-p", "no:cacheprovider", *options],
            cwd=self.path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=50,
            check=False,
        )
        return Session(done.returncode, done.stdout + done.stderr)


@pytest.fixture
def project(tmp_path: Path) -> Project:
    (path := tmp_path / "project").mkdir()
    return Project(path)


SHOP = """
    import asyncio
    import pytest
    from novacron_cache import CacheModel, cached, default_cache

    PRICES = {}

    class Price(CacheModel, key="price:<sku>", ttl="30s", tags=["sku:<sku>"]):
        sku: str
        cents: int

    @cached(Price)
    def price(sku: str) -> Price:
        return Price(sku=sku, cents=PRICES.get(sku, 100))

    def raise_price(sku: str, cents: int) -> None:
        PRICES[sku] = cents
"""


def test_what_the_fixtures_give(project: Project) -> None:
    project.test(
        SHOP
        + """
    SEEN = []

    @pytest.mark.parametrize("n", [1, 2])
    def test_a_cache_of_its_own(novacron, n):
        with novacron.assert_loads(1), novacron.assert_hits(1):
            price("a"), price("a")
        assert default_cache() is novacron.cache
        SEEN.append(novacron.cache.settings.namespace)

    def test_namespaces_differ():
        assert len(set(SEEN)) == 2

    def test_time(novacron):
        price("a")
        novacron.advance("31s")
        with novacron.assert_misses(1, price, reason="expired"):
            price("a")

    def test_events(novacron):
        price("a")
        assert novacron.events.kinds() == ["miss", "loaded", "stored"]

    def test_in_a_loop(novacron):
        @cached(key="double:<n>", name="double")
        async def double(n: int) -> int:
            return 2 * n

        async def run():
            with novacron.assert_loads(1):
                assert await asyncio.gather(*(double(4) for _ in range(9))) == [8] * 9
            assert await novacron.aassert_no_stale() == 1

        asyncio.run(run())

    @pytest.mark.novacron(default_ttl="9s", disk=True)
    def test_settings_of_a_mark(novacron, tmp_path):
        assert novacron.cache.settings.default_ttl == 9
        assert novacron.cache.settings.disk.path.is_relative_to(tmp_path)

    class TestOverridden:
        @pytest.fixture
        def novacron_settings(self):
            return {"default_ttl": "5s", "namespace": "shop", "disk": True}

        def test_of_all(self, novacron):
            assert novacron.cache.settings.default_ttl == 5
            assert novacron.cache.settings.namespace == "shop"
            assert novacron.cache.settings.disk_on

        @pytest.mark.novacron(default_ttl="9s", disk=False)
        def test_a_mark_comes_before_the_fixture(self, novacron):
            assert novacron.cache.settings.default_ttl == 9
            assert not novacron.cache.settings.disk_on

    @pytest.mark.novacron(models={"Price": {"ttl": "2s"}})
    class TestMarked:
        @pytest.mark.novacron(default_ttl="9s")
        def test_marks_of_a_class_and_of_a_test_go_together(self, novacron):
            price("a")
            novacron.advance(3)
            with novacron.assert_loads(1):
                price("a")
            assert novacron.cache.settings.default_ttl == 9
    """
    ).passed(10)


def test_what_is_wrong_fails_and_says_why(project: Project) -> None:
    session = project.test(
        SHOP
        + """
    def test_an_invalidation_is_missing(novacron):
        price("a")
        raise_price("a", 200)
        novacron.assert_no_stale()

    @pytest.mark.novacron(defalt_ttl="5s")
    def test_there_is_no_such_setting(novacron): ...
    """
    )
    assert session.code == 1
    assert "1 failed, 1 error" in session.text
    assert "1 of 1 cached values are stale" in session.text
    assert "'price:a' (Price): serves Price(sku='a', cents=100), its loader now returns" in session.text
    assert "defalt_ttl: unknown setting; did you mean 'default_ttl'" in session.text


@pytest.mark.servers
def test_with_a_server_they_use_it_and_leave_nothing_there(project: Project, valkey_server: ServerProcess) -> None:
    project.test(
        SHOP
        + """
    def test_one(novacron):
        price("a")
        novacron.cache.engine.memory.clear()
        with novacron.assert_hits(1, tier="redis"):
            price("a")
        with pytest.raises(Exception, match="real time"):
            novacron.advance(1)

    def test_in_a_loop(novacron):
        async def run():
            await novacron.cache.aset("k", 1)
            assert await novacron.cache.aget("k") == 1
        asyncio.run(run())

    @pytest.mark.novacron(redis={"enabled": False})
    def test_what_a_test_asks_for_comes_first(novacron):
        novacron.advance(1)

    def another(sku):
        return price(sku).cents

    def test_fleet(novacron_fleet):
        novacron_fleet.start()
        assert novacron_fleet.here.cache.settings.redis_on
        assert not novacron_fleet.here.cache.settings.disk_on
        assert novacron_fleet.assert_agreement(another, "a") == 100
    """,
        "--novacron-server",
        valkey_server.url,
    ).passed(4)
    assert b":v:" not in valkey_server.command("KEYS", "nc:test-*")


def test_a_session_without_them_imports_none_of_the_package_s_dependencies(project: Project) -> None:
    project.write("pytest.ini", "[pytest]\nnovacron_server = redis://127.0.0.1:1/0\n")
    project.test(
        """
    import sys

    def test_nothing_was_imported():
        heavy = {"pydantic", "pydantic_core", "redis", "diskcache", "msgpack", "click", "rich", "prometheus_client"}
        assert not heavy & set(sys.modules)
        ours = {name for name in sys.modules if name.startswith("novacron_cache")}
        assert ours <= {"novacron_cache", "novacron_cache.testing", "novacron_cache.testing.plugin"}

    def test_the_mark_and_the_option_are_known(pytestconfig):
        assert any(line.startswith("novacron(**settings)") for line in pytestconfig.getini("markers"))
        assert pytestconfig.getoption("--novacron-server") is None

    def test_the_server_may_be_named_in_the_configuration(novacron):
        assert novacron.cache.settings.redis.url == "redis://127.0.0.1:1/0"
    """,
        "-p",
        "no:randomly",
    ).passed(3)
