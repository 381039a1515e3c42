"""Spans: what has one, what they say, whose children they are, and that a hit in process memory has none."""

from __future__ import annotations

import asyncio
import contextvars
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import SpanKind, StatusCode, Tracer, get_current_span
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from servers import IMPATIENT, PATIENT, FaultProxy, ServerProcess, wait_until

from novacron_cache import Cache, CacheModel, CacheSettings, SettingsError
from novacron_cache.observe import trace
from novacron_cache.observe.conventions import place_of
from novacron_cache.testing import ManualClock


class VMState(CacheModel, key="vm:<vm_id>", tags=["vm:<vm_id>"]):
    vm_id: str


class Spans:
    """What was traced, oldest first."""

    def __init__(self, **options: Any) -> None:
        self._exporter = InMemorySpanExporter()
        self.provider = TracerProvider(**options)
        self.provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.tracer: Tracer = self.provider.get_tracer("tests")

    def __call__(self, prefix: str = "") -> list[ReadableSpan]:
        found = [span for span in self._exporter.get_finished_spans() if span.name.startswith(prefix)]
        return sorted(found, key=lambda span: span.start_time or 0)

    def one(self, prefix: str) -> ReadableSpan:
        (span,) = self(prefix)
        return span

    def clear(self) -> None:
        self._exporter.clear()


