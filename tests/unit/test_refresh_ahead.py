"""Early refreshes: a hit past the share of its ttl starts one, whichever way the value is loaded, and only once."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
from flows.harness import until
from servers import wait_until

from novacron_cache import Cache, CacheModel, CacheSettings, cached, cached_many
from novacron_cache.testing import ManualClock


class Report(CacheModel, key="report:<day>", ttl=10, refresh_ahead=0.5):
    day: str
    edition: int


class Source:
    """Each call of a loader is another edition."""

    def __init__(self) -> None:
        self.asked: list[list[str]] = []
        self.known = {"mon", "tue", "wed"}

    def one(self, day: str) -> Report:
        return self.several([day])[day]

    def several(self, days: list[str]) -> dict[str, Report]:
        self.asked.append(days)
        return {day: Report(day=day, edition=len(self.asked)) for day in days if day in self.known}


@pytest.fixture
def cache(clock: ManualClock) -> Iterator[Cache]:
    with Cache(CacheSettings(background_threads=1), clock=clock) as cache:
        yield cache


@pytest.fixture
def source() -> Source:
    return Source()


@pytest.fixture(params=["loader of the model", "several calls"])
def load(request: pytest.FixtureRequest, cache: Cache, source: Source) -> Callable[[str], Report]:
    if request.param == "several calls":
        one = cached(Report, cache=cache)(source.one)
        return lambda day: one.many([day])[0]
    entries = Report.entries.using(cache)
    entries.loader(lambda day: source.one(day))
    return entries.load  # type: ignore[return-value]  # the loader returns no None


def test_a_hit_refreshes_once_in_a_thread(load: Callable[[str], Report], source: Source, clock: ManualClock) -> None:
    assert load("mon").edition == 1
    clock.advance(6)
    assert load("mon").edition == 1
    wait_until(lambda: load("mon").edition == 2)
    assert source.asked == [["mon"], ["mon"]]


@pytest.mark.parametrize("way", ["loader of the model", "several calls"])
async def test_a_hit_refreshes_once_in_a_task(cache: Cache, source: Source, clock: ManualClock, way: str) -> None:
    async def fetch(day: str) -> Report:
        return source.one(day)

    one, entries = cached(Report, cache=cache)(fetch), Report.entries.using(cache)
    entries.loader(fetch)

    async def load() -> int:
        found = await entries.aload("mon") if way == "loader of the model" else (await one.many(["mon"]))[0]
        assert found is not None
        return found.edition

    assert await load() == 1
    clock.advance(6)
    assert await load() == 1
    await until(lambda: len(source.asked) == 2)
    assert await load() == 2


class Numbered(CacheModel, key="numbered:<number>", ttl=10, refresh_ahead=0.5):
    number: int
    edition: int


def test_what_is_due_of_a_batch_is_loaded_together(cache: Cache, source: Source, clock: ManualClock) -> None:
    reports = cached_many(Report, each="days", cache=cache)(source.several)
    reports(["mon", "tue"])
    clock.advance(3)
    reports(["wed"])
    clock.advance(3)
    source.known.discard("tue")
    assert {day: one.edition for day, one in reports(["wed", "tue", "mon"]).items()} == {"wed": 2, "tue": 1, "mon": 1}
    wait_until(lambda: reports(["mon"])["mon"].edition == 3)
    assert source.asked == [["mon", "tue"], ["wed"], ["tue", "mon"]]
    assert reports(["tue"])["tue"].edition == 1  # the loader left it out: it goes on until its ttl


async def test_a_batch_of_a_coroutine_function_is_refreshed_in_a_task(cache: Cache, clock: ManualClock) -> None:
    asked: list[list[int]] = []

    @cached_many(Numbered, each="numbers", cache=cache)
    async def several(numbers: list[int]) -> dict[int, Numbered]:
        asked.append(numbers)
        return {number: Numbered(number=number, edition=len(asked)) for number in numbers}

    await several([1, 2])
    clock.advance(6)
    assert [one.edition for one in (await several([2, 1])).values()] == [1, 1]
    await until(lambda: len(asked) == 2)
    assert [one.edition for one in (await several([1, 2])).values()] == [2, 2]
    assert asked == [[1, 2], [2, 1]]


def test_a_batch_whose_refresh_fails_goes_on_until_its_ttl(cache: Cache, source: Source, clock: ManualClock) -> None:
    fail = False

    @cached_many(Report, each="days", cache=cache)
    def reports(days: list[str]) -> dict[str, Report]:
        if fail:
            source.asked.append(days)
            raise LookupError("not now")
        return source.several(days)

    reports(["mon"])
    clock.advance(6)
    fail = True
    assert reports(["mon"])["mon"].edition == 1
    wait_until(lambda: len(source.asked) == 2)
    assert reports(["mon"])["mon"].edition == 1
    fail = False
    clock.advance(4)
    assert reports(["mon"])["mon"].edition == 3


LOOKS: dict[str, Callable[[Any, Cache], Awaitable[Any]]] = {
    "peek": lambda function, cache: function.peek("mon"),
    "get": lambda function, cache: function.get("mon"),
    "the cache's get": lambda function, cache: cache.aget("report:mon", model=Report),
    "get_many": lambda function, cache: cache.aget_many(["report:mon"], model=Report),
    "exists": lambda function, cache: cache.aexists("report:mon", model=Report),
    "the model's get": lambda function, cache: Report.entries.using(cache).aget("mon"),
}


@pytest.mark.parametrize("look", LOOKS.values(), ids=LOOKS)
async def test_a_mere_look_leaves_the_refresh_to_the_next_call(
    cache: Cache, source: Source, clock: ManualClock, look: Callable[[Any, Cache], Awaitable[Any]]
) -> None:
    @cached(Report, cache=cache)
    async def report(day: str) -> Report:
        return source.one(day)

    assert (await report("mon")).edition == 1
    clock.advance(6)
    assert await look(report, cache)
    assert (await report.explain("mon")).reason == "hit"
    assert (await report("mon")).edition == 1
    await until(lambda: len(source.asked) == 2)
