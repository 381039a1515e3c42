"""What happens elsewhere while an operation waits for an answer: what it may still believe, keep, and call done."""

from __future__ import annotations

from typing import Any
from unittest.mock import ANY

import pytest
from flows.harness import (
    BOUND,
    MISSING,
    Call,
    Capture,
    Fetch,
    Invalidation,
    Load,
    ManualClock,
    MemoryTier,
    Process,
    ReadRules,
    Renew,
    StillLink,
    Store,
    plan,
)

from novacron_cache import flows
from novacron_cache.bypassing import BypassBlock
from novacron_cache.effects import Hold, ReadClock, Release
from novacron_cache.events import Hit, Miss, NotStored, Stored
from novacron_cache.flows.unserved import around
from novacron_cache.markers import dependencies, key_dep, new_id
from novacron_cache.requests import Request

KEY = "vm:1"
HOLDER = b"h" * 8


@pytest.fixture
def tiers(clock: ManualClock) -> list[MemoryTier]:
    return [MemoryTier(clock=clock)]


class CountingLink(StillLink):
    """Counts how often it is asked to be there."""

    def __init__(self) -> None:
        self.ensured = 0

    def ensure(self) -> None:
        self.ensured += 1


def linked(process: Process) -> CountingLink:
    link = CountingLink()
    process.engine.use_link(link)
    process.engine.link_up(process.clock.monotonic() + BOUND)
    process.events.clear()
    return link


def forget(process: Process) -> None:
    assert process.engine.memory is not None
    process.engine.memory.clear()


def never() -> Any:
    raise AssertionError("nobody should load this")


def replaced(process: Process) -> None:
    """Have the authority turn out to be another server than before."""
    process.engine.met_another_authority(0.0)()


EVERY_WAY = pytest.mark.parametrize(
    "invalidation",
    [
        Invalidation.keys([KEY]),
        Invalidation.tags(["a"]),
        Invalidation.tags(["a", "b"], match_all=True),
        Invalidation.pattern("*m:1"),
        Invalidation.everything(),
    ],
    ids=lambda one: f"{one.what} {' '.join(one.values)}",
)


class TestInvalidatedHere:
    @EVERY_WAY
    def test_while_a_payload_travels_it_is_not_served(
        self, ours: Process, theirs: Process, invalidation: Invalidation
    ) -> None:
        theirs.set(KEY, "old", tags=["a", "b"])
        call = ours.loading(KEY, lambda: "new", tags=["a", "b"]).after(Fetch)
        ours.invalidate(invalidation)
        assert call.finish() == "new"
        assert ours.seen(Hit) == []
        assert ours.seen(Miss) == [Miss("thing", KEY, "invalidated")]
        assert ours.engine.counters("thing").hits == {}

    @EVERY_WAY
    def test_while_a_payload_that_was_known_to_be_valid_travels_it_is_not_served(
        self, ours: Process, invalidation: Invalidation
    ) -> None:
        linked(ours)
        for _ in range(2):
            ours.get(KEY, lambda: "old", tags=["a", "b"])
            forget(ours)
        ours.events.clear()
        call = ours.loading(KEY, lambda: "new", tags=["a", "b"]).after(Fetch)
        assert call.effect[1].deps == ()
        ours.invalidate(invalidation)
        assert call.finish() == "new"
        assert ours.seen(Hit) == []

    @EVERY_WAY
    def test_while_it_loads_it_is_kept_nowhere(
        self, ours: Process, theirs: Process, invalidation: Invalidation
    ) -> None:
        call = ours.loading(KEY, lambda: "old", tags=["a", "b"]).after(Load)
        ours.invalidate(invalidation)
        assert call.finish() == "old"
        assert ours.seen(NotStored) == [NotStored("thing", KEY, "invalidated")]
        assert ours.seen(Stored) == []
        assert ours.peek(KEY, tags=["a", "b"]) is MISSING
        assert theirs.peek(KEY, tags=["a", "b"]) is MISSING

    def test_while_the_ids_of_an_old_entry_travel_it_stays_dead(self, ours: Process, clock: ManualClock) -> None:
        ours.get(KEY, lambda: "old")
        clock.advance(BOUND)
        call = ours.loading(KEY, lambda: "new").after(Fetch)
        ours.invalidate(Invalidation.keys([KEY]))
        assert call.finish() == "new"


