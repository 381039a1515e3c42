"""dogpile.cache over the cache: dogpile's own suite of backend tests, and what tags, processes and settings add."""

from __future__ import annotations

import threading
import tomllib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from dogpile.cache import make_region
from dogpile.cache.api import NO_VALUE
from dogpile.testing import fixtures as suites
from servers import PATIENT, ServerProcess

from novacron_cache import Cache, DeclarationError, SettingsError
from novacron_cache.integrations.dogpile import NovacronBackend
from novacron_cache.integrations.locking import CacheMutex
from novacron_cache.integrations.sharing import close_all

KEYS = ["a signing key of sixteen bytes or more"]


@pytest.fixture(autouse=True)
def _closed() -> Any:
    yield
    close_all()


class OnServer:
    """dogpile's suites against a server of the session's."""

    backend = "novacron_cache"
    config_args: dict[str, Any] = {}  # noqa: RUF012 - the suite's name for it

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def _server(cls, valkey_server: ServerProcess) -> None:
        url = f"redis://127.0.0.1:{valkey_server.port}"
        cls.config_args = {"arguments": {"url": url, "namespace": "dogpile", "signing_keys": KEYS}}

    @classmethod
    def setup_class(cls) -> None:
        """Leave it to the fixture, which comes later, to say where the server is."""

    def test_argument_dictionary_unmodified(self) -> None:
        """The suite adds arguments that nobody knows, which this backend refuses as what they are: mistakes."""
        arguments = {**self.config_args["arguments"], "expiration": "1m"}
        before = dict(arguments)
        make_region().configure(self.backend, arguments=arguments)
        assert arguments == before


@pytest.mark.servers
class TestSuiteOnServer(OnServer, suites._GenericBackendTestSuite):  # type: ignore[misc]  # it has no types
    test_threaded_get_multi = None  # ten seconds; see test_batches_of_many_threads_agree


@pytest.mark.servers
class TestMutexSuiteOnServer(OnServer, suites._GenericMutexTestSuite):  # type: ignore[misc]  # the suites have no types
    test_argument_dictionary_unmodified = None  # type: ignore[assignment]  # theirs, left out


@pytest.mark.servers
class TestSerializerSuiteOnServer(OnServer, suites._GenericSerializerTestSuite, suites._GenericBackendFixture):  # type: ignore[misc]
    test_argument_dictionary_unmodified = None  # type: ignore[assignment]  # theirs, left out


class InMemory:
    backend = "novacron_cache"
    config_args: dict[str, Any] = {"arguments": {"memory": {"max_items": 1000}}}  # noqa: RUF012


class TestSuiteInMemory(InMemory, suites._GenericBackendTestSuite):  # type: ignore[misc]  # the suites have no types
    test_threaded_get_multi = test_threaded_dogpile = test_region_expire = None
    test_argument_dictionary_unmodified = None


class TestMutexSuiteInMemory(InMemory, suites._GenericMutexTestSuite):  # type: ignore[misc]  # the suites have no types
    pass


def region(**arguments: Any) -> Any:
    return make_region().configure("novacron_cache", expiration_time=60, arguments=arguments)


