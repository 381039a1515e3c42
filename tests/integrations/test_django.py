"""Django's cache framework over the cache: its documented behaviour, blocking and asynchronous, and what tags add."""

from __future__ import annotations

import asyncio
import pickle
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import django
import pytest
from django.conf import settings as django_settings
from django.core.cache import CacheKeyWarning, caches
from django.core.exceptions import ImproperlyConfigured
from django.http import HttpRequest, HttpResponse
from django.template import Context, Engine
from django.test import RequestFactory, override_settings
from servers import ServerProcess

from novacron_cache import Cache, CacheSettings, cached
from novacron_cache.testing import ManualClock

BACKEND = "novacron_cache.integrations.django.NovacronCache"

if not django_settings.configured:
    django_settings.configure(
        SECRET_KEY="a secret of the tests",
        INSTALLED_APPS=["django.contrib.sessions"],
        SESSION_ENGINE="django.contrib.sessions.backends.cache",
        USE_TZ=True,
    )
    django.setup()


class Point:
    """An object that only a pickle can carry."""

    def __init__(self, x: int) -> None:
        self.x = x

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Point) and other.x == self.x

    __hash__ = None  # type: ignore[assignment]  # mutable


class Asynchronous:
    """The asynchronous methods of a backend under the names of the blocking ones, on one loop."""

    def __init__(self, backend: Any, runner: asyncio.Runner) -> None:
        self._backend, self._runner = backend, runner

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self._backend, f"a{name}")

        def call(*args: Any, **kwargs: Any) -> Any:
            return self._runner.run(method(*args, **kwargs))

        return call


def add_one_to(text: str, prefix: str, version: int) -> str:
    """A key function of a project's own."""
    return f"mine-{prefix}-{version}-{text}"


@pytest.fixture(params=["memory", pytest.param("server", marks=pytest.mark.servers)])
def config(request: pytest.FixtureRequest) -> Iterator[dict[str, Any]]:
    """What `CACHES` says of one alias, in force as `default`, `prefixed`, `second` and `keyed`."""
    conf: dict[str, Any] = {"BACKEND": BACKEND}
    if request.param == "server":
        server: ServerProcess = request.getfixturevalue("valkey_server")
        conf |= {"LOCATION": f"redis://127.0.0.1:{server.port}", "OPTIONS": {"namespace": "django"}}
    aliases = {
        "default": conf,
        "prefixed": {**conf, "KEY_PREFIX": "p"},
        "second": {**conf, "VERSION": 2},
        "keyed": {**conf, "KEY_FUNCTION": add_one_to},
    }
    with override_settings(CACHES=aliases, ALLOWED_HOSTS=["testserver"]):
        caches["default"].clear()
        yield conf


@pytest.fixture(params=["blocking", "asynchronous"])
def use(request: pytest.FixtureRequest, config: dict[str, Any]) -> Iterator[Callable[[str], Any]]:
    """A function from an alias to its backend, in one of the two forms."""
    if request.param == "blocking":
        yield lambda alias: caches[alias]
        return
    with asyncio.Runner() as runner:
        yield lambda alias: Asynchronous(caches[alias], runner)


@pytest.fixture
def cache(use: Callable[[str], Any]) -> Any:
    return use("default")


