"""A look at several keys, where nothing is loaded: read in columns, it finds what a look at each by itself finds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from flows.batches import INVALIDATED, KEYS, Batch
from flows.harness import Call, Fetch, Invalidation, ManualClock, MemoryTier, Process

from novacron_cache import MISSING, flows
from novacron_cache.bypassing import BypassBlock
from novacron_cache.events import Hit, Miss
from novacron_cache.markers import MAX_NAMED, new_id


@pytest.fixture
def shared(clock: ManualClock) -> MemoryTier:
    return MemoryTier(clock=clock)


@pytest.fixture(params=[False, True], ids=["the server alone", "memory too"])
def batch(request: pytest.FixtureRequest, clock: ManualClock, shared: MemoryTier) -> Batch:
    return Batch(clock, shared, kept=request.param).met()


@pytest.fixture
def other(clock: ManualClock, shared: MemoryTier) -> Process:
    return Process(clock, [shared])


def looking(batch: Batch, keys: list[str] = KEYS, **options: Any) -> Any:
    requests = [batch.request(key) for key in keys]
    for request in requests:
        request.strong = options.get("strong", False)
    return flows.look(batch.engine, requests)


def look(batch: Batch, keys: list[str] = KEYS, **options: Any) -> list[Any]:
    batch.process.ways[0].operations.clear()
    return list(batch.process.run(looking(batch, keys, **options)))


def peeked(batch: Batch, keys: list[str] = KEYS) -> list[Any]:
    """Return what a look at each key by itself finds."""
    return [batch.process.peek(key, plan=batch.plan) for key in keys]


def test_what_was_met_takes_one_trip_for_payloads_alone(batch: Batch) -> None:
    batch.forget()
    assert look(batch) == batch.current
    assert batch.fetched == [(len(KEYS), 0)]
    assert batch.loads == []


def test_each_is_counted_and_told_once(batch: Batch) -> None:
    batch.forget()
    hits, told, missed = batch.hits(), len(batch.process.seen(Hit)), len(batch.process.seen(Miss))
    assert look(batch, [*KEYS, "d:unknown"]) == [*batch.current, MISSING]
    assert batch.hits() - hits == len(KEYS)
    assert [event.key for event in batch.process.seen(Hit)[told:]] == KEYS
    assert [event.key for event in batch.process.seen(Miss)[missed:]] == ["d:unknown"]


def test_what_memory_has_is_not_asked_for(clock: ManualClock, shared: MemoryTier) -> None:
    batch = Batch(clock, shared, kept=True).met()
    batch.forget()
    look(batch, ["d:a", "d:b"])
    hits = batch.engine.counters("disk").hits["memory"]
    assert look(batch) == batch.current
    assert batch.fetched == [(2, 0)]
    assert batch.engine.counters("disk").hits["memory"] - hits == 2


def test_nobody_shares_what_was_handed_out(batch: Batch) -> None:
    for _ in range(2):
        batch.forget()
        look(batch)[0].append("changed")
        assert look(batch) == batch.current


def test_what_was_never_met_is_found_the_long_way(batch: Batch, other: Process) -> None:
    other.set("d:new", ["new", 1], plan=batch.plan)
    assert look(batch, ["d:new", "d:unknown"]) == [["new", 1], MISSING]
    assert any(deps for _, deps in batch.fetched)


@pytest.mark.parametrize(("what", "deps"), INVALIDATED)
class TestInvalidated:
    def test_before_the_reply_is_looked_at(
        self, batch: Batch, other: Process, what: Invalidation, deps: list[str]
    ) -> None:
        batch.forget()
        call = Call(batch.engine, looking(batch)).after(Fetch)
        other.invalidate(what)
        batch.engine.signalled([(dep, new_id()) for dep in deps])
        assert call.finish()[1] is MISSING

    def test_by_this_process_while_values_are_decoded(self, batch: Batch, what: Invalidation, deps: list[str]) -> None:
        batch.forget()
        batch.during_decoding(lambda: batch.process.invalidate(what))
        assert look(batch)[1] is MISSING

    def test_before_it_began(self, batch: Batch, what: Invalidation, deps: list[str]) -> None:
        batch.process.invalidate(what)
        assert look(batch)[1] is MISSING
        assert look(batch) == [MISSING if one is None else one for one in peeked(batch)]


def test_a_strong_look_asks_for_the_ids_of_all(batch: Batch, other: Process) -> None:
    other.invalidate(Invalidation.keys(["d:b"]))  # this process has not heard of it
    found = look(batch, strong=True)
    assert [value is MISSING for value in found] == [False, True, False, False]
    assert all(deps for _, deps in batch.fetched)


def test_a_server_that_does_not_answer_gives_nothing_and_raises_nothing(batch: Batch) -> None:
    batch.forget()
    batch.process.ways[0].down = True
    assert look(batch) == [MISSING] * len(KEYS)


def test_a_bypassed_look_finds_nothing(batch: Batch) -> None:
    with BypassBlock(batch.engine.bypass, refresh=False):
        assert look(batch) == [MISSING] * len(KEYS)
    assert batch.engine.counters("disk").misses["bypassed"] == len(KEYS)


def test_a_key_too_long_to_be_named_whole_is_found_too(batch: Batch, other: Process) -> None:
    long = [f"d:{'x' * MAX_NAMED}{number}" for number in range(3)]
    for number, key in enumerate(long):
        other.set(key, [key, number], plan=batch.plan)
    for _ in range(2):
        batch.forget()
        told = len(batch.process.seen(Hit))
        assert look(batch, [*long, *KEYS]) == [*([key, number] for number, key in enumerate(long)), *batch.current]
        assert {event.key for event in batch.process.seen(Hit)[told:]} == {*long, *KEYS}


def test_absent_values_that_are_remembered_are_none(batch: Batch, other: Process) -> None:
    batch.plan.negative_ttl = 10.0
    other.set("d:none", None, plan=batch.plan)
    for _ in range(2):
        assert look(batch, ["d:none", "d:a"]) == [None, batch.truth["d:a"]]


def test_keys_of_several_plans_are_read_together(batch: Batch, clock: ManualClock, shared: MemoryTier) -> None:
    second: Callable[[str], Any] = lambda key: batch.process.request(key, plan=batch._plan(grace=5.0))  # noqa: E731
    requests = [*map(batch.request, KEYS), *map(second, ["x:1", "x:2"])]
    for request in requests[-2:]:
        batch.process.set(request.logical, [request.logical, 1], plan=request.plan)
    batch.forget()
    found = batch.process.run(flows.look(batch.engine, requests))
    assert found == [*batch.current, ["x:1", 1], ["x:2", 1]]
