"""Flask-Caching over the cache: its backend interface, views, memoized functions, and what tags add."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from typing import Any

import pytest
from flask import Flask, render_template_string
from flask_caching import Cache as FlaskCache
from servers import ServerProcess

from novacron_cache import Cache, CacheSettings, DeclarationError, SettingsError, cached
from novacron_cache.integrations.flask_caching import NovacronCache, signing_keys
from novacron_cache.integrations.sharing import close_all
from novacron_cache.testing import ManualClock

BACKEND = "novacron_cache.integrations.flask_caching.NovacronCache"


class Point:
    def __init__(self, x: int) -> None:
        self.x = x


def made_app(**config: Any) -> Flask:
    app = Flask(__name__)
    app.config.update(SECRET_KEY="a secret of the tests", CACHE_TYPE=BACKEND, **config)
    return app


@pytest.fixture(params=["memory", pytest.param("server", marks=pytest.mark.servers)])
def app(request: pytest.FixtureRequest) -> Iterator[Flask]:
    config: dict[str, Any] = {}
    if request.param == "server":
        server: ServerProcess = request.getfixturevalue("valkey_server")
        server.flush()
        config = {
            "CACHE_REDIS_URL": f"redis://127.0.0.1:{server.port}",
            "CACHE_OPTIONS": {"namespace": "flask"},
        }
    yield made_app(**config)
    close_all()


@pytest.fixture
def cache(app: Flask) -> FlaskCache:
    return FlaskCache(app)


@pytest.fixture
def backend(app: Flask, cache: FlaskCache) -> Iterator[NovacronCache]:
    with app.app_context():
        assert isinstance(cache.cache, NovacronCache)
        yield cache.cache


class TestBackend:
    def test_what_was_stored_comes_back_in_every_form(self, backend: NovacronCache) -> None:
        assert backend.set("a", ["x"]) is True
        assert backend.set_many({"b": None, "c": b"\x00", "d": 2**70}) == ["b", "c", "d"]
        assert backend.get("a") == ["x"]
        assert backend.get_many("a", "nothing", "d", "c") == [["x"], None, 2**70, b"\x00"]
        assert backend.get_dict("a", "b") == {"a": ["x"], "b": None}
        assert (backend.has("b"), backend.has("nothing")) == (True, False)
        assert (backend.set("t", True), backend.get("t")) == (True, True)

    def test_every_reader_has_an_object_of_its_own(self, backend: NovacronCache) -> None:
        backend.set("key", [1])
        backend.get("key").append(2)
        assert backend.get("key") == [1]

    def test_add_does_not_overwrite(self, backend: NovacronCache) -> None:
        assert backend.add("key", "first") is True
        assert backend.add("key", "second") is False
        assert backend.get("key") == "first"
        assert backend.add("over", 1, timeout=-1) is True
        assert backend.get("over") is None

    def test_delete_and_clear(self, backend: NovacronCache) -> None:
        backend.set_many({"a": 1, "b": 2, "c": 3, "d": 4})
        assert (backend.delete("a"), backend.delete("a")) == (True, False)
        assert backend.delete_many("b", "nothing") == ["b", "nothing"]
        assert backend.delete_many() == []
        assert backend.unlink("c") == ["c"]
        assert backend.get_many("a", "b", "c", "d") == [None, None, None, 4]
        assert backend.clear() is True
        assert backend.get("d") is None

    def test_inc_and_dec_begin_at_zero_and_keep_the_timeout(self, backend: NovacronCache) -> None:
        assert (backend.inc("n"), backend.inc("n", 5), backend.dec("n", 2), backend.dec("m")) == (1, 6, 4, -1)
        backend.set("long", 1, timeout=1000, tags=["counters"])
        backend.inc("long")
        assert 900 < (backend.cache.ttl("flask_cache_long") or 0) <= 1000
        backend.invalidate_tags("counters")
        assert backend.get("long") is None

    def test_timeouts(self, backend: NovacronCache) -> None:
        for timeout, least, most in ((None, 299, 300), (0, 29 * 86_400, 10**9), (dt.timedelta(minutes=2), 119, 120)):
            backend.set("key", 1, timeout)
            left = backend.cache.ttl("flask_cache_key") or 0
            assert least < left <= most
        backend.set("key", 1, -1)
        assert backend.has("key") is False

    def test_tags_forget_whatever_has_them(self, cache: FlaskCache, backend: NovacronCache) -> None:
        cache.set("a", 1, tags=["shop:1"])
        cache.set_many({"b": 2}, tags=["shop:1"])
        cache.add("c", 3, tags=["shop:2"])
        backend.invalidate_tags("shop:<number>", number=1)
        assert backend.get_many("a", "b", "c") == [None, None, 3]
        with pytest.raises(TypeError, match="list of tags"):
            backend.set("a", 1, tags="shop")


class TestFrontend:
    def test_views_are_cached(self, app: Flask, cache: FlaskCache) -> None:
        calls: list[str] = []

        @app.route("/page")
        @cache.cached(timeout=50, query_string=True)
        def page() -> str:
            calls.append("page")
            return f"page {len(calls)}"

        client = app.test_client()
        assert [client.get(path).text for path in ("/page?a=1", "/page?a=1", "/page?a=2")] == [
            "page 1", "page 1", "page 2",
        ]  # fmt: skip

    def test_memoized_functions_are_and_are_forgotten(self, app: Flask, cache: FlaskCache) -> None:
        calls: list[Any] = []

        @cache.memoize(50)
        def square(n: int) -> int:
            calls.append(n)
            return n * n

        class Shop:
            def __init__(self, name: str) -> None:
                self.name = name

            def __repr__(self) -> str:
                return f"Shop({self.name})"

            @cache.memoize(50)
            def total(self, day: int) -> str:
                calls.append((self.name, day))
                return f"{self.name} {day}"

        with app.app_context():
            assert [square(3), square(3), square(4)] == [9, 9, 16]
            assert calls == [3, 4]
            cache.delete_memoized(square, 3)
            assert [square(3), square(4)] == [9, 16]
            assert calls == [3, 4, 3]
            cache.delete_memoized(square)
            square(4)
            assert calls == [3, 4, 3, 4]
            one, two = Shop("one"), Shop("two")
            for shop in (one, two, one):
                assert shop.total(7) == f"{shop.name} 7"
            assert calls[4:] == [("one", 7), ("two", 7)]
            cache.delete_memoized(one.total)
            assert (one.total(7), two.total(7)) == ("one 7", "two 7")
            assert calls[6:] == [("one", 7)]

    def test_fragments_of_templates_are(self, app: Flask, cache: FlaskCache) -> None:
        source = "{% cache 50, 'fragment', user %}{{ user }} {{ number }}{% endcache %}"
        with app.test_request_context():
            pages = [
                render_template_string(source, user=user, number=number)
                for number, user in enumerate(("ann", "bob", "ann"))
            ]
        assert pages == ["ann 0", "bob 1", "ann 0"]

    def test_two_applications_of_one_prefix_share_and_others_do_not(self) -> None:
        apps = [made_app(), made_app(), made_app(CACHE_KEY_PREFIX="other_")]
        caches = [FlaskCache(one) for one in apps]
        with apps[0].app_context():
            caches[0].set("key", 1)
        for app, cache, found in zip(apps, caches, (1, 1, None), strict=True):
            with app.app_context():
                assert cache.get("key") == found
        close_all()


class TestConfiguration:
    def test_time_passes(self) -> None:
        clock = ManualClock()
        with Cache(CacheSettings(memory={"ttl": "30d"}), clock=clock) as mine:
            app = made_app(CACHE_OPTIONS={"cache": mine}, CACHE_DEFAULT_TIMEOUT=60)
            cache = FlaskCache(app)
            with app.app_context():
                cache.set("default", 1)
                cache.set("long", 2, timeout=120)
                cache.set("ever", 3, timeout=0)
                clock.advance(61)
                assert cache.get_many("default", "long", "ever") == [None, 2, 3]
                clock.advance(86_400)
                assert cache.get_many("default", "long", "ever") == [None, None, 3]

    def test_an_applications_own_cache_keeps_its_values(self) -> None:
        with Cache() as mine:
            calls: list[int] = []

            @cached(int, key="n:<n>", tags=["n"], cache=mine)
            def number(n: int) -> int:
                calls.append(n)
                return n

            app = made_app(CACHE_OPTIONS={"cache": mine}, CACHE_REDIS_URL="redis://ignored")
            cache = FlaskCache(app)
            with app.app_context():
                cache.set("page", Point(1), tags=["n"])
                number(1)
                cache.clear()
                number(1)
                assert (cache.get("page"), calls) == (None, [1])
                cache.set("page", "again", tags=["n"])
                mine.invalidate_tags("n")
                number(1)
                assert (cache.get("page"), calls) == (None, [1, 1])

    @pytest.mark.servers
    def test_a_changed_secret_reads_nothing_and_a_fallback_does(self, valkey_server: ServerProcess) -> None:
        def read(**config: Any) -> Any:
            app = made_app(
                CACHE_REDIS_URL=f"redis://127.0.0.1:{valkey_server.port}", CACHE_OPTIONS={"namespace": "keys"}
            )
            app.config.update(config)
            cache = FlaskCache(app)
            try:
                with app.app_context():
                    found = cache.get("key")
                    cache.set("key", "stored") if config["SECRET_KEY"] == "old" else None
                    return found
            finally:
                close_all()

        assert [read(SECRET_KEY="old"), read(SECRET_KEY="other")] == [None, None]
        assert read(SECRET_KEY=b"new", SECRET_KEY_FALLBACKS=["old"]) == "stored"

    @pytest.mark.parametrize(
        ("config", "error", "said"),
        [
            ({"CACHE_REDIS_URL": "redis://127.0.0.1:1"}, SettingsError, "namespace"),
            ({"CACHE_OPTIONS": {"namespase": "a"}}, SettingsError, "namespase"),
            ({"CACHE_OPTIONS": {"consistency": "weak"}}, DeclarationError, "'bounded' or 'strong'"),
            ({"CACHE_OPTIONS": {"cache": "nowhere"}}, SettingsError, "dotted path"),
            (
                {"SECRET_KEY": None, "CACHE_REDIS_URL": "redis://127.0.0.1:1", "CACHE_OPTIONS": {"namespace": "a"}},
                SettingsError,
                "signing_keys",
            ),
        ],
    )
    def test_a_wrong_setting_is_named(self, config: dict[str, Any], error: type[Exception], said: str) -> None:
        app = made_app()
        app.config.update(config)
        with pytest.raises(error, match=said):
            FlaskCache(app)

    def test_each_secret_gives_a_key(self) -> None:
        app = made_app(SECRET_KEY_FALLBACKS=["older", b"oldest"])
        keys = signing_keys(app)
        assert len(set(keys)) == 3
        assert all(len(key) == 64 for key in keys)
