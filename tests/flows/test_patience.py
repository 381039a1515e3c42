"""How long whoever wants a value waits for its load, for what, and what answers in the end: step by step, by hand."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import pytest
from flows.harness import BOUND, Invalidation, Join, ManualClock, MemoryTier, Process, plan

from novacron_cache.effects import Begun, Fetch
from novacron_cache.entry import Entry
from novacron_cache.errors import LoaderTimeout
from novacron_cache.events import LoadFailed, LoadOverdue
from novacron_cache.flows import patience
from novacron_cache.flows.patience import Limits
from novacron_cache.flows.reading import Found
from novacron_cache.flows.storing import overdue
from novacron_cache.guards import Flight, Outcome
from novacron_cache.requests import Plan, Request

KEY = "vm:1"
SOFT, HARD = 2.0, 5.0


@pytest.fixture
def process(clock: ManualClock) -> Process:
    return Process(clock, [MemoryTier(clock=clock)])


def patient(**options: Any) -> Plan:
    return plan(ttl=10.0, grace=600.0, **options)


def stale(process: Process, clock: ManualClock, made: Plan, key: str = KEY) -> Entry:
    """Return the entry of a key that is past its ttl and within its grace."""
    process.get(key, lambda: "old", plan=made)
    clock.advance(11.0)
    process.events.clear()
    entry = process.engine.old(process.request(key).key)
    assert entry is not None
    return entry


def fresh(process: Process, key: str = KEY) -> Entry:
    entry: Entry
    entry, _ = process.engine.values.make_entry(process.request(key), "new", ttl=9.0, tags=(), ids=(), shared=False)
    return entry


class Waiting:
    """A call that waits for its own load, moved by hand.

    Attributes:
        withdrawn: how often the load was to be withdrawn.
        again: the keys that are loaded once more.
    """

    def __init__(
        self,
        process: Process,
        requests: list[Request],
        limits: Limits,
        *,
        stale: Entry | None = None,
        bounded: bool = False,
        may_withdraw: bool = False,
    ) -> None:
        self.process = process
        self.requests = requests
        engine = process.engine
        now = engine.clock.monotonic()
        self.flights = {request.key: Flight(request.key, 0, None) for request in requests}
        self.withdrawn = 0
        self.again: list[str] = []

        def withdraw() -> bool:
            self.withdrawn += 1
            return may_withdraw

        misses = [(request, Found(stale=stale, asked=now)) for request in requests]
        self.flow = patience.await_own(
            engine, misses, self.flights, Begun(withdraw, bounded), engine.history.seq, limits, self._once_more
        )

    def _once_more(self, request: Request) -> Generator[Any, Any, list[Entry | None]]:
        self.again.append(request.logical)
        yield from ()
        return [fresh(self.process)]

    def begin(self) -> float | None:
        """Return how long the first flight is waited for."""
        return self._seconds(next(self.flow), 0)

    def then(self, outcome: Outcome, which: int = 0) -> float | None:
        """Return how long a flight is waited for after the one before ended so."""
        return self._seconds(self.flow.send(outcome), which)

    def _seconds(self, effect: Any, which: int) -> float | None:
        assert isinstance(effect, Join)
        assert effect.flight is self.flights[self.requests[which].key]
        return effect.seconds

    def end(self, outcome: Outcome) -> dict[str, Entry | None]:
        with pytest.raises(StopIteration) as stop:
            self.flow.send(outcome)
        results: dict[str, Entry | None] = stop.value.value
        return results


class TestWhoLoads:
    def test_waits_for_the_hard_time_out_and_counts_from_the_beginning(
        self, process: Process, clock: ManualClock
    ) -> None:
        request = process.request(KEY, plan=patient(hard_timeout=HARD))
        limits = Limits(clock.monotonic(), None, HARD)
        clock.advance(1.0)
        waiting = Waiting(process, [request], limits)
        assert waiting.begin() == pytest.approx(HARD - 1.0)
        entry = waiting.flights[request.key].result = fresh(process)
        assert waiting.end(Outcome.LANDED) == {request.key: entry}
        assert waiting.withdrawn == 0

    def test_waits_without_end_for_what_ends_by_itself(self, process: Process, clock: ManualClock) -> None:
        request = process.request(KEY)
        waiting = Waiting(process, [request], Limits(clock.monotonic(), None, HARD), bounded=True)
        assert waiting.begin() is None

    def test_past_its_time_waits_no_longer(self, process: Process, clock: ManualClock) -> None:
        limits = Limits(clock.monotonic(), None, HARD)
        clock.advance(HARD + 1.0)
        assert Waiting(process, [process.request(KEY)], limits).begin() == 0.0

    @pytest.mark.parametrize("waiting_still", [False, True], ids=["began", "never began"])
    def test_gets_an_error_after_the_hard_time_out_that_says_what_took_so_long(
        self, process: Process, clock: ManualClock, waiting_still: bool
    ) -> None:
        request = process.request(KEY, plan=patient(hard_timeout=HARD))
        waiting = Waiting(
            process, [request], Limits(clock.monotonic(), None, HARD), may_withdraw=waiting_still
        )  # fmt: skip
        waiting.begin()
        with pytest.raises(LoaderTimeout) as caught:
            waiting.flow.send(Outcome.LATE)
        error = caught.value
        assert (error.key, error.seconds, error.waiting) == (KEY, HARD, waiting_still)
        what = "no background thread was free for the loader" if waiting_still else "the loader did not return"
        assert str(error) == f"thing for key 'vm:1': {what} within its hard_timeout of 5 s"
        assert waiting.withdrawn == 1
        assert process.engine.counters("thing").load_errors == 1
        assert process.seen(LoadFailed) == [LoadFailed("thing", KEY, error, False)]

    def test_gets_a_value_in_its_grace_instead_of_that_error(self, process: Process, clock: ManualClock) -> None:
        made = patient(hard_timeout=HARD)
        old = stale(process, clock, made)
        request = process.request(KEY, plan=made)
        waiting = Waiting(process, [request], Limits(clock.monotonic(), None, HARD), stale=old)
        waiting.begin()
        assert waiting.end(Outcome.LATE) == {request.key: old}
        assert process.engine.counters("thing").stale == 1

    def test_gets_the_value_in_its_grace_after_the_soft_time_out(self, process: Process, clock: ManualClock) -> None:
        made = patient(soft_timeout=SOFT, hard_timeout=HARD)
        old = stale(process, clock, made)
        request = process.request(KEY, plan=made)
        waiting = Waiting(process, [request], Limits(clock.monotonic(), SOFT, HARD), stale=old)
        assert waiting.begin() == pytest.approx(SOFT)
        assert waiting.end(Outcome.LATE) == {request.key: old}
        assert process.seen(LoadOverdue) == [LoadOverdue("thing", KEY, SOFT)]
        counters = process.engine.counters("thing")
        assert (counters.overdue, counters.stale, waiting.withdrawn) == (1, 0, 0)

    def test_waits_on_where_that_was_invalidated_meanwhile(self, process: Process, clock: ManualClock) -> None:
        made = patient(soft_timeout=SOFT, hard_timeout=HARD)
        old = stale(process, clock, made)
        request = process.request(KEY, plan=made)
        waiting = Waiting(process, [request], Limits(clock.monotonic(), SOFT, HARD), stale=old)
        waiting.begin()
        clock.advance(SOFT)
        process.invalidate(Invalidation.keys([KEY]))
        assert waiting.then(Outcome.LATE) == pytest.approx(HARD - SOFT)
        assert process.seen(LoadOverdue) == []
        entry = waiting.flights[request.key].result = fresh(process)
        assert waiting.end(Outcome.LANDED) == {request.key: entry}

    def test_without_a_hard_time_out_loads_by_itself_rather_than_wait_for_a_thread(
        self, process: Process, clock: ManualClock
    ) -> None:
        made = patient(soft_timeout=SOFT)
        old = stale(process, clock, made)
        request = process.request(KEY, plan=made)
        waiting = Waiting(process, [request], Limits(clock.monotonic(), SOFT, None), stale=old, may_withdraw=True)
        waiting.begin()
        process.invalidate(Invalidation.keys([KEY]))
        assert waiting.then(Outcome.LATE) is None
        assert waiting.withdrawn == 1
        results = waiting.end(Outcome.HANDED_OVER)
        assert [None if entry is None else entry.value for entry in results.values()] == ["new"]
        assert waiting.again == [KEY]

    def test_gets_what_the_load_ended_with_before_its_soft_time_out(self, process: Process, clock: ManualClock) -> None:
        made = patient(soft_timeout=SOFT)
        old = stale(process, clock, made)
        request = process.request(KEY, plan=made)
        waiting = Waiting(process, [request], Limits(clock.monotonic(), SOFT, None), stale=old)
        waiting.begin()
        waiting.flights[request.key].error = LookupError("no such thing")
        with pytest.raises(LookupError, match="no such thing"):
            waiting.flow.send(Outcome.FAILED)

    def test_of_several_keys_gets_each_and_raises_the_first_error_last(
        self, process: Process, clock: ManualClock
    ) -> None:
        requests = [process.request(key) for key in ("a", "b", "c")]
        waiting = Waiting(process, requests, Limits(clock.monotonic(), None, HARD))
        first, second, third = (waiting.flights[request.key] for request in requests)
        assert waiting.begin() == pytest.approx(HARD)
        first.error, second.error, third.result = LookupError("first"), LookupError("second"), fresh(process)
        assert waiting.then(Outcome.FAILED, 1) == pytest.approx(HARD)
        assert waiting.then(Outcome.FAILED, 2) == pytest.approx(HARD)
        with pytest.raises(LookupError, match="first"):
            waiting.flow.send(Outcome.LANDED)

    def test_of_several_keys_gets_all_that_landed(self, process: Process, clock: ManualClock) -> None:
        requests = [process.request(key) for key in ("a", "b")]
        waiting = Waiting(process, requests, Limits(clock.monotonic(), None, HARD))
        waiting.begin()
        first, second = (waiting.flights[request.key] for request in requests)
        first.result = fresh(process, "a")
        waiting.then(Outcome.LANDED, 1)
        assert waiting.end(Outcome.LANDED) == {requests[0].key: first.result, requests[1].key: second.result}


class TestWhoJoins:
    def joining(
        self, process: Process, made: Plan, *, began: float, boarded: float
    ) -> tuple[Flight, Generator[Any, Any, Any]]:
        request = process.request(KEY, plan=made)
        flight = Flight(request.key, 0, None, began)
        return flight, patience.join(process.engine, request, flight, boarded)

    def end(self, flow: Generator[Any, Any, Any], answer: Any) -> Any:
        """Return what a flow returns, letting it ask the tiers."""
        try:
            while True:
                effect = flow.send(answer)
                assert isinstance(effect, tuple), effect
                answer = effect[0].perform(effect[1])
        except StopIteration as stop:
            return stop.value

    def until_it_waits(self, flow: Generator[Any, Any, Any], answer: Any) -> Join:
        effect = flow.send(answer)
        while not isinstance(effect, Join):
            effect = flow.send(effect[0].perform(effect[1]))
        return effect

    def test_waits_for_the_soft_time_out_from_the_beginning_of_the_load(
        self, process: Process, clock: ManualClock
    ) -> None:
        now = clock.monotonic()
        flight, flow = self.joining(process, patient(soft_timeout=SOFT), began=now - 0.5, boarded=now)
        effect = next(flow)
        assert isinstance(effect, Join)
        assert effect.flight is flight
        assert effect.seconds == pytest.approx(SOFT - 0.5)
        assert self.end(flow, Outcome.LANDED) is Outcome.LANDED

    def test_waits_for_the_hard_one_from_its_own_beginning(self, process: Process, clock: ManualClock) -> None:
        now = clock.monotonic()
        _, flow = self.joining(process, patient(hard_timeout=HARD), began=now - 3.0, boarded=now - 1.0)
        assert next(flow).seconds == pytest.approx(HARD - 1.0)

    def test_waits_for_the_sooner_of_the_two(self, process: Process, clock: ManualClock) -> None:
        now = clock.monotonic()
        both = patient(soft_timeout=SOFT, hard_timeout=HARD)
        assert next(self.joining(process, both, began=now, boarded=now)[1]).seconds == pytest.approx(SOFT)
        _, flow = self.joining(process, both, began=now + 10.0, boarded=now)
        assert next(flow).seconds == pytest.approx(HARD)

    def test_then_gets_what_the_tiers_have_by_now(self, process: Process, clock: ManualClock) -> None:
        now = clock.monotonic()
        Process(clock, [process.ways[0].tier]).set(KEY, "theirs")
        _, flow = self.joining(process, patient(soft_timeout=SOFT), began=now, boarded=now)
        next(flow)
        assert self.end(flow, Outcome.LATE).value == "theirs"

    def test_then_gets_the_value_in_its_grace(self, process: Process, clock: ManualClock) -> None:
        made = patient(soft_timeout=SOFT, hard_timeout=HARD)
        stale(process, clock, made)
        now = clock.monotonic()
        _, flow = self.joining(process, made, began=now, boarded=now)
        next(flow)
        assert self.end(flow, Outcome.LATE).value == "old"
        counters = process.engine.counters("thing")
        assert (counters.joined, counters.overdue, counters.stale) == (1, 1, 0)
        assert process.seen(LoadOverdue) == [LoadOverdue("thing", KEY, SOFT)]

    def test_with_a_hard_time_out_alone_gets_that_value_when_it_is_over(
        self, process: Process, clock: ManualClock
    ) -> None:
        made = patient(hard_timeout=HARD)
        stale(process, clock, made)
        now = clock.monotonic()
        _, flow = self.joining(process, made, began=now, boarded=now)
        next(flow)
        clock.advance(HARD)
        assert self.until_it_waits(flow, Outcome.LATE).seconds == 0.0
        assert self.end(flow, Outcome.LATE).value == "old"
        counters = process.engine.counters("thing")
        assert (counters.joined, counters.overdue, counters.stale) == (1, 0, 1)

    def test_with_nothing_to_answer_waits_on_until_the_hard_time_out(
        self, process: Process, clock: ManualClock
    ) -> None:
        now = clock.monotonic()
        flight, flow = self.joining(process, patient(soft_timeout=SOFT, hard_timeout=HARD), began=now, boarded=now)
        next(flow)
        clock.advance(SOFT)
        effect = self.until_it_waits(flow, Outcome.LATE)
        assert effect.flight is flight
        assert effect.seconds == pytest.approx(HARD - SOFT)
        error = self.end(flow, Outcome.LATE)
        assert isinstance(error, LoaderTimeout)
        assert (error.key, error.seconds, error.waiting) == (KEY, HARD, False)
        assert process.engine.counters("thing").joined == 0

    def test_without_a_hard_one_waits_on_without_end(self, process: Process, clock: ManualClock) -> None:
        now = clock.monotonic()
        _, flow = self.joining(process, patient(soft_timeout=SOFT), began=now, boarded=now)
        next(flow)
        assert self.until_it_waits(flow, Outcome.LATE).seconds is None
        assert self.end(flow, Outcome.FAILED) is Outcome.FAILED

    def test_looks_once(self, process: Process, clock: ManualClock) -> None:
        now = clock.monotonic()
        _, flow = self.joining(process, patient(soft_timeout=SOFT), began=now, boarded=now)
        next(flow)
        self.until_it_waits(flow, Outcome.LATE)
        assert process.ways[0].count(Fetch) == 1


class TestALoadThatNeverBegins:
    def dropped(self, process: Process, clock: ManualClock, hard: float | None) -> list[Flight]:
        requests = [process.request(key) for key in ("a", "b")]
        flights = {request.key: Flight(request.key, 0, None) for request in requests}
        misses = [(request, Found()) for request in requests]
        patience.drop(process.engine, misses, flights, Limits(clock.monotonic(), 1.0, hard))
        return list(flights.values())

    def test_hands_its_flights_over_where_nothing_bounds_it(self, process: Process, clock: ManualClock) -> None:
        assert [flight.outcome for flight in self.dropped(process, clock, None)] == [Outcome.HANDED_OVER] * 2

    def test_fails_them_where_its_time_is_over(self, process: Process, clock: ManualClock) -> None:
        flights = self.dropped(process, clock, HARD)
        assert [flight.outcome for flight in flights] == [Outcome.FAILED] * 2
        errors = [flight.error for flight in flights]
        assert all(isinstance(error, LoaderTimeout) for error in errors)
        assert [(error.key, error.seconds, error.waiting) for error in errors if isinstance(error, LoaderTimeout)] == [
            ("a", HARD, True), ("b", HARD, True),
        ]  # fmt: skip


class TestALoadBehind:
    def flights(self) -> list[Flight]:
        return [Flight(key, 0, None) for key in ("a", "b")]

    def test_that_fails_tells_whoever_waits_and_nobody_else(self, process: Process) -> None:
        def flow() -> Generator[Any, Any, None]:
            yield "effect"
            raise error

        error, flights = LookupError(), self.flights()
        behind = patience.background_load(process.engine, flow(), flights)
        assert next(behind) == "effect"
        assert list(behind) == []
        assert [(flight.outcome, flight.error) for flight in flights] == [(Outcome.FAILED, error)] * 2

    def test_that_is_stopped_hands_its_flights_over(self, process: Process) -> None:
        def flow() -> Generator[Any, Any, None]:
            yield

        flights = self.flights()
        behind = patience.background_load(process.engine, flow(), flights)
        next(behind)
        with pytest.raises(KeyboardInterrupt):
            behind.throw(KeyboardInterrupt())
        assert [flight.outcome for flight in flights] == [Outcome.HANDED_OVER] * 2
        assert [type(flight.error) for flight in flights] == [KeyboardInterrupt] * 2


class TestLimitsOfSeveralKeys:
    def of(self, process: Process, *made: tuple[Plan, bool]) -> Limits | None:
        entry = fresh(process)
        misses = [
            (process.request(str(place), plan=one), Found(stale=entry if has_stale else None))
            for place, (one, has_stale) in enumerate(made)
        ]
        return patience.of(misses, 100.0)

    def test_the_hard_one_is_the_shortest_and_the_soft_one_the_longest(self, process: Process) -> None:
        first = patient(soft_timeout=1.0, hard_timeout=8.0)
        second = patient(soft_timeout=2.0, hard_timeout=5.0)
        assert self.of(process, (first, True), (second, True)) == Limits(100.0, 2.0, 5.0)
        assert self.of(process, (first, True), (patient(), False)) == Limits(100.0, None, 8.0)

    def test_no_soft_one_where_one_has_nothing_to_answer(self, process: Process) -> None:
        soft = patient(soft_timeout=1.0)
        assert self.of(process, (soft, True), (soft, False)) is None
        assert self.of(process, (soft, True), (soft, True)) == Limits(100.0, 1.0, None)

    def test_none_where_there_are_none(self, process: Process) -> None:
        assert self.of(process, (patient(), True)) is None
        assert patience.unlimited(patient())
        assert not patience.unlimited(patient(soft_timeout=1.0))
        assert not patience.unlimited(patient(hard_timeout=1.0))


def test_a_value_in_its_grace_answers_no_longer_than_the_bound_allows(process: Process, clock: ManualClock) -> None:
    made = patient(soft_timeout=SOFT)
    old = stale(process, clock, made)
    asked = clock.monotonic() - BOUND + 0.25
    request = process.request(KEY, plan=made)
    waiting = Found(stale=old, asked=asked)
    assert overdue(process.engine, request, waiting, process.engine.history.seq, SOFT) is old
    assert old.deadline == pytest.approx(clock.monotonic() + 0.25)