class TestInvalidatedElsewhere:
    def test_what_process_memory_has_is_told_to_be_invalid(
        self, ours: Process, theirs: Process, clock: ManualClock, tiers: list[MemoryTier]
    ) -> None:
        ours.get(KEY, lambda: "old")
        theirs.invalidate(Invalidation.keys([KEY]))
        tiers[0].remove(ours.request(KEY).key)
        clock.advance(BOUND)
        ours.events.clear()
        assert ours.get(KEY, lambda: "new") == "new"
        assert ours.seen(Miss) == [Miss("thing", KEY, "invalidated")]

    def test_what_is_past_its_ttl_as_well_is_told_to_have_expired(
        self, ours: Process, theirs: Process, clock: ManualClock, tiers: list[MemoryTier]
    ) -> None:
        brief = plan(ttl=10.0)
        ours.get(KEY, lambda: "old", plan=brief)
        theirs.invalidate(Invalidation.keys([KEY]))
        tiers[0].remove(ours.request(KEY).key)
        clock.advance(10.0)
        ours.events.clear()
        assert ours.get(KEY, lambda: "new", plan=brief) == "new"
        assert ours.seen(Miss) == [Miss("thing", KEY, "expired")]

    def test_a_value_that_expires_just_now_is_not_served(
        self, ours: Process, theirs: Process, clock: ManualClock
    ) -> None:
        theirs.set(KEY, "old", ttl=10.0)
        clock.advance(10.0)
        assert ours.peek(KEY) is MISSING


class TestSetMeanwhile:
    """What a set stores is there before the set has returned; who reads it then and is told only later finds it."""

    def looking(self, process: Process) -> Call:
        request = process.request(KEY)
        look = flows.peek_many(process.engine, [request], counted=True)
        return Call(process.engine, look, lambda found: MISSING if found[0] is None else found[0].value)

    def test_elsewhere_and_told_while_it_travels_it_is_found(self, ours: Process, theirs: Process) -> None:
        linked(ours)
        theirs.set(KEY, 2)
        (told,) = [one.renew for one in theirs.ways[0].operations if isinstance(one, Capture)]
        call = self.looking(ours).after(Fetch)
        ours.engine.signalled(told)
        assert call.finish() == 2
        assert not ours.seen(Miss)
        assert ours.peek(KEY) == 2
        assert ours.ways[0].count(Fetch) == 2, "the last one was a hit in memory"

    def test_here_while_it_travels_the_new_one_is_found(self, ours: Process, theirs: Process) -> None:
        theirs.set(KEY, 1)
        call = self.looking(ours).after(Fetch)
        ours.set(KEY, 2)
        assert call.finish() == 2

    def test_an_invalidation_leaves_nothing_to_be_found(self, ours: Process, theirs: Process) -> None:
        theirs.set(KEY, 1)
        call = self.looking(ours).after(Fetch)
        ours.invalidate(Invalidation.keys([KEY]))
        assert call.finish() is MISSING
        assert [event.reason for event in ours.seen(Miss)] == ["invalidated"]

    def test_what_is_told_of_at_every_answer_is_given_up(self, ours: Process, theirs: Process) -> None:
        linked(ours)
        theirs.set(KEY, 1)
        call = self.looking(ours)
        for _ in range(3):
            call.after(Fetch)
            ours.engine.signalled([(key_dep(KEY), new_id())])
        assert call.finish() is MISSING
        assert ours.ways[0].count(Fetch) == 3


class TestAnotherServer:
    def test_that_takes_a_set_leaves_it_pending(self, ours: Process) -> None:
        call = Call(ours.engine, flows.set_many(ours.engine, [(ours.request(KEY), 1)])).after(Capture)
        replaced(ours)
        assert call.finish() is False
        assert ours.engine.pending.blocks([key_dep(KEY)], KEY, ())

    def test_that_takes_an_invalidation_leaves_it_pending(self, ours: Process) -> None:
        call = Call(ours.engine, flows.invalidate(ours.engine, Invalidation.keys([KEY]))).after(Renew)
        replaced(ours)
        assert call.finish().delivered is False
        assert ours.engine.pending

    def test_that_takes_the_end_of_a_hold_leaves_it_pending(self, ours: Process) -> None:
        held = Invalidation.keys([KEY])
        ours.run(flows.hold(ours.engine, held, HOLDER, 5.0))
        call = Call(ours.engine, flows.invalidate(ours.engine, held, HOLDER)).after(Release)
        replaced(ours)
        assert call.finish().delivered is False
        assert ours.engine.pending

    def test_that_takes_what_was_pending_leaves_it_so(self, ours: Process, clock: ManualClock) -> None:
        ours.ways[0].down = True
        ours.invalidate(Invalidation.keys([KEY]))
        ours.ways[0].down = False
        clock.advance(60.0)
        call = Call(ours.engine, flows.deliver(ours.engine)).after(Renew)
        replaced(ours)
        assert call.finish() is False
        assert ours.engine.pending

    def test_that_answers_a_read_is_asked_once_more(self, ours: Process, theirs: Process) -> None:
        theirs.set(KEY, 1)
        call = ours.loading(KEY, never).after(Fetch)
        replaced(ours)
        assert call.finish() == 1
        assert ours.ways[0].count(Fetch) == 2

    def test_that_changes_all_the_time_counts_as_none(self, ours: Process, theirs: Process) -> None:
        theirs.set(KEY, 1)
        call = ours.loading(KEY, lambda: "loaded")
        for _ in range(3):
            call.after(Fetch)
            replaced(ours)
            call.step()
        assert call.finish() == "loaded"
        assert ours.ways[0].count(Fetch) == 3
        assert ours.seen(Miss) == [Miss("thing", KEY, "tier_down")]


