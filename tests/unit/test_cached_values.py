"""`@cached` and values: who shares them, who gets a copy of their own, and which are refused."""

from __future__ import annotations

import threading
from datetime import datetime, timedelta, timezone

import pytest
from pydantic import Field
from unit.vms import Loader, VMState

from novacron_cache import MISSING, Cache, CachedValueError, CacheModel, cached
from novacron_cache.testing import ManualClock

# -- sharing -----------------------------------------------------------------------------------------------------------


def test_functions_of_the_same_model_and_key_share_entries(cache: Cache, source: Loader) -> None:
    @cached(VMState, key="vm:<vm_id>", cache=cache)
    def by_id(vm_id: str) -> VMState:
        return source.vm(vm_id)

    @cached(VMState, key="vm:<name>", cache=cache)
    def by_name(name: str) -> VMState:
        return source.vm(name)

    assert by_id("a") is by_name("a")
    assert by_id("a") is VMState.entries.using(cache).get("a")
    assert by_id("a") is cache.get("vm:a", model=VMState)
    new = VMState(vm_id="a", node_id="moved")
    cache.set("vm:a", new)
    assert by_id("a") is by_name("a")
    assert by_id("a") == new
    assert source.calls == ["a"]


def test_functions_of_other_types_do_not_share_unless_named_alike(cache: Cache) -> None:
    @cached(int, key="n:<n>", cache=cache)
    def one(n: int) -> int:
        return 1

    @cached(int, key="n:<n>", cache=cache)
    def two(n: int) -> int:
        return 2

    @cached(int, key="n:<n>", name="shared", cache=cache)
    def three(n: int) -> int:
        return 3

    @cached(int, key="n:<n>", name="shared", cache=cache)
    def four(n: int) -> int:
        return 4

    assert (one(0), two(0), three(0), four(0)) == (1, 2, 3, 3)
    assert cache.invalidate("n:0").local == 3


def test_two_types_of_one_name_never_read_each_other_s_values(cache: Cache) -> None:
    @cached(int, key="n:<n>", name="shared", cache=cache)
    def number(n: int) -> int:
        return n

    @cached(str, key="n:<n>", name="shared", cache=cache)
    def text(n: int) -> str:
        return str(n)

    for _ in range(2):
        assert (number(1), text(1)) == (1, "1")
    assert cache.invalidate_model("shared").local == 2


def test_a_none_of_one_function_is_no_answer_of_another_that_never_returns_none(cache: Cache) -> None:
    @cached(VMState, cache=cache)
    def find(vm_id: str) -> VMState | None:
        return None

    @cached(VMState, cache=cache)
    def get(vm_id: str) -> VMState:
        return VMState(vm_id=vm_id, node_id="n")

    assert find("a") is None
    assert get.peek("a") is MISSING
    assert [one.vm_id for one in get.many(["a"])] == ["a"]
    get.invalidate("a")
    assert find("a") is None
    assert get("a").vm_id == "a"
    assert find("a") is not None


async def test_the_same_holds_for_coroutine_functions(cache: Cache) -> None:
    @cached(VMState, cache=cache)
    async def find(vm_id: str) -> VMState | None:
        return None

    @cached(VMState, cache=cache)
    async def get(vm_id: str) -> VMState:
        return VMState(vm_id=vm_id, node_id="n")

    assert await find("a") is None
    assert await get.peek("a") is MISSING
    assert (await get("a")).vm_id == "a"
    await get.invalidate("a")
    await find("a")
    assert [one.vm_id for one in await get.many(["a"])] == ["a"]


# -- values ------------------------------------------------------------------------------------------------------------


class Frozen(CacheModel, key="frozen:<x>"):
    x: str
    parts: tuple[int, ...] = (1,)


class HoldsList(CacheModel, key="holds:<x>"):
    x: str
    parts: list[int] = Field(default_factory=lambda: [1])


def test_a_deeply_immutable_value_is_the_same_object_on_every_hit(cache: Cache) -> None:
    @cached(Frozen, cache=cache)
    def f(x: str) -> Frozen:
        return Frozen(x=x)

    first = f("a")
    assert all(f("a") is first for _ in range(3))
    assert f.peek("a") is first


