"""The cache object, in both forms: values, how long they live, several at once, and loading what is absent."""

from __future__ import annotations

import asyncio
import inspect
import threading
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from unit.forms import Call
from unit.vms import VMState

from novacron_cache import Cache, CachedValueError, CacheError, CacheItem, CacheModel, DeclarationError
from novacron_cache.testing import ManualClock


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
    assert await call("get", "vm:a", model=VMState) == one
    assert await call("get", "vm:a") is None  # plain values are another matter
    assert VMState.entries.using(cache).get("a") == one
    await call("set", "any:key", one)
    assert await call("get", "any:key", model=VMState) == one


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


async def test_strong_reads_are_asked_for_by_name(call: Call) -> None:
    await call("set", "k", 1)
    with pytest.raises(DeclarationError, match="'bounded' or 'strong'"):
        await call("get", "k", consistency="weak")
    assert await call("get", "k", consistency="strong") == 1


async def test_a_model_whose_key_fields_are_typed_is_read_by_text_only_where_it_fits(call: Call) -> None:
    class Numbered(CacheModel, key="numbered:<number>"):
        number: int

    await call("set", "numbered:7", Numbered(number=7))
    assert await call("get", "numbered:7", model=Numbered) == Numbered(number=7)
    assert await call("get", "numbered:seven", model=Numbered) is None


async def test_a_model_without_a_key_is_stored_under_any(call: Call) -> None:
    class Keyless(CacheModel):
        x: int

    await call("set", "any:key", Keyless(x=1))
    assert await call("get", "any:key", model=Keyless) == Keyless(x=1)
    assert await call("get", "another:key", model=Keyless) is None


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