class TestOneKey:
    @pytest.mark.parametrize(
        "value",
        [None, True, 0, -7, 2**80, 1.5, "", "Iñtërnâtiônàlizætiøn", "a\udc80b", b"\x00\xff", [1, [2]], {"a": {1, 2}},
         (1, "x"), Point(3), len],
        ids=repr,
    )  # fmt: skip
    def test_what_was_stored_comes_back(self, cache: Any, value: Any) -> None:
        cache.set("key", value)
        assert cache.get("key", "nothing") == value
        assert type(cache.get("key")) is type(value)

    def test_every_reader_has_an_object_of_its_own(self, cache: Any) -> None:
        cache.set("key", {"list": [1]})
        cache.get("key")["list"].append(2)
        assert cache.get("key") == {"list": [1]}

    def test_the_default_answers_for_what_is_not_there(self, cache: Any) -> None:
        assert cache.get("key") is None
        assert cache.get("key", "bang!") == "bang!"
        cache.set("none", None)
        assert cache.get("none", "bang!") is None

    def test_what_cannot_be_pickled_is_refused_and_what_was_there_stays(self, cache: Any) -> None:
        cache.set("key", "before")
        with pytest.raises((pickle.PicklingError, AttributeError, TypeError)):
            cache.set("key", lambda: None)
        with pytest.raises((pickle.PicklingError, AttributeError, TypeError)):
            cache.add("other", threading.Lock())
        assert cache.get("key") == "before"
        assert cache.get("other") is None

    def test_add_stores_only_where_nothing_is(self, cache: Any) -> None:
        assert cache.add("key", "first") is True
        assert cache.add("key", "second") is False
        assert cache.get("key") == "first"
        cache.set("none", None)
        assert cache.add("none", 1) is False

    def test_a_timeout_of_zero_or_less_stores_nothing(self, cache: Any) -> None:
        for timeout in (0, -1, -0.5):
            cache.set("key", "here")
            cache.set("key", "gone", timeout)
            assert cache.get("key") is None
            assert cache.add("added", "ham", timeout) is True
            assert cache.get("added") is None
            assert cache.get_or_set("made", lambda: "egg", timeout) == "egg"
            assert cache.get("made") is None
            cache.set("touched", "spam")
            assert cache.touch("touched", timeout) is True
            assert cache.get("touched") is None
        cache.set("taken", 1)
        assert cache.add("taken", 2, 0) is False

    def test_a_timeout_of_none_keeps_a_value_and_a_fraction_is_one(self, cache: Any) -> None:
        cache.set("key", "eggs", timeout=None)
        cache.set("half", "ham", timeout=100.5)
        cache.set_many({"a": 1}, timeout=None)
        assert (cache.get("key"), cache.get("half"), cache.get("a")) == ("eggs", "ham", 1)
        assert cache.touch("key", timeout=None) is True
        assert caches["default"].cache.ttl(":1:key") > 29 * 86_400
        assert 99 < caches["default"].cache.ttl(":1:half") <= 100.5

    def test_without_a_timeout_it_is_that_of_the_alias(self, cache: Any, config: dict[str, Any]) -> None:
        cache.set("key", 1)
        assert 299 < caches["default"].cache.ttl(":1:key") <= 300

    def test_touch_says_whether_there_was_a_value(self, cache: Any) -> None:
        cache.set("key", "eggs", timeout=5)
        assert cache.touch("key", 1000) is True
        assert caches["default"].cache.ttl(":1:key") > 900
        assert cache.touch("key") is True
        assert caches["default"].cache.ttl(":1:key") <= 300
        assert cache.touch("nothing") is False

    def test_delete_says_whether_there_was_a_value(self, cache: Any) -> None:
        cache.set("key", "spam")
        assert cache.delete("key") is True
        assert cache.get("key") is None
        assert cache.delete("key") is False

    def test_has_key_is_true_of_none_too(self, cache: Any) -> None:
        cache.set("none", None, timeout=None)
        assert cache.has_key("none") is True
        assert cache.has_key("nothing") is False

    def test_a_key_is_whatever_text_it_is_written_as(self, cache: Any) -> None:
        cache.set(7, "number")
        assert cache.get("7") == "number"
        assert cache.get(7) == "number"

    def test_keys_that_memcached_would_refuse_warn_and_work(self, cache: Any) -> None:
        for key in ("key with spaces", "x" * 260, "清"):
            if key == "清":
                cache.set(key, 1)
            else:
                with pytest.warns(CacheKeyWarning):
                    cache.set(key, 1)
                with pytest.warns(CacheKeyWarning):
                    assert cache.get_many([key]) == {key: 1}
        assert cache.get("清") == 1