def test_a_caller_s_change_never_reaches_the_cache(cache: Cache) -> None:
    loaded: list[list[int]] = []

    @cached(list[int], key="l:<x>", cache=cache)
    def f(x: str) -> list[int]:
        loaded.append([1])
        return loaded[-1]

    for _ in range(4):
        got = f("a")
        assert got == [1]
        got.append(2)
    loaded[0].append(3)  # the loader's own reference
    assert f("a") == f.peek("a") == f.many(["a"])[0] == [1]
    f.refresh("a").append(4)
    assert f("a") == [1]
    mine = [7]
    f.set(mine, "a")
    mine.append(8)
    assert f("a") == [7]


def test_a_frozen_model_that_holds_a_list_is_not_shared(cache: Cache) -> None:
    @cached(HoldsList, cache=cache)
    def f(x: str) -> HoldsList:
        return HoldsList(x=x)

    for _ in range(3):
        f("a").parts.append(9)
        assert f("a").parts == [1]


def test_followers_of_a_load_get_values_of_their_own(cache: Cache) -> None:
    entered, go = threading.Event(), threading.Event()

    @cached(dict[str, int], key="d", cache=cache)
    def f() -> dict[str, int]:
        entered.set()
        assert go.wait(10)
        return {"a": 1}

    results: list[dict[str, int]] = []
    threads = [threading.Thread(target=lambda: results.append(f())) for _ in range(4)]
    threads[0].start()
    assert entered.wait(10)
    for thread in threads[1:]:
        thread.start()
    go.set()
    for thread in threads:
        thread.join(10)
    assert results == [{"a": 1}] * 4
    assert len({id(result) for result in results}) == 4
    for result in results:
        result.clear()
    assert f() == {"a": 1}
    assert f.stats().loads == 1


def test_a_value_that_had_to_be_converted_is_answered_on_every_hit(cache: Cache) -> None:
    @cached(float, key="f:<x>", cache=cache)
    def f(x: int) -> float:
        return x

    assert [f(1), f(1), f(1), f.peek(1)] == [1.0] * 4

    @cached(datetime, key="d:<x>", cache=cache)
    def odd(x: int) -> datetime:
        return datetime(2024, 1, x, tzinfo=timezone(timedelta(hours=1), "odd"))

    assert [odd(1), odd(1), odd(1)] == [datetime(2024, 1, 1, tzinfo=timezone(timedelta(hours=1)))] * 3


def test_a_wrong_result_names_the_function_the_key_and_the_type(cache: Cache) -> None:
    @cached(VMState, cache=cache)
    def f(vm_id: str) -> VMState:
        return {"vm_id": vm_id}  # type: ignore[return-value]  # the point of the test

    for _ in range(2):
        with pytest.raises(CachedValueError, match=r"`.*f` for key 'vm:a' returned dict, expected VMState") as raised:
            f("a")
        assert (raised.value.key, raised.value.expected) == ("vm:a", "VMState")
    assert f.peek("a") is MISSING


def test_a_none_that_was_not_announced_is_a_wrong_result(cache: Cache) -> None:
    @cached(VMState, cache=cache)
    def f(vm_id: str) -> VMState:
        return None  # type: ignore[return-value]  # the point of the test

    with pytest.raises(CachedValueError, match="returned NoneType"):
        f("a")


def test_an_announced_none_is_a_value(cache: Cache) -> None:
    calls = []

    @cached(VMState, cache=cache)
    def f(vm_id: str) -> VMState | None:
        calls.append(vm_id)
        return None

    assert (f("a"), f("a"), f("a")) == (None, None, None)
    assert f.peek("a") is None
    assert f.peek("a") is not MISSING
    assert calls == ["a"]


def test_negative_ttl_bounds_the_life_of_a_none_alone(cache: Cache, clock: ManualClock) -> None:
    calls = []

    @cached(key="n:<n>", ttl=60, negative_ttl=2, cache=cache)
    def f(n: int) -> int | None:
        calls.append(n)
        return n or None

    f(0), f(1)
    clock.advance(2)
    f(0), f(1)
    assert calls == [0, 1, 0]


def test_a_value_that_cannot_be_written_is_refused_and_not_cached(cache: Cache) -> None:
    @cached(key="u:<x>", cache=cache)
    def f(x: int):  # type: ignore[no-untyped-def]  # no annotation: a plain value is expected
        return object()

    with pytest.raises(CachedValueError, match="u:1"):
        f(1)
    assert f.peek(1) is MISSING
