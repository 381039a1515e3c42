"""Flights, the history of invalidations, breakers and what is pending: bookkeeping, checked rule by rule."""

from __future__ import annotations

import asyncio
import contextvars
import threading

import pytest

from novacron_cache.guards import Breaker, Flights, History, Leading, Outcome, Pending
from novacron_cache.markers import new_id
from novacron_cache.testing import ManualClock

# -- history ----------------------------------------------------------------------------------------------------------


def starts_with(prefix: str):  # type: ignore[no-untyped-def]  # a matcher
    return lambda logical, _tags: logical.startswith(prefix)


def test_history_says_whether_something_named_came_later() -> None:
    history = History()
    token = history.append(["k:a"])
    assert not history.hits(token, ["k:a"], "a", ())
    history.append(["k:b"])
    assert not history.hits(token, ["k:a", "t:x"], "a", ("x",))
    history.append(["t:x"])
    assert history.hits(token, ["k:a", "t:x"], "a", ("x",))
    assert history.hits(0, ["k:a"], "a", ())


def test_history_asks_rules_about_key_and_tags() -> None:
    history = History()
    history.append([], (starts_with("vm:"), lambda _logical, tags: {"x", "y"} <= set(tags)))
    assert history.hits(0, [], "vm:1", ())
    assert history.hits(0, [], "node:1", ("y", "x"))
    assert not history.hits(0, [], "node:1", ("x",))


def test_history_can_be_asked_about_a_stretch() -> None:
    history = History()
    tokens = [history.append([f"k:{n}"]) for n in range(5)]
    assert history.hits(tokens[1], ["k:2"], "2", (), until=tokens[2])
    assert not history.hits(tokens[1], ["k:3"], "3", (), until=tokens[2])
    assert not history.hits(tokens[2], ["k:3"], "3", (), until=tokens[2])
    assert history.hits(tokens[2], ["k:3"], "3", (), until=None)


def test_history_takes_what_is_older_than_its_ring_for_hit() -> None:
    history = History(limit=4)
    for _ in range(4):
        history.append(["k:other"])
    assert not history.hits(0, ["k:a"], "a", ())
    history.append(["k:other"])
    assert history.hits(0, ["k:a"], "a", ())
    assert not history.hits(1, ["k:a"], "a", ())


def test_history_keeps_so_many_names_and_takes_what_it_had_to_drop_for_hit() -> None:
    history = History(limit=4, names=10)
    tokens = [history.append([f"k:{n}.{i}" for i in range(4)]) for n in range(3)]
    assert history.hits(0, ["k:other"], "other", ())
    assert not history.hits(tokens[0], ["k:other"], "other", ())
    assert history.hits(tokens[0], ["k:1.0"], "1.0", ())
    large = history.append([f"k:large.{i}" for i in range(100)])  # alone it may be larger
    assert history.hits(large - 1, ["k:large.99"], "large.99", ())
    assert history.hits(large - 2, ["k:other"], "other", ())
    for n in range(20):
        history.append([f"k:small.{n}"])
    assert not history.hits(history.seq - 4, ["k:other"], "other", ())
    assert history.hits(history.seq - 5, ["k:other"], "other", ())


