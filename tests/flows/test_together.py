"""A batch read in columns serves what a batch read key by key would serve, and nothing else."""

from __future__ import annotations

import asyncio
import tracemalloc
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from flows.batches import INVALIDATED, KEYS, Batch
from flows.harness import (
    BOUND,
    Fetch,
    Invalidation,
    Load,
    ManualClock,
    MemoryTier,
    Process,
    StillLink,
    plan,
    until,
)

from novacron_cache import flows
from novacron_cache.drivers import adrive
from novacron_cache.entry import Entry
from novacron_cache.events import Hit, Miss, TierFailed
from novacron_cache.guards import Flight, Outcome
from novacron_cache.keys import stored_text_key
from novacron_cache.markers import dependencies, new_id
from novacron_cache.requests import Request


@pytest.fixture
def kept(early: bool, clock: ManualClock, shared: MemoryTier) -> Batch:
    return Batch(clock, shared, early=early, kept=True).met()


@pytest.fixture
def other(clock: ManualClock, shared: MemoryTier) -> Process:
    return Process(clock, [shared])


def changed(batch: Batch, key: str = "d:b") -> None:
    batch.truth[key] = [key, 2]


def test_what_was_met_takes_one_trip_and_counts_and_tells_every_hit(batch: Batch) -> None:
    hits, events = batch.hits(), len(batch.process.seen(Hit))
    assert batch.read() == batch.current
    assert batch.fetched == [(len(KEYS), 0)]
    assert batch.loads == []
    assert batch.hits() - hits == len(KEYS)
    assert [event.key for event in batch.process.seen(Hit)[events:]] == KEYS


def test_nobody_shares_what_was_handed_out(batch: Batch) -> None:
    batch.read()[0].append("changed")
    assert batch.read() == batch.current


def test_no_flight_is_left_over(batch: Batch) -> None:
    assert len(batch.engine.flights) == 0


@pytest.mark.parametrize(("what", "deps"), [*INVALIDATED, pytest.param(Invalidation.pattern("*:b"), ["g"], id="rule")])
class TestInvalidatedMeanwhile:
    """What is invalidated once the call has begun is not served from a payload that was read before."""

    def test_by_another_process_before_the_reply_is_looked_at(
        self, batch: Batch, other: Process, what: Invalidation, deps: list[str]
    ) -> None:
        call = batch.reading().after(Fetch)
        changed(batch)
        other.invalidate(what)
        batch.engine.signalled([(dep, new_id()) for dep in deps])
        assert call.finish() == batch.current
        assert "d:b" in batch.loads

    def test_by_another_process_while_values_are_decoded(
        self, batch: Batch, other: Process, what: Invalidation, deps: list[str]
    ) -> None:
        def happens() -> None:
            changed(batch, "d:a")
            changed(batch)
            other.invalidate(Invalidation.keys(["d:a"]))
            other.invalidate(what)
            batch.engine.signalled([(dep, new_id()) for dep in ("k:d:a", *deps)])

        batch.during_decoding(happens, at=2)
        assert batch.read() == batch.current
        assert {"d:a", "d:b"} <= set(batch.loads)

    @pytest.mark.parametrize("at", [1, 3], ids=["before its turn", "after its turn"])
    def test_by_this_process_while_values_are_decoded(
        self, batch: Batch, what: Invalidation, deps: list[str], at: int
    ) -> None:
        def happens() -> None:
            changed(batch)
            batch.process.invalidate(what)

        batch.during_decoding(happens, at=at)
        assert batch.read() == batch.current
        assert "d:b" in batch.loads


def test_an_invalidation_of_something_else_costs_nothing(batch: Batch) -> None:
    batch.during_decoding(lambda: batch.process.invalidate(Invalidation.keys(["d:x"])))
    assert batch.read() == batch.current
    assert batch.fetched == [(len(KEYS), 0)]


def test_with_something_pending_nothing_is_believed(batch: Batch, clock: ManualClock) -> None:
    way = batch.process.ways[0]
    way.down = True
    batch.process.invalidate(Invalidation.keys(["d:b"]))
    changed(batch)
    way.down = False
    clock.advance(10.0)
    assert batch.read() == batch.current
    assert batch.loads == ["d:b"]
    assert all(deps for _, deps in batch.fetched)


