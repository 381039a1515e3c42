"""`condition=` keeps calls from the cache by their arguments, `skip_if=` keeps results from being stored."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from novacron_cache import MISSING, Cache, CachedValueError, CacheModel, DeclarationError
from novacron_cache.events import Event, Miss, NotStored, Stored


@pytest.fixture
def cache() -> Iterator[Cache]:
    with Cache() as cache:
        yield cache


class Counted:
    """A loader that counts its calls."""

    def __init__(self, value: Callable[[int], Any] = lambda n: n * 10) -> None:
        self.calls: list[int] = []
        self.value = value

    def load(self, n: int) -> Any:
        self.calls.append(n)
        return self.value(n)

    async def aload(self, n: int) -> Any:
        await asyncio.sleep(0)
        return self.load(n)


# -- condition --------------------------------------------------------------------------------------------------------


def test_a_call_that_does_not_meet_the_condition_reads_and_stores_nothing(cache: Cache) -> None:
    source = Counted()
    load = cache.cached(int, key="n:<n>", name="load", condition=lambda n: n > 0)(source.load)
    events: list[Event] = []
    cache.on("*", events.append)
    assert [load(-1), load(-1), load(1), load(1)] == [-10, -10, 10, 10]
    assert source.calls == [-1, -1, 1]
    assert load.stats().misses == {"condition": 2, "cold": 1}
    assert [(event.key, event.reason) for event in events if isinstance(event, Miss)] == [
        ("n:-1", "condition"),
        ("n:-1", "condition"),
        ("n:1", "cold"),
    ]
    assert [event.key for event in events if isinstance(event, Stored)] == ["n:1"]


async def test_an_asynchronous_function_has_a_condition_too() -> None:
    async with Cache() as cache:
        source = Counted()
        load = cache.cached(int, key="n:<n>", condition=lambda n: n > 0)(source.aload)
        assert [await load(-1), await load(-1), await load(1), await load(1)] == [-10, -10, 10, 10]
        assert source.calls == [-1, -1, 1]


def test_a_condition_is_asked_at_each_call_also_for_what_is_cached(cache: Cache) -> None:
    source, enabled = Counted(), [True]
    load = cache.cached(int, key="n:<n>", condition=lambda: enabled[0])(source.load)
    assert [load(1), load(1)] == [10, 10]
    enabled[0] = False
    source.value = lambda n: n * 20
    assert [load(1), load.peek(1)] == [20, MISSING]
    enabled[0] = True
    assert [load(1), load.peek(1)] == [10, 10]


def test_a_condition_of_a_method_may_ask_the_instance(cache: Cache) -> None:
    class Host:
        def __init__(self, name: str) -> None:
            self.name = name
            self.calls = 0

        @cache.cached(int, key="host:<self.name>:<n>", condition=lambda self, n: self.name != "local" and n != 0)
        def load(self, n: int) -> int:
            self.calls += 1
            return n

    local, remote = Host("local"), Host("remote")
    for host in (local, remote):
        assert [host.load(1), host.load(1), host.load(0)] == [1, 1, 0]
    assert (local.calls, remote.calls) == (3, 2)
    assert remote.load.explain(0).reason == "condition"
    assert remote.load.explain(1).reason == "hit"


def test_a_condition_sees_defaults_and_may_take_everything(cache: Cache) -> None:
    seen: list[dict[str, Any]] = []

    def condition(**arguments: Any) -> bool:
        seen.append(arguments)
        return True

    @cache.cached(int, key="n:<n>:<zone>:<deep>", condition=condition)
    def load(n: int, zone: str = "a", *, deep: bool = False) -> int:
        return n

    load(1)
    assert seen == [{"n": 1, "zone": "a", "deep": False}]


def test_a_condition_may_keep_arguments_away_that_no_key_can_be_made_of(cache: Cache) -> None:
    @cache.cached(str, key="user:<user>", condition=lambda user: isinstance(user, str))
    def load(user: Any) -> str:
        return "value"

    assert load(object()) == "value"
    assert load.many(["a", object(), object()]) == ["value"] * 3


def test_many_and_warm_go_by_the_condition(cache: Cache) -> None:
    source = Counted()
    load = cache.cached(int, key="n:<n>", condition=lambda n: n > 0)(source.load)
    report = load.warm([-1, 1, 2])
    assert (report.loaded, source.calls) == (2, [1, 2])
    assert load.many([-1, 1, 2, -2, 3]) == [-10, 10, 20, -20, 30]
    assert load.many([-1, 1]) == [-10, 10]
    assert sorted(source.calls) == [-2, -1, -1, 1, 2, 3]


def test_a_batch_function_asks_its_condition_about_the_whole_call(cache: Cache) -> None:
    asked: list[list[int]] = []

    @cache.cached_many(int, key="n:<n>", each="ns", condition=lambda fresh: not fresh, ignore=["fresh"])
    def load(ns: list[int], fresh: bool = False) -> dict[int, int]:
        asked.append(ns)
        return {n: n * 10 for n in ns}

    assert load([1, 2]) == load([1, 2]) == {1: 10, 2: 20}
    assert load([1, 2], fresh=True) == {1: 10, 2: 20}
    assert load([1, 2, 3]) == {1: 10, 2: 20, 3: 30}
    assert asked == [[1, 2], [1, 2], [3]]
    assert load.peek([1], fresh=True) == {}


def test_what_a_call_without_the_cache_returns_is_what_one_with_it_would(cache: Cache) -> None:
    @cache.cached(float, key="n:<n>", condition=lambda n: n > 0)
    def load(n: int) -> Any:
        return n if n != -2 else "text"

    assert [type(load(n)) for n in (1, -1)] == [float, float]
    with pytest.raises(CachedValueError):
        load(-2)


def test_an_error_of_a_condition_is_the_callers(cache: Cache) -> None:
    @cache.cached(int, key="n:<n>", condition=lambda n: 1 // n > -5)
    def load(n: int) -> int:
        return n

    assert load(1) == 1
    with pytest.raises(ZeroDivisionError):
        load(0)


async def is_allowed(n: int) -> bool:
    return True


@pytest.mark.parametrize(
    ("condition", "says"),
    [
        (lambda m: True, "takes 'm', which is no parameter of `.*load`"),
        (lambda num: True, "did you mean 'number'"),
        (lambda number, /: True, "given arguments of `.*load` by their names"),
        (lambda *arguments: True, "given arguments of `.*load` by their names"),
        (is_allowed, "`is_allowed` is asynchronous"),
        (True, "condition=True: expected a function"),
    ],
)
def test_a_condition_that_cannot_be_asked_is_refused_where_it_is_declared(
    cache: Cache, condition: Any, says: str
) -> None:
    def load(number: int) -> int:
        return number

    with pytest.raises(DeclarationError, match=says):
        cache.cached(int, key="n:<number>", condition=condition)(load)


def test_a_model_takes_no_condition_and_says_where_it_goes() -> None:
    with pytest.raises(DeclarationError, match=r"@cached\(State, condition=\.\.\.\)"):

        class State(CacheModel, key="state:<no>", condition=lambda no: True):
            no: str


# -- skip_if ----------------------------------------------------------------------------------------------------------


def test_a_result_that_is_to_be_skipped_is_returned_and_not_stored(cache: Cache) -> None:
    source = Counted()
    load = cache.cached(int, key="n:<n>", skip_if=lambda value: value < 0)(source.load)
    skipped: list[NotStored] = []
    cache.on(NotStored, skipped.append)
    assert [load(-1), load(-1), load(1), load(1)] == [-10, -10, 10, 10]
    assert source.calls == [-1, -1, 1]
    assert [(event.key, event.reason) for event in skipped] == [("n:-1", "skipped")] * 2
    assert all(event.name.endswith("Counted.load") for event in skipped)


async def test_an_asynchronous_function_may_skip_results_too_and_callers_share_them() -> None:
    async with Cache() as cache:
        source = Counted()
        load = cache.cached(int, key="n:<n>", skip_if=lambda value: value < 0)(source.aload)
        assert await asyncio.gather(load(-1), load(-1), load(-1)) == [-10] * 3
        assert source.calls == [-1]
        assert await load(-1) == -10
        assert source.calls == [-1, -1]


def test_a_model_says_which_of_its_values_are_not_stored(cache: Cache) -> None:
    class State(CacheModel, key="state:<no>", skip_if=lambda state: state is None or state.status == "unknown"):
        no: str
        status: str

    statuses: dict[str, str] = {"1": "on", "2": "unknown"}

    @cache.cached(State)
    def load(no: str) -> State | None:
        return State(no=no, status=statuses[no]) if no in statuses else None

    assert load.many(["1", "2", "3"]) == [State(no="1", status="on"), State(no="2", status="unknown"), None]
    assert [load.peek(no) is MISSING for no in "123"] == [False, True, True]
    cache.get_or_load("state:4", lambda: State(no="4", status="unknown"), model=State)
    assert not cache.exists("state:4", model=State)


def test_a_batch_skips_value_by_value(cache: Cache) -> None:
    asked: list[list[int]] = []

    @cache.cached_many(int, key="n:<n>", each="ns", skip_if=lambda value: value < 0)
    def load(ns: list[int]) -> dict[int, int]:
        asked.append(ns)
        return {n: n for n in ns}

    for _ in range(2):
        assert load([1, -1, 2]) == {1: 1, -1: -1, 2: 2}
    assert asked == [[1, -1, 2], [-1]]


def test_what_is_stored_stays_when_a_refresh_is_skipped_and_set_is_not_asked(cache: Cache) -> None:
    source = Counted(lambda n: -n)
    load = cache.cached(int, key="n:<n>", skip_if=lambda value: value < 0)(source.load)
    load.set(5, 1)
    assert load.refresh(1) == -1
    assert load.peek(1) == 5
    load.set(-7, 1)
    assert load.peek(1) == -7


def test_an_error_of_skip_if_is_the_callers_and_nothing_is_stored(cache: Cache) -> None:
    load = cache.cached(int, key="n:<n>", skip_if=lambda value: 1 // value > 5)(Counted(lambda n: n).load)
    with pytest.raises(ZeroDivisionError):
        load(0)
    assert load.peek(0) is MISSING
    assert len(cache.engine.flights) == 0


@pytest.mark.parametrize(
    ("skip_if", "says"),
    [
        (lambda: True, "is called with the loaded value"),
        (lambda value, other: True, "is called with the loaded value"),
        (is_allowed, "`is_allowed` is asynchronous"),
        ("status", "skip_if='status': expected a function"),
    ],
)
def test_a_skip_if_that_cannot_be_called_is_refused_where_it_is_declared(cache: Cache, skip_if: Any, says: str) -> None:
    with pytest.raises(DeclarationError, match=says):
        cache.cached(int, key="n:<n>", skip_if=skip_if)(Counted().load)