def test_history_loses_no_number_among_threads() -> None:
    history = History()
    start = threading.Barrier(4)

    def append() -> None:
        start.wait(10)
        for _ in range(500):
            history.append(["k:a"])

    threads = [threading.Thread(target=append) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert history.seq == 2000


# -- flights ----------------------------------------------------------------------------------------------------------


def always(_token: int) -> bool:
    return True


def never(_token: int) -> bool:
    return False


def test_the_first_to_board_leads_and_others_join_until_it_lands() -> None:
    flights = Flights()
    flight, leads = flights.board("key", 1, always)
    assert leads
    assert flights.board("key", 2, always) == (flight, False)
    assert flights.board("other", 1, always)[1]
    flights.land(flight, Outcome.LANDED, "result")
    assert (flight.wait(), flight.result) == (Outcome.LANDED, "result")
    assert flights.board("key", 3, always)[1]


def test_a_flight_that_is_no_longer_good_is_replaced_and_its_end_leaves_the_new_one_alone() -> None:
    flights = Flights()
    old, _ = flights.board("key", 1, always)
    new, leads = flights.board("key", 2, never)
    assert leads
    assert new is not old
    flights.land(old, Outcome.LANDED)
    assert flights.board("key", 3, always) == (new, False)


def test_only_the_first_end_counts() -> None:
    flights = Flights()
    flight, _ = flights.board("key", 1, always)
    flights.land(flight, Outcome.LANDED, 1)
    flights.land(flight, Outcome.FAILED, error=LookupError())
    assert (flight.outcome, flight.result, flight.error) == (Outcome.LANDED, 1, None)


def test_waiting_for_a_flight_of_ones_own_is_refused() -> None:
    flights = Flights()
    flight, _ = flights.board("key", 1, always)
    assert flights.may_wait(flight, blocking=True)
    with Leading([flight]):
        assert not flights.may_wait(flight, blocking=True)
    assert flights.may_wait(flight, blocking=True)


def test_waiting_in_a_circle_is_refused_however_long_it_is() -> None:
    flights = Flights()
    circle = [flights.board(key, 1, always)[0] for key in "abcd"]
    contexts = [contextvars.copy_context() for _ in circle]
    for context, flight in zip(contexts, circle, strict=True):
        context.run(Leading([flight]).__enter__)
    waits = [
        context.run(flights.may_wait, after, blocking=True)
        for context, after in zip(contexts, [*circle[1:], circle[0]], strict=True)
    ]
    assert waits == [True, True, True, False]


def test_a_circle_that_an_ended_flight_has_opened_is_none() -> None:
    flights = Flights()
    first, second, third = (flights.board(key, 1, always)[0] for key in "abc")
    ours, theirs = contextvars.copy_context(), contextvars.copy_context()
    ours.run(Leading([first]).__enter__)
    theirs.run(Leading([second]).__enter__)
    assert theirs.run(flights.may_wait, first, blocking=True)
    flights.land(first, Outcome.LANDED)
    theirs.run(flights.waited, first)
    assert not second.awaits
    ours.run(Leading([third]).__enter__)
    assert ours.run(flights.may_wait, second, blocking=True)


async def test_a_blocking_wait_for_a_flight_of_the_running_loop_is_refused() -> None:
    flights = Flights()
    flight, _ = flights.board("key", 1, always)
    assert not flights.may_wait(flight, blocking=True)
    assert flights.may_wait(flight, blocking=False)


async def test_tasks_are_woken_from_another_thread_and_a_cancelled_one_leaves_nothing_behind() -> None:
    flights = Flights()
    flight, _ = flights.board("key", 1, always)
    tasks = [asyncio.create_task(flight.await_()) for _ in range(3)]
    await asyncio.sleep(0)
    assert len(flight._futures) == 3
    tasks[1].cancel()
    with pytest.raises(asyncio.CancelledError):
        await tasks[1]
    assert len(flight._futures) == 2
    await asyncio.to_thread(flights.land, flight, Outcome.LANDED, "result")
    assert await tasks[0] == await tasks[2] == Outcome.LANDED
    assert await flight.await_() is Outcome.LANDED


def test_a_waiter_whose_loop_is_closed_keeps_nobody_from_being_woken() -> None:
    flights = Flights()
    flight, _ = flights.board("key", 1, always)
    loop = asyncio.new_event_loop()
    flight._futures.append((loop, loop.create_future()))
    loop.close()
    flights.land(flight, Outcome.LANDED)
    assert flight.wait() is Outcome.LANDED


def test_a_convoy_of_one_key_goes_on_as_a_flight_that_others_join() -> None:
    flights = Flights()
    convoy = flights.claim("key", 1, 5.0)
    assert convoy is not None
    assert flights.claim("key", 1, 5.0) is None
    flight = flights.take_over(convoy)
    assert (flight.key, flight.token, flight.began) == ("key", 1, 5.0)
    assert flights.board("key", 2, always) == (flight, False)
    flights.land(flight, Outcome.LANDED)
    assert len(flights) == 0


def test_where_somebody_joined_it_before_it_is_the_same_flight() -> None:
    flights = Flights()
    convoy = flights.claim("key", 1, 5.0)
    assert convoy is not None
    joined, leads = flights.board("key", 2, always)
    assert not leads
    assert flights.take_over(convoy) is joined
    assert flights.disband(convoy) == [joined]


def test_a_convoy_that_was_replaced_leaves_the_new_flight_alone() -> None:
    flights = Flights()
    convoy = flights.claim("key", 1, 5.0)
    assert convoy is not None
    new, leads = flights.board("key", 2, never)
    assert leads
    assert flights.take_over(convoy) is not new
    flights.disband(convoy)
    assert flights.board("key", 3, always) == (new, False)


def test_a_forked_child_has_no_flights() -> None:
    flights = Flights()
    flights.board("key", 1, always)
    flights.reset()
    assert len(flights) == 0
    assert flights.board("key", 1, always)[1]


# -- breakers ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def breaker(clock: ManualClock) -> Breaker:
    return Breaker(clock.monotonic, threshold=2, pause=1.0, longest=4.0)


def test_a_breaker_opens_at_the_threshold_and_says_so_once(breaker: Breaker) -> None:
    assert [breaker.failed(), breaker.failed(), breaker.failed()] == [False, True, False]
    assert breaker.is_open
    assert not breaker.allows()


def test_a_success_starts_the_count_anew(breaker: Breaker) -> None:
    assert not breaker.failed()
    assert not breaker.succeeded()
    assert not breaker.failed()
    assert not breaker.is_open


def test_a_breaker_is_calm_until_something_fails_and_again_after_a_success(
    breaker: Breaker, clock: ManualClock
) -> None:
    assert breaker.is_calm
    breaker.failed()
    assert not breaker.is_calm
    breaker.succeeded()
    assert breaker.is_calm
    breaker.failed(at_once=True)
    clock.advance(1.0)
    assert breaker.allows()
    assert not breaker.is_calm
    breaker.succeeded()
    assert breaker.is_calm


def test_an_open_breaker_lets_one_call_try_in_each_pause(breaker: Breaker, clock: ManualClock) -> None:
    breaker.failed()
    breaker.failed()
    clock.advance(1.0)
    assert [breaker.allows(), breaker.allows()] == [True, False]
    assert breaker.succeeded()
    assert breaker.allows()
    assert not breaker.succeeded()


def test_pauses_double_with_each_failed_try_up_to_the_longest(breaker: Breaker, clock: ManualClock) -> None:
    breaker.failed()
    breaker.failed()
    pauses = []
    for _ in range(5):
        waited = 0.0
        while not breaker.allows():
            clock.advance(0.5)
            waited += 0.5
        breaker.failed()
        pauses.append(waited)
    assert pauses == [1.0, 2.0, 4.0, 4.0, 4.0]
    clock.advance(4.0)
    assert breaker.allows()
    breaker.succeeded()
    breaker.failed()
    breaker.failed()
    clock.advance(1.0)
    assert breaker.allows()  # after a success the pause is short again


def test_failures_of_calls_that_were_under_way_lengthen_nothing(breaker: Breaker, clock: ManualClock) -> None:
    for _ in range(64):
        breaker.failed()
    clock.advance(1.0)
    assert breaker.allows()


def test_a_try_that_never_reports_is_followed_by_another(breaker: Breaker, clock: ManualClock) -> None:
    breaker.failed()
    breaker.failed()
    clock.advance(1.0)
    assert breaker.allows()
    clock.advance(1.0)
    assert breaker.allows()


# -- pending ----------------------------------------------------------------------------------------------------------


def test_pending_markers_and_rules_block_what_they_name() -> None:
    pending = Pending(lambda: 0.0, "n", new_id)
    assert not pending
    assert not pending.blocks(["k:a"], "a", ())
    pending.add([("k:a", b"1")], [(b"r", b"rule", starts_with("vm:"))])
    assert len(pending) == 2
    assert pending.blocks(["k:a"], "a", ())
    assert pending.blocks([], "vm:1", ())
    assert not pending.blocks(["k:b"], "b", ())
    assert pending.snapshot() == ([("k:a", b"1")], [(b"r", b"rule")])
    pending.delivered([("k:a", b"1")], [b"r"])
    assert not pending


def test_what_is_invalidated_again_stays_pending_when_the_earlier_one_arrives() -> None:
    pending = Pending(lambda: 0.0, "n", new_id)
    pending.add([("k:a", b"1")])
    pending.add([("k:a", b"2")])
    pending.delivered([("k:a", b"1")])
    assert pending.blocks(["k:a"], "a", ())
    pending.delivered([("k:a", b"2"), ("k:never", b"3")])
    assert not pending


class Now:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


def names(pending: Pending) -> set[str]:
    return {dep for dep, _ in pending.snapshot()[0]}


def arrive(pending: Pending, *deps: str) -> None:
    markers = [(dep, new_id()) for dep in deps]
    pending.add(markers)
    assert pending.delivered(markers, generation=pending.generation)


def test_what_arrived_lately_is_pending_again_in_another_generation() -> None:
    now = Now()
    pending = Pending(now, "n", new_id)
    arrive(pending, "t:old")
    now.seconds += 61
    arrive(pending, "t:a", "t:b")
    rule = new_id()
    pending.add([], [(rule, b"rule", lambda logical, _tags: logical == "k")])
    pending.delivered([], [rule])
    assert not pending
    assert pending.replay(known_for=0.0) == 3
    assert names(pending) == {"t:a", "t:b"}
    assert pending.blocks(["t:a"], "x", ())
    assert pending.blocks([], "k", ())
    ((rule_id, data),) = pending.snapshot()[1]
    assert (data, rule_id != rule) == (b"rule", True)
    assert pending.generation == 1


def test_what_is_no_longer_remembered_is_replaced_by_everything_if_the_new_server_is_older_than_that() -> None:
    now = Now()
    pending = Pending(now, "n", new_id)
    arrive(pending, "t:old")
    now.seconds += 100
    arrive(pending, "t:a")
    assert pending.replay(known_for=90.0) == 1
    assert names(pending) == {"t:a"}
    pending = Pending(now, "n", new_id)
    arrive(pending, "t:old")
    now.seconds += 100
    arrive(pending, "t:a")
    assert pending.replay(known_for=110.0) == 2
    assert names(pending) == {"t:a", "n"}


def test_an_answer_from_before_another_generation_delivers_nothing() -> None:
    pending = Pending(Now(), "n", new_id)
    marker = ("t:a", new_id())
    pending.add([marker])
    before = pending.generation
    assert pending.replay(known_for=0.0) == 0
    assert not pending.delivered([marker], generation=before)
    assert names(pending) == {"t:a"}
    assert pending.delivered([marker], generation=pending.generation)
    assert not pending


def test_more_than_can_be_remembered_is_everything() -> None:
    now = Now()
    pending = Pending(now, "n", new_id, limit=3)
    arrive(pending, "a", "b", "c")
    arrive(pending, "d")
    assert pending.replay(known_for=5.0) == 4
    assert names(pending) == {"b", "c", "d", "n"}


def test_more_than_can_be_pending_is_everything() -> None:
    pending = Pending(Now(), "n", new_id, most=3)
    pending.add([(dep, new_id()) for dep in "abc"])
    assert names(pending) == {"a", "b", "c"}
    pending.add([("d", new_id())])
    assert names(pending) == {"n"}
    assert pending.blocks(["n", "k:x"], "x", ())


def test_a_view_of_what_is_pending_is_made_once() -> None:
    pending = Pending(Now(), "n", new_id)
    pending.add([("a", new_id())])
    assert pending.view() is pending.view()
    before = pending.view()
    pending.add([("b", new_id())])
    assert pending.view().blocks(["b"], "", ())
    assert not before.blocks(["b"], "", ())


def test_a_breaker_lets_a_call_try_at_once_when_it_is_told_to() -> None:
    now = Now()
    breaker = Breaker(now, threshold=1, pause=5.0)
    breaker.retry_now()
    assert breaker.failed()
    assert not breaker.allows()
    breaker.retry_now()
    assert breaker.allows()
    assert not breaker.allows()
    assert breaker.succeeded()


def test_a_failure_that_cost_a_time_out_opens_a_breaker_at_once(breaker: Breaker) -> None:
    assert breaker.failed(at_once=True)
    assert breaker.is_open
    assert not breaker.allows()


def test_while_somebody_else_tries_no_call_does_unless_it_is_told_to(breaker: Breaker, clock: ManualClock) -> None:
    breaker.elsewhere = lambda: True
    breaker.failed(at_once=True)
    clock.advance(3600)
    assert not breaker.allows()
    breaker.retry_now()
    assert [breaker.allows(), breaker.allows()] == [True, False]
    clock.advance(3600)
    assert not breaker.allows()
    breaker.elsewhere = lambda: False
    assert breaker.allows()
    assert breaker.succeeded()
    assert breaker.allows()