@pytest.mark.parametrize(
    "happens",
    [
        lambda engine: engine.link_lost("test"),
        lambda engine: engine.met_another_authority(0.0),
        lambda engine: engine.horizon.__setattr__("valid_until", 0.0),
    ],
    ids=["link lost", "another generation", "silence past the bound"],
)
def test_nothing_is_believed_when_the_ground_has_shifted_under_the_reply(
    batch: Batch, happens: Callable[[Any], object]
) -> None:
    call = batch.reading().after(Fetch)
    happens(batch.engine)
    assert call.finish() == batch.current
    assert len(batch.fetched) > 1, "the ids were asked for"
    assert batch.loads == []


@pytest.mark.parametrize(
    "happens",
    [lambda engine: engine.link_lost("test"), lambda engine: engine.met_another_authority(0.0)],
    ids=["link lost", "another generation"],
)
def test_nothing_is_believed_when_the_ground_shifts_while_values_are_decoded(
    batch: Batch, happens: Callable[[Any], object]
) -> None:
    batch.during_decoding(lambda: happens(batch.engine), at=4)
    assert batch.read() == batch.current
    assert len(batch.fetched) > 1


def test_a_key_that_is_wanted_twice_is_read_and_nobody_is_after_it_afterwards(batch: Batch) -> None:
    # Two subjects may have one key, as two objects whose attribute it is made of.
    twice = [batch.request(key) for key in ("d:a", "d:a", "d:b")]
    found = batch.process.run(flows.look(batch.engine, twice))
    assert found == [batch.truth["d:a"], batch.truth["d:a"], batch.truth["d:b"]]
    assert not [key for key in ("d:a", "d:b") if stored_text_key("disk", key) in batch.engine.flights]


def test_a_convoy_that_a_forked_child_knows_nothing_of_ends_without_a_word(batch: Batch) -> None:
    convoy = batch.engine.flights.board_all(["d:a", "d:b"], 0)
    batch.engine.after_fork()
    flights = batch.engine.flights
    flight, leads = flights.board("d:a", 0, lambda _: True)
    assert leads
    assert flights.disband(convoy) == []
    assert flights.board("d:a", 0, lambda _: True) == (flight, False)


def test_one_that_does_not_fit_its_type_any_more_is_loaded(batch: Batch) -> None:
    load, left = batch.schema.load, [1, 1, 1]  # with the others, by itself, and on the long way

    def decode(body: bytes) -> Any:
        return left.pop() / 0 if b"d:b" in body and left else load(body)

    batch.schema.load = decode
    assert batch.read() == batch.current
    assert batch.loads == ["d:b"]


def test_one_that_has_ended_is_loaded(batch: Batch, clock: ManualClock) -> None:
    batch.process.invalidate(Invalidation.keys(["d:b"]))
    clock.advance(1.0)
    batch.plan.ttl = 60.0
    assert batch.read() == batch.current
    assert batch.loads == ["d:b"]
    batch.read()
    # A server may keep what has ended; it is the payload that says so.
    clock.advance(59.999)
    batch.engine.link_beat(clock.monotonic() + 30.0)
    assert batch.read() == batch.current
    assert batch.loads == []
    entry = batch.process.ways[0].tier.lookup(stored_text_key("disk", "d:b"))
    assert entry is not None
    entry.expires += 60.0
    clock.advance(0.001)
    assert batch.read() == batch.current
    assert batch.loads == ["d:b"]


def test_one_that_is_missing_is_loaded_and_one_that_nobody_has_is_absent(batch: Batch, shared: MemoryTier) -> None:
    shared.remove(stored_text_key("disk", "d:b"))
    shared.remove(stored_text_key("disk", "d:c"))
    del batch.truth["d:c"]
    assert batch.read() == [["d:a", 1], ["d:b", 1], None, ["d:e", 1]]
    assert batch.loads == ["d:b", "d:c"]


def test_one_that_was_never_met_leaves_the_others_their_one_trip(batch: Batch) -> None:
    batch.truth["d:new"] = ["d:new", 1]
    assert batch.read([*KEYS, "d:new"]) == [*batch.current, ["d:new", 1]]
    assert batch.fetched[0] == (len(KEYS), 0)
    assert batch.loads == ["d:new"]