class TestHeldByAWriter:
    def test_before_its_load_a_value_is_kept_nowhere(self, ours: Process, tiers: list[MemoryTier]) -> None:
        tiers[0].perform(Hold([key_dep(KEY)], HOLDER, 60.0))
        assert ours.get(KEY, lambda: 1) == 1
        assert ours.seen(NotStored) == [NotStored("thing", KEY, "held")]
        assert ours.ways[0].count(Store) == 0
        assert ours.peek(KEY) is MISSING

    def test_a_hold_that_was_lost_makes_this_process_forget_again(
        self, ours: Process, theirs: Process, clock: ManualClock
    ) -> None:
        held = Invalidation.tags(["a"])
        ours.run(flows.hold(ours.engine, held, HOLDER, 5.0))
        clock.advance(6.0)
        ours.set(KEY, 1, tags=["a"])
        assert ours.run(flows.hold(ours.engine, held, HOLDER, 5.0, again=True)) is True
        assert ours.peek(KEY, tags=["a"]) is MISSING
        assert theirs.peek(KEY, tags=["a"]) is MISSING


class TestWithoutAnAuthority:
    def test_a_hold_keeps_values_out_until_it_ends(self, clock: ManualClock) -> None:
        process = Process(clock, [])
        held = Invalidation.tags(["a"])
        process.set(KEY, 1, tags=["a"])
        assert process.run(flows.hold(process.engine, held, HOLDER, 5.0)) is True
        assert process.peek(KEY, tags=["a"]) is MISSING
        process.get(KEY, lambda: 2, tags=["a"])
        assert process.peek(KEY, tags=["a"]) is MISSING
        assert process.run(flows.hold(process.engine, held, HOLDER, 5.0, again=True)) is True
        assert process.run(flows.invalidate(process.engine, held, HOLDER)) == flows.Done(0, True, None)
        process.get(KEY, lambda: 3, tags=["a"])
        assert process.peek(KEY, tags=["a"]) == 3


class TestTheLink:
    def test_is_wanted_by_whoever_asks_the_authority(self, ours: Process) -> None:
        link = linked(ours)
        ours.get(KEY, lambda: 1)
        assert link.ensured == 1
        ours.invalidate(Invalidation.keys(["other"]))
        assert link.ensured == 2
        ours.get(KEY, never)
        assert link.ensured == 2

    def test_its_ids_are_as_old_as_its_last_word(self, ours: Process, theirs: Process, clock: ManualClock) -> None:
        linked(ours)
        tags = dependencies(KEY, "thing", ())
        theirs.set(KEY, 1, late=lambda _: ("late",))
        ours.peek(KEY, late=lambda _: ("late",))
        forget(ours)
        assert set(tags) <= ours.engine.known.keys()
        clock.advance(1.0)  # without a word
        strong = plan(strong=True)
        ours.get(KEY, never, late=lambda _: ("late",), plan=strong)
        entry = ours.engine.old(ours.request(KEY).key)
        assert entry is not None
        ours.engine.link_lost("test")
        clock.advance(BOUND - 1.0)
        assert ours.engine.fresh(entry.key) is None

    def test_vouches_for_what_it_watched_until_its_last_word_has_run_out(
        self, ours: Process, clock: ManualClock
    ) -> None:
        linked(ours)
        ours.get(KEY, lambda: 1)
        until = ours.engine.horizon.valid_until
        ours.engine.link_lost("test")
        ours.ways[0].down = True
        clock.advance(until - clock.monotonic() - 0.01)
        assert ours.get(KEY, never) == 1
        assert ours.engine.counters("thing").hits == {"memory": 1}
        clock.advance(0.01)
        assert ours.get(KEY, lambda: 2) == 2

    def test_and_no_longer_than_that(self, ours: Process, clock: ManualClock) -> None:
        linked(ours)
        ours.get(KEY, lambda: 1)
        until = ours.engine.horizon.valid_until
        ours.engine.link_lost("test")
        ours.ways[0].down = True
        clock.advance(until - clock.monotonic())
        assert ours.get(KEY, lambda: 2) == 2


