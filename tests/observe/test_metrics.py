"""What is counted, under which labels, and what becomes of it as text and as JSON."""

from __future__ import annotations

import gc
import json
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families
from servers import required

from novacron_cache import MISSING, Cache, CacheModel, CacheSettings, DeclarationError
from novacron_cache.errors import TierError
from novacron_cache.events import Corrupt, TierFailed
from novacron_cache.observe import collector
from novacron_cache.observe.recording import MAX_OPERATIONS, OTHER, PLAIN
from novacron_cache.testing import ManualClock


class VMState(CacheModel, key="vm:<vm_id>", ttl="30s", tags=["vm:<vm_id>"]):
    vm_id: str


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def cache(clock: ManualClock) -> Iterator[Cache]:
    with Cache(CacheSettings(memory={"max_items": 50}), clock=clock) as made:
        yield made


def state_of(cache: Cache) -> Any:
    @cache.cached(VMState, key="vm:<vm_id>")
    def get_vm_state(vm_id: str) -> VMState:
        return VMState(vm_id=vm_id)

    return get_vm_state


def samples(text: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def misses(cache: Cache, model: str = "VMState") -> dict[str, int]:
    found: dict[str, int] = json.loads(cache.metrics_json())["models"][model]["misses"]
    return {reason: count for reason, count in found.items() if count}


class TestReasons:
    def test_a_value_that_never_was_is_cold(self, cache: Cache) -> None:
        state_of(cache)("1")
        assert misses(cache) == {"cold": 1}

    def test_a_value_past_its_ttl_is_expired(self, cache: Cache, clock: ManualClock) -> None:
        get = state_of(cache)
        get("1")
        clock.advance(31)
        get("1")
        assert misses(cache) == {"cold": 1, "expired": 1}

    def test_a_value_that_was_invalidated_says_so_without_a_shared_tier_as_well(self) -> None:
        clock = ManualClock()
        with Cache(clock=clock) as cache:
            for invalidate in (
                lambda: cache.invalidate("k"),
                lambda: cache.invalidate_tags("t"),
                lambda: cache.invalidate_pattern("?"),
                lambda: cache.clear(),
            ):
                cache.get_or_load("k", lambda: 1, tags=["t"], ttl=60)
                invalidate()
            cache.get_or_load("k", lambda: 1, tags=["t"], ttl=60)
            clock.advance(61)
            cache.get_or_load("k", lambda: 1, tags=["t"], ttl=60)
            (found,) = json.loads(cache.metrics_json())["models"].values()
            misses = {reason: count for reason, count in found["misses"].items() if count}
        assert misses == {"cold": 1, "invalidated": 4, "expired": 1}

    def test_a_value_that_made_room_is_evicted(self, cache: Cache) -> None:
        get = state_of(cache)
        for number in range(200):
            get(str(number))
        evicted = json.loads(cache.metrics_json())["models"]["VMState"]["evictions"]
        assert evicted >= 100
        for number in range(200):
            get(str(number))
        found = misses(cache)
        assert found["evicted"] > 100
        assert sum(found.values()) == cache.stats("VMState").misses["cold"]

    def test_of_three_reasons_for_an_unreadable_payload_one_is_left(self, cache: Cache) -> None:
        cache.engine.counters("VMState").misses.update(foreign=1, too_large=2, corrupt=3)
        assert misses(cache) == {"corrupt": 6}


class TestBounds:
    def test_names_beyond_the_limit_share_a_label_and_none_moves(self) -> None:
        with Cache(CacheSettings(monitor={"max_models": 3})) as cache:
            for number in range(6):
                name = f"model{number}"
                cache.cached(int, key="x:<n>", name=name)(lambda n: n)
                cache.engine.counters(name).loads += 1
            first = json.loads(cache.metrics_json())["models"]
            assert set(first) == {"model0", "model1", "model2", OTHER}
            assert first[OTHER]["loads"] == 3
            assert set(json.loads(cache.metrics_json())["models"]) == set(first)

    def test_operations_of_the_application_are_bounded_too(self, cache: Cache) -> None:
        for number in range(3 * MAX_OPERATIONS):
            cache.record_operation(f"op{number}", 0.001, True, f"p{number}:")
        found = json.loads(cache.metrics_json())["operations"]
        assert len(found) == MAX_OPERATIONS + 1
        assert sum(one["success"] for patterns in found.values() for one in patterns.values()) == 3 * MAX_OPERATIONS

    def test_plain_keys_have_a_label(self, cache: Cache) -> None:
        cache.get_or_load("a", lambda: 1)
        assert json.loads(cache.metrics_json())["models"][PLAIN]["loads"] == 1


class TestHits:
    def test_hits_of_the_fast_path_are_read_where_they_are_counted(self, cache: Cache) -> None:
        get = state_of(cache)
        for _ in range(10):
            get("1")
        key = ("novacron_cache_hits_total", (("cache", ""), ("model", "VMState"), ("tier", "memory")))
        assert samples(cache.export_prometheus())[key] == 9

    def test_they_do_not_fall_when_the_function_goes(self, cache: Cache) -> None:
        get = state_of(cache)
        for _ in range(10):
            get("1")
        assert json.loads(cache.metrics_json())["basic"]["hits"] == 9
        del get
        gc.collect()
        assert json.loads(cache.metrics_json())["basic"]["hits"] == 9

    @pytest.mark.parametrize(
        "hits",
        [lambda cache: cache.stats().hits["memory"], lambda cache: json.loads(cache.metrics_json())["basic"]["hits"]],
        ids=["stats", "metrics"],
    )
    def test_they_are_the_same_while_it_goes(
        self, cache: Cache, hits: Callable[[Cache], int], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        front_hits = cache.front_hits

        def going(*given: Any) -> Any:
            gc.collect()
            found = front_hits(*given)
            gc.collect()
            return found

        monkeypatch.setattr(cache, "front_hits", going)
        gc.disable()
        try:
            get = state_of(cache)
            for _ in range(10):
                get("1")
            del get
            assert hits(cache) == 9
        finally:
            gc.enable()
        gc.collect()
        assert not cache.fronts()
        assert hits(cache) == 9

    def test_a_hit_in_memory_tells_nobody(self, cache: Cache) -> None:
        get = state_of(cache)
        get("1")
        told: list[Any] = []
        cache.on("*", told.append)
        cache.engine.timed = lambda *args: told.append(args)
        for _ in range(100):
            get("1")
        assert told == []


class TestReading:
    """Calls that only read are calls too; a mere look is not."""

    def test_a_get_is_a_hit_or_a_miss_with_its_reason(self, cache: Cache, clock: ManualClock) -> None:
        assert cache.get("a") is None
        cache.set("a", 1, ttl=10)
        assert cache.get("a") == 1
        clock.advance(11)
        assert cache.get_many(["a"]) == {}
        assert misses(cache, PLAIN) == {"cold": 1, "expired": 1}
        assert json.loads(cache.metrics_json())["models"][PLAIN]["hits"]["memory"] == 1

    async def test_in_a_loop_too(self, cache: Cache) -> None:
        await cache.aget("a")
        await cache.aset("a", 1)
        await cache.aget_many(["a", "b"])
        assert cache.stats().misses == {"cold": 2}
        assert cache.stats().hits == {"memory": 1}

    def test_of_a_model_too(self, cache: Cache) -> None:
        from novacron_cache import configure

        configure(cache)
        try:
            assert VMState.entries.get("1") is None
            VMState.entries.set(VMState(vm_id="1"))
            assert VMState.entries.get("1") is not None
            assert (cache.stats("VMState").misses, cache.stats("VMState").hits) == ({"cold": 1}, {"memory": 1})
        finally:
            configure()

    async def test_of_a_function_too(self, cache: Cache) -> None:
        async def load(n: int) -> int:
            raise AssertionError

        async def load_many(ns: list[int]) -> dict[int, int]:
            raise AssertionError

        one = cache.cached(int, key="n:<n>", name="numbers")(lambda n: n)
        aone = cache.cached(int, key="n:<n>", name="numbers")(load)
        many = cache.cached_many(int, key="n:<n>", each="ns", name="numbers")(lambda ns: {n: n for n in ns})
        amany = cache.cached_many(int, key="n:<n>", each="ns", name="numbers")(load_many)
        assert (one.get(1), await aone.get(1), many.get([1]), await amany.get([1])) == (MISSING, MISSING, {}, {})
        one.set(1, 1)
        assert (one.get(1), await aone.get(1), many.get([1, 2]), await amany.get([1])) == (1, 1, {1: 1}, {1: 1})
        assert (cache.stats("numbers").hits, cache.stats("numbers").misses) == ({"memory": 4}, {"cold": 5})

    def test_looking_counts_nothing(self, cache: Cache) -> None:
        get = state_of(cache)
        get.peek("1")
        cache.exists("a")
        cache.ttl("a")
        cache.explain("a")
        assert cache.stats().calls == 0

    def test_some_answers_of_memory_are_timed(self, cache: Cache) -> None:
        for _ in range(64):
            cache.get_or_load("a", lambda: 1)
        times = json.loads(cache.metrics_json())["response_times"]["memory"]
        assert 1 <= times["count"] <= 5
        assert 0 < times["mean"] < 0.1


class TestOperations:
    def test_they_are_counted_with_their_outcome_and_time(self, cache: Cache) -> None:
        cache.record_operation("custom_op", 0.2, True, "vm:")
        cache.record_operation("custom_op", 0.4, False, "vm:")
        found = json.loads(cache.metrics_json())["operations"]["custom_op"]["vm:"]
        assert (found["success"], found["failure"], found["count"]) == (1, 1, 2)
        assert found["mean"] == pytest.approx(0.3)

    @pytest.mark.parametrize("seconds", [-1, float("nan"), float("inf"), "1", None, True])
    def test_what_is_no_duration_is_refused(self, cache: Cache, seconds: Any) -> None:
        with pytest.raises(DeclarationError, match="expected the duration"):
            cache.record_operation("op", seconds, True)

    def test_loads_and_their_errors_are_counted_by_type(self, cache: Cache) -> None:
        def fail() -> int:
            raise LookupError("gone")

        with pytest.raises(LookupError):
            cache.get_or_load("a", fail)
        assert json.loads(cache.metrics_json())["errors"]["loads"] == {"LookupError": 1}

    def test_operations_of_a_tier_are_timed(self, tmp_path: Path) -> None:
        with Cache.connect(namespace="shop", disk=tmp_path) as cache:
            cache.get_or_load("a", lambda: 1)
            disk = json.loads(cache.metrics_json())["tiers"]["disk"]
            assert {"fetch", "store"} <= set(disk["operations"])
            assert disk["operations"]["store"]["count"] == 1
            assert disk["operations"]["store"]["mean"] > 0

    def test_what_the_disk_takes_and_may_take_is_known_once_it_is_asked_for(self, tmp_path: Path) -> None:
        with Cache(CacheSettings(namespace="shop", disk={"path": tmp_path, "size_limit": 10_000_000})) as cache:
            cache.set("a", "x" * 100_000)
            assert "disk_bytes" not in json.loads(cache.metrics_json())["tiers"]["disk"]
            found = cache.observer.figures(ask=True)
            assert 100_000 <= found.total("disk_bytes", tier="disk") < 10_000_000
            assert found.total("disk_bytes_limit", tier="disk") == 10_000_000
            assert json.loads(cache.metrics_json())["tiers"]["disk"]["disk_bytes"] >= 100_000

    async def test_operations_of_a_tier_are_timed_in_a_loop(self, tmp_path: Path) -> None:
        async with Cache.connect(namespace="shop", disk=tmp_path) as cache:

            async def load() -> int:
                return 1

            await cache.aget_or_load("a", load)
            assert json.loads(cache.metrics_json())["tiers"]["disk"]["operations"]["store"]["count"] == 1

    def test_a_hit_beyond_memory_has_a_response_time(self, tmp_path: Path) -> None:
        with Cache.connect(namespace="shop", disk=tmp_path) as cache:
            cache.get_or_load("a", lambda: 1)
        with Cache.connect(namespace="shop", disk=tmp_path) as cache:
            assert cache.get_or_load("a", lambda: 2) == 1
            found = json.loads(cache.metrics_json())
            assert found["response_times"]["disk"]["count"] == 1
            assert found["tiers"]["disk"]["hits"] == 1
            assert found["basic"]["hit_rate"] == 1.0


class TestText:
    @pytest.fixture
    def busy(self, cache: Cache) -> Cache:
        get = state_of(cache)
        for number in range(5):
            get(str(number))
            get(str(number))
        cache.record_operation('odd "name"\n', 0.2, False, "back\\slash:")
        cache.invalidate_tags("vm:1")
        return cache

    def test_it_says_what_the_client_library_says(self, busy: Cache) -> None:
        registry = CollectorRegistry()
        registry.register(collector(busy))
        assert samples(busy.export_prometheus()) == samples(generate_latest(registry).decode())

    def test_it_says_so_in_openmetrics_too(self, busy: Cache) -> None:
        registry: Any = CollectorRegistry()
        registry.register(collector(busy))

        def plain(text: str) -> list[Any]:
            return sorted(
                (one.name, one.documentation, one.type, sample.name, sorted(sample.labels.items()), sample.value)
                for one in parse_openmetrics(text)
                for sample in one.samples
            )

        assert plain(busy.export_prometheus(openmetrics=True)) == plain(generate_openmetrics(registry).decode())

    def test_registering_takes_no_snapshot(self, cache: Cache) -> None:
        made = collector(cache)
        assert made.describe() == []

    def test_exemplars_are_in_openmetrics_and_not_in_the_plain_format(self, cache: Cache) -> None:
        cache.observer.exemplar = lambda: {"trace_id": "4bf92f35"}
        state_of(cache)("1")
        found = [
            sample.exemplar
            for family in parse_openmetrics(cache.export_prometheus(openmetrics=True))
            for sample in family.samples
            if sample.exemplar is not None and sample.name == "novacron_cache_load_seconds_bucket"
        ]
        assert [one.labels for one in found] == [{"trace_id": "4bf92f35"}]
        assert "4bf92f35" not in cache.export_prometheus()

    def test_promtool_has_nothing_against_it(self, busy: Cache) -> None:
        promtool = required(Path(found) if (found := shutil.which("promtool")) else None, "promtool")
        done = subprocess.run(
            [promtool, "check", "metrics"], input=busy.export_prometheus(), capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")

    def test_a_hundred_models_take_less_than_20_ms(self) -> None:
        with Cache() as cache:
            for number in range(100):
                get = cache.cached(int, key=f"m{number}:<n>", name=f"Model{number}")(lambda n: n)
                for n in range(3):
                    get(n)
            times = []
            for _ in range(10):
                start = time.perf_counter()
                text = cache.export_prometheus()
                times.append(time.perf_counter() - start)
            assert text.count('model="Model99"') > 10
            assert min(times) < 0.02


class TestJson:
    def test_the_shape_is_the_promised_one(self, cache: Cache) -> None:
        state_of(cache)("1")
        state_of(cache)("1")
        found = json.loads(cache.metrics_json())
        assert found["basic"]["hit_rate"] == 0.5
        assert set(found["response_times"]["loader"]) == {"count", "mean", "p50", "p95", "p99"}
        assert found["tiers"]["memory"]["items"] == 1
        assert found["models"]["VMState"]["hit_rate"] == 0.5

    def test_before_the_first_call_everything_is_zero(self, cache: Cache) -> None:
        found = json.loads(cache.metrics_json())
        assert found["basic"]["hit_rate"] == 0.0
        assert found["models"] == {}

    def test_every_kind_of_security_event_begins_at_zero(self, cache: Cache) -> None:
        def counted() -> dict[str, int]:
            found: dict[str, int] = json.loads(cache.metrics_json())["errors"]["security"]
            return found

        assert set(counted().values()) == {0}  # or the first one would have no rate, and no alert in Prometheus
        known = set(counted())
        for reason in ("corrupt", "dictionary", "foreign", "schema", "signature", "too_large", "unsafe"):
            cache.engine.listeners.emit(Corrupt("disk", "vm:1", reason))
        for text in ("the server refused the credentials", "the user lacks a permission", "it cannot be reached"):
            cache.engine.listeners.emit(TierFailed("redis", TierError(text, tier="redis")))
        assert counted() == dict.fromkeys(known, 1)

    def test_switched_off_nothing_is_counted_and_all_of_it_still_works(self) -> None:
        with Cache(CacheSettings(enable_metrics=False)) as cache:
            state_of(cache)("1")
            cache.record_operation("op", 0.1, True)
            found = json.loads(cache.metrics_json())
            assert found["basic"]["calls"] == 0
            assert found["operations"] == {}
            assert found["tiers"]["memory"]["items"] == 1
            assert "novacron_cache_items" in cache.export_prometheus()
            assert cache.health().status == "healthy"


def test_invalidations_are_counted_by_what_they_named(cache: Cache) -> None:
    cache.invalidate("a")
    cache.invalidate_tags("t")
    cache.invalidate_pattern("vm:*")
    assert json.loads(cache.metrics_json())["coherence"]["invalidations"] == {"key": 1, "pattern": 1, "tag": 1}