class TestRegions:
    def test_the_entry_point_names_the_backend(self) -> None:
        project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
        assert project["project"]["entry-points"]["dogpile.cache"] == {
            "novacron_cache": f"{NovacronBackend.__module__}:{NovacronBackend.__qualname__}"
        }

    def test_regions_of_one_configuration_share_their_values(self) -> None:
        region().set("key", {"a": [1]})
        assert region().get("key") == {"a": [1]}
        assert region(memory={"max_items": 7}).get("key") is NO_VALUE

    def test_of_many_threads_one_makes_a_value(self) -> None:
        shared, made, gate = region(), [], threading.Barrier(8)

        def create() -> int:
            made.append(1)
            return len(made)

        def ask(_: int) -> Any:
            gate.wait(10)
            return shared.get_or_create("key", create)

        with ThreadPoolExecutor(8) as pool:
            assert list(pool.map(ask, range(8))) == [1] * 8

    def test_batches_of_many_threads_agree(self) -> None:
        shared, gate = region(), threading.Barrier(4)

        def create(*keys: str) -> list[str]:
            return [key.upper() for key in keys]

        def ask(number: int) -> Any:
            gate.wait(10)
            return shared.get_or_create_multi(["a", "b", "c"][: 1 + number % 3], create)

        with ThreadPoolExecutor(4) as pool:
            found = list(pool.map(ask, range(4)))
        assert found == [["A"], ["A", "B"], ["A", "B", "C"], ["A"]]
        assert shared.get_multi(["a", "b", "c"]) == ["A", "B", "C"]

    @pytest.mark.servers
    def test_of_two_processes_caches_one_makes_a_value(self, valkey_server: ServerProcess) -> None:
        url = f"redis://127.0.0.1:{valkey_server.port}"
        made, begun, go_on = [], threading.Event(), threading.Event()

        def create() -> int:
            made.append(1)
            begun.set()
            assert go_on.wait(10)
            return len(made)

        with (
            Cache.connect(url, namespace="two", signing_keys=KEYS, redis=PATIENT) as one,
            Cache.connect(url, namespace="two", signing_keys=KEYS, redis=PATIENT) as two,
            ThreadPoolExecutor(2) as pool,
        ):
            first = pool.submit(region(cache=one).get_or_create, "key", create)
            assert begun.wait(10)
            second = pool.submit(region(cache=two).get_or_create, "key", create)
            assert region(cache=two).key_is_locked("key")
            go_on.set()
            assert (first.result(10), second.result(10)) == (1, 1)

    def test_a_tag_forgets_what_a_region_holds(self) -> None:
        with Cache() as cache:
            shared = region(cache=cache, tags=lambda key: [f"kind:{key.partition('-')[0]}"])
            shared.set_multi({"vm-1": 1, "vm-2": 2, "node-1": 3})
            cache.invalidate_tags("kind:vm")
            assert shared.get_multi(["vm-1", "node-1", "vm-2"]) == [NO_VALUE, 3, NO_VALUE]

    def test_an_expiration_bounds_what_is_kept_at_all(self) -> None:
        with Cache() as cache:
            shared = region(cache=cache, expiration="1m")
            shared.set("key", 1)
            assert 59 < (cache.ttl("key") or 0) <= 60

    def test_a_configuration_file_says_it_in_text(self) -> None:
        made = make_region().configure_from_config(
            {
                "cache.backend": "novacron_cache",
                "cache.expiration_time": "60",
                "cache.arguments.expiration": "120",
                "cache.arguments.distributed_lock": "false",
                "cache.arguments.namespace": "shop",
            },
            "cache.",
        )
        made.set("key", 1)
        assert made.get("key") == 1
        assert made.backend.get_mutex("key") is None
        assert made.backend.cache.settings.namespace == "shop"
        assert 119 < (made.backend.cache.ttl("key") or 0) <= 120

    @pytest.mark.parametrize(
        ("arguments", "error", "said"),
        [
            ({"url": "redis://127.0.0.1:1", "namespace": "a"}, SettingsError, "signing_keys"),
            ({"url": "redis://127.0.0.1:1", "signing_keys": KEYS}, SettingsError, "namespace"),
            ({"ulr": "redis://127.0.0.1:1"}, SettingsError, "ulr"),
            ({"distributed_lock": "maybe"}, DeclarationError, "true or false"),
            ({"consistency": "weak"}, DeclarationError, "'bounded' or 'strong'"),
            ({"tags": ["a"]}, DeclarationError, "a function from a key"),
            ({"expiration": "soon"}, DeclarationError, "soon"),
        ],
    )
    def test_a_wrong_argument_is_named(self, arguments: dict[str, Any], error: type[Exception], said: str) -> None:
        with pytest.raises(error, match=said):
            NovacronBackend(arguments)


class TestMutex:
    def test_it_excludes_and_is_given_back(self) -> None:
        with Cache() as cache:
            one, two = CacheMutex(cache, "key"), CacheMutex(cache, "key")
            assert one.acquire()
            assert two.locked()
            assert two.acquire(wait=False) is False
            assert CacheMutex(cache, "other").acquire(wait=False)
            one.release()
            assert two.acquire(wait=False)
            two.release()
            assert not one.locked()

    @pytest.mark.servers
    def test_processes_exclude_each_other(self, valkey_server: ServerProcess) -> None:
        url, inside, seen = f"redis://127.0.0.1:{valkey_server.port}", [0], []
        with (
            Cache.connect(url, namespace="mutex", redis=PATIENT) as one,
            Cache.connect(url, namespace="mutex", redis=PATIENT) as two,
        ):
            mine = CacheMutex(one, "key")
            assert mine.acquire()
            assert CacheMutex(two, "key").acquire(wait=False) is False
            mine.release()

            def enter(cache: Cache) -> None:
                for _ in range(10):
                    with CacheMutex(cache, "key"):
                        inside[0] += 1
                        seen.append(inside[0])
                        inside[0] -= 1

            with ThreadPoolExecutor(4) as pool:
                list(pool.map(enter, (one, two, one, two)))
        assert seen == [1] * 40

    def test_an_owner_that_has_died_is_not_waited_for(self) -> None:
        from novacron_cache.testing import ManualClock

        clock = ManualClock()
        with Cache(clock=clock) as cache:
            cache.set("key", True, ttl=10)  # as an owner in another process would have it
            assert CacheMutex(cache, "key").acquire(wait=False) is False
            clock.advance(11)
            assert CacheMutex(cache, "key").acquire(wait=False)