class TestGetOrSet:
    def test_a_value_a_function_and_none_are_defaults(self, cache: Any) -> None:
        assert cache.get_or_set("value", 42) == 42
        assert cache.get_or_set("value", 43) == 42
        assert cache.get_or_set("made", lambda: Point(1)) == Point(1)
        assert cache.get_or_set("made", lambda: Point(2)) == Point(1)
        assert cache.get_or_set("none", None) is None
        assert cache.get("none", "default") is None

    def test_an_error_of_the_function_is_the_callers_and_nothing_is_stored(self, cache: Any) -> None:
        def fail() -> None:
            raise LookupError("no such thing")

        with pytest.raises(LookupError):
            cache.get_or_set("key", fail)
        assert cache.has_key("key") is False

    def test_versions_and_timeouts_are_heeded(self, cache: Any) -> None:
        assert cache.get_or_set("key", 1, 1000, version=2) == 1
        assert cache.get("key", version=1) is None
        assert caches["default"].cache.ttl(":2:key") > 900

    def test_of_many_threads_one_runs_the_function(self, config: dict[str, Any]) -> None:
        calls, gate = [], threading.Barrier(8)

        def load() -> list[int]:
            calls.append(threading.get_ident())
            return [len(calls)]

        def ask(_: int) -> Any:
            gate.wait(10)
            return caches["default"].get_or_set("herd", load)

        with ThreadPoolExecutor(8) as pool:
            assert list(pool.map(ask, range(8))) == [[1]] * 8
        assert len(calls) == 1

    async def test_an_asynchronous_function_is_awaited(self, config: dict[str, Any]) -> None:
        async def load() -> list[str]:
            await asyncio.sleep(0)
            return ["awaited"]

        assert await caches["default"].aget_or_set("key", load) == ["awaited"]
        assert await caches["default"].aget("key") == ["awaited"]
        assert await caches["default"].aget_or_set("zero", load, 0) == ["awaited"]


class TestCountersAndVersions:
    def test_incr_and_decr(self, cache: Any) -> None:
        cache.set("answer", 41)
        assert cache.incr("answer") == 42
        assert cache.incr("answer", 10) == 52
        assert cache.decr("answer") == 51
        assert cache.decr("answer", 9) == 42
        assert cache.incr("answer", -43) == -1
        assert cache.get("answer") == -1

    @pytest.mark.parametrize("method", ["incr", "decr", "incr_version", "decr_version"])
    def test_what_is_not_there_cannot_be_counted(self, cache: Any, method: str) -> None:
        cache.set("version", 1)
        with pytest.raises(ValueError, match="nothing"):
            getattr(cache, method)("nothing")
        with pytest.raises(ValueError, match="version"):
            getattr(cache, method)("version", version=9)

    def test_the_timeout_and_the_tags_of_a_counter_stay(self, cache: Any) -> None:
        cache.set("count", 1, timeout=1000, tags=["counters"])
        cache.incr("count")
        assert 900 < caches["default"].cache.ttl(":1:count") <= 1000
        cache.incr_version("count")
        assert 900 < caches["default"].cache.ttl(":2:count") <= 1000
        cache.invalidate_tags("counters")
        assert cache.get("count", version=2) is None

    def test_no_count_of_many_threads_is_lost(self, config: dict[str, Any]) -> None:
        caches["default"].set("count", 0)

        def count(_: int) -> None:
            for _ in range(5):
                caches["default"].incr("count")

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(count, range(4)))
        assert caches["default"].get("count") == 20

    def test_incr_version_moves_the_value(self, cache: Any) -> None:
        cache.set("answer", Point(42))
        assert cache.incr_version("answer") == 2
        assert cache.get("answer") is None
        assert cache.get("answer", version=2) == Point(42)
        assert cache.decr_version("answer", version=2) == 1
        assert cache.get("answer") == Point(42)

    def test_versions_prefixes_and_key_functions_keep_values_apart(self, use: Callable[[str], Any]) -> None:
        use("default").set("key", "one")
        use("second").set("key", "two")
        use("prefixed").set("key", "three")
        use("keyed").set("key", "four")
        assert use("default").get("key") == "one"
        assert use("default").get("key", version=2) == "two"
        assert use("second").get("key", version=1) == "one"
        assert use("prefixed").get("key") == "three"
        assert use("prefixed").get("key", version=2) is None
        assert caches["default"].cache.get("mine--1-key") == "four"
        assert use("second").delete("key", version=1) is True
        assert use("default").has_key("key") is False