def told(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


def parent(span: ReadableSpan) -> int:
    return 0 if span.parent is None else span.parent.span_id


def own(span: ReadableSpan) -> int:
    return 0 if span.context is None else span.context.span_id


def trace_of(span: ReadableSpan) -> int:
    return 0 if span.context is None else span.context.trace_id


@pytest.fixture
def spans() -> Iterator[Spans]:
    made = Spans()
    yield made
    made.provider.shutdown()


@pytest.fixture
def cache(spans: Spans) -> Iterator[Cache]:
    with Cache(CacheSettings(namespace="shop")) as made:
        trace(made, tracer_provider=spans.provider)
        yield made


@pytest.fixture
def shared(spans: Spans, valkey_server: ServerProcess) -> Iterator[Cache]:
    with Cache.connect(f"redis://127.0.0.1:{valkey_server.port}/0", namespace="shop", redis=PATIENT) as made:
        trace(made, tracer_provider=spans.provider)
        yield made


class TestSwitching:
    def test_nothing_is_traced_unless_it_is_asked_for(self) -> None:
        with Cache() as cache:
            assert cache.engine.traced is None

    def test_the_setting_traces_with_the_provider_of_the_process(self) -> None:
        with Cache(CacheSettings.from_env({"NOVACRON_CACHE_ENABLE_TRACING": "true"})) as cache:
            assert cache.engine.traced is not None
            assert cache.get_or_load("a", lambda: 1) == 1

    def test_a_second_call_replaces_the_first(self, cache: Cache) -> None:
        other = Spans()
        trace(cache, tracer_provider=other.provider, show_keys=True)
        cache.get_or_load("vm:alice", lambda: 1)
        load = other.one("load")
        assert (told(load)["cache.key"], told(other.one("cache"))["cache.misses"]) == ("vm:alice", 1)

    def test_without_the_package_it_is_an_error_that_says_what_to_install(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, "opentelemetry.trace", None)
        with pytest.raises(SettingsError, match=r"enable_tracing: .* pip install 'novacron-cache\[otel\]'"):
            Cache(CacheSettings(enable_tracing=True))


class TestHits:
    def test_a_hit_of_a_function_in_process_memory_has_no_span(self, cache: Cache, spans: Spans) -> None:
        get = cache.cached(VMState)(lambda vm_id: VMState(vm_id=vm_id))
        listed = cache.cached(list[int], key="list:<n>")(lambda n: [n])
        get("1"), listed(1)
        spans.clear()
        for _ in range(50):
            get("1"), listed(1), get.peek("1")
        assert spans() == []

    async def test_nor_has_one_of_a_plain_key_or_in_a_loop(self, cache: Cache, spans: Spans) -> None:
        async def load(n: int) -> int:
            return n

        get = cache.cached(int, key="n:<n>")(load)
        await get(1)
        cache.set("a", 1)
        spans.clear()
        assert (await get(1), cache.get("a"), await cache.aget("a")) == (1, 1, 1)
        assert cache.get_or_load("a", lambda: 2) == 1
        assert cache.get_many(["a"]) == {"a": 1}
        assert spans() == []


class TestLoads:
    def test_a_load_is_the_child_of_its_call_and_of_the_callers_span(self, cache: Cache, spans: Spans) -> None:
        def load_state(vm_id: str) -> VMState:
            with spans.tracer.start_as_current_span("SELECT"):
                return VMState(vm_id=vm_id)

        get = cache.cached(VMState)(load_state)
        with spans.tracer.start_as_current_span("GET /vms") as request:
            get("alice")
            assert get_current_span() is request
        assert len({trace_of(span) for span in spans()}) == 1
        call, load, query = spans.one("cache"), spans.one("load"), spans.one("SELECT")
        assert parent(call) == own(spans.one("GET"))
        assert parent(load) == own(call)
        assert parent(query) == own(load)
        assert call.name == "cache get_or_load"
        assert load.name.endswith("load_state")
        assert load.kind is SpanKind.INTERNAL

    def test_it_says_of_which_model_and_why_but_not_the_key(self, cache: Cache, spans: Spans) -> None:
        cache.cached(VMState)(lambda vm_id: VMState(vm_id=vm_id))("alice")
        for span in (spans.one("load"), spans.one("cache")):
            assert told(span)["cache.namespace"] == "shop"
            assert told(span)["cache.model"] == "VMState"
            assert told(span)["cache.miss.reason"] == "cold"
            assert told(span)["cache.key"].startswith("vm:~")
        assert told(spans.one("load"))["code.function.name"].startswith(__name__)
        assert not [span for span in spans() if "alice" in span.to_json()]

    @pytest.mark.parametrize("show", [False, True])
    def test_an_error_has_its_type_and_its_text_only_on_request(self, spans: Spans, show: bool) -> None:
        def fail() -> int:
            raise LookupError("no user alice")

        with Cache() as cache:
            trace(cache, tracer_provider=spans.provider, show_keys=show)
            with pytest.raises(LookupError):
                cache.get_or_load("a", fail)
        for span in (spans.one("load"), spans.one("cache")):
            assert told(span)["error.type"] == "LookupError"
            assert span.status.status_code is StatusCode.ERROR
        assert any("alice" in span.to_json() for span in spans()) is show

    def test_a_stale_value_that_hides_an_error_is_no_error_of_the_call(self, spans: Spans) -> None:
        clock, fails = ManualClock(), [False]

        def load() -> int:
            if fails[0]:
                raise LookupError
            return 1

        with Cache(clock=clock) as cache:
            trace(cache, tracer_provider=spans.provider)
            get = cache.cached(int, key="k", ttl=1, grace=60)(load)
            get()
            clock.advance(2)
            spans.clear()
            fails[0] = True
            assert get() == 1
        call, loading = spans.one("cache"), spans.one("load")
        assert (told(call)["cache.stale"], call.status.status_code) == (True, StatusCode.UNSET)
        assert (told(loading)["error.type"], told(loading)["cache.miss.reason"]) == ("LookupError", "expired")

    async def test_each_of_several_loaders_sees_the_span_of_all(self, cache: Cache, spans: Spans) -> None:
        seen: list[int] = []

        async def load(n: int) -> int:
            await asyncio.sleep(0)
            seen.append(get_current_span().get_span_context().span_id)
            return n

        await cache.cached(int, key="n:<n>")(load).many([{"n": n} for n in range(3)])
        load_span = spans.one("load")
        assert seen == [own(load_span)] * 3
        assert told(load_span)["cache.loads"] == 3
        assert told(spans.one("cache"))["cache.misses"] == 3
        assert "cache.key" not in told(spans.one("cache"))

    async def test_a_caller_that_waits_for_another_ones_load_has_a_span_of_its_own(
        self, cache: Cache, spans: Spans
    ) -> None:
        go = asyncio.Event()

        async def load() -> int:
            await go.wait()
            return 1

        async def ask(name: str) -> int:
            with spans.tracer.start_as_current_span(name):
                return int(await cache.aget_or_load("a", load))

        first = asyncio.create_task(ask("first"))
        second = asyncio.create_task(ask("second"))
        for _ in range(5):
            await asyncio.sleep(0)
        go.set()
        assert [await first, await second] == [1, 1]
        wait = spans.one("wait for a load")
        assert told(wait)["cache.wait"] == "process"
        assert trace_of(wait) == trace_of(spans.one("second"))
        assert trace_of(spans.one("load")) == trace_of(spans.one("first"))

    async def test_a_cancelled_call_ends_its_spans_and_leaves_the_callers_current(
        self, cache: Cache, spans: Spans
    ) -> None:
        async def load() -> int:
            await asyncio.sleep(60)
            return 1

        with spans.tracer.start_as_current_span("request") as request:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(cache.aget_or_load("a", load), 0.01)
            assert get_current_span() is request
        assert told(spans.one("load"))["error.type"] == "asyncio.exceptions.CancelledError"

    async def test_a_call_that_is_thrown_away_leaves_the_context_of_others_alone(
        self, cache: Cache, spans: Spans
    ) -> None:
        async def load() -> int:
            await asyncio.sleep(60)
            return 1

        call = cache.aget_or_load("a", load)
        elsewhere = contextvars.copy_context()
        elsewhere.run(call.send, None)
        with spans.tracer.start_as_current_span("request") as request:
            call.close()
            assert get_current_span() is request
        assert len(spans("load")) == 1


class TestBackground:
    def test_a_refresh_in_a_thread_belongs_to_the_call_that_began_it(self, spans: Spans) -> None:
        with Cache(CacheSettings(background_threads=1)) as cache:
            trace(cache, tracer_provider=spans.provider)
            get = cache.cached(int, key="k", ttl=60, refresh_ahead=0.00001)(lambda: 1)
            get()
            spans.clear()

            def refreshed() -> bool:
                with spans.tracer.start_as_current_span("request"):
                    get()
                return bool(spans("load"))

            wait_until(refreshed, what="a refresh")
            load = spans("load")[0]
        requests = {trace_of(span) for span in spans("request")}
        assert trace_of(load) in requests
        assert spans("cache refresh_ahead")

    async def test_a_refresh_in_a_task_does_too(self, cache: Cache, spans: Spans) -> None:
        async def load() -> int:
            return 1

        get = cache.cached(int, key="k", ttl=60, refresh_ahead=0.00001)(load)
        await get()
        spans.clear()
        for _ in range(1000):
            with spans.tracer.start_as_current_span("request"):
                await get()
            await asyncio.sleep(0.001)
            if spans("load"):
                break
        assert trace_of(spans("load")[0]) in {trace_of(span) for span in spans("request")}

    def test_a_load_that_outlasts_its_call_belongs_to_it_all_the_same(self, spans: Spans) -> None:
        clock, go, slow = ManualClock(), threading.Event(), [False]

        def load() -> int:
            if slow[0]:
                go.wait(10)
            return 1

        with Cache(CacheSettings(background_threads=1), clock=clock) as cache:
            trace(cache, tracer_provider=spans.provider)
            get = cache.cached(int, key="k", ttl=1, grace=60, soft_timeout=0.01)(load)
            get()
            clock.advance(2)
            spans.clear()
            slow[0] = True
            with spans.tracer.start_as_current_span("request"):
                assert get() == 1  # the old value
            assert not spans("load")
            go.set()
            wait_until(lambda: spans("load"), what="the end of the load")
        assert trace_of(spans.one("load")) == trace_of(spans.one("request"))

    async def test_so_does_one_in_a_task(self, spans: Spans) -> None:
        clock, go, slow = ManualClock(), asyncio.Event(), [False]

        async def load() -> int:
            if slow[0]:
                await go.wait()
            return 1

        async with Cache(clock=clock) as cache:
            trace(cache, tracer_provider=spans.provider)
            get = cache.cached(int, key="k", ttl=1, grace=60, soft_timeout=0.01)(load)
            await get()
            clock.advance(2)
            spans.clear()
            slow[0] = True
            with spans.tracer.start_as_current_span("request"):
                assert await get() == 1
            assert not spans("load")
            go.set()
            for _ in range(1000):
                if spans("load"):
                    break
                await asyncio.sleep(0.001)
        assert trace_of(spans.one("load")) == trace_of(spans.one("request"))

    def test_each_thread_has_its_own_context(self, cache: Cache, spans: Spans) -> None:
        def work(n: int) -> None:
            with spans.tracer.start_as_current_span(f"thread {n}"):
                for m in range(20):
                    cache.get_or_load(f"k{n}:{m}", lambda: 1)

        threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        mine = {trace_of(spans.one(f"thread {n}")): 0 for n in range(4)}
        for span in spans("load"):
            mine[trace_of(span)] += 1
        assert list(mine.values()) == [20] * 4


@pytest.mark.servers
class TestServers:
    def check(self, spans: Spans, port: int) -> None:
        fetch, store = spans("fetch")[0], spans("store")[0]
        assert fetch.name == f"fetch 127.0.0.1:{port}"
        for span in (fetch, store):
            assert span.kind is SpanKind.CLIENT
            assert told(span)["db.system.name"] == "redis"
            assert told(span)["db.namespace"] == "0"
            assert told(span)["server.address"] == "127.0.0.1"
            assert told(span)["server.port"] == port
            assert told(span)["cache.tier"] == "redis"
            assert span.status.status_code is StatusCode.UNSET
            assert parent(span) == own(spans.one("cache get_or_load"))
        assert told(fetch)["db.operation.name"] == "fetch"
        assert (told(fetch)["cache.keys"], told(fetch)["cache.found"]) == (1, 0)
        assert len({trace_of(span) for span in spans()}) == 1

    def test_operations_are_clients_of_the_database(
        self, shared: Cache, spans: Spans, valkey_server: ServerProcess
    ) -> None:
        shared.get_or_load("a", lambda: 1)
        self.check(spans, valkey_server.port)

    async def test_in_a_loop_too(self, shared: Cache, spans: Spans, valkey_server: ServerProcess) -> None:
        async def load() -> int:
            return 1

        await shared.aget_or_load("a", load)
        self.check(spans, valkey_server.port)
        await shared.aclose()

    def test_a_hit_there_says_so(self, shared: Cache, spans: Spans, valkey_server: ServerProcess) -> None:
        shared.get_or_load("a", lambda: 1)
        with Cache.connect(f"redis://127.0.0.1:{valkey_server.port}/0", namespace="shop", redis=PATIENT) as other:
            trace(other, tracer_provider=spans.provider)
            spans.clear()
            assert other.get_or_load("a", lambda: 2) == 1
        assert told(spans("fetch")[0])["cache.found"] == 1
        assert told(spans.one("cache"))["cache.hits"] == 1
        assert not spans("load")

    def test_an_invalidation_says_what_it_names(self, shared: Cache, spans: Spans) -> None:
        shared.invalidate_tags("vm:alice")
        call = spans.one("cache invalidate")
        assert told(call)["cache.invalidated"] == "tag"
        assert told(call)["cache.tag"].startswith("vm:~")
        assert parent(spans("renew")[0]) == own(call)

    def test_one_that_hangs_is_a_timeout_and_then_left_alone(self, spans: Spans, valkey_server: ServerProcess) -> None:
        with FaultProxy(valkey_server.port) as proxy:
            settings = CacheSettings.connect(f"redis://127.0.0.1:{proxy.port}/0", namespace="shop", redis=IMPATIENT)
            with Cache(settings) as cache:
                trace(cache, tracer_provider=spans.provider)
                cache.get_or_load("a", lambda: 1)
                proxy.hold()
                spans.clear()
                for n in range(10):
                    assert cache.get_or_load(f"b{n}", lambda: 1) == 1
                proxy.heal()
        kinds = [told(span).get("error.type") for span in spans("fetch")]
        assert kinds[0] == "timeout"
        assert kinds[-1] == "breaker_open"
        assert all(span.status.status_code is StatusCode.UNSET for span in spans("cache get_or_load"))

    def test_a_bulk_read_is_a_batch(self, shared: Cache, spans: Spans) -> None:
        shared.get_many([f"k{n}" for n in range(7)])
        assert told(spans("fetch")[0])["db.operation.batch.size"] == 7
        assert told(spans.one("cache"))["cache.misses"] == 7


def test_the_disk_is_a_database_without_a_server(spans: Spans, tmp_path: Path) -> None:
    with Cache.connect(namespace="shop", disk=tmp_path) as cache:
        trace(cache, tracer_provider=spans.provider)
        cache.get_or_load("a", lambda: 1)
    store = spans("store")[0]
    assert store.name == "store disk"
    assert (told(store)["db.system.name"], told(store)["db.namespace"]) == ("sqlite", str(tmp_path))
    assert "server.address" not in told(store)


class Server:
    """A tier that says where it is."""

    name = "redis"

    def __init__(self, where: str) -> None:
        self._where = where

    def servers(self) -> list[str]:
        return [self._where]


@pytest.mark.parametrize(
    ("where", "options", "place"),
    [
        ("redis://10.0.0.7", {"url": "redis://10.0.0.7"}, ("0", "10.0.0.7", 6379, None)),
        ("rediss://cache:6380/3", {"url": "rediss://cache:6380/3"}, ("3", "cache", 6380, None)),
        ("redis://[::1]:6380/0", {"url": "redis://[::1]:6380"}, ("0", "::1", 6380, None)),
        ("unix:///run/a%20b.sock?db=2", {"url": "unix:///run/a%20b.sock?db=2"}, ("2", "/run/a b.sock", None, "unix")),
        (
            "10.0.0.7:6379 (the master 'mymaster' of s-1:26379)",
            {"mode": "sentinel", "addresses": ["s-1:26379"], "sentinel_master": "mymaster"},
            ("0", "10.0.0.7", 6379, None),
        ),
        (
            "an unknown address (the master 'mymaster' of s-1:26379)",
            {"mode": "sentinel", "addresses": ["s-1:26379"], "sentinel_master": "mymaster"},
            ("0", None, None, None),
        ),
        ("n-1:7001", {"mode": "cluster", "addresses": ["n-1:7001"]}, ("0", None, None, None)),
    ],
)
def test_a_place_is_told_as_the_conventions_have_it(
    where: str, options: dict[str, Any], place: tuple[str, str | None, int | None, str | None]
) -> None:
    tier: Any = Server(where)
    found = place_of(tier, CacheSettings(namespace="shop", redis=options))()
    names = ("db.namespace", "server.address", "server.port", "network.transport")
    assert tuple(found.get(name) for name in names) == place


class TestExemplars:
    def found(self, cache: Cache) -> dict[str, str]:
        parse: Any = parse_openmetrics
        families = parse(cache.export_prometheus(openmetrics=True))
        return {
            sample.name: sample.exemplar.labels["trace_id"]
            for family in families
            for sample in family.samples
            if sample.exemplar is not None
        }

    def test_they_lead_to_the_trace(self, spans: Spans, tmp_path: Path) -> None:
        with Cache.connect(namespace="shop", disk=tmp_path) as cache:
            trace(cache, tracer_provider=spans.provider)
            cache.get_or_load("a", lambda: 1)
            found = self.found(cache)
        (one,) = {trace_of(span) for span in spans()}
        assert set(found) == {f"novacron_cache_{name}_seconds_bucket" for name in ("load", "response", "tier")}
        assert set(found.values()) == {f"{one:032x}"}

    def test_a_trace_that_nobody_keeps_is_none(self) -> None:
        with Cache() as cache:
            trace(cache, tracer_provider=Spans(sampler=ALWAYS_OFF).provider)
            cache.get_or_load("a", lambda: 1)
            assert self.found(cache) == {}