class TestTheClockOfTheAuthority:
    @pytest.fixture
    def process(self, ours: Process) -> Process:
        way = ours.ways[0]
        way.has_clock = True  # type: ignore[misc]  # a tier says so in its class
        perform = way.tier.perform
        ours.skew = 1000.0  # type: ignore[attr-defined]  # of this test

        def with_clock(operation: Any) -> Any:
            if isinstance(operation, ReadClock):
                return ours.clock.time() + ours.skew  # type: ignore[attr-defined]  # see above
            return perform(operation)

        way.tier.perform = with_clock  # type: ignore[method-assign]  # of this test alone
        return ours

    def test_is_read_before_anything_else_and_gone_by(self, process: Process, clock: ManualClock) -> None:
        process.get(KEY, lambda: 1)
        assert [type(one) for one in process.ways[0].operations][:2] == [ReadClock, Fetch]
        assert process.engine.wall() == pytest.approx(clock.time() + 1000.0)
        process.get("vm:2", lambda: 1)
        assert process.ways[0].count(ReadClock) == 1

    def test_is_halfway_between_the_question_and_the_answer(self, process: Process, clock: ManualClock) -> None:
        call = process.loading(KEY, lambda: 1).after(ReadClock)
        clock.advance(2.0)
        call.finish()
        assert process.engine.wall() == pytest.approx(clock.time() + 999.0)

    def test_is_asked_again_where_it_did_not_answer(self, process: Process, clock: ManualClock) -> None:
        process.ways[0].down = True
        process.get(KEY, lambda: 1)
        process.ways[0].down = False
        assert process.engine.wall() == clock.time()
        clock.advance(60.0)
        process.get("vm:2", lambda: 1)
        assert process.engine.wall() == pytest.approx(clock.time() + 1000.0)


class TestReplicas:
    @pytest.mark.parametrize("enough", [True, False])
    def test_their_answer_is_passed_on(self, ours: Process, enough: bool) -> None:
        invalidation = Invalidation.keys([KEY])
        invalidation.replicas = 2
        call = Call(ours.engine, flows.invalidate(ours.engine, invalidation)).before(Renew)
        call._answer = enough, None
        assert call.finish() == flows.Done(0, True, enough)


class TestSeveralWays:
    def test_a_batch_loads_what_the_cache_may_not_answer_beside_what_it_may(self, ours: Process) -> None:
        ours.set("b", "cached")
        requests = [ours.request(key) for key in ("a", "b", "c")]
        requests[0].excluded = True
        loads: list[list[str]] = []

        def load(some: Any) -> Load:
            loads.append([request.logical for request in some])
            return Load(lambda: {request.subject: "loaded" for request in some})

        entries = ours.run(flows.get_many(ours.engine, requests, load))
        assert [entry.value for entry in entries] == ["loaded", "cached", "loaded"]
        assert sorted(loads) == [["a"], ["c"]]
        assert ours.seen(Miss) == [Miss("thing", "a", "condition"), Miss("thing", "c", "cold")]
        assert ours.peek("a") is MISSING
        assert ours.peek("c") == "loaded"

    def test_a_counted_look_says_which_of_several_it_may_not_have(self, ours: Process) -> None:
        ours.set("b", "cached")
        requests = [ours.request(key) for key in ("a", "b", "c")]
        requests[0].excluded = True
        ours.events.clear()
        entries = ours.run(flows.peek_many(ours.engine, requests, counted=True))
        assert [None if entry is None else entry.value for entry in entries] == [None, "cached", None]
        assert sorted(miss.reason for miss in ours.seen(Miss)) == ["cold", "condition"]
        assert ours.engine.counters("thing").misses == {"condition": 1, "cold": 1}
        ours.events.clear()
        ours.run(flows.peek_many(ours.engine, requests))
        assert ours.events == []

    def test_a_batch_that_is_refreshed_is_loaded_in_one_call_and_stored(self, ours: Process) -> None:
        requests = [ours.request(key) for key in ("a", "b")]
        loads: list[list[str]] = []

        def load(some: Any) -> Load:
            loads.append([request.logical for request in some])
            return Load(lambda: {request.subject: "new" for request in some})

        ours.set("a", "old")
        with BypassBlock(ours.engine.bypass, refresh=True):
            assert {flows.way(ours.engine, request) for request in requests} == {"refresh"}
            entries = ours.run(flows.get_many(ours.engine, requests, load))
            assert ours.run(flows.peek_many(ours.engine, requests, counted=True)) == [None, None]
        assert [entry.value for entry in entries] == ["new", "new"]
        assert loads == [["a", "b"]]
        assert [miss.reason for miss in ours.seen(Miss)] == ["bypassed"] * 4
        assert ours.engine.counters("thing").misses == {"bypassed": 4}
        assert (ours.peek("a"), ours.peek("b")) == ("new", "new")

    def test_a_key_by_itself_goes_past_too(self, ours: Process) -> None:
        ours.set(KEY, "cached")
        request = ours.request(KEY, lambda: "loaded")
        request.excluded = True
        assert flows.way(ours.engine, request) == "condition"
        assert ours.run(flows.get_or_load(ours.engine, request)).value == "loaded"
        assert ours.peek(KEY) == "cached"