class TestManyKeys:
    def test_get_many_returns_what_there_is_by_the_callers_keys(self, cache: Any) -> None:
        cache.set_many({"a": "x", "b": None, 3: Point(3)})
        assert cache.get_many(["a", "b", 3, "d"]) == {"a": "x", "b": None, 3: Point(3)}
        assert cache.get_many(iter(["a", "d"])) == {"a": "x"}
        assert cache.get_many([]) == {}
        assert cache.get_many(["a"], version=2) == {}

    def test_set_many_heeds_timeouts_and_returns_no_failures(self, cache: Any) -> None:
        assert cache.set_many({"a": 1, "b": 2}, 1000) == []
        assert caches["default"].cache.ttl(":1:a") > 900
        assert cache.set_many({"a": 3}, 0) == []
        assert cache.get_many(["a", "b"]) == {"b": 2}
        assert cache.set_many({}) == []

    def test_set_many_stores_nothing_where_one_cannot_be_pickled(self, cache: Any) -> None:
        with pytest.raises((pickle.PicklingError, AttributeError, TypeError)):
            cache.set_many({"a": 1, "b": threading.Lock()})
        assert cache.get("a") is None

    def test_delete_many_and_clear(self, use: Callable[[str], Any]) -> None:
        cache = use("default")
        cache.set_many({"a": 1, "b": 2, "c": 3})
        cache.delete_many(["a", "b", "nothing"])
        cache.delete_many([])
        assert cache.get_many("abc") == {"c": 3}
        use("prefixed").set("d", 4)
        cache.clear()
        assert cache.get("c") is None
        assert use("prefixed").get("d") is None


class TestTags:
    def test_a_tag_removes_what_has_it_whatever_its_key_and_version(self, cache: Any) -> None:
        cache.set("a", 1, tags=["shop:1"])
        cache.set("a", 2, version=2, tags=["shop:1", "other"])
        cache.add("b", 3, tags=["shop:1"])
        cache.set_many({"c": 4, "d": 5}, tags=["shop:1"])
        cache.get_or_set("e", lambda: 6, tags=["shop:1"])
        cache.set("f", 7, tags=["shop:2"])
        assert cache.invalidate_tags("shop:<number>", number=1).done
        assert cache.get_many("abcdef") == {"f": 7}
        assert cache.get("a", version=2) is None

    def test_a_text_is_no_list_of_tags(self, cache: Any) -> None:
        with pytest.raises(TypeError, match="expected a list of tags"):
            cache.set("a", 1, tags="shop:1")


