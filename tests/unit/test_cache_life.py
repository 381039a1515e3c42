"""The cache object, in both forms: what it tells of itself, what makes it, and what is left when it is closed."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID

import pydantic
import pytest
from abandoned import let_go
from unit.forms import Call
from unit.vms import VMState

from novacron_cache import Cache, CacheClosedError, CacheModel, CacheSettings, DeclarationError, SettingsError, cached
from novacron_cache.errors import TierUnavailableError
from novacron_cache.testing import ManualClock

# -- seeing ------------------------------------------------------------------------------------------------------------


async def test_explain_tells_where_a_key_is(call: Call, clock: ManualClock) -> None:
    await call("set", "k", 1, ttl=10, tags=["t"])
    clock.advance(4)
    told = await call("explain", "k")
    assert (told.tier, told.reason, told.age, told.remaining, told.tags) == ("memory", "hit", 4, 6, ("t",))
    assert told.as_dict()["tiers"] == {"memory": "fresh"}
    assert (await call("explain", "other")).reason == "cold"
    clock.advance(6)
    assert (await call("explain", "k")).reason == "expired"


def test_how_the_fields_of_a_models_key_are_read_is_found_out_once(
    cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Numbered(CacheModel, key="numbered:<n>:<of>"):
        n: int
        of: UUID

    made: list[Any] = []

    adapter = pydantic.TypeAdapter

    def counted(annotation: Any) -> Any:
        made.append(annotation)
        return adapter(annotation)

    values = [Numbered(n=n, of=UUID(int=n)) for n in range(3)]
    monkeypatch.setattr(pydantic, "TypeAdapter", counted)
    for one in values:
        cache.set(f"numbered:{one.n}:{one.of}", one)
        assert cache.get(f"numbered:{one.n}:{one.of}", model=Numbered) == one
    assert cache.get(f"numbered:07:{UUID(int=7)}", model=Numbered) is None
    assert cache.get("numbered:x:y", model=Numbered) is None
    assert (made.count(int), made.count(UUID)) == (1, 1)


def test_stats_count_by_name_and_in_all(cache: Cache) -> None:
    @cached(VMState, cache=cache)
    def get(vm_id: str) -> VMState:
        return VMState(vm_id=vm_id)

    get("a"), get("a"), get("b")
    cache.get_or_load("k", lambda: 1), cache.get_or_load("k", lambda: 1)
    assert cache.stats("VMState").hits == {"memory": 1}
    assert cache.stats("VMState").misses == {"cold": 2}
    assert cache.stats().hits == {"memory": 2}
    assert (cache.stats().loads, cache.stats().hit_rate) == (3, pytest.approx(2 / 5))
    assert cache.stats("unknown").calls == 0
    assert set(cache.stats_by_name()) == {"", "VMState"}


def test_listeners_hear_of_events_until_they_leave(cache: Cache) -> None:
    heard: list[Any] = []
    off = cache.on("miss", heard.append)
    cache.get_or_load("a", lambda: 1)
    off()
    cache.get_or_load("b", lambda: 1)
    assert [(event.key, event.reason) for event in heard] == [("a", "cold")]
    with pytest.raises(DeclarationError, match="no event is called 'mis'; did you mean 'miss'"):
        cache.on("mis", heard.append)


def test_what_cannot_be_told_of_events_is_refused(cache: Cache) -> None:
    async def later(event: Any) -> None: ...

    with pytest.raises(DeclarationError, match=r"on\('miss', None\): expected a function"):
        cache.on("miss", None)  # type: ignore[arg-type]  # the point of the test
    with pytest.raises(DeclarationError, match=r"`.*later` is asynchronous, and nobody would await it"):
        cache.on("miss", later)


def test_a_cache_tells_what_it_is(cache: Cache, tmp_path: Path) -> None:
    assert repr(cache) == "<Cache (no namespace): memory>"
    with Cache.connect(namespace="shop", disk=tmp_path) as other:
        assert repr(other) == "<Cache shop: memory, disk>"
    assert repr(other) == "<Cache shop: memory, disk closed>"


async def test_figures_of_the_application_s_own_are_exported_and_health_is_told(cache: Cache) -> None:
    cache.record_operation("migrate", 0.25, pattern="vm:")
    cache.record_operation("migrate", 0.5, success=False)
    assert "migrate" in cache.export_prometheus()
    assert "migrate" in cache.metrics_json()
    assert (await cache.ahealth()).status == cache.health().status == "healthy"


def test_fronts_count_by_the_name_of_their_function(cache: Cache) -> None:
    @cached(int, key="n:<n>", cache=cache, name="double")
    def double(n: int) -> int:
        return 2 * n

    assert [double(1) for _ in range(4)] == [2] * 4
    assert cache.front_hits(cache.fronts()) == {"double": 3}
    assert cache.stats("double").hits["memory"] == 3


def test_the_hits_of_a_function_that_is_gone_stay_counted(cache: Cache) -> None:
    def once() -> None:
        @cached(int, key="n:<n>", cache=cache, name="double")
        def double(n: int) -> int:
            return 2 * n

        assert [double(1) for _ in range(4)] == [2] * 4

    once()
    gc.collect()
    assert cache.stats("double").hits["memory"] == 3


# -- life --------------------------------------------------------------------------------------------------------------


def test_a_closed_cache_refuses_every_operation(cache: Cache) -> None:
    @cached(key="f:<x>", cache=cache)
    def f(x: int) -> int:
        return x

    f(1)
    cache.close()
    cache.close()
    assert cache.closed
    calls: list[Callable[[], Any]] = [
        lambda: cache.get("k"), lambda: cache.set("k", 1), lambda: cache.get_many(["k"]), lambda: cache.invalidate("k"),
        lambda: cache.clear(), lambda: cache.get_or_load("k", lambda: 1), lambda: cache.explain("k"), lambda: f(1),
        lambda: f.peek(1), lambda: VMState.entries.using(cache).get("a"), lambda: cache.invalidate_tags("x"),
    ]  # fmt: skip
    for call_ in calls:
        with pytest.raises(CacheClosedError):
            call_()


async def test_context_managers_close(clock: ManualClock) -> None:
    with Cache() as one:
        one.set("k", 1)
    assert one.closed
    async with Cache() as two:
        await two.aset("k", 1)
    assert two.closed
    await two.aclose()


def test_settings_make_the_cache(tmp_path: Path) -> None:
    with Cache.from_env({"NOVACRON_CACHE_DEFAULT_TTL": "7s"}) as cache:
        cache.set("k", 1)
        assert cache.ttl("k") == pytest.approx(7, abs=1)
    with pytest.raises(SettingsError, match="namespace"):
        Cache.connect(disk=tmp_path)
    with pytest.raises(SettingsError, match="every tier is switched off"):
        Cache(CacheSettings(memory={"enabled": False}))


def test_decorators_of_a_cache_use_it(cache: Cache) -> None:
    @cache.cached(key="f:<x>")
    def f(x: int) -> int:
        return x

    @cache.cached_many(int, key="g:<x>", each="xs")
    def g(xs: list[int]) -> dict[int, int]:
        return {x: x for x in xs}

    @cache.invalidates(keys=["f:<x>"])
    def drop(x: int) -> None: ...

    f(1), g([1])
    assert cache.exists("f:1") is False  # the entry is the function's, not a plain value's
    assert cache.stats().loads == 2
    drop(1)
    f(1)
    assert cache.stats().loads == 3


async def test_closing_does_not_stop_an_invalidation_that_has_begun(tmp_path: Path) -> None:
    for turns in range(6):
        async with Cache.connect(namespace="closing", disk=tmp_path / str(turns)) as other:
            await other.aset("k", "old", tags=["t"])
            cache = Cache.connect(namespace="closing", disk=tmp_path / str(turns))
            task = asyncio.ensure_future(cache.ainvalidate_tags("t"))
            for _ in range(turns):
                await asyncio.sleep(0)
            await cache.aclose()
            if turns:
                assert (await task).done
                assert await other.aget("k", consistency="strong") is None
            else:
                with contextlib.suppress(CacheClosedError):
                    await task


def test_a_cache_is_made_of_settings_and_of_nothing_else(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"Cache\.connect"):
        Cache("redis://localhost")  # type: ignore[arg-type]  # that is the mistake
    with Cache.connect(disk=tmp_path, namespace="shop") as cache:
        assert cache.embedded_url is None


def test_a_cache_that_could_not_be_made_leaves_nothing_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[bool] = []

    def fail(cache: Cache) -> None:
        cache._resources.callback(closed.append, True)
        raise SettingsError("no")

    monkeypatch.setattr("novacron_cache.cache.Observer", fail)
    with pytest.raises(SettingsError, match="no"):
        Cache.connect(disk=tmp_path, namespace="shop")
    assert closed == [True]


def test_closing_ends_what_goes_on_in_other_loops_also_where_one_is_gone(cache: Cache) -> None:
    gone, other = asyncio.new_event_loop(), asyncio.new_event_loop()
    begun, ended = threading.Event(), threading.Event()

    async def forever() -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async def spawn() -> asyncio.Task[Any]:
        return cache.engine.background.spawn(forever())

    lost = gone.run_until_complete(spawn())
    gone.close()
    begun.clear()
    thread = threading.Thread(target=_run, args=(other, spawn))
    thread.start()
    assert begun.wait(10)
    asyncio.run(cache.aclose())
    assert ended.wait(10)
    thread.join(10)
    cache._tasks.discard(lost)
    let_go(lost)


def _run(loop: asyncio.AbstractEventLoop, begin: Callable[[], Any]) -> None:
    """Begin a task in a loop, and run the loop until the task has ended."""

    async def run() -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await (await begin())

    loop.run_until_complete(run())
    loop.close()


async def test_what_is_pending_when_a_cache_is_closed_is_tried_once_more(tmp_path: Path) -> None:
    for asynchronous in (False, True):
        cache, other = (Cache.connect(disk=tmp_path, namespace="shop") for _ in range(2))
        cache.set("k", 1)
        assert other.get("k") == 1
        (tier,) = cache.engine.shared
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(tier, "perform", _down)
            patch.setattr(cache._delivery, "ensure", lambda: None)
            patch.setattr(cache.engine, "on_pending", lambda: None)
            assert not cache.invalidate("k").done
        if asynchronous:
            await cache.aclose()
        else:
            cache.close()
        other.engine.met_another_authority(0.0)  # asks about everything anew
        assert other.get("k") is None
        other.close()


def _down(operation: Any) -> Any:
    raise TierUnavailableError("down", tier="disk")
