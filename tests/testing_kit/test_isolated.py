"""A cache of one's own: what it counts, what it finds stale, how its time passes."""

from __future__ import annotations

import asyncio
import pickle
from pathlib import Path
from typing import Any

import pytest

from novacron_cache import Cache, CacheModel, CacheSettings, DeclarationError, cached, configure, default_cache
from novacron_cache.events import Invalidated, Loaded, Miss
from novacron_cache.testing import IsolatedCache, ManualClock, isolated


class Host(CacheModel, key="host:<host_id>", ttl="30s", tags=["rack:<rack>"]):
    host_id: str
    rack: str


SOURCE: dict[str, str] = {}


@cached(Host, key="host:<host_id>")
def host(host_id: str) -> Host:
    return Host(host_id=host_id, rack=SOURCE.get(host_id, "r1"))


@cached(key="later:<host_id>", ttl="1m")
async def later(host_id: str) -> str:
    return SOURCE.get(host_id, "r1")


@cached(key="weak:<n>", ttl="10s", grace="20s")
def weak(n: int) -> int:
    if "broken" in SOURCE:
        raise OSError("the source is down")
    return n


@pytest.fixture(autouse=True)
def _empty_source() -> None:
    SOURCE.clear()


@pytest.fixture
def here() -> Any:
    with isolated() as found:
        yield found


class TestTheDefaultCache:
    def test_it_is_the_default_one_for_the_length_of_the_block(self) -> None:
        before = configure()
        with isolated() as here:
            assert default_cache() is here.cache
        assert here.cache.closed
        assert default_cache() is before
        assert not before.closed

    def test_functions_go_back_to_the_cache_they_used_before(self) -> None:
        before = configure()
        host("h1")
        with isolated() as here:
            with here.assert_loads(1):
                host("h1")
            assert here.stats(host).loads == 1
        assert host.stats().loads == 1
        host("h1")
        assert before.stats("Host").hits == {"memory": 1}

    def test_what_is_configured_inside_is_closed_and_forgotten(self) -> None:
        before = configure()
        with isolated() as here:
            inside = configure()
            assert here.cache.closed
        assert inside.closed
        assert default_cache() is before

    def test_it_works_where_nothing_was_configured(self) -> None:
        with isolated() as outer:
            with isolated() as inner:
                assert default_cache() is inner.cache
            assert default_cache() is outer.cache

    def test_settings_are_taken_whole_or_as_options(self) -> None:
        with isolated(CacheSettings(default_ttl="5s")) as here:
            assert here.cache.settings.default_ttl == 5.0
        with isolated(default_ttl="5s") as here:
            assert here.cache.settings.default_ttl == 5.0
        with pytest.raises(DeclarationError, match="not both"), isolated(CacheSettings(), default_ttl="5s"):
            pass


class TestTime:
    def test_a_value_lives_for_its_ttl_and_no_longer(self, here: IsolatedCache) -> None:
        host("h1")
        here.advance("29.9s")
        with here.assert_hits(1, host), here.assert_loads(0):
            host("h1")
        here.advance("0.2s")
        with here.assert_misses(1, host, reason="expired"), here.assert_loads(1, host):
            host("h1")

    def test_grace_answers_for_a_source_that_is_down_and_then_ends(self, here: IsolatedCache) -> None:
        assert weak(1) == 1
        SOURCE["broken"] = ""
        here.advance("15s")
        assert weak(1) == 1
        here.advance("16s")
        with pytest.raises(OSError, match="down"):
            weak(1)

    def test_an_early_refresh_comes_when_it_is_due(self, here: IsolatedCache) -> None:
        @cached(key="early:<n>", ttl="10s", refresh_ahead=0.5, cache=here.cache)
        async def early(n: int) -> str:
            return SOURCE.get("early", "before")

        async def run() -> None:
            assert await early(1) == "before"
            SOURCE["early"] = "after"
            here.advance("4s")
            assert await early(1) == "before"
            with here.assert_loads(1):
                here.advance("2s")
                assert await early(1) == "before"
                await asyncio.gather(*here.cache._tasks)
            with here.assert_loads(0):
                assert await early(1) == "after"

        asyncio.run(run())

    def test_a_disk_goes_by_the_same_clock(self, tmp_path: Path) -> None:
        with isolated(namespace="t", disk={"path": tmp_path / "d"}, memory={"enabled": False}) as here:
            weak(1)
            with here.assert_hits(1, tier="disk"):
                weak(1)
            here.advance("11s")
            with here.assert_loads(1):
                weak(1)

    def test_time_does_not_stand_still_where_others_keep_it(self, tmp_path: Path) -> None:
        with isolated(namespace="t", disk={"path": tmp_path / "d"}, real_time=True) as here:
            assert here.clock is None
            with pytest.raises(DeclarationError, match="real time"):
                here.advance(1)

    @pytest.mark.parametrize("wrong", ["soon", -1, None])
    def test_a_span_that_is_none_is_refused(self, here: IsolatedCache, wrong: Any) -> None:
        with pytest.raises(DeclarationError, match="advance="):
            here.advance(wrong)

    def test_the_clock_is_a_manual_one(self, here: IsolatedCache) -> None:
        assert isinstance(here.clock, ManualClock)