class TestRefreshing:
    """Inside `bypassed(refresh=True)` what is loaded is stored, under the ids that it had to be expected to have."""

    def refreshed(self, process: Process, request: Request) -> Any:
        call = Call(
            process.engine,
            around(process.engine, [request], None, "bypassed", refresh=True),
        )
        return call.finish()

    def late(self, value: Any) -> tuple[str, ...]:
        return (f"node:{value}",)

    def test_the_tags_of_the_last_value_are_foreseen(self, ours: Process, theirs: Process) -> None:
        ours.get(KEY, lambda: "a", late=self.late)
        ours.ways[0].operations.clear()
        self.refreshed(ours, ours.request(KEY, lambda: "a", late=self.late))
        capture, store = ours.ways[0].operations
        assert isinstance(capture, Capture)
        assert "t:node:a" in capture.deps
        assert isinstance(store, Store)
        assert theirs.peek(KEY, late=self.late) == "a"

    def test_what_is_pending_is_not_stored_in_the_shared_tier(self, ours: Process, theirs: Process) -> None:
        ours.ways[0].down = True
        ours.invalidate(Invalidation.keys([KEY]))
        ours.ways[0].down = False
        self.refreshed(ours, ours.request(KEY, lambda: 1))
        assert ours.ways[0].count(Store) == 0
        self.refreshed(ours, ours.request("vm:2", lambda: 2))
        assert theirs.peek("vm:2") == 2

    def test_a_miss_is_told_and_counted_for_what_it_is(self, ours: Process) -> None:
        self.refreshed(ours, ours.request(KEY, lambda: 1))
        assert ours.events[0] == Miss("thing", KEY, "bypassed")
        assert ours.engine.counters("thing").misses == {"bypassed": 1}

    def test_without_it_nothing_is_stored_or_asked(self, ours: Process) -> None:
        flow = around(ours.engine, [ours.request(KEY, lambda: 1)], None, "bypassed")
        (entry,) = ours.run(flow)
        assert entry.value == 1
        assert ours.ways[0].operations == []
        assert ours.peek(KEY) is MISSING


class TestInShadow:
    def shadow(self, **options: Any) -> Any:
        return plan(shadow=1.0, **options)

    def test_what_the_tiers_lack_is_stored_and_what_they_have_is_left_alone(
        self, ours: Process, theirs: Process
    ) -> None:
        theirs.set("a", 1)
        requests = [ours.request(key, lambda: 1, plan=self.shadow()) for key in ("a", "b")]
        assert [entry.value for entry in ours.run(flows.get_many(ours.engine, requests))] == [1, 1]
        counters = ours.engine.counters("thing")
        assert (counters.shadow_hits, counters.shadow_misses) == ({"redis": 1}, 1)
        assert (counters.hits, counters.misses) == ({}, {"shadow": 2})
        assert ours.seen(Miss) == [Miss("thing", "a", "shadow"), Miss("thing", "b", "shadow")]
        assert [event.key for event in ours.seen(Stored)] == ["b"]
        assert ours.seen(Hit) == []

    def test_a_strong_plan_tries_what_the_authority_says(self, ours: Process, theirs: Process) -> None:
        made = self.shadow(strong=True)
        ours.run(flows.get_or_load(ours.engine, ours.request(KEY, lambda: 1, plan=made)))
        theirs.invalidate(Invalidation.keys([KEY]))
        ours.run(flows.get_or_load(ours.engine, ours.request(KEY, lambda: 1, plan=made)))
        assert ours.engine.counters("thing").shadow_hits == {}
        assert ours.engine.counters("thing").shadow_misses == 2