def test_a_server_that_does_not_answer_is_asked_once(batch: Batch) -> None:
    asked: list[object] = []
    way = batch.process.ways[0]
    perform, way.down = way.perform, True

    def ask(operation: Any) -> Any:
        asked.append(operation)
        return perform(operation)

    way.perform = ask  # type: ignore[method-assign]  # counts what fails as well
    changed(batch)
    assert batch.read() == batch.current
    assert batch.loads == KEYS
    assert sum(isinstance(one, Fetch) for one in asked) == 1
    assert len(batch.engine.flights) == 0


class TestOthersWhoWantAKey:
    def test_get_what_the_batch_finds(self, batch: Batch) -> None:
        async def main() -> list[Any]:
            waiting = batch.reading().after(Fetch)
            single = asyncio.create_task(self._single(batch, "d:b"))
            await until(lambda: isinstance(batch.engine.flights._by_key[stored_text_key("disk", "d:b")], Flight))
            return [waiting.finish(), await single]

        assert asyncio.run(main()) == [batch.current, batch.truth["d:b"]]
        assert batch.fetched == [(len(KEYS), 0)]
        assert batch.engine.counters("disk").joined == 1
        assert len(batch.engine.flights) == 0

    def test_see_to_themselves_when_it_is_not_found(self, batch: Batch, shared: MemoryTier) -> None:
        async def main() -> Any:
            waiting = batch.reading().before(Fetch)
            single = asyncio.create_task(self._single(batch, "d:b"))
            await asyncio.sleep(0)
            shared.remove(stored_text_key("disk", "d:b"))
            waiting.flow.close()
            return await single

        assert asyncio.run(main()) == batch.truth["d:b"]
        assert len(batch.engine.flights) == 0

    def test_load_it_themselves_when_nobody_has_it(self, batch: Batch, shared: MemoryTier) -> None:
        shared.remove(stored_text_key("disk", "d:b"))

        async def main() -> list[Any]:
            waiting = batch.reading(["d:a", "d:b"]).after(Fetch)
            second = asyncio.create_task(adrive(batch.engine, batch.flow(["d:b"])))
            await until(lambda: isinstance(batch.engine.flights._by_key[stored_text_key("disk", "d:b")], Flight))
            return [waiting.finish(), await second]

        assert asyncio.run(main()) == [[["d:a", 1], ["d:b", 1]], [["d:b", 1]]]
        assert len(batch.engine.flights) == 0

    def test_are_not_given_what_was_read_before_an_invalidation_that_they_came_after(self, batch: Batch) -> None:
        waiting = batch.reading().after(Fetch)
        changed(batch)
        batch.process.invalidate(Invalidation.keys(["d:b"]))
        request = Request(
            batch.plan, stored_text_key("disk", "d:b"), "d:b", batch.tags("d:b"),
            load=Load(lambda: batch.truth["d:b"]), late_tags=lambda _: ("pool:p",),
        )  # fmt: skip
        entry = batch.process.run(flows.get_or_load(batch.engine, request))
        assert batch.process.value(request, entry) == ["d:b", 2]
        assert waiting.finish() == batch.current

    def test_fail_with_it_only_where_it_fails(self, batch: Batch) -> None:
        waiting = batch.reading().before(Fetch)
        flight, leads = batch.engine.flights.board(stored_text_key("disk", "d:b"), 1, lambda _: True)
        assert not leads
        with pytest.raises(ZeroDivisionError):
            waiting.flow.throw(ZeroDivisionError())
        assert isinstance(flight.error, ZeroDivisionError)
        assert len(batch.engine.flights) == 0

    def test_are_waited_for_by_a_batch_that_comes_later(self, batch: Batch) -> None:
        key = stored_text_key("disk", "d:b")
        flight, leads = batch.engine.flights.board(key, batch.engine.history.seq, lambda _: True)
        assert leads
        call = batch.reading()
        call.after(Fetch)
        batch.engine.flights.land(flight, Outcome.HANDED_OVER)
        assert call.finish() == batch.current
        assert batch.fetched[0] == (len(KEYS) - 1, 0)

    async def _single(self, batch: Batch, key: str) -> Any:
        request = Request(
            batch.plan, stored_text_key("disk", key), key, batch.tags(key), load=Load(self._reload),
            late_tags=lambda _: ("pool:p",),
        )  # fmt: skip
        return batch.process.value(request, await adrive(batch.engine, flows.get_or_load(batch.engine, request)))

    def _reload(self) -> Any:
        return ["d:b", 1]


