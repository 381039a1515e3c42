"""The cache object: every operation, in both forms."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import inspect
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import pydantic
import pytest

from novacron_cache import (
    Cache,
    CacheClosedError,
    CachedValueError,
    CacheError,
    CacheItem,
    CacheModel,
    CacheSettings,
    DeclarationError,
    SettingsError,
    TemplateError,
    cached,
)
from novacron_cache.errors import TierUnavailableError
from novacron_cache.flows.invalidating import Invalidation
from novacron_cache.testing import ManualClock


class VMState(CacheModel, key="vm:<vm_id>", ttl="30s", tags=["vm:<vm_id>", "node:<node_id>"]):
    vm_id: str
    node_id: str = "node-1"


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def cache(clock: ManualClock) -> Iterator[Cache]:
    with Cache(clock=clock) as made:
        yield made


Call = Callable[..., Awaitable[Any]]


@pytest.fixture(params=["sync", "async"])
def call(request: pytest.FixtureRequest, cache: Cache) -> Call:
    """Call a method of the cache by its blocking name, in one of its two forms."""

    async def run(name: str, *args: Any, **kwargs: Any) -> Any:
        if request.param == "sync":
            return getattr(cache, name)(*args, **kwargs)
        return await getattr(cache, f"a{name}")(*args, **kwargs)

    return run


def test_every_blocking_method_has_an_asynchronous_twin() -> None:
    names = [
        "get", "set", "get_many", "set_many", "exists", "ttl", "touch", "get_or_load", "invalidate", "delete",
        "invalidate_tags", "invalidate_pattern", "invalidate_model", "clear", "warm", "explain", "close",
    ]  # fmt: skip
    for name in names:
        blocking, twin = getattr(Cache, name), getattr(Cache, f"a{name}")
        assert inspect.signature(blocking).parameters == inspect.signature(twin).parameters
        assert inspect.iscoroutinefunction(twin)
        assert not inspect.iscoroutinefunction(blocking)


# -- values ------------------------------------------------------------------------------------------------------------

PLAIN: list[Any] = [
    None, True, 0, 1.5, "", "text", b"\x00", [1, [2]], {"a": {"b": 1}, 2: "x"}, (1, "a"), {1, 2}, frozenset({"a"}),
    datetime(2024, 1, 1, tzinfo=UTC), timedelta(1), Decimal("1.10"), UUID(int=1),
]  # fmt: skip


async def test_plain_values_come_back_as_they_were(call: Call) -> None:
    for number, value in enumerate(PLAIN):
        await call("set", f"k:{number}", value)
        found = await call("get", f"k:{number}", "default")
        assert found == value
        assert type(found) is type(value)


async def test_a_miss_gives_the_default_and_a_cached_none_gives_none(call: Call) -> None:
    assert await call("get", "k") is None
    assert await call("get", "k", 7) == 7
    await call("set", "k", None)
    assert await call("get", "k", 7) is None
    assert await call("exists", "k")


async def test_models_are_read_back_by_their_type(call: Call, cache: Cache) -> None:
    one = VMState(vm_id="a")
    await call("set", "vm:a", one)
    assert await call("get", "vm:a", model=VMState) is one
    assert await call("get", "vm:a") is None  # plain values are another matter
    assert VMState.entries.using(cache).get("a") is one
    await call("set", "any:key", one)
    assert await call("get", "any:key", model=VMState) is one


async def test_other_types_are_named(call: Call) -> None:
    await call("set", "l", [VMState(vm_id="a")], model=list[VMState])
    assert await call("get", "l", model=list[VMState]) == [VMState(vm_id="a")]
    assert await call("get", "l", model=list[int]) is None
    with pytest.raises(CachedValueError, match=r"list\[int\]"):
        await call("set", "l", ["a"], model=list[int])
    assert await call("exists", "l", model=list[VMState])


async def test_what_cannot_be_stored_is_refused_and_the_old_value_stays(call: Call) -> None:
    await call("set", "k", 1)
    for value in (object(), [object()], {1: lambda: 0}):
        with pytest.raises(CachedValueError, match="'k'"):
            await call("set", "k", value)
    assert await call("get", "k") == 1


async def test_a_caller_s_change_never_reaches_the_cache(call: Call) -> None:
    value = [1]
    await call("set", "k", value)
    value.append(2)
    found = await call("get", "k")
    found.append(3)
    assert await call("get", "k") == [1]
    loaded = await call("get_or_load", "l", lambda: [1])
    loaded.append(2)
    assert await call("get_or_load", "l", lambda: [9]) == [1]


async def test_two_types_with_one_repr_are_two_types(call: Call) -> None:
    def declare(kind: type) -> Any:
        from dataclasses import make_dataclass

        return make_dataclass("Same", [("x", kind)])

    one, two = declare(int), declare(str)
    await call("set", "k", one(1), model=one)
    assert await call("get", "k", model=two) is None
    await call("set", "k", two("1"), model=two)
    assert await call("get", "k", model=two) == two("1")


# -- lives -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ttl", [90, 90.0, "1m30s", timedelta(seconds=90)])
async def test_a_ttl_has_many_forms(call: Call, clock: ManualClock, ttl: Any) -> None:
    await call("set", "k", 1, ttl=ttl)
    assert await call("ttl", "k") == pytest.approx(90)
    clock.advance(30)
    assert await call("ttl", "k") == pytest.approx(60)
    clock.advance(60)
    assert await call("ttl", "k") is None
    assert not await call("exists", "k")


async def test_without_a_ttl_the_model_s_or_the_default_counts(call: Call, cache: Cache) -> None:
    await call("set", "k", 1)
    await call("set", "vm:a", VMState(vm_id="a"))
    assert await call("ttl", "k") == min(cache.settings.default_ttl, cache.settings.memory.ttl)
    assert await call("ttl", "vm:a", model=VMState) == 30
    assert await call("ttl", "nothing") is None


async def test_a_ttl_of_zero_stores_nothing_and_drops_what_was_there(call: Call) -> None:
    await call("set", "k", 1)
    await call("set", "k", 2, ttl=0)
    assert await call("get", "k") is None


@pytest.mark.parametrize("ttl", [-1, "soon", True, [], float("nan")])
async def test_a_wrong_ttl_is_refused(call: Call, ttl: Any) -> None:
    for name, args in (("set", ("k", 1)), ("set_many", ({"k": 1},)), ("get_or_load", ("k", lambda: 1))):
        with pytest.raises(DeclarationError, match="ttl="):
            await call(name, *args, ttl=ttl)


async def test_touch_gives_a_new_life(call: Call, clock: ManualClock) -> None:
    await call("set", "k", [1], ttl=10, tags=["t"])
    clock.advance(9)
    assert await call("touch", "k", 20) is True
    assert await call("ttl", "k") == 20
    assert await call("get", "k") == [1]
    assert await call("touch", "nothing", 20) is False
    assert (await call("invalidate_tags", "t")).local == 1


async def test_touching_for_no_time_invalidates_the_key(call: Call) -> None:
    await call("set", "k", 1)
    assert await call("touch", "k", 0) is True
    assert await call("exists", "k") is False
    assert await call("touch", "k", 0) is False


# -- several at once ---------------------------------------------------------------------------------------------------


async def test_get_many_gives_those_that_are_cached(call: Call) -> None:
    await call("set_many", {"a": 1, "b": None, "c": [3]}, ttl=10, tags=["all"])
    assert await call("get_many", ["c", "x", "a", "b", "a"]) == {"c": [3], "a": 1, "b": None}
    assert await call("get_many", []) == {}
    assert await call("get_many", (key for key in "ab")) == {"a": 1, "b": None}


async def test_set_many_takes_items_with_a_life_and_tags_of_their_own(call: Call) -> None:
    items = {"a": 1, "b": CacheItem(2, ttl="5s", tags=["own"]), "c": CacheItem(3, ttl=0), "d": CacheItem(4)}
    await call("set", "c", 1)
    await call("set_many", items, ttl=20, tags=["all"])
    assert [await call("ttl", key) for key in "abcd"] == [20, 5, None, 20]
    assert (await call("invalidate_tags", "own")).local == 1
    assert (await call("invalidate_tags", "all")).local == 2


async def test_set_many_stores_all_or_nothing(call: Call) -> None:
    with pytest.raises(CachedValueError):
        await call("set_many", {"a": 1, "b": object()})
    assert await call("get_many", ["a", "b"]) == {}


# -- loading -----------------------------------------------------------------------------------------------------------


async def test_get_or_load_loads_once(call: Call) -> None:
    calls = []

    def load() -> int:
        calls.append(1)
        return 7

    assert [await call("get_or_load", "k", load, ttl=5, tags=["t"]) for _ in range(3)] == [7, 7, 7]
    assert calls == [1]
    assert await call("ttl", "k") == 5
    assert (await call("invalidate_tags", "t")).local == 1


async def test_a_loader_of_a_model_is_checked(call: Call) -> None:
    load = call("get_or_load", "vm:a", lambda: VMState(vm_id="a", node_id="n"), model=VMState)
    assert (await load).node_id == "n"
    assert (await call("invalidate_tags", "node:n")).local == 1
    with pytest.raises(CachedValueError, match="returned int, expected VMState"):
        await call("get_or_load", "vm:a", lambda: 3, model=VMState)
    with pytest.raises(CachedValueError):
        await call("get_or_load", "plain", object)


async def test_concurrent_tasks_load_once(cache: Cache) -> None:
    calls = []

    async def load() -> int:
        calls.append(1)
        await asyncio.sleep(0)
        return 7

    assert await asyncio.gather(*(cache.aget_or_load("k", load) for _ in range(10))) == [7] * 10
    assert calls == [1]
    assert cache.stats().joined == 9


def test_an_asynchronous_loader_in_a_blocking_call_is_an_error(cache: Cache) -> None:
    async def load() -> int:
        return 7

    with pytest.raises(CacheError, match=r"returned a coroutine.*a-prefixed method"):
        cache.get_or_load("k", load)


async def test_warm_loads_what_is_absent(call: Call) -> None:
    await call("set", "a", 1)
    assert await call("warm", {"a": lambda: 9, "b": lambda: 2, "c": lambda: 3}, tags=["t"]) == 2
    assert await call("get_many", ["a", "b", "c"]) == {"a": 1, "b": 2, "c": 3}
    assert (await call("invalidate_tags", "t")).local == 2
    with pytest.raises(ZeroDivisionError):
        await call("warm", {"z": lambda: 1 // 0})


# -- invalidating ------------------------------------------------------------------------------------------------------


async def test_invalidate_reaches_every_model_under_a_key(call: Call, cache: Cache) -> None:
    await call("set", "vm:a", VMState(vm_id="a"))
    await call("set", "vm:a", 3)
    await call("set", "vm:b", 3)

    @cached(key="vm:<x>", cache=cache)
    def f(x: str) -> str:
        return x

    f("b")
    receipt = await call("invalidate", "vm:b", "vm:nothing")
    assert (receipt.done, receipt.pending, receipt.what, receipt.local) == (True, False, "key", 2)
    assert receipt.values == ("vm:b", "vm:nothing")
    assert await call("get", "vm:a") == 3
    assert (await call("delete", "vm:a")).local == 1


async def test_a_set_replaces_whatever_has_the_key(call: Call) -> None:
    await call("set", "vm:a", VMState(vm_id="a"))
    await call("set", "vm:a", 3)
    assert await call("get", "vm:a", model=VMState) is None


async def test_tags_match_any_or_all(call: Call) -> None:
    async def fill() -> None:
        await call("set_many", {"a": CacheItem(1, tags=["x"]), "b": CacheItem(2, tags=["x", "y"]), "c": 3}, tags=["z"])

    await fill()
    assert (await call("invalidate_tags", "x", "y", match="all")).local == 1
    assert await call("get_many", ["a", "b", "c"]) == {"a": 1, "c": 3}
    await fill()
    assert (await call("invalidate_tags", "x", "nothing")).local == 2
    await fill()
    assert (await call("invalidate_tags", "z", match="all")).local == 3
    with pytest.raises(DeclarationError, match="match='some'"):
        await call("invalidate_tags", "x", match="some")


async def test_templates_and_values_name_what_is_invalidated(call: Call) -> None:
    async def fill() -> None:
        await call("set", "vm:1:x", 1, tags=["node:1"])

    await fill()
    assert (await call("invalidate_tags", "node:<n>", n=1)).local == 1
    await fill()
    assert (await call("invalidate", "vm:<n>:<x>", n=1, x="x")).local == 1
    await fill()
    assert (await call("invalidate_pattern", "vm:<n>:*", n=1)).local == 1
    await fill()
    assert (await call("invalidate_pattern", "vm:<n>:*", n="*")).local == 0
    with pytest.raises(TemplateError, match="no value for `<n>`"):
        await call("invalidate", "a:<n>:<m>", m=1)
    with pytest.raises(TemplateError, match="m= has no place in 'node:1'"):
        await call("invalidate_tags", "node:1", m=1)
    with pytest.raises(TemplateError, match=r"node_idd= has no place .*did you mean 'node_id'"):
        await call("invalidate_pattern", "node:<node_id>:*", node_id=1, node_idd=2)
    assert (await call("invalidate", "vm:<n>")).values == ("vm:<n>",)  # without values it is plain text


@pytest.mark.parametrize(
    ("pattern", "left"),
    [
        ("vm:*", ["disk:1"]), ("vm:1*", ["vm:2", "disk:1"]), ("*", []), ("*:1", ["vm:2"]),
        ("vm:?", ["disk:1"]), ("vm:[12]", ["disk:1"]), ("vm:1", ["vm:2", "disk:1"]), ("x*", ["vm:1", "vm:2", "disk:1"]),
    ],
)  # fmt: skip
async def test_patterns_are_globs_over_logical_keys(call: Call, pattern: str, left: list[str]) -> None:
    keys = ["vm:1", "vm:2", "disk:1"]
    await call("set_many", dict.fromkeys(keys, 1))
    assert (await call("invalidate_pattern", pattern)).local == 3 - len(left)
    assert list(await call("get_many", keys)) == left


async def test_a_model_a_function_or_a_name_can_be_invalidated(call: Call, cache: Cache) -> None:
    @cached(key="f:<x>", cache=cache)
    def f(x: int) -> int:
        return x

    f(1), f(2)
    await call("set", "vm:a", VMState(vm_id="a"))
    await call("set", "other", 1)
    assert (await call("invalidate_model", f)).local == 2
    assert (await call("invalidate_model", "VMState")).local == 1
    await call("set", "vm:a", VMState(vm_id="a"))
    assert (await call("invalidate_model", VMState)).local == 1
    assert await call("get", "other") == 1
    with pytest.raises(DeclarationError, match="is not a cache model"):
        await call("invalidate_model", int)


async def test_clear_forgets_everything(call: Call) -> None:
    await call("set_many", {"a": 1, "b": 2})
    assert (await call("clear")).local == 2
    await call("set", "a", 1)
    assert (await call("clear", purge=True, wait=True)).done
    assert await call("get", "a") is None


async def test_wrong_input_is_refused(call: Call) -> None:
    wrong: list[tuple[str, tuple[Any, ...], dict[str, Any], str]] = [
        ("get", (3,), {}, "a key is text, not int"),
        ("set", (b"k", 1), {}, "a key is text, not bytes"),
        ("get_many", ("abc",), {}, "expected a list of keys"),
        ("get_many", ([1],), {}, "a key is text"),
        ("set", ("k", 1), {"tags": "abc"}, "expected a list of tags"),
        ("set", ("k", 1), {"tags": [3]}, "a tag is text, not int"),
        ("set_many", ({"k": 1},), {"tags": "abc"}, "expected a list of tags"),
        ("set_many", ({"k": CacheItem(1, tags="abc")},), {}, "expected a list of tags"),
        ("warm", ({"k": lambda: 1},), {"tags": "abc"}, "expected a list of tags"),
        ("get_or_load", ("k", lambda: 1), {"tags": "abc"}, "expected a list of tags"),
        ("invalidate", (3,), {}, "named by text, not by int"),
        ("invalidate", (["a"],), {}, "named by text, not by list"),
        ("invalidate_tags", (None,), {}, "named by text, not by NoneType"),
        ("invalidate_pattern", (3,), {}, "named by text, not by int"),
    ]
    for name, args, kwargs, message in wrong:
        with pytest.raises(TypeError, match=message):
            await call(name, *args, **kwargs)
    for pattern in ("", "[", "x" * 600, "?" * 9):
        with pytest.raises(TemplateError):
            await call("invalidate_pattern", pattern)
    assert (await call("invalidate")).done


# -- deferring ---------------------------------------------------------------------------------------------------------


def test_deferred_invalidation_is_applied_on_a_clean_exit(cache: Cache) -> None:
    cache.set_many({"a": 1, "b": 2}, tags=["t"])
    with cache.deferred_invalidation() as deferred:
        receipt = cache.invalidate("a")
        cache.invalidate_tags("t")
        assert (receipt.done, receipt.pending, cache.get("a")) == (False, True, 1)
    assert receipt.done
    assert deferred.receipt is not None
    assert deferred.receipt.local == 2
    assert cache.get_many(["a", "b"]) == {}


def test_deferred_invalidation_is_dropped_on_an_exception(cache: Cache) -> None:
    cache.set("a", 1)
    receipts = []

    def change() -> None:
        with cache.deferred_invalidation():
            receipts.append(cache.invalidate("a"))
            raise LookupError

    with pytest.raises(LookupError):
        change()
    assert cache.get("a") == 1
    assert not receipts[0].done


async def test_deferred_blocks_nest_and_are_local_to_their_task(cache: Cache) -> None:
    cache.set_many({"a": 1, "b": 2})
    async with cache.deferred_invalidation():
        async with cache.deferred_invalidation():
            await cache.ainvalidate("a")
        assert cache.get("a") == 1

        async def other() -> None:
            await cache.aset("c", 1)

        await asyncio.gather(other())
    assert cache.get_many(["a", "b", "c"]) == {"b": 2, "c": 1}


def test_a_deferred_block_of_one_cache_leaves_another_alone(cache: Cache) -> None:
    with Cache() as other:
        other.set("a", 1)
        with cache.deferred_invalidation():
            other.invalidate("a")
            assert other.get("a") is None


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


def test_more_than_can_be_remembered_one_by_one_does_not_stay_pending(tmp_path: Path) -> None:
    with Cache.connect(namespace="many", disk=tmp_path) as cache:
        cache.engine.pending._most = 10
        receipt = cache.invalidate(*(f"k{number}" for number in range(20)))
        deadline = time.monotonic() + 10
        while cache.engine.pending and time.monotonic() < deadline:
            time.sleep(0.01)
        assert receipt.done
        cache.set("a", 1)
        assert cache.get("a", consistency="strong") == 1


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
    lost.get_coro().close()  # type: ignore[union-attr]  # of a task there is one


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


async def test_an_invalidation_takes_a_durability_that_there_is(call: Call) -> None:
    await call("set", "k", 1)
    with pytest.raises(DeclarationError, match="'acknowledged' or 'replicated'"):
        await call("invalidate", "k", durability="certain")
    assert await call("get", "k") == 1
    assert (await call("invalidate", "k", durability="replicated")).done
    assert await call("get", "k") is None


async def test_strong_reads_are_asked_for_by_name(call: Call) -> None:
    await call("set", "k", 1)
    with pytest.raises(DeclarationError, match="'bounded' or 'strong'"):
        await call("get", "k", consistency="weak")
    assert await call("get", "k", consistency="strong") == 1


async def test_a_block_may_name_a_model(cache: Cache) -> None:
    cache.set("vm:a", VMState(vm_id="a"))
    with cache.invalidating(model=VMState):
        pass
    assert cache.get("vm:a", model=VMState) is None


async def test_a_model_whose_key_fields_are_typed_is_read_by_text_only_where_it_fits(call: Call) -> None:
    class Numbered(CacheModel, key="numbered:<number>"):
        number: int

    await call("set", "numbered:7", Numbered(number=7))
    assert await call("get", "numbered:7", model=Numbered) == Numbered(number=7)
    assert await call("get", "numbered:seven", model=Numbered) is None


def test_what_is_interrupted_while_it_invalidates_is_retried(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    retried: list[bool] = []

    def interrupted(flow: Any) -> Any:
        flow.close()
        raise KeyboardInterrupt

    monkeypatch.setattr(cache, "_run", interrupted)
    monkeypatch.setattr(cache, "undelivered", lambda: retried.append(True))
    with pytest.raises(KeyboardInterrupt):
        cache.invalidate("k")
    assert retried == [True]


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


def test_a_block_that_bypasses_concerns_its_own_thread_and_its_own_cache(cache: Cache) -> None:
    calls: list[int] = []

    def load() -> int:
        calls.append(1)
        return len(calls)

    with Cache() as other:
        assert [one.get_or_load("k", load) for one in (cache, other)] == [1, 2]
        with cache.bypassed():
            assert cache.get_or_load("k", load) == 3
            assert other.get_or_load("k", load) == 2
            with other.bypassed():
                assert cache.get_or_load("k", load) == 4
            found: list[int] = []
            thread = threading.Thread(target=lambda: found.append(cache.get_or_load("k", load)))
            thread.start()
            thread.join()
            assert found == [1]


def test_what_is_invalidated_as_its_block_ends_is_applied_at_once(cache: Cache) -> None:
    cache.set_many({"a": 1, "b": 2})
    block = cache.deferred_invalidation()
    with block:
        cache.invalidate("a")
        assert cache.get("a") == 1
    # A task that outlives the block may have found it open a moment ago.
    assert block.collect(Invalidation.keys(["b"])) is None
    assert cache.get("a") is None
    block.__exit__(None, None, None)  # left once more, as by a generator that is closed
    cache.invalidate("b")
    assert cache.get("b") is None


async def test_a_model_without_a_key_is_stored_under_any(call: Call) -> None:
    class Keyless(CacheModel):
        x: int

    await call("set", "any:key", Keyless(x=1))
    assert await call("get", "any:key", model=Keyless) == Keyless(x=1)
    assert await call("get", "another:key", model=Keyless) is None