def test_who_waits_for_a_flight_that_fails_gets_its_error(ours: Process) -> None:
    error = LookupError("no such thing")

    def fail() -> Any:
        raise error

    first = ours.loading(KEY, fail).before(Load)
    second = ours.loading(KEY, never)
    while not second.stuck:
        second.step()
    for call in (first, second):
        with pytest.raises(LookupError) as caught:
            call.finish()
        assert caught.value is error
    assert ours.engine.counters("thing").joined == 1


def test_the_log_is_read_when_its_head_has_moved_and_not_before(ours: Process, theirs: Process) -> None:
    theirs.set(KEY, 1)
    theirs.set("vm:2", 2)
    ours.peek(KEY)
    ours.peek("vm:2")
    assert ours.ways[0].count(ReadRules) == 1
    theirs.invalidate(Invalidation.pattern("*:1"))
    forget(ours)
    assert ours.peek("vm:2") == 2, "no rule hits it"
    assert ours.peek(KEY) is MISSING
    assert ours.ways[0].count(ReadRules) == 2


def test_an_id_is_never_used_twice(ours: Process) -> None:
    for _ in range(3):
        ours.invalidate(Invalidation.keys([KEY]))
    ids = [marker_id for one in ours.ways[0].operations if isinstance(one, Renew) for _, marker_id in one.markers]
    assert len({*ids, new_id()}) == 4
    assert ours.ways[0].operations[0] == Renew([(key_dep(KEY), ANY)], ANY, [], 0, obeyed=True)


class TestWithoutProcessMemory:
    @pytest.fixture
    def process(self, ours: Process) -> Process:
        ours.engine.memory = None
        return ours

    def test_an_invalidation_removes_nothing_here(self, process: Process) -> None:
        assert process.run(flows.invalidate(process.engine, Invalidation.keys([KEY]))) == flows.Done(0, True, None)

    @EVERY_WAY
    def test_what_is_invalidated_while_it_loads_is_kept_nowhere(
        self, process: Process, invalidation: Invalidation
    ) -> None:
        call = process.loading(KEY, lambda: "old", tags=["a", "b"]).after(Load)
        process.invalidate(invalidation)
        assert call.finish() == "old"
        assert process.peek(KEY, tags=["a", "b"]) is MISSING

    def test_a_value_in_its_grace_answers_for_an_error(self, process: Process, clock: ManualClock) -> None:
        def fail() -> Any:
            raise LookupError

        graceful = plan(ttl=10.0, grace=600.0)
        process.get(KEY, lambda: "old", plan=graceful)
        clock.advance(11.0)
        assert process.get(KEY, fail, plan=graceful) == "old"
        call = process.loading(KEY, fail, plan=graceful).before(Load)
        process.invalidate(Invalidation.keys([KEY]))
        with pytest.raises(LookupError):
            call.finish()

    def test_values_are_told_to_be_kept_where_they_are(self, process: Process) -> None:
        process.get(KEY, lambda: 1)
        assert process.seen(Stored) == [Stored("thing", KEY, ("redis",))]
        assert process.get(KEY, never) == 1


def test_the_end_of_a_hold_is_known_to_be_ones_own(ours: Process) -> None:
    """Its signal comes back over the link, and must not cost what was stored since."""
    linked(ours)
    held = Invalidation.keys([KEY])
    ours.run(flows.hold(ours.engine, held, HOLDER, 5.0))
    ours.run(flows.invalidate(ours.engine, held, HOLDER))
    (release,) = [one for one in ours.ways[0].operations if isinstance(one, Release)]
    ours.get(KEY, lambda: 1)
    ours.engine.signalled([*release.markers, (key_dep(KEY), HOLDER)])
    assert ours.get(KEY, never) == 1
    ours.engine.signalled([(key_dep(KEY), new_id())])
    assert ours.peek(KEY) == 1, "asked about once more"
