"""The straight line serves what a flow would serve and tells what a flow would tell; for all else it makes way."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator
from typing import Any

import pytest
from flows.harness import BOUND, MISSING, Fetch, Invalidation, ManualClock, MemoryTier, Process, StillLink, plan
from servers import wait_until

from novacron_cache import straight
from novacron_cache.effects import Item, Operation, Store
from novacron_cache.events import Corrupt, Hit, Loaded, Miss, TierFailed
from novacron_cache.requests import Plan, Request

TAGS = ["tag:a"]
FAR = frozenset({"redis"})

PLANS = pytest.mark.parametrize(
    "made", [plan(ttl=100.0, grace=50.0), plan(ttl=100.0, grace=50.0, tiers=FAR)], ids=["with memory", "without"]
)


class Straight(Process):
    """A process whose calls for one key take the straight line."""

    def get(self, key: str, loader: Callable[[], Any], **options: Any) -> Any:
        return self.answer(self.request(key, loader, **options))

    def answer(self, request: Request) -> Any:
        value, entry = straight.get_or_load(self.engine, request)
        return self.value(request, entry) if value is MISSING else value

    def meanwhile(self, what: Callable[[], object]) -> None:
        """Have something happen when the next payload has been read, and its reply has not come yet."""
        way = self.ways[0]
        perform = way.perform

        def and_then(operation: Operation) -> Any:
            way.perform = perform  # type: ignore[method-assign]  # as it was
            answer = perform(operation)
            what()
            return answer

        way.perform = and_then  # type: ignore[method-assign]  # of this test alone

    @property
    def trips(self) -> list[tuple[int, int]]:
        return [(len(one.keys), len(one.deps)) for one in self.ways[0].operations if isinstance(one, Fetch)]


@pytest.fixture
def tier(clock: ManualClock) -> MemoryTier:
    return MemoryTier(clock=clock)


@pytest.fixture
def ours(clock: ManualClock, tier: MemoryTier) -> Straight:
    process = Straight(clock, [tier])
    process.engine.use_link(StillLink())
    process.engine.link_up(clock.monotonic() + BOUND)
    return process


def meet(process: Straight, made: Plan, value: Any = "old", key: str = "a") -> None:
    """Have a process know all ids of a key that process memory does not hold."""
    for _ in range(2):
        process.get(key, lambda: value, tags=TAGS, plan=made)
        assert process.engine.memory is not None
        process.engine.memory.clear()
    process.events.clear()
    process.ways[0].operations.clear()


def never() -> Any:
    raise AssertionError("nobody should load this")


def hits(process: Process) -> int:
    return process.engine.counters("thing").hits["redis"]


@PLANS
def test_one_payload_is_asked_for_and_nothing_else(ours: Straight, made: Plan) -> None:
    meet(ours, made)
    before = hits(ours)
    assert ours.get("a", never, tags=TAGS, plan=made) == "old"
    assert [type(one) for one in ours.ways[0].operations] == [Fetch]
    assert ours.trips == [(1, 0)]
    assert hits(ours) == before + 1
    assert not len(ours.engine.flights)


@PLANS
def test_who_wants_to_know_is_told_how_long_it_took(ours: Straight, made: Plan, clock: ManualClock) -> None:
    meet(ours, made)
    told: list[Any] = []
    ours.engine.responded = lambda *what: told.append(what)
    ours.engine.timed = lambda tier, operation, _: told.append((tier, type(operation)))
    ours.meanwhile(lambda: clock.advance(0.25))
    ours.get("a", never, tags=TAGS, plan=made)
    assert told == [("redis", Fetch), ("redis", pytest.approx(0.25), 1)]
    (hit,) = ours.seen(Hit)
    assert (hit.name, hit.key, hit.tier, hit.seconds) == ("thing", "a", "redis", pytest.approx(0.25))


def test_what_process_memory_keeps_is_there_from_then_on(ours: Straight) -> None:
    made = plan()
    meet(ours, made)
    ours.get("a", never, tags=TAGS, plan=made)
    assert ours.get("a", never, tags=TAGS, plan=made) == "old"
    assert ours.trips == [(1, 0)]


def test_an_entry_is_made_only_where_somebody_needs_it(ours: Straight) -> None:
    near, early = plan(tiers=FAR), plan(tiers=FAR, refresh_ahead=0.5)
    for made, wanted in ((near, False), (early, True)):
        meet(ours, made)
        value, entry = straight.get_or_load(ours.engine, ours.request("a", never, tags=TAGS, plan=made))
        assert value == "old"
        assert (entry is not None) is wanted


@PLANS
def test_each_caller_gets_a_value_of_its_own_where_it_can_be_changed(ours: Straight, made: Plan) -> None:
    meet(ours, made, ["x"])
    ours.get("a", never, tags=TAGS, plan=made).append("y")
    assert ours.get("a", never, tags=TAGS, plan=made) == ["x"]


@PLANS
def test_none_is_a_value(ours: Straight, made: Plan) -> None:
    meet(ours, made, None)
    assert ours.get("a", never, tags=TAGS, plan=made) is None
    assert ours.trips == [(1, 0)]


# -- what is not served ------------------------------------------------------------------------------------------------

EVERY_WAY = pytest.mark.parametrize(
    "invalidation",
    [
        Invalidation.keys(["a"]),
        Invalidation.tags(TAGS),
        Invalidation.tags(["tag:a", "more"], match_all=True),
        Invalidation.pattern("a?") + Invalidation.pattern("[a]"),
        Invalidation.model("thing"),
    ],
    ids=["key", "tag", "all tags", "rules", "model"],
)


@EVERY_WAY
@PLANS
@pytest.mark.parametrize("when", ["it travels", "it is decoded"])
def test_what_is_invalidated_while(ours: Straight, made: Plan, invalidation: Invalidation, when: str) -> None:
    tags = ["tag:a", "more"]
    for _ in range(2):
        ours.get("a", lambda: "old", tags=tags, plan=made)
        assert ours.engine.memory is not None
        ours.engine.memory.clear()
    ours.events.clear()
    if when == "it travels":
        ours.meanwhile(lambda: ours.invalidate(invalidation))
    else:
        schema = made.schema
        load = schema.load

        def load_meanwhile(body: bytes) -> Any:
            schema.load = load
            ours.invalidate(invalidation)
            return load(body)

        schema.load = load_meanwhile
    assert ours.get("a", lambda: "new", tags=tags, plan=made) == "new"
    assert ours.seen(Hit) == []


@PLANS
def test_an_invalidation_of_something_else_meanwhile_changes_nothing(ours: Straight, made: Plan) -> None:
    meet(ours, made)
    ours.meanwhile(lambda: ours.invalidate(Invalidation.keys(["b"])))
    assert ours.get("a", never, tags=TAGS, plan=made) == "old"
    assert ours.trips == [(1, 0)]


@PLANS
@pytest.mark.parametrize(
    "what",
    [
        lambda ours: ours.engine.link_lost("test"),
        lambda ours: ours.clock.advance(BOUND + 1),
        lambda ours: setattr(ours.ways[0], "encounters", lambda: 1),
        lambda ours: setattr(ours.engine.pending, "generation", 1),
        lambda ours: ours.engine.pending.add([("k:other", b"x" * 8)]),
    ],
    ids=[
        "the link is lost",
        "its last word runs out",
        "another server is met",
        "it began another history",
        "something becomes pending",
    ],
)
def test_where_what_is_known_counts_no_more_the_ids_are_asked_for(
    ours: Straight, made: Plan, what: Callable[[Straight], object]
) -> None:
    meet(ours, made)
    ours.meanwhile(lambda: what(ours))
    assert ours.get("a", never, tags=TAGS, plan=made) == "old"
    assert ours.trips[0] == (1, 0)
    assert ours.trips[1][1] > 0


@PLANS
def test_an_id_that_was_replaced_unheard_is_not_believed(
    ours: Straight, made: Plan, clock: ManualClock, tier: MemoryTier
) -> None:
    meet(ours, made)
    theirs = Process(clock, [tier])
    theirs.invalidate(Invalidation.tags(TAGS))
    theirs.get("a", lambda: "new", tags=TAGS, plan=made)
    assert ours.get("a", never, tags=TAGS, plan=made) == "new"


@PLANS
@pytest.mark.parametrize("reason", ["cold", "expired", "schema", "foreign"])
def test_a_miss_is_told_with_its_reason(
    ours: Straight, made: Plan, clock: ManualClock, tier: MemoryTier, reason: str
) -> None:
    meet(ours, made)
    tags = TAGS
    if reason == "cold":
        tier.clear()
    elif reason == "expired":
        clock.advance(120)  # within its grace
        ours.engine.link_beat(clock.monotonic() + BOUND)
    elif reason == "schema":
        ours.engine.known["t:more"] = b"x" * 8
        tags = [*TAGS, "more"]
    else:
        tier.perform(Store([Item(ours.request("a", plan=made).key, b"rubbish", 60.0)]))
    assert ours.get("a", lambda: "new", tags=tags, plan=made) == "new"
    assert [miss.reason for miss in ours.seen(Miss)] == [reason]
    assert len(ours.seen(Corrupt)) == (reason == "foreign")
    assert len(ours.seen(Loaded)) == 1
    assert not len(ours.engine.flights)


@PLANS
def test_a_body_that_does_not_fit_is_told_to_be_of_another_schema(ours: Straight, made: Plan) -> None:
    meet(ours, made)
    load = made.schema.load

    def unfit(body: bytes) -> Any:
        raise ValueError("unfit")

    made.schema.load = unfit
    try:
        assert ours.get("a", lambda: "new", tags=TAGS, plan=made) == "new"
    finally:
        made.schema.load = load
    assert [miss.reason for miss in ours.seen(Miss)] == ["schema"]


@PLANS
def test_a_tier_that_does_not_answer_is_asked_once_and_loaded_around(ours: Straight, made: Plan) -> None:
    meet(ours, made)
    ours.ways[0].down = True
    assert ours.get("a", lambda: "new", tags=TAGS, plan=made) == "new"
    assert [miss.reason for miss in ours.seen(Miss)] == ["tier_down"]
    assert len(ours.seen(TierFailed)) <= 2  # once for the read, once for what the load would capture
    assert not len(ours.engine.flights)


@PLANS
def test_the_error_of_its_loader_is_raised(ours: Straight, made: Plan) -> None:
    meet(ours, made)
    ours.ways[0].down = True

    def fail() -> Any:
        raise LookupError("gone")

    with pytest.raises(LookupError, match="gone"):
        ours.get("a", fail, tags=TAGS, plan=made)
    assert not len(ours.engine.flights)


# -- who wants the same key --------------------------------------------------------------------------------------------


class Other(threading.Thread):
    """A call of another thread, for which others wait."""

    def __init__(self, process: Straight, made: Plan, loader: Callable[[], Any] = never) -> None:
        super().__init__()
        self._ask = lambda: process.get("a", loader, tags=TAGS, plan=made)
        self.value: Any = None
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            self.value = self._ask()
        except BaseException as error:
            self.error = error


def joins(process: Straight, other: Other) -> Callable[[], None]:
    """Return what begins a call that wants the same key, and comes back when that waits for the first."""

    def begin() -> None:
        other.start()
        key = process.request("a").key
        wait_until(lambda: not hasattr(process.engine.flights._by_key[key], "wanted"), what="the other to wait")

    return begin


@PLANS
@pytest.mark.parametrize("value", ["old", ["old"]], ids=["shared", "its own"])
def test_who_wants_the_same_key_meanwhile_is_given_the_value(ours: Straight, made: Plan, value: Any) -> None:
    meet(ours, made, value)
    other = Other(ours, made)
    ours.meanwhile(joins(ours, other))
    mine = ours.get("a", never, tags=TAGS, plan=made)
    other.join()
    assert (mine, other.value) == (value, value)
    assert mine is not other.value or mine == "old"
    assert ours.trips == [(1, 0)]
    assert ours.engine.counters("thing").joined == 1
    assert not len(ours.engine.flights)


@PLANS
def test_where_there_is_none_one_of_them_loads(ours: Straight, made: Plan, tier: MemoryTier) -> None:
    meet(ours, made)
    tier.clear()
    loads: list[str] = []
    other = Other(ours, made, lambda: loads.append("other") or "new")
    ours.meanwhile(joins(ours, other))
    assert ours.get("a", lambda: loads.append("mine") or "new", tags=TAGS, plan=made) == "new"
    other.join()
    assert other.value == "new"
    assert loads


@PLANS
def test_where_the_tier_does_not_answer_they_share_one_load(ours: Straight, made: Plan) -> None:
    meet(ours, made)
    other, loads = Other(ours, made), list[int]()
    way, begin = ours.ways[0], joins(ours, other)
    perform = way.perform

    def fails(operation: Operation) -> Any:
        way.perform = perform  # type: ignore[method-assign]  # as it was
        begin()
        way.down = True
        return perform(operation)

    way.perform = fails  # type: ignore[method-assign]  # of this test alone
    assert ours.get("a", lambda: loads.append(1) or "new", tags=TAGS, plan=made) == "new"
    other.join()
    assert other.value == "new"
    assert loads == [1]
    assert not len(ours.engine.flights)


@PLANS
@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("a bug")], ids=["interrupted", "a bug"])
def test_an_error_is_raised_and_leaves_nobody_waiting(ours: Straight, made: Plan, error: BaseException) -> None:
    meet(ours, made)
    other = Other(ours, made)
    begin = joins(ours, other)

    def fail() -> None:
        begin()
        raise error

    ours.meanwhile(fail)
    with pytest.raises(type(error)):
        ours.get("a", never, tags=TAGS, plan=made)
    other.join()
    # Only an interrupted leader gives up its lead.
    assert (other.value, other.error) == (("old", None) if isinstance(error, KeyboardInterrupt) else (None, error))
    assert not len(ours.engine.flights)


@PLANS
def test_a_key_that_somebody_is_after_is_waited_for(ours: Straight, made: Plan) -> None:
    meet(ours, made)
    first = ours.loading("a", never, tags=TAGS, plan=made).before(Fetch)
    other = Other(ours, made)
    other.start()
    flight = ours.engine.flights._by_key[ours.request("a").key]
    wait_until(lambda: flight._event is not None, what="the other to wait")
    assert first.finish() == "old"
    other.join()
    assert other.value == "old"
    assert ours.trips == [(1, 0)]


# -- what goes another way ---------------------------------------------------------------------------------------------


def test_what_process_memory_has_is_served_from_there(ours: Straight) -> None:
    ours.get("a", lambda: "old", tags=TAGS)
    ours.ways[0].operations.clear()
    assert ours.get("a", never, tags=TAGS) == "old"
    assert ours.ways[0].operations == []


def test_a_key_that_was_never_met_is_asked_for_with_its_ids(ours: Straight) -> None:
    assert ours.get("a", lambda: "new", tags=TAGS) == "new"
    assert ours.trips[0][1] > 0


def test_without_a_link_the_ids_are_asked_for(clock: ManualClock, tier: MemoryTier) -> None:
    process = Straight(clock, [tier])
    meet(process, plan())
    assert process.get("a", never, tags=TAGS) == "old"
    assert process.trips[0][1] > 0


def test_without_an_authority_process_memory_answers(clock: ManualClock) -> None:
    process = Straight(clock, [])
    assert process.get("a", lambda: "new") == "new"
    assert process.get("a", never) == "new"


def test_a_strong_read_asks_for_the_ids(ours: Straight) -> None:
    meet(ours, plan())
    assert ours.get("a", never, tags=TAGS, plan=plan(strong=True)) == "old"
    assert ours.trips[0][1] > 0


def test_in_shadow_mode_the_loader_answers(ours: Straight) -> None:
    meet(ours, plan())
    assert ours.get("a", lambda: "new", tags=TAGS, plan=plan(shadow=0.0)) == "new"


def test_a_call_that_its_condition_keeps_from_the_cache_loads(ours: Straight) -> None:
    meet(ours, plan())
    request = ours.request("a", lambda: "new", tags=TAGS)
    request.excluded = True
    assert ours.answer(request) == "new"
    assert ours.trips == []


def test_a_call_inside_a_block_that_goes_past_the_cache_loads(ours: Straight, monkeypatch: pytest.MonkeyPatch) -> None:
    meet(ours, plan())
    monkeypatch.setattr(ours.engine.bypass, "active", 1)
    monkeypatch.setattr(ours.engine.bypass, "way", lambda: "bypassed")
    assert ours.get("a", lambda: "new", tags=TAGS) == "new"
    assert ours.trips == []


def test_a_call_that_is_traced_has_its_spans(ours: Straight) -> None:
    meet(ours, plan())
    seen: list[Any] = []

    def traced(flow: Generator[Any, Any, Any]) -> Generator[Any, Any, Any]:
        seen.append(flow)
        return flow

    ours.engine.traced = traced
    assert ours.get("a", never, tags=TAGS) == "old"
    assert len(seen) == 1