def test_a_strong_plan_asks_for_ids(clock: ManualClock, shared: MemoryTier) -> None:
    batch = Batch(clock, shared)
    batch.plan = batch._plan(strong=True)
    for _ in range(3):
        assert batch.read() == batch.current
    assert all(deps for _, deps in batch.fetched)


def test_a_value_that_lacks_a_tag_of_the_call_is_not_served(clock: ManualClock, shared: MemoryTier) -> None:
    batch = Batch(clock, shared).met()
    batch.early = True
    assert batch.read() == batch.current
    assert batch.loads == KEYS


@pytest.mark.parametrize(
    "what",
    [Invalidation.keys(["d:b"]), Invalidation.tags(["pool:p"]), Invalidation.model("disk")],
    ids=["key", "late tag", "model"],
)
def test_a_payload_that_comes_back_from_before_an_invalidation_is_not_served(
    batch: Batch, shared: MemoryTier, what: Invalidation
) -> None:
    key = stored_text_key("disk", "d:b")
    entry = shared.lookup(key)
    assert entry is not None
    old = entry.value
    changed(batch)
    batch.process.invalidate(what)
    batch.met()
    entry = shared.lookup(key)
    assert entry is not None
    entry.value = old
    assert batch.read() == batch.current
    assert batch.loads == ["d:b"]


@pytest.mark.parametrize("dep", ["k:d:b", "t:pool:p", "m:disk", "n"])
def test_an_id_that_is_not_the_known_one_is_asked_about(
    batch: Batch, other: Process, shared: MemoryTier, dep: str
) -> None:
    del shared._markers[dep]
    changed(batch)
    other.engine.use_link(StillLink())
    other.engine.link_up(other.clock.monotonic() + 30.0)
    request = batch.request("d:b")
    other.set("d:b", batch.truth["d:b"], tags=request.tags, late=request.late_tags, plan=batch.plan)
    assert batch.read(["d:b", "d:a"])[0] == ["d:b", 2]
    assert len(batch.fetched) > 1
    assert "d:b" not in batch.loads


def test_the_bound_is_that_of_one_key(batch: Batch, clock: ManualClock) -> None:
    clock.advance(30.0 + BOUND)
    batch.read()
    assert all(deps for _, deps in batch.fetched), "the link has not been heard of for too long"


class TestWhatProcessMemoryKeeps:
    def test_is_in_it_from_then_on_and_told(self, kept: Batch) -> None:
        assert kept.read() == kept.current
        assert list(kept.told) == KEYS
        for key, entry in kept.told.items():
            assert kept.engine.fresh(stored_text_key("disk", key)) is entry
            assert (entry.logical, entry.name) == (key, "disk")
            assert entry.tags == (*kept.tags(key), "pool:p")
            assert [dep for dep, _ in entry.ids] == list(dependencies(key, "disk", entry.tags))
        kept.process.ways[0].operations.clear()
        assert list(kept.process.run(kept.flow())) == kept.current
        assert kept.fetched == []

    def test_is_vouched_for_by_the_link_and_lives_as_long_as_the_payload(self, kept: Batch, clock: ManualClock) -> None:
        kept.read()
        first = kept.told["d:a"]
        clock.advance(20.0)
        kept.engine.link_beat(clock.monotonic() + 30.0)
        kept.read()
        again = kept.told["d:a"]
        assert again is not first
        assert again.epoch == kept.engine.epoch
        assert again.expires == pytest.approx(first.expires)
        assert again.created == first.created

    def test_is_not_kept_when_it_is_invalidated_while_it_enters(self, kept: Batch) -> None:
        revived = kept.engine.values.revived

        def happens(*given: Any) -> Entry:
            if given[2] == "d:b" and "d:b" not in kept.loads and kept.truth["d:b"][1] == 1:
                changed(kept)
                kept.process.invalidate(Invalidation.keys(["d:b"]))
            return revived(*given)

        kept.engine.values.revived = happens  # type: ignore[method-assign]  # something happens in between
        assert kept.read() == kept.current
        assert kept.loads == ["d:b"]
        assert kept.process.peek("d:b", tags=kept.tags("d:b"), plan=kept.plan) == ["d:b", 2]

    def test_is_killed_by_a_tag_that_only_the_payload_names(self, kept: Batch, other: Process) -> None:
        kept.read()
        kept.engine.signalled([("t:pool:p", new_id())])
        assert all(not entry.alive for entry in kept.told.values())

    def test_is_one_value_for_everybody_where_nobody_can_change_it(
        self, early: bool, clock: ManualClock, shared: MemoryTier
    ) -> None:
        batch = Batch(clock, shared, early=early, kept=True, immutable=True)
        batch.truth = {key: f"value of {key}" for key in KEYS}  # type: ignore[assignment]  # another type
        batch.met()
        values = batch.read()
        for key, value in zip(KEYS, values, strict=True):
            assert batch.told[key].value is value
            assert batch.told[key].body is None

    def test_leaves_those_alone_that_are_there_already(self, kept: Batch) -> None:
        kept.read(["d:a", "d:b"])
        kept.process.ways[0].operations.clear()
        there = kept.engine.fresh(stored_text_key("disk", "d:a"))
        assert list(kept.process.run(kept.flow())) == kept.current
        assert kept.fetched == [(2, 0)]
        assert kept.engine.fresh(stored_text_key("disk", "d:a")) is there

    def test_is_the_entry_that_others_get_who_want_it_meanwhile(self, kept: Batch) -> None:
        waiting = kept.reading().after(Fetch)
        flight, leads = kept.engine.flights.board(stored_text_key("disk", "d:b"), 1, lambda _: True)
        assert not leads
        waiting.finish()
        assert flight.result is kept.told["d:b"]


