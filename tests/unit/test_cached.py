"""`@cached` on functions: how often what it decorates is called, and what the methods of a cached function do."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from unit.vms import Loader, VMState

from novacron_cache import MISSING, Cache, CachedValueError, CacheSettings, cached, cached_many, configure, flows
from novacron_cache.testing import ManualClock

# -- the promise -------------------------------------------------------------------------------------------------------


def test_a_function_is_called_once_for_the_same_arguments(cache: Cache, source: Loader) -> None:
    @cached(VMState, key="vm:<vm_id>", cache=cache)
    def get(vm_id: str) -> VMState:
        return source.vm(vm_id)

    assert [get("vm-1"), get("vm-1"), get(vm_id="vm-1")] == [VMState(vm_id="vm-1", node_id="node-1")] * 3
    assert source.calls == ["vm-1"]
    get("vm-2")
    assert source.calls == ["vm-1", "vm-2"]


async def test_a_coroutine_function_is_awaited_once_for_the_same_arguments(cache: Cache) -> None:
    calls = []

    @cached(list[VMState], key="node:<node_id>:vms", ttl="1m", tags=["node:<node_id>"], cache=cache)
    async def list_vms(node_id: str) -> list[VMState]:
        calls.append(node_id)
        return [VMState(vm_id="vm-1", node_id=node_id)]

    first, second = await asyncio.gather(list_vms("node-1"), list_vms("node-1"))
    assert first == second == await list_vms("node-1")
    assert calls == ["node-1"]
    cache.invalidate_tags("node:node-1")
    await list_vms("node-1")
    assert calls == ["node-1", "node-1"]


def test_values_end_with_their_ttl(cache: Cache, clock: ManualClock, source: Loader) -> None:
    @cached(VMState, key="vm:<vm_id>", cache=cache)
    def get(vm_id: str) -> VMState:
        return source.vm(vm_id)

    get("vm-1")
    clock.advance(29.9)
    get("vm-1")
    assert len(source.calls) == 1
    clock.advance(0.1)
    get("vm-1")
    assert len(source.calls) == 2


@pytest.mark.parametrize("ttl", [90, 90.0, "90", "90s", "1m30s", "1.5m", timedelta(seconds=90)])
def test_a_ttl_has_many_forms(cache: Cache, ttl: Any) -> None:
    @cached(key="n:<n>", ttl=ttl, cache=cache)
    def f(n: int) -> int:
        return n

    f(1)
    assert f.explain(1).remaining == pytest.approx(90)


def test_an_option_of_cached_overrides_the_model_s(cache: Cache) -> None:
    @cached(VMState, key="vm:<vm_id>", ttl="5s", tags=["mine"], cache=cache)
    def get(vm_id: str) -> VMState:
        return VMState(vm_id=vm_id, node_id="n")

    get("vm-1")
    told = get.explain("vm-1")
    assert told.remaining == pytest.approx(5)
    assert told.tags == ("mine",)


def test_jitter_only_shortens_a_life(cache: Cache) -> None:
    @cached(key="n:<n>", ttl=100, jitter=0.2, cache=cache)
    def f(n: int) -> int:
        return n

    lives = set()
    for n in range(50):
        f(n)
        lives.add(f.explain(n).remaining)
    assert all(life is not None and 80 <= life <= 100 for life in lives)
    assert len(lives) > 10


def test_what_the_loader_raises_reaches_the_caller_and_is_not_cached(cache: Cache) -> None:
    calls = []

    @cached(key="n:<n>", cache=cache)
    def f(n: int) -> int:
        calls.append(n)
        if len(calls) == 1:
            raise LookupError("nothing there")
        return n

    with pytest.raises(LookupError, match="nothing there"):
        f(1)
    assert f(1) == 1
    assert f.stats().load_errors == 1


def test_a_recursive_function_computes_each_value_once(cache: Cache) -> None:
    calls = []

    @cached(key="fib:<n>", cache=cache)
    def fib(n: int) -> int:
        calls.append(n)
        return n if n < 2 else fib(n - 1) + fib(n - 2)

    assert fib(20) == 6765
    assert sorted(calls) == list(range(21))


# -- the attributes ----------------------------------------------------------------------------------------------------


def test_peek_reads_and_never_loads(cache: Cache, source: Loader) -> None:
    @cached(VMState, key="vm:<vm_id>", cache=cache)
    def get(vm_id: str) -> VMState:
        return source.vm(vm_id)

    assert get.peek("vm-1") is MISSING
    value = get("vm-1")
    assert get.peek(vm_id="vm-1") is value
    assert source.calls == ["vm-1"]


def test_set_refresh_and_invalidate_act_on_one_call(cache: Cache, source: Loader) -> None:
    @cached(VMState, key="vm:<vm_id>", cache=cache)
    def get(vm_id: str) -> VMState:
        return source.vm(vm_id)

    given_ = VMState(vm_id="vm-1", node_id="elsewhere")
    get.set(given_, "vm-1")
    assert get("vm-1") == given_
    assert get.refresh("vm-1").node_id == "node-1"
    assert get("vm-1").node_id == "node-1"
    receipt = get.invalidate("vm-1")
    assert (receipt.done, receipt.local) == (True, 1)
    assert get.peek("vm-1") is MISSING
    with pytest.raises(CachedValueError):
        get.set("no state", "vm-1")  # type: ignore[arg-type]  # the point of the test


def test_many_gives_the_values_in_the_caller_s_order(cache: Cache, source: Loader) -> None:
    @cached(VMState, key="vm:<vm_id>", cache=cache)
    def get(vm_id: str) -> VMState:
        return source.vm(vm_id)

    get("b")
    assert [state.vm_id for state in get.many(["c", ("b",), {"vm_id": "a"}, "c"])] == ["c", "b", "a", "c"]
    assert source.calls == ["b", "c", "a"]


def test_warm_loads_what_is_absent_and_reports_failures(cache: Cache) -> None:
    @cached(key="n:<n>", cache=cache)
    def f(n: int) -> int:
        return 10 // n

    f(5)
    report = f.warm([5, 2, 0])
    assert (report.cached, report.loaded) == (1, 1)
    ((key, error),) = report.failed
    assert key == "n:0"
    assert isinstance(error, ZeroDivisionError)
    assert f.peek(2) == 5


def test_explain_says_where_a_value_is_and_why_a_call_would_miss(cache: Cache, clock: ManualClock) -> None:
    @cached(VMState, key="vm:<vm_id>", cache=cache)
    def get(vm_id: str) -> VMState:
        return VMState(vm_id=vm_id, node_id="node-1")

    assert (get.explain("vm-1").tier, get.explain("vm-1").reason) == (None, "cold")
    get("vm-1")
    clock.advance(10)
    told = get.explain("vm-1")
    assert (told.key, told.name, told.tier, told.reason) == ("vm:vm-1", "VMState", "memory", "hit")
    assert (told.age, told.remaining, told.tags) == (10, 20, ("vm:vm-1", "node:node-1"))
    clock.advance(20)
    assert (get.explain("vm-1").tier, get.explain("vm-1").reason) == (None, "expired")


def test_key_and_tags_are_what_an_f_string_writes(cache: Cache) -> None:
    @cached(key="vm:<vm_id>:<n>", tags=["vm:<vm_id>", "all"], cache=cache)
    def f(vm_id: str, n: int) -> int:
        return n

    vm_id, n = "a b:c*{}<>", 3
    assert f.key(vm_id, n) == f"vm:{vm_id}:{n}"
    assert f.tags(vm_id, n) == (f"vm:{vm_id}", "all")
    f(vm_id, n)
    assert cache.invalidate_tags(f"vm:{vm_id}").local == 1
    f(vm_id, n)
    assert cache.invalidate(f"vm:{vm_id}:{n}").local == 1


async def test_an_async_function_has_the_same_attributes(cache: Cache) -> None:
    calls = []

    @cached(VMState, key="vm:<vm_id>", cache=cache)
    async def get(vm_id: str) -> VMState:
        calls.append(vm_id)
        if vm_id == "bad":
            raise LookupError(vm_id)
        return VMState(vm_id=vm_id, node_id="node-1")

    assert await get.peek("a") is MISSING
    value = await get("a")
    assert await get.peek("a") is value
    assert (get.key("a"), get.tags("a")) == ("vm:a", ("vm:a",))
    await get.set(VMState(vm_id="a", node_id="set"), "a")
    assert (await get("a")).node_id == "set"
    assert (await get.refresh("a")).node_id == "node-1"
    assert [one.vm_id for one in await get.many(["b", "a", "b"])] == ["b", "a", "b"]
    assert calls == ["a", "a", "b"]
    report = await get.warm(["a", "c", "bad"])
    assert (report.cached, report.loaded, [key for key, _ in report.failed]) == (1, 1, ["vm:bad"])
    assert (await get.explain("a")).tier == "memory"
    assert (await get.invalidate("a")).local == 1
    assert await get.peek("a") is MISSING
    assert get.stats().load_errors == 1


def test_stats_count_hits_misses_by_reason_and_loads(cache: Cache, clock: ManualClock) -> None:
    @cached(key="n:<n>", ttl=10, cache=cache)
    def f(n: int) -> int:
        return n

    f(1)
    for _ in range(5):
        f(1)
    f(2)
    clock.advance(10)
    f(1)
    f.invalidate(1)
    f(1)
    told = f.stats()
    assert told.hits == {"memory": 5}
    assert told.misses == {"cold": 3, "expired": 1}
    assert (told.loads, told.calls) == (4, 9)
    assert told.hit_rate == pytest.approx(5 / 9)
    assert cache.stats() == told
    assert cache.stats_by_name()[f.explain(1).name] == told


def test_hits_are_not_forgotten_when_the_function_goes_to_another_cache(clock: ManualClock) -> None:
    with Cache(clock=clock) as first, Cache(clock=clock) as second:
        configure(first)

        @cached(key="moving:<n>")
        def f(n: int) -> int:
            return n

        f(1), f(1), f(1)
        configure(second)
        f(1), f(1)
        assert first.stats().hits == {"memory": 2}
        assert second.stats().hits == {"memory": 1}


async def test_get_looks_as_a_call_does_and_loads_nothing(cache: Cache) -> None:
    calls: list[int] = []

    @cached(int, key="n:<n>", cache=cache)
    def double(n: int) -> int:
        calls.append(n)
        return 2 * n

    @cached(int, key="async:<n>", cache=cache)
    async def adouble(n: int) -> int:
        calls.append(n)
        return 2 * n

    async def get(n: int) -> Any:
        return double.get(n)

    async def load(n: int) -> Any:
        return double(n)

    for function, look, call in ((double, get, load), (adouble, adouble.get, adouble)):
        calls.clear()
        assert await look(1) is MISSING
        assert calls == []
        assert await call(1) == 2
        assert await look(1) == 2
        assert await look(2) is MISSING
        stats = function.stats()
        assert (sum(stats.hits.values()), stats.misses["cold"]) == (1, 3)


async def test_warming_reports_what_fails_on_the_way_and_goes_on(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    original = flows.fill

    def fill(engine: Any, requests: Any) -> Any:
        if requests[0].logical.endswith("2"):
            raise LookupError("no room")
        return original(engine, requests)

    @cached(int, key="n:<n>", cache=cache)
    def double(n: int) -> int:
        return 2 * n

    @cached(int, key="async:<n>", cache=cache)
    async def adouble(n: int) -> int:
        return 2 * n

    monkeypatch.setattr(flows, "fill", fill)
    for report in (double.warm([1, 2, 3]), await adouble.warm([1, 2, 3])):
        assert report.loaded == 2
        assert [(key[-1], str(error)) for key, error in report.failed] == [("2", "no room")]


# -- settings ----------------------------------------------------------------------------------------------------------


def test_settings_have_the_last_word(clock: ManualClock) -> None:
    overrides = {"VMState": {"ttl": "7s", "tags": ["zone:<node_id>"]}, "nothing": {"negative_ttl": 3}}
    with Cache(CacheSettings(models=overrides), clock=clock) as cache:

        @cached(VMState, ttl="5s", tags=["mine"], cache=cache)
        def f(vm_id: str) -> VMState:
            return VMState(vm_id=vm_id, node_id="n")

        f("a")
        assert f.explain("a").remaining == pytest.approx(7)
        assert f.explain("a").tags == ("zone:n",)
        VMState.entries.using(cache).set(VMState(vm_id="b", node_id="m"))
        assert cache.explain("vm:b", model=VMState).tags == ("zone:m",)

        @cached(key="no:<x>", name="nothing", cache=cache)
        def g(x: int) -> int | None:
            return None

        g(1)
        assert g.explain(1).remaining == pytest.approx(3)


def test_a_value_may_be_kept_out_of_process_memory(tmp_path: Any, clock: ManualClock) -> None:
    with Cache.connect(namespace="t", disk=tmp_path) as cache:

        @cached(key="n:<n>", tiers=["disk"], cache=cache)
        def f(n: int) -> int:
            return n

        assert (f(1), f(1), f(1)) == (1, 1, 1)
        assert f.stats().hits == {"disk": 2}
        assert f.explain(1).tiers["memory"] == "absent"


def test_a_function_without_process_memory_has_no_front(tmp_path: Path) -> None:
    settings = CacheSettings.connect(disk=tmp_path, namespace="shop", memory={"enabled": False})
    with Cache(settings) as cache:
        calls: list[list[int]] = []

        @cached_many(int, key="n:<n>", each="ns", cache=cache)
        def double(ns: list[int]) -> dict[int, int]:
            calls.append(ns)
            return {n: 2 * n for n in ns}

        assert double([1, 2]) == {1: 2, 2: 4}
        assert double([2, 3]) == {2: 4, 3: 6}
        assert calls == [[1, 2], [3]]