class TestAroundIt:
    def test_sessions_live_in_it(self, config: dict[str, Any]) -> None:
        from django.contrib.sessions.backends.cache import SessionStore

        session = SessionStore()
        session["user"] = {"name": "ann", "carts": [1, 2]}
        session.save()
        again = SessionStore(session_key=session.session_key)
        assert again["user"] == {"name": "ann", "carts": [1, 2]}
        assert again.exists(again.session_key)
        ttl = caches["default"].cache.ttl(f":1:{again.cache_key_prefix}{again.session_key}")
        assert ttl > 13 * 86_400, "two weeks, as SESSION_COOKIE_AGE says"
        again.flush()
        assert not SessionStore(session_key=session.session_key).exists(session.session_key)

    def test_fragments_of_templates_do(self, config: dict[str, Any]) -> None:
        calls: list[int] = []

        def numbers() -> int:
            calls.append(1)
            return len(calls)

        template = Engine(libraries={"cache": "django.templatetags.cache"}).from_string(
            "{% load cache %}{% cache 500 numbers user %}{{ user }}: {{ numbers }}{% endcache %}"
        )
        pages = [template.render(Context({"numbers": numbers, "user": user})) for user in ("ann", "bob", "ann")]
        assert pages == ["ann: 1", "bob: 2", "ann: 1"]

    def test_whole_pages_do(self, config: dict[str, Any]) -> None:
        from django.views.decorators.cache import cache_page
        from django.views.decorators.vary import vary_on_headers

        calls: list[str] = []

        @cache_page(60)
        @vary_on_headers("X-Client")
        def view(request: HttpRequest) -> HttpResponse:
            calls.append(request.path)
            return HttpResponse(f"{request.headers.get('X-Client')} {len(calls)}")

        make = RequestFactory()
        pages = [
            bytes(view(make.get("/page/", headers={"x-client": client})).content).decode()
            for client in ("web", "app", "web", "app")
        ]
        assert pages == ["web 1", "app 2", "web 1", "app 2"]

    def test_the_end_of_a_request_closes_nothing(self, config: dict[str, Any]) -> None:
        from django.core.signals import request_finished

        caches["default"].set("key", 1)
        used = caches["default"].cache
        request_finished.send(sender=None)
        assert not used.closed
        assert caches["default"].get("key") == 1

    def test_threads_share_one_cache(self, config: dict[str, Any]) -> None:
        caches["default"].set("key", Point(1))
        with ThreadPoolExecutor(1) as pool:
            other = pool.submit(lambda: (caches["default"], caches["default"].get("key"))).result()
        assert other[0] is not caches["default"]
        assert other[0].cache is caches["default"].cache
        assert other[1] == Point(1)


