"""What the flows of a cache share: what process memory may keep and answer, and what the link's news do to that."""

from __future__ import annotations

from typing import Any

import pytest
from flows.harness import BOUND, Process

from novacron_cache import Cache, CacheSettings, cached, engine
from novacron_cache.codecs import make_pipeline
from novacron_cache.engine import Engine
from novacron_cache.entry import MISSING, Entry
from novacron_cache.events import GenerationChanged, LinkLost, LinkUp
from novacron_cache.flows.invalidating import Invalidation
from novacron_cache.link import LinkState
from novacron_cache.markers import WATCHED, key_dep, new_id
from novacron_cache.testing import ManualClock
from novacron_cache.tiers.memory import MemoryTier


class Quiet:
    """A link that says what a test has it say."""

    state = LinkState.UP

    def __init__(self) -> None:
        self.dropped: list[str] = []

    def ensure(self) -> None: ...
    def stop(self) -> None: ...
    def nudge(self) -> None: ...

    def drop(self, reason: str) -> None:
        self.dropped.append(reason)

    def barrier(self, patience: float) -> bool:
        return True

    async def abarrier(self, patience: float) -> bool:
        return True


class Sample:
    """Notes what it is told of keys, and keeps those out of fronts that it was asked to."""

    def __init__(self, *out: str) -> None:
        self.out = out
        self.seen: list[str] = []

    def keeps_out(self, entry: Entry) -> bool:
        return entry.logical in self.out

    def served(self, entry: Entry) -> None:
        self.seen.append(f"served {entry.logical}")

    def kept(self, entry: Entry) -> None:
        self.seen.append(f"kept {entry.logical}")


@pytest.fixture
def process(clock: ManualClock) -> Process:
    process = Process(clock, [MemoryTier(clock=clock)])
    process.engine.use_link(Quiet())
    process.engine.link_up(clock.monotonic() + BOUND)
    return process


def bare(clock: ManualClock, **options: Any) -> Engine:
    """Return an engine without process memory."""
    return Engine(clock=clock, memory=None, caps={"redis": 900.0}, pipeline=make_pipeline(namespace="test"), **options)


# -- what process memory keeps and answers -----------------------------------------------------------------------------


def test_with_metrics_off_calls_are_answered_and_nothing_is_counted(clock: ManualClock) -> None:
    with Cache(CacheSettings(enable_metrics=False), clock=clock) as cache:

        @cached(int, key="n:<n>", cache=cache)
        def double(n: int) -> int:
            return 2 * n

        assert [double(1), double(1), cache.get("absent")] == [2, 2, None]
        for stats in (cache.stats(), double.stats()):
            assert (sum(stats.hits.values()), sum(stats.misses.values()), stats.loads) == (0, 0, 0)


def test_a_sample_sees_what_process_memory_takes_in_and_answers(process: Process) -> None:
    process.engine.key_sample = sample = Sample()
    process.get("a", lambda: 1)
    assert sample.seen == ["kept a"]
    process.get("a", lambda: 2)
    assert sample.seen == ["kept a", "served a"]


def test_a_front_takes_what_a_sample_lets_in_and_what_need_not_be_revalidated(process: Process) -> None:
    engine, front = process.engine, {}  # type: Engine, dict[Any, Entry]
    assert engine.memory is not None
    engine.memory.register_front(front)
    for key in "abc":
        process.get(key, lambda: 1)
    entries = {key: engine.old(process.request(key).key) for key in "abc"}
    engine.key_sample = Sample("a")
    engine.attach(front, "a", entries["a"])
    engine.attach(front, "b", entries["b"])
    engine.link_lost("gone")
    engine.attach(front, "c", entries["c"])
    assert front == {}  # a loss empties fronts
    engine.link_up(process.clock.monotonic() + BOUND)
    engine.attach(front, "c", entries["c"])
    assert front == {}
    process.get("c", lambda: 2)  # asked about once more, and found valid
    engine.attach(front, "c", engine.old(process.request("c").key))
    assert set(front) == {"c"}


def test_without_process_memory_there_is_no_front_and_nothing_is_kept(clock: ManualClock) -> None:
    engine, front = bare(clock), {}  # type: Engine, dict[Any, Entry]
    engine.attach(front, "a", Entry("a", 1, expires=clock.monotonic() + 1.0))
    engine.hold_here(["k:a"])
    engine.link_lost("gone")
    assert front == {}
    assert engine.old("a") is None


