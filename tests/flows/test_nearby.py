"""Under the link, a key that was met before costs its payload alone, and nothing that was signalled is served."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from flows.harness import BOUND, MISSING, Fetch, Invalidation, ManualClock, MemoryTier, Process, StillLink, plan

from novacron_cache import flows
from novacron_cache.effects import Item, Store
from novacron_cache.events import Corrupt, Hit, Miss, TierFailed
from novacron_cache.requests import Plan


@pytest.fixture
def tier(clock: ManualClock) -> MemoryTier:
    return MemoryTier(clock=clock)


@pytest.fixture
def ours(clock: ManualClock, tier: MemoryTier) -> Process:
    """A process that has met the keys `a`, `b` and `c`, and whose memory has none of them any more."""
    process = Process(clock, [tier])
    process.engine.use_link(StillLink())
    process.engine.link_up(clock.monotonic() + BOUND)
    for key in ("a", "b", "c"):
        process.get(key, lambda key=key: key * 2, tags=[f"tag:{key}"], plan=brief())
        process.get(key, never, tags=[f"tag:{key}"], plan=brief())
    forget(process)
    for key in ("a", "b", "c"):
        assert process.peek(key, tags=[f"tag:{key}"]) == key * 2  # the ids are known from here on
    forget(process)
    process.events.clear()
    process.ways[0].operations.clear()
    return process


def brief() -> Plan:
    return plan(ttl=100.0, grace=50.0)


def forget(process: Process) -> None:
    """Have process memory evict everything."""
    assert process.engine.memory is not None
    process.engine.memory.clear()


def never() -> Any:
    raise AssertionError("nobody should load this")


def trips(process: Process) -> list[tuple[int, int]]:
    """Return for each fetch how many payloads and how many ids it asked for."""
    return [(len(one.keys), len(one.deps)) for one in process.ways[0].operations if isinstance(one, Fetch)]


def test_the_payload_alone_is_asked_for(ours: Process) -> None:
    assert ours.get("a", never, tags=["tag:a"]) == "aa"
    assert trips(ours) == [(1, 0)]
    assert len(ours.ways[0].operations) == 1


def test_it_is_a_hit_of_the_tier_that_answered(ours: Process, clock: ManualClock) -> None:
    before = ours.engine.counters("thing").hits["redis"]
    call = ours.loading("a", never, tags=["tag:a"]).after(Fetch)
    clock.advance(0.25)
    assert call.finish() == "aa"
    assert ours.engine.counters("thing").hits["redis"] == before + 1
    (hit,) = ours.seen(Hit)
    assert (hit.name, hit.key, hit.tier, hit.seconds) == ("thing", "a", "redis", pytest.approx(0.25))


def test_each_such_hit_is_told_and_counted(clock: ManualClock, tier: MemoryTier) -> None:
    process = Process(clock, [tier])
    process.engine.use_link(StillLink())
    process.engine.link_up(clock.monotonic() + BOUND)
    process.get("a", lambda: 1)
    for _ in range(2):
        forget(process)
        assert process.get("a", never) == 1
    assert process.engine.counters("thing").hits["redis"] == 2
    assert len(process.seen(Hit)) == 2
    assert trips(process)[-1] == (1, 0)


def test_it_is_in_process_memory_from_then_on_and_the_link_vouches_for_it(ours: Process, clock: ManualClock) -> None:
    ours.get("a", never, tags=["tag:a"])
    clock.advance(BOUND - 0.1)
    ours.engine.link_beat(clock.monotonic() + BOUND)
    clock.advance(1)  # past the bound of its own
    assert ours.get("a", never, tags=["tag:a"]) == "aa"
    assert trips(ours) == [(1, 0)]


def test_of_several_keys_those_that_were_met_are_asked_for_first_and_the_others_with_their_ids(ours: Process) -> None:
    requests = [ours.request(key, lambda: "new", tags=[f"tag:{key}"]) for key in ("a", "new", "b")]
    entries = ours.run(flows.get_many(ours.engine, requests))
    assert [entry.value for entry in entries] == ["aa", "new", "bb"]
    assert trips(ours)[0] == (2, 0)
    assert trips(ours)[1][0] == 1
    assert trips(ours)[1][1] > 0


def test_several_keys_that_were_all_met_cost_one_trip(ours: Process) -> None:
    requests = [ours.request(key, tags=[f"tag:{key}"]) for key in ("a", "b", "c")]
    entries = ours.run(flows.peek_many(ours.engine, requests))
    assert [entry.value for entry in entries] == ["aa", "bb", "cc"]
    assert trips(ours) == [(3, 0)]


def test_what_is_invalidated_while_the_payload_travels_is_not_served(ours: Process) -> None:
    call = ours.loading("a", lambda: "new", tags=["tag:a"]).after(Fetch)
    ours.invalidate(Invalidation.tags(["tag:a"]))
    assert call.finish() == "new"
    assert ours.get("a", never, tags=["tag:a"]) == "new"


def test_what_is_signalled_while_the_payload_travels_is_not_served(
    ours: Process, clock: ManualClock, tier: MemoryTier
) -> None:
    call = ours.loading("a", lambda: "new", tags=["tag:a"]).after(Fetch)
    theirs = Process(clock, [tier])
    theirs.invalidate(Invalidation.tags(["tag:a"]))
    (renewal,) = [one for one in theirs.ways[0].operations if type(one).__name__ == "Renew"]
    ours.engine.signalled(renewal.markers)
    assert call.finish() == "new"


def test_an_invalidation_of_something_else_while_the_payload_travels_changes_nothing(ours: Process) -> None:
    call = ours.loading("a", never, tags=["tag:a"]).after(Fetch)
    ours.invalidate(Invalidation.tags(["tag:b"]))
    assert call.finish() == "aa"
    assert trips(ours) == [(1, 0)]


def test_an_error_of_the_loader_is_that_of_all_who_waited(ours: Process) -> None:
    ours.ways[0].down = True
    error, loads = LookupError("gone"), []

    def fail() -> Any:
        loads.append(1)
        raise error

    first = ours.loading("a", fail, tags=["tag:a"]).before(Fetch)
    second = ours.loading("a", fail, tags=["tag:a"])
    while not second.stuck:
        second.step()
    for call in (first, second):
        with pytest.raises(LookupError):
            call.finish()
    assert loads == [1]
    assert ours.engine.counters("thing").joined == 1


def test_a_link_that_is_lost_while_the_payload_travels_vouches_for_nothing(ours: Process) -> None:
    call = ours.loading("a", never, tags=["tag:a"]).after(Fetch)
    ours.engine.link_lost("test")
    assert call.finish() == "aa"
    assert trips(ours)[1][1] > 0  # asked once more, with the ids


def test_a_tag_that_the_stored_value_has_not_makes_it_another_value(ours: Process) -> None:
    ours.engine.known["t:more"] = b"x" * 8
    assert ours.get("a", lambda: "new", tags=["tag:a", "more"]) == "new"
    assert [miss.reason for miss in ours.seen(Miss)] == ["schema"]


def test_a_value_past_its_ttl_is_loaded_anew(ours: Process, clock: ManualClock) -> None:
    clock.advance(120)  # within its grace
    ours.engine.link_beat(clock.monotonic() + BOUND)
    assert ours.get("a", lambda: "new", tags=["tag:a"], plan=brief()) == "new"
    assert [miss.reason for miss in ours.seen(Miss)] == ["expired"]


def test_a_payload_that_is_gone_is_loaded(ours: Process, tier: MemoryTier) -> None:
    tier.clear()
    assert ours.get("a", lambda: "new", tags=["tag:a"]) == "new"


@pytest.mark.parametrize("how", ["one", "several"])
def test_a_payload_that_cannot_be_read_is_said_to_be_corrupt_once(ours: Process, tier: MemoryTier, how: str) -> None:
    request = ours.request("a", lambda: "new", tags=["tag:a"])
    tier.perform(Store([Item(request.key, b"rubbish", 60.0)]))
    if how == "one":
        assert ours.run(flows.get_or_load(ours.engine, request)).value == "new"
    else:
        other = ours.request("b", never, tags=["tag:b"])
        assert [one.value for one in ours.run(flows.get_many(ours.engine, [request, other]))] == ["new", "bb"]
    (corrupt,) = ours.seen(Corrupt)
    assert (corrupt.tier, corrupt.key, corrupt.reason) == ("redis", "a", "foreign")
    assert [miss.reason for miss in ours.seen(Miss)] == ["foreign"]


@pytest.mark.parametrize("how", ["get_or_load", "get_many", "peek_many"])
def test_a_tier_that_does_not_answer_is_asked_once_and_loaded_around(ours: Process, how: str) -> None:
    ours.ways[0].down = True
    requests = [ours.request(key, lambda: "new", tags=[f"tag:{key}"]) for key in ("a", "b")]
    calls: dict[str, Callable[[], Any]] = {
        "get_or_load": lambda: [ours.run(flows.get_or_load(ours.engine, requests[0]))],
        "get_many": lambda: ours.run(flows.get_many(ours.engine, requests)),
        "peek_many": lambda: ours.run(flows.peek_many(ours.engine, requests, counted=True)),
    }
    values = [MISSING if entry is None else entry.value for entry in calls[how]()]
    assert set(values) == ({MISSING} if how == "peek_many" else {"new"})
    assert {miss.reason for miss in ours.seen(Miss)} == {"tier_down"}
    if how == "peek_many":
        assert len(ours.seen(TierFailed)) == 1


def test_a_strong_read_asks_for_the_ids(ours: Process) -> None:
    assert ours.get("a", never, tags=["tag:a"], plan=plan(strong=True)) == "aa"
    assert trips(ours)[0][1] > 0


def test_of_too_many_ids_those_that_were_learnt_first_are_forgotten_and_asked_for_again(ours: Process) -> None:
    ours.engine.most_known = 16
    for number in range(100):
        key = f"more:{number}"
        ours.get(key, lambda: "value", plan=brief())
        forget(ours)
        ours.peek(key)
        assert len(ours.engine.known) <= 16
        assert f"k:{key}" in ours.engine.known
    forget(ours)
    ours.ways[0].operations.clear()
    assert ours.get("a", never, tags=["tag:a"], plan=brief()) == "aa"
    assert trips(ours) == [(1, 6)]


@pytest.mark.parametrize(("items", "ids"), [(1, 4_100), (2_000, 12_096), (10_000, 44_096), (1_000_000, 65_536)])
def test_as_many_ids_are_remembered_as_process_memory_may_have_use_for(
    clock: ManualClock, tier: MemoryTier, items: int, ids: int
) -> None:
    assert Process(clock, [tier], max_items=items).engine.most_known == ids


def test_who_wants_the_same_key_meanwhile_waits_for_the_payload(ours: Process) -> None:
    first = ours.loading("a", never, tags=["tag:a"]).before(Fetch)
    second = ours.loading("a", never, tags=["tag:a"])
    while not second.stuck:
        second.step()
    assert (first.finish(), second.finish()) == ("aa", "aa")
    assert trips(ours) == [(1, 0)]


def test_who_waited_for_a_payload_that_is_not_there_goes_on_by_itself(ours: Process, tier: MemoryTier) -> None:
    tier.clear()
    loads: list[int] = []
    first = ours.loading("a", lambda: loads.append(1) or "new", tags=["tag:a"]).before(Fetch)
    second = ours.loading("a", lambda: loads.append(2) or "new", tags=["tag:a"])
    while not second.stuck:
        second.step()
    assert first.finish() == "new"
    assert second.finish() == "new"
    assert loads in ([1], [1, 2])


def during_decoding(process: Process, made: Plan, what: Callable[[], object]) -> None:
    """Have something happen when the next value of a plan has been decoded."""
    schema = made.schema
    load = schema.load

    def load_meanwhile(body: bytes) -> Any:
        schema.load = load
        value = load(body)
        what()
        return value

    schema.load = load_meanwhile


EVERY_WAY = pytest.mark.parametrize(
    "invalidation",
    [
        Invalidation.keys(["a"]),
        Invalidation.tags(["tag:a"]),
        Invalidation.tags(["tag:a", "more"], match_all=True),
        Invalidation.pattern("a?") + Invalidation.pattern("[a]"),
        Invalidation.model("thing"),
    ],
    ids=["key", "tag", "all tags", "rules", "model"],
)


@EVERY_WAY
@pytest.mark.parametrize("tiers", [{"memory", "redis"}, {"redis"}], ids=["with memory", "without"])
def test_what_is_invalidated_while_the_value_is_decoded_is_not_served(
    clock: ManualClock, tier: MemoryTier, invalidation: Invalidation, tiers: set[str]
) -> None:
    process = Process(clock, [tier])
    process.engine.use_link(StillLink())
    process.engine.link_up(clock.monotonic() + BOUND)
    made, tags = plan(tiers=frozenset(tiers)), ["tag:a", "more"]
    for _ in range(2):
        process.get("a", lambda: "old", tags=tags, plan=made)
        forget(process)
    process.events.clear()
    during_decoding(process, made, lambda: process.invalidate(invalidation))
    assert process.get("a", lambda: "new", tags=tags, plan=made) == "new"
    assert process.seen(Hit) == []
    assert process.engine.counters("thing").hits.total() == 1


def test_what_process_memory_has_no_room_for_is_served_all_the_same(
    ours: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ours.engine.memory, "insert", lambda entry, good: False)
    assert ours.get("a", never, tags=["tag:a"]) == "aa"
    assert trips(ours) == [(1, 0)]


def test_what_process_memory_still_has_is_asked_about_with_its_ids(ours: Process, clock: ManualClock) -> None:
    ours.get("a", never, tags=["tag:a"])
    ours.ways[0].operations.clear()
    entry = ours.engine.old(ours.request("a").key)
    assert entry is not None
    entry.deadline = clock.monotonic()
    assert ours.get("a", never, tags=["tag:a"]) == "aa"
    assert len(trips(ours)) == 1
    assert trips(ours)[0][1] > 0


def test_the_answer_is_timed(ours: Process, clock: ManualClock) -> None:
    told: list[Any] = []
    ours.engine.responded = lambda *what: told.append(what)
    requests = [ours.request(key, tags=[f"tag:{key}"]) for key in ("a", "b")]
    ours.run(flows.peek_many(ours.engine, requests))
    assert told == [("redis", 0.0, 1)] * 2
    assert [hit.key for hit in ours.seen(Hit)] == ["a", "b"]


def test_an_entry_that_the_link_does_not_vouch_for_any_more_is_as_old_as_its_last_word(
    ours: Process, clock: ManualClock
) -> None:
    beat = clock.monotonic()
    ours.engine.link_beat(beat + BOUND)
    clock.advance(1.0)
    ours.get("a", never, tags=["tag:a"])
    entry = ours.engine.old(ours.request("a").key)
    assert entry is not None
    made = plan()
    ours.engine.set_deadline(entry, made, beat)
    bound = entry.deadline
    forget(ours)
    during_decoding(ours, made, lambda: setattr(ours.engine, "_linked", False))
    ours.get("a", never, tags=["tag:a"], plan=made)
    entry = ours.engine.old(ours.request("a").key)
    assert entry is not None
    assert entry.deadline == bound == pytest.approx(beat + BOUND)


def test_a_value_that_can_be_changed_is_handed_out_anew_each_time(ours: Process) -> None:
    ours.get("list", lambda: ["x"])
    for _ in range(2):
        forget(ours)
        ours.get("list", never)
    ours.get("list", never).append("y")
    assert ours.get("list", never) == ["x"]


def test_a_value_that_expires_just_now_is_loaded(ours: Process, clock: ManualClock) -> None:
    left = 100.0
    clock.advance(left)
    ours.engine.link_beat(clock.monotonic() + BOUND)
    assert ours.get("a", lambda: "new", tags=["tag:a"], plan=brief()) == "new"


def test_a_none_is_a_value_here_too(ours: Process) -> None:
    for _ in range(3):
        assert ours.get("none", lambda: None) is None
        forget(ours)
    ours.ways[0].operations.clear()
    assert ours.get("none", never) is None
    assert trips(ours) == [(1, 0)]