class CountingLink(StillLink):
    """Counts how often it is asked to be there."""

    def __init__(self) -> None:
        self.ensured = 0

    def ensure(self) -> None:
        self.ensured += 1


def test_one_trip_wants_the_link_once(batch: Batch) -> None:
    link = CountingLink()
    batch.engine.link = link
    assert batch.read() == batch.current
    assert link.ensured == 1


def test_one_trip_is_timed_as_one_answer_for_so_many_keys(batch: Batch, clock: ManualClock) -> None:
    told: list[Any] = []
    batch.engine.responded = lambda *what: told.append(what)
    events = len(batch.process.seen(Hit))
    call = batch.reading().after(Fetch)
    clock.advance(0.25)
    assert call.finish() == batch.current
    assert told == [("redis", 0.25, len(KEYS))]
    assert batch.process.seen(Hit)[events:] == [Hit("disk", key, "redis", 0.25) for key in KEYS]


def test_where_nothing_is_found_nothing_is_timed(batch: Batch, shared: MemoryTier) -> None:
    told: list[Any] = []
    batch.engine.responded = lambda *what: told.append(what)
    for key in KEYS:
        shared.remove(stored_text_key("disk", key))
    assert batch.read() == batch.current
    assert told == []
    assert batch.loads == KEYS