def test_an_entry_is_weighed_only_where_bytes_are_bounded(clock: ManualClock) -> None:
    for bound, weighed in ((None, False), ("1mb", True)):
        with Cache(CacheSettings(memory={"max_bytes": bound}), clock=clock) as cache:
            cache.set("text", "x" * 5000)
            cache.set("list", ["x" * 5000])  # kept in its serialised form
            assert cache.engine.memory is not None
            sizes = [entry.size for entry in cache.engine.memory.entries()]
            assert [5000 <= size < 6000 for size in sizes] == [weighed, weighed], sizes


# -- what the link says ------------------------------------------------------------------------------------------------


def test_known_ids_are_bounded_and_the_oldest_are_forgotten(process: Process) -> None:
    process.engine.most_known = 3
    ids = {f"t:{number}": new_id() for number in range(5)}
    process.engine.learn(process.engine.history.seq, ids)
    assert list(process.engine.known) == ["t:2", "t:3", "t:4"]
    assert not process.engine.watched([("t:0", ids["t:0"])])
    assert process.engine.watched([("t:4", ids["t:4"])])


def test_ids_of_own_invalidations_are_bounded_but_never_by_less_than_one_invalidation(
    process: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "MAX_SENT", 4)
    first, many = [new_id() for _ in range(3)], [new_id() for _ in range(6)]
    process.engine.sending(first)
    process.engine.sending(many)
    process.get("a", lambda: 1)
    # An own signal says nothing new; one that was forgotten early costs a miss, and no more.
    process.engine.signalled([(key_dep("a"), many[0])])
    assert process.peek("a") == 1
    process.engine.sending([new_id() for _ in range(1)])
    process.engine.signalled([(key_dep("a"), first[0])])
    assert not process.engine.fresh(process.request("a").key)


def test_that_figures_are_wanted_is_told_and_concerns_no_entry(process: Process) -> None:
    told: list[bool] = []
    process.engine.on_watched = lambda: told.append(True)
    process.get("a", lambda: 1)
    process.engine.signalled([(WATCHED, new_id())])
    assert told == [True]
    assert process.peek("a") == 1
    process.engine.signalled([(WATCHED, new_id()), (key_dep("a"), new_id())])
    assert told == [True, True]
    assert process.engine.fresh(process.request("a").key) is None


def test_a_beat_that_was_under_way_when_the_link_was_lost_vouches_for_nothing(process: Process) -> None:
    engine = process.engine
    process.get("a", lambda: 1)
    engine.link_lost("gone")
    engine.link_beat(process.clock.monotonic() + BOUND)
    assert engine.horizon.valid_until == 0.0
    assert engine.fresh(process.request("a").key) is None


@pytest.mark.parametrize("linked", [True, False])
def test_another_history_has_everything_revalidated_and_is_told_once_it_is(clock: ManualClock, linked: bool) -> None:
    process = Process(clock, [MemoryTier(clock=clock)])
    link = Quiet()
    if linked:
        process.engine.use_link(link)
        process.engine.link_up(clock.monotonic() + BOUND)
    process.get("a", lambda: 1)
    assert process.engine.fresh(process.request("a").key) is not None
    before = process.engine.generation
    announce = process.engine.met_another_authority(10.0)
    assert process.engine.generation > before
    assert process.engine.fresh(process.request("a").key) is None
    assert process.seen(GenerationChanged) == []
    announce()
    assert len(process.seen(GenerationChanged)) == 1
    assert link.dropped == (["a connection leads to another history"] if linked else [])
    assert process.get("a", lambda: 2) == 1, "asked about once more, and found valid"


def test_a_cache_of_process_memory_alone_may_be_told_what_a_link_tells(clock: ManualClock) -> None:
    process = Process(clock, [])
    process.engine.link_up(clock.monotonic() + BOUND)
    process.engine.link_lost("gone")
    process.engine.met_another_authority(-1.0)()
    assert [type(event) for event in process.events] == [LinkUp, LinkLost, GenerationChanged]
    assert process.get("a", lambda: 1) == 1
    process.invalidate(Invalidation.keys(["a"]))
    assert process.peek("a") is MISSING


# -- time --------------------------------------------------------------------------------------------------------------


def test_a_clock_that_did_not_answer_is_asked_again_at_once_and_one_that_did_after_a_while(clock: ManualClock) -> None:
    engine = Process(clock, [MemoryTier(clock=clock)]).engine
    assert engine.authority_clock.is_old()
    assert not engine.authority_clock.is_old(), "said once"
    engine.authority_clock.set(clock.monotonic(), None)
    assert engine.authority_clock.is_old()
    asked = clock.monotonic()
    clock.advance(0.5)
    engine.authority_clock.set(asked, 5_000.0)
    assert engine.wall() == pytest.approx(5_000.25)
    clock.advance(1.0)
    assert engine.wall() == pytest.approx(5_001.25)
    assert not engine.authority_clock.is_old()
    clock.advance(120.0)
    assert engine.authority_clock.is_old()
