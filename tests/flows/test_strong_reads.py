"""A strong read asks the authority, whatever this process remembers and whoever is loading."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest
from flows.harness import Process

from novacron_cache import Cache, CacheModel, cached, flows
from novacron_cache.entry import MISSING
from novacron_cache.errors import DeclarationError
from novacron_cache.flows.invalidating import Invalidation
from novacron_cache.testing import ManualClock
from novacron_cache.tiers.memory import MemoryTier


@pytest.fixture
def pair() -> tuple[Process, Process]:
    """Two processes that no link joins."""
    clock = ManualClock()
    server = MemoryTier(clock=clock)
    return Process(clock, [server]), Process(clock, [server])


def strong(process: Process, key: str, loader: Any = None, **options: Any) -> Any:
    request = process.request(key, loader, **options)
    request.strong = True
    if loader is None:
        (entry,) = process.run(flows.peek_many(process.engine, [request]))
        return MISSING if entry is None else process.value(request, entry)
    return process.value(request, process.run(flows.get_or_load(process.engine, request)))


def test_a_strong_read_does_not_return_what_another_process_has_invalidated(pair: tuple[Process, Process]) -> None:
    ours, theirs = pair
    assert theirs.get("k", lambda: 1, tags=["t"]) == 1
    ours.invalidate(Invalidation.tags(["t"]))
    assert theirs.get("k", lambda: 2, tags=["t"]) == 1  # within the bound
    assert strong(theirs, "k", tags=["t"]) is MISSING
    assert strong(theirs, "k", lambda: 2, tags=["t"]) == 2


def test_what_a_strong_read_loaded_answers_ordinary_ones(pair: tuple[Process, Process]) -> None:
    ours, theirs = pair
    assert strong(ours, "k", lambda: 1) == 1
    assert ours.get("k", lambda: 2) == 1
    assert theirs.peek("k") == 1


def test_a_value_that_is_still_valid_is_not_loaded_again(pair: tuple[Process, Process]) -> None:
    ours, _ = pair
    ours.get("k", lambda: 1)
    assert strong(ours, "k", lambda: pytest.fail("loaded")) == 1


def test_a_strong_read_does_not_join_a_load_that_began_before_it(pair: tuple[Process, Process]) -> None:
    ours, theirs = pair
    began, go_on = threading.Event(), threading.Event()

    def slow() -> int:
        began.set()
        assert go_on.wait(10)
        return 1

    results: list[int] = []
    thread = threading.Thread(target=lambda: results.append(theirs.get("k", slow, tags=["t"])))
    thread.start()
    assert began.wait(10)
    ours.invalidate(Invalidation.tags(["t"]))
    assert strong(theirs, "k", lambda: 2, tags=["t"]) == 2
    go_on.set()
    thread.join(10)
    assert results == [1]
    assert strong(theirs, "k", tags=["t"]) in (2, MISSING)


@pytest.mark.parametrize("on_outage", ["load", "serve"])
def test_with_the_authority_down_a_strong_read_loads(on_outage: Any) -> None:
    clock = ManualClock()
    process = Process(clock, [MemoryTier(clock=clock)], on_outage=on_outage)
    assert process.get("k", lambda: 1) == 1
    process.ways[0].down = True
    assert process.get("k", lambda: 2) == 1
    assert strong(process, "k") is MISSING
    assert strong(process, "k", lambda: 2) == 2


class Price(CacheModel, key="price:<sku>", ttl="5m", consistency="strong"):
    sku: str
    cents: int


def test_a_declaration_can_ask_for_strong_reads_throughout(tmp_path: Any) -> None:
    with (
        Cache.connect(namespace="shop", disk=tmp_path, staleness_bound=60) as ours,
        Cache.connect(namespace="shop", disk=tmp_path, staleness_bound=60) as theirs,
    ):
        truth = {"a": 1}

        @cached(Price, cache=ours)
        def price(sku: str) -> Price:
            return Price(sku=sku, cents=truth[sku])

        assert [price("a").cents, price("a").cents] == [1, 1]
        for cents in range(2, 6):
            truth["a"] = cents
            theirs.invalidate("price:a")
            assert price("a").cents == cents
        assert price.stats().loads == 5


def test_the_cache_object_takes_it_call_by_call(tmp_path: Any) -> None:
    with (
        Cache.connect(namespace="shop", disk=tmp_path, staleness_bound=60) as ours,
        Cache.connect(namespace="shop", disk=tmp_path, staleness_bound=60) as theirs,
    ):
        ours.set_many({"a": 1, "b": 2})
        theirs.invalidate("a")
        assert ours.get("a", consistency="strong") is None
        assert ours.get_many(["a", "b"], consistency="strong") == {"b": 2}
        assert not ours.exists("a", consistency="strong")
        assert ours.get_or_load("a", lambda: 3, consistency="strong") == 3

        async def again() -> list[Any]:
            await theirs.ainvalidate("a", "b")
            return [
                await ours.aget("a", consistency="strong"),
                await ours.aget_many(["a", "b"], consistency="strong"),
                await ours.aexists("b", consistency="strong"),
                await ours.aget_or_load("b", lambda: 4, consistency="strong"),
            ]

        assert asyncio.run(again()) == [None, {}, False, 4]


def test_another_word_for_it_is_refused() -> None:
    with Cache() as cache, pytest.raises(DeclarationError, match="expected 'bounded' or 'strong'"):
        cache.get("a", consistency="eventual")  # type: ignore[arg-type]  # what is refused at run time too
    with pytest.raises(DeclarationError, match="expected 'bounded' or 'strong'"):

        @cached(consistency="linearizable")
        def f(x: int) -> int:
            return x