def test_nobody_is_told_of_hits_who_does_not_listen(batch: Batch, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    monkeypatch.setattr(batch.engine.listeners, "heard", lambda kind: False)
    monkeypatch.setattr(batch.engine.listeners, "emit", seen.append)
    assert batch.read() == batch.current
    assert seen == []
    assert batch.hits() >= len(KEYS)


def test_what_is_not_there_is_loaded_in_one_call_told_and_put_in_its_place(batch: Batch, shared: MemoryTier) -> None:
    for key in ("d:b", "d:e"):
        shared.remove(stored_text_key("disk", key))
        changed(batch, key)
    told: list[tuple[Any, Any]] = []

    def load(requests: Sequence[Request]) -> Load:
        return Load(batch._load, ([request.subject for request in requests],))

    batch.forget()
    flow = flows.get_values(
        batch.engine, batch.wanted(KEYS), load, lambda subject, entry: told.append((subject, entry.logical))
    )
    assert batch.process.run(flow) == batch.current
    assert batch.loads == ["d:b", "d:e"]
    found = [("d:a", "d:a"), ("d:c", "d:c")] if batch.kept else []
    assert told == [*found, ("d:b", "d:b"), ("d:e", "d:e")]


def test_what_its_loader_leaves_out_is_none(batch: Batch, shared: MemoryTier) -> None:
    shared.remove(stored_text_key("disk", "d:b"))
    del batch.truth["d:b"]
    assert batch.read() == [["d:a", 1], None, ["d:c", 1], ["d:e", 1]]


def test_a_none_that_is_kept_is_served_like_any_value(clock: ManualClock, shared: MemoryTier) -> None:
    batch = Batch(clock, shared)
    batch.truth["d:b"] = None  # type: ignore[assignment]  # a loader may say so
    batch.met()
    assert batch.read()[1] is None
    assert batch.loads == []
    assert batch.fetched == [(len(KEYS), 0)]


def test_a_tier_that_does_not_answer_is_asked_once_and_everything_is_loaded(batch: Batch) -> None:
    batch.process.ways[0].down = True
    batch.process.events.clear()
    assert batch.read() == batch.current
    assert batch.loads == KEYS
    assert [miss.reason for miss in batch.process.seen(Miss)] == ["tier_down"] * len(KEYS)
    assert len(batch.process.seen(TierFailed)) == 1
    assert len(batch.engine.flights) == 0


def test_one_key_that_was_never_met_is_asked_for_with_its_ids_and_the_others_without(batch: Batch) -> None:
    batch.truth["d:new"] = ["d:new", 1]
    assert batch.read([*KEYS, "d:new"]) == [*batch.current[: len(KEYS)], ["d:new", 1]]
    assert batch.fetched[0] == (len(KEYS), 0)
    assert batch.fetched[1][0] == 1
    assert batch.fetched[1][1] > 0
    assert batch.loads == ["d:new"]


def test_a_key_that_process_memory_has_nevertheless_is_left_to_it(batch: Batch) -> None:
    call = batch.reading()
    request = Request(
        plan("disk"), stored_text_key("disk", "d:b"), "d:b", batch.tags("d:b"), load=Load(lambda: ["d:b", 1]),
        late_tags=lambda _: ("pool:p",),
    )  # fmt: skip
    batch.process.run(flows.get_or_load(batch.engine, request))
    assert batch.engine.old(request.key) is not None
    batch.process.ways[0].operations.clear()
    assert call.finish() == batch.current
    assert batch.fetched[0] == (len(KEYS) - 1, 0)


def test_an_expired_payload_is_loaded_anew_and_one_that_expires_later_is_not(
    clock: ManualClock, shared: MemoryTier
) -> None:
    batch = Batch(clock, shared)
    batch.plan = batch._plan(ttl=100.0)
    batch.met()
    batch.engine.link_beat(clock.monotonic() + 500.0)
    clock.advance(99.0)
    batch.read()
    assert batch.loads == []
    clock.advance(1.0)
    batch.read()
    assert batch.loads == KEYS


@pytest.mark.parametrize(
    ("happens", "outcome"),
    [(ZeroDivisionError(), Outcome.FAILED), (KeyboardInterrupt(), Outcome.HANDED_OVER)],
    ids=["fails", "is interrupted"],
)
def test_who_waits_for_a_batch_that_ends_is_told_how(batch: Batch, happens: BaseException, outcome: Outcome) -> None:
    waiting = batch.reading().before(Fetch)
    flight, _ = batch.engine.flights.board(stored_text_key("disk", "d:b"), 1, lambda _: True)
    with pytest.raises(type(happens)):
        waiting.flow.throw(happens)
    assert (flight.outcome, flight.error) == (outcome, happens)


def test_who_waits_for_a_batch_gets_an_entry_as_old_as_the_last_word_of_the_link(
    batch: Batch, clock: ManualClock
) -> None:
    beat = clock.monotonic()
    batch.engine.link_beat(beat + BOUND)
    clock.advance(1.0)
    waiting = batch.reading().before(Fetch)
    flight, leads = batch.engine.flights.board(stored_text_key("disk", "d:b"), 1, lambda _: True)
    assert not leads
    assert waiting.finish() == batch.current
    assert flight.outcome is Outcome.LANDED
    entry = flight.result
    assert (entry.key, entry.logical, entry.name) == (stored_text_key("disk", "d:b"), "d:b", "disk")
    if not batch.kept:  # else the link vouches for it, for as long as it is up
        assert entry.deadline == pytest.approx(beat + BOUND)
    assert batch.process.engine.hand_out(entry, batch.plan) == ["d:b", 1]


def test_what_a_first_load_takes_grows_with_its_keys_and_not_with_their_square(clock: ManualClock) -> None:
    def taken(count: int) -> float:
        batch = Batch(clock, MemoryTier(clock=clock))
        batch.truth = {f"d:{number}": [f"d:{number}", 1] for number in range(count)}
        tracemalloc.start()
        batch.read(list(batch.truth))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert len(batch.loads) == count
        return peak / count

    taken(10)
    assert taken(1000) < 2 * taken(100)