class TestConfiguration:
    def test_time_passes(self) -> None:
        clock = ManualClock()
        with (
            Cache(CacheSettings(memory={"ttl": "30d"}), clock=clock) as mine,
            override_settings(CACHES={"default": {"BACKEND": BACKEND, "TIMEOUT": 60, "OPTIONS": {"cache": mine}}}),
        ):
            cache = caches["default"]
            cache.set_many({"default": 1, "touched": 2})
            cache.set("long", 3, 1000)
            cache.set("ever", 4, None)
            assert cache.add("added", 5) is True
            clock.advance(59)
            assert cache.touch("touched", 120) is True
            clock.advance(2)
            assert cache.get_many(["default", "touched", "long", "ever", "added"]) == {
                "touched": 2, "long": 3, "ever": 4,
            }  # fmt: skip
            assert cache.add("added", 6) is True
            clock.advance(2000)
            assert cache.get_many(["touched", "long", "ever"]) == {"ever": 4}

    def test_an_applications_own_cache_shares_its_tags_and_keeps_its_values(self) -> None:
        with Cache() as mine:

            @cached(int, key="vm:<vm_id>", tags=["vm:<vm_id>"], cache=mine)
            def loads(vm_id: str) -> int:
                counted.append(vm_id)
                return len(counted)

            counted: list[str] = []
            with override_settings(CACHES={"default": {"BACKEND": BACKEND, "OPTIONS": {"cache": lambda: mine}}}):
                caches["default"].set("page", "<html>", tags=["vm:1"])
                assert loads("1") == 1
                mine.invalidate_tags("vm:1")
                assert caches["default"].get("page") is None
                assert loads("1") == 2
                caches["default"].set("page", "<html>", tags=["vm:1"])
                caches["default"].clear()
                assert caches["default"].get("page") is None
                assert loads("1") == 2, "what Django clears is Django's"
                caches["default"].invalidate_tags("vm:1")
                assert loads("1") == 3

    def test_max_entries_bounds_process_memory(self) -> None:
        conf = {"BACKEND": BACKEND, "LOCATION": "small", "OPTIONS": {"MAX_ENTRIES": 30, "CULL_FREQUENCY": 0}}
        with override_settings(CACHES={"default": conf}):
            for number in range(50):
                caches["default"].set(f"key{number}", number)
            kept = caches["default"].get_many([f"key{number}" for number in range(50)])
            assert 25 <= len(kept) <= 30

    def test_locations_keep_stores_apart_and_outlive_settings(self) -> None:
        conf = {name: {"BACKEND": BACKEND, "LOCATION": name} for name in ("default", "other")}
        with override_settings(CACHES=conf):
            caches["default"].set("key", 1)
            assert caches["other"].get("key") is None
            former = caches["default"].cache
        assert former.closed

    @pytest.mark.servers
    def test_another_secret_key_reads_nothing_and_a_fallback_does(self, valkey_server: ServerProcess) -> None:
        conf = {
            "BACKEND": BACKEND, "LOCATION": f"redis://127.0.0.1:{valkey_server.port}",
            "OPTIONS": {"namespace": "keys"},
        }  # fmt: skip

        def read(**secrets: Any) -> Any:
            with override_settings(CACHES={"default": conf}, **secrets):
                return caches["default"].get("key")

        with override_settings(CACHES={"default": conf}, SECRET_KEY="old"):
            caches["default"].set("key", Point(1))
        assert read(SECRET_KEY="other") is None
        assert read(SECRET_KEY="new", SECRET_KEY_FALLBACKS=["old"]) == Point(1)
        assert read(SECRET_KEY="old") == Point(1)

    def test_an_object_whose_class_is_gone_is_a_miss(self, caplog: pytest.LogCaptureFixture) -> None:
        with override_settings(CACHES={"default": {"BACKEND": BACKEND}}):
            gone = pickle.dumps(Point(1)).replace(b"Point", b"Gone_")
            caches["default"].cache.set(":1:key", gone)
            assert caches["default"].get("key", "default") == "default"
            assert caches["default"].get_many(["key"]) == {}
            assert "cannot be read any more" in caplog.text
            assert caches["default"].get_or_set("key", lambda: Point(2)) == Point(2)
            assert caches["default"].get("key") == Point(2)

    @pytest.mark.parametrize(
        ("conf", "said"),
        [
            ({"LOCATION": "redis://127.0.0.1:1"}, "namespace"),
            ({"OPTIONS": {"memori": {}}}, "memori"),
            ({"OPTIONS": {"consistency": "weak"}}, "'bounded' or 'strong'"),
            ({"OPTIONS": {"cache": "shop.caching.cache"}}, "dotted path"),
            ({"OPTIONS": {"cache": "cache"}}, "dotted path"),
            ({"OPTIONS": {"cache": "os.path"}}, "expected a Cache"),
            (
                {"LOCATION": "redis://h", "OPTIONS": {"cache": "default", "namespace": "a"}},
                "leave out 'redis://h', namespace",
            ),
            ({"LOCATION": "redis://127.0.0.1:1", "OPTIONS": {"namespace": "a", "signing_keys": []}}, "signing_keys"),
        ],
    )
    def test_a_wrong_setting_is_named(self, conf: dict[str, Any], said: str) -> None:
        with (
            override_settings(CACHES={"default": {"BACKEND": BACKEND, **conf}}),
            pytest.raises(ImproperlyConfigured, match=said),
        ):
            caches["default"]

    def test_a_shared_cache_that_signs_nothing_is_refused(self, tmp_path: Any) -> None:
        from novacron_cache.integrations.django import signing_keys

        def conf(cache: Cache) -> dict[str, Any]:
            return {"default": {"BACKEND": BACKEND, "OPTIONS": {"cache": cache}}}

        with (
            Cache.connect(namespace="a", disk=tmp_path / "a") as plain,
            override_settings(CACHES=conf(plain)),
            pytest.raises(ImproperlyConfigured, match="signing_keys"),
        ):
            caches["default"]
        with (
            Cache.connect(namespace="a", disk=tmp_path / "b", signing_keys=signing_keys()) as signing,
            override_settings(CACHES=conf(signing)),
        ):
            caches["default"].set("key", Point(1))
            assert caches["default"].get("key") == Point(1)