class TestCounting:
    def test_a_block_with_the_hits_it_should_have_is_silent(self, here: IsolatedCache) -> None:
        host("h1")
        with here.assert_hits(3), here.assert_hits(3, host), here.assert_hits(3, "Host", tier="memory"):
            for _ in range(3):
                host("h1")

    def test_too_few_or_too_many_hits_are_told_with_what_there_was(self, here: IsolatedCache) -> None:
        host("h1")
        wrong = r"expected 2 hits of Host, there were 1; hits: 1 memory; misses: 1 cold; loads: 1"
        with pytest.raises(AssertionError, match=wrong), here.assert_hits(2, host):
            [host(one) for one in ("h1", "h2")]
        with pytest.raises(AssertionError, match="expected 0 hits, there were 1"), here.assert_hits(0):
            host("h1")

    def test_loads_are_counted_for_one_name_alone(self, here: IsolatedCache) -> None:
        with here.assert_loads(0, weak), here.assert_loads(1, Host), here.assert_misses(1):
            host("h1")
        with pytest.raises(AssertionError, match="expected 1 loads of Host, there were 0"), here.assert_loads(1, Host):
            host("h1")

    def test_a_block_that_raises_is_not_blamed_for_its_counts(self, here: IsolatedCache) -> None:
        with pytest.raises(OSError, match="mine"), here.assert_hits(100):
            raise OSError("mine")


class TestStaleness:
    def test_a_change_without_an_invalidation_is_found(self, here: IsolatedCache) -> None:
        host("h1")
        host("h2")
        SOURCE["h1"] = "r2"
        with pytest.raises(AssertionError) as caught:
            here.assert_no_stale()
        message = str(caught.value)
        assert message.startswith("1 of 2 cached values are stale")
        assert "'host:h1' (Host): serves Host(host_id='h1', rack='r1'), its loader now returns Host(" in message

    def test_a_change_that_was_invalidated_is_not(self, here: IsolatedCache) -> None:
        host("h1")
        SOURCE["h1"] = "r2"
        here.cache.invalidate_tags("rack:r1")
        assert here.assert_no_stale() == 0
        host("h1")
        assert here.assert_no_stale() == 1

    def test_looking_changes_nothing(self, here: IsolatedCache) -> None:
        host("h1")
        before = here.stats()
        assert here.assert_no_stale() == 1
        assert here.stats() == before

    def test_what_has_expired_is_not_served_and_so_not_stale(self, here: IsolatedCache) -> None:
        host("h1")
        SOURCE["h1"] = "r2"
        here.advance("31s")
        here.assert_no_stale()

    def test_values_without_a_loader_are_passed_over(self, here: IsolatedCache) -> None:
        here.cache.set("greeting", "hello")
        assert here.assert_no_stale() == 0

    def test_asynchronous_loaders_are_awaited(self, here: IsolatedCache) -> None:
        async def run() -> None:
            await later("h1")
            host("h2")
            assert await here.aassert_no_stale() == 2
            SOURCE["h1"] = "r9"
            with pytest.raises(AssertionError, match=r"1 of 2 .*\n.*'later:h1'.*serves 'r1'.*returns 'r9'"):
                await here.aassert_no_stale()
            with pytest.raises(DeclarationError, match="await aassert_no_stale"):
                here.assert_no_stale()

        asyncio.run(run())

    def test_there_has_to_be_process_memory(self, tmp_path: Path) -> None:
        options: dict[str, Any] = {"namespace": "t", "disk": {"path": tmp_path / "d"}, "memory": {"enabled": False}}
        with isolated(**options) as here, pytest.raises(DeclarationError, match=r"memory\.enabled"):
            here.assert_no_stale()


class TestEvents:
    def test_they_come_in_their_order_and_are_found_by_kind(self, here: IsolatedCache) -> None:
        host("h1")
        here.cache.invalidate("host:h1")
        assert here.events.kinds() == ["miss", "loaded", "stored", "invalidated"]
        assert [event.reason for event in here.events.of(Miss)] == ["cold"]
        assert here.events.of("invalidated") == here.events.of(Invalidated)
        assert isinstance(here.events[1], Loaded)
        assert here.events[-1:] == here.events.of(Invalidated)
        assert len(here.events) == 4
        assert repr(here.events) == "<Events ['miss', 'loaded', 'stored', 'invalidated']>"

    def test_they_are_forgotten_on_request(self, here: IsolatedCache) -> None:
        host("h1")
        here.events.clear()
        assert not here.events
        host("h2")
        assert here.events.of(Miss)[0].key == "host:h2"

    def test_one_that_does_not_come_is_told_with_what_came(self, here: IsolatedCache) -> None:
        assert here.events.wait_for is not None
        with pytest.raises(AssertionError, match="no 'loaded' within 0 s; there were no events"):
            here.events.wait_for(Loaded, within=0)
        host("h1")
        assert isinstance(here.events.wait_for("loaded"), Loaded)
        with pytest.raises(AssertionError, match=r"no 'invalidated' .*\['miss'"):
            here.events.wait_for(Invalidated, within=0)

    def test_a_kind_that_is_misspelt_is_told_apart_from_one_that_did_not_come(self, here: IsolatedCache) -> None:
        with pytest.raises(DeclarationError, match="did you mean 'miss'"):
            here.events.wait_for("mis")

    def test_they_end_with_the_block(self) -> None:
        with isolated() as here:
            pass
        assert isinstance(here.cache, Cache)
        count = len(here.events)
        here.cache.engine.listeners.emit(Miss("n", "k", "cold"))
        assert len(here.events) == count


def test_a_cached_value_can_be_sent_elsewhere() -> None:
    """What a peer process returns goes through pickle."""
    value = Host(host_id="h", rack="r")
    assert pickle.loads(pickle.dumps(value)) == value
