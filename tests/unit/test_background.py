"""Threads that work behind the calls: those that load, that deliver what is pending, and that ask who is down."""

from __future__ import annotations

import gc
import logging
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from flows.harness import Process, until
from servers import wait_until

from novacron_cache import Cache, CacheSettings, cached
from novacron_cache.background import Background
from novacron_cache.delivery import Delivery
from novacron_cache.drivers import drive
from novacron_cache.effects import Aside, Begun, Fetch
from novacron_cache.events import TierDown, TierUp
from novacron_cache.recovery import Recovery
from novacron_cache.testing import ManualClock
from novacron_cache.tiers.memory import MemoryTier

PATIENCE = 10.0


def refuse(*_: Any) -> None:
    raise RuntimeError("can't start new thread")


@pytest.fixture
def background() -> Iterator[Background]:
    background = Background(2)
    yield background
    background.stop()


# -- loads behind their calls ------------------------------------------------------------------------------------------


def test_where_no_thread_is_to_be_had_nothing_is_taken(background: Background, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threading.Thread, "start", refuse)
    assert background.submit(lambda: None, lambda: None) is None


def test_where_no_further_thread_is_to_be_had_those_there_are_do_it_all(
    background: Background, monkeypatch: pytest.MonkeyPatch
) -> None:
    go, done = threading.Event(), threading.Event()

    def wait() -> None:
        go.wait(PATIENCE)

    first = background.submit(wait, lambda: None)
    monkeypatch.setattr(threading.Thread, "start", refuse)
    second = background.submit(done.set, lambda: None)
    assert first is not None
    assert second is not None
    assert not done.is_set()
    go.set()
    assert done.wait(PATIENCE)


def test_what_has_not_begun_when_it_stops_is_withdrawn_and_told_so(background: Background) -> None:
    background.limit = 1
    begun, go, ended, dropped = threading.Event(), threading.Event(), threading.Event(), threading.Event()

    def work() -> None:
        begun.set()
        go.wait(PATIENCE)

    background.submit(work, lambda: None)
    assert begun.wait(PATIENCE)

    def drop() -> None:
        dropped.set()
        go.set()

    waiting = background.submit(ended.set, drop)
    background.stop()
    assert waiting is not None
    assert dropped.is_set()
    assert waiting.done.is_set()
    assert not ended.is_set()
    assert background.submit(ended.set, lambda: None) is None
    background.stop()  # the message that ends the thread may be there still, and is nobody's job


def test_a_job_may_stop_the_background_it_runs_in(background: Background) -> None:
    stopped = threading.Event()

    def stop() -> None:
        background.stop()
        stopped.set()

    background.submit(stop, lambda: None)
    assert stopped.wait(PATIENCE)


def test_a_load_that_is_interrupted_in_the_background_ends_no_thread_and_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    process = Process(ManualClock(), [], background_threads=1)

    def interrupted() -> Any:
        raise SystemExit(3)
        yield

    def flow() -> Any:
        begun = yield Aside(interrupted(), (), lambda: None, stoppable=False)
        assert isinstance(begun, Begun)
        return begun

    with caplog.at_level(logging.ERROR):
        drive(process.engine, flow())
        wait_until(lambda: "interrupted" in caplog.text)
    done = threading.Event()
    process.engine.background.submit(done.set, lambda: None)
    assert done.wait(PATIENCE), "the thread lives"
    process.engine.background.stop()


@pytest.mark.parametrize("error", [LookupError("no"), SystemExit(3)], ids=type)
@pytest.mark.parametrize("waits", [{"hard_timeout": PATIENCE}, {"soft_timeout": PATIENCE, "grace": 60}], ids=str)
def test_what_a_loader_raises_in_the_background_comes_out_of_the_call_that_began_it_and_it_ran_once(
    error: BaseException, waits: dict[str, Any]
) -> None:
    calls: list[int] = []
    with Cache(CacheSettings(background_threads=1)) as cache:

        @cached(int, key="n:<n>", cache=cache, **waits)
        def load(n: int) -> int:
            calls.append(n)
            raise error

        with pytest.raises(type(error)):
            load(1)
        assert calls == [1]


@pytest.mark.parametrize("error", [LookupError("no"), SystemExit(3)], ids=type)
def test_what_a_bounded_loader_raises_in_its_thread_comes_out_of_the_call(error: BaseException) -> None:
    with Cache(CacheSettings(background_threads=1)) as cache:

        @cached(int, key="n:<n>", cache=cache, hard_timeout=PATIENCE)
        def load(n: int) -> int:
            raise error

        with pytest.raises(type(error)):
            load.refresh(1)


class Refreshed:
    """A function whose values are refreshed ahead of their time, and what its loader does then."""

    def __init__(self, cache: Cache) -> None:
        self.errors: list[BaseException] = []
        self.calls = 0

        @cached(int, key="n:<n>", cache=cache, ttl=10, refresh_ahead=0.5)
        def load(n: int) -> int:
            return self.answer()

        @cached(int, key="async:<n>", cache=cache, ttl=10, refresh_ahead=0.5)
        async def aload(n: int) -> int:
            return self.answer()

        self.load, self.aload = load, aload

    def answer(self) -> int:
        self.calls += 1
        if self.errors:
            raise self.errors.pop()
        return self.calls


@pytest.fixture
def refreshed(clock: ManualClock) -> Iterator[Refreshed]:
    with Cache(CacheSettings(background_threads=1), clock=clock) as cache:
        yield Refreshed(cache)


async def test_a_value_whose_refresh_fails_goes_on_until_its_ttl(refreshed: Refreshed, clock: ManualClock) -> None:
    async def aload(number: int) -> int:
        return refreshed.load(number)

    for load in (aload, refreshed.aload):
        before = refreshed.calls
        assert await load(1) == before + 1
        clock.advance(6.0)
        refreshed.errors.append(LookupError("not now"))
        assert await load(1) == before + 1
        await until(lambda: not refreshed.errors)
        assert await load(1) == before + 1
        clock.advance(4.0)
        assert await load(1) == before + 3


def test_a_value_is_served_where_no_thread_is_to_be_had_for_its_refresh(
    refreshed: Refreshed, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert refreshed.load(1) == 1
    clock.advance(6.0)
    monkeypatch.setattr(threading.Thread, "start", refuse)
    assert refreshed.load(1) == 1
    clock.advance(4.0)
    assert refreshed.load(1) == 2


def test_a_refresh_that_is_interrupted_leaves_its_thread_to_the_next_one(
    refreshed: Refreshed, clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    for number in (1, 2):
        assert refreshed.load(number) == number
    clock.advance(6.0)
    refreshed.errors.append(SystemExit(3))
    assert refreshed.load(1) == 1
    wait_until(lambda: "interrupted" in caplog.text)
    assert refreshed.load(2) == 2
    wait_until(lambda: refreshed.load(2) == 4)


def test_a_refresh_that_is_withdrawn_may_be_begun_again(refreshed: Refreshed, clock: ManualClock) -> None:
    go, cache = threading.Event(), refreshed.load.cache_controller.bind()  # type: ignore[attr-defined]  # not public
    for number in (1, 2):
        assert refreshed.load(number) == number
    begun = threading.Event()

    def work() -> None:
        begun.set()
        go.wait(PATIENCE)

    cache.engine.background.submit(work, go.set)
    assert begun.wait(PATIENCE)
    clock.advance(6.0)
    assert refreshed.load(1) == 1
    entry = cache.engine.memory.lookup(next(one.key for one in cache.engine.memory.entries() if one.logical == "n:1"))
    assert entry.refreshing
    cache.engine.background._jobs.get_nowait().withdraw()
    go.set()
    assert not entry.refreshing
    assert refreshed.calls == 2


def test_a_blocking_call_refreshes_nothing_where_no_threads_are_allowed(clock: ManualClock) -> None:
    with Cache(clock=clock) as cache:
        refreshed = Refreshed(cache)
        assert refreshed.load(1) == 1
        clock.advance(6.0)
        assert [refreshed.load(1), refreshed.load(1)] == [1, 1]
        assert cache.engine.background._threads == []
        clock.advance(4.0)
        assert refreshed.load(1) == 2


# -- delivering --------------------------------------------------------------------------------------------------------


def test_what_becomes_pending_while_the_rest_is_delivered_is_delivered_too() -> None:
    left, attempts = ["first"], []

    def attempt() -> bool:
        attempts.append(list(left))
        left.clear()
        if len(attempts) == 1:
            left.append("second")  # somebody invalidates between the answer and the look at what is pending
        return True

    delivery = Delivery(attempt, lambda: bool(left), shortest=0.001, longest=0.002)
    delivery.ensure()
    wait_until(lambda: not delivery.running)
    assert attempts == [["first"], ["second"]]


def test_a_delivery_that_gets_no_thread_begins_when_it_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    done = threading.Event()

    def attempt() -> bool:
        done.set()
        return True

    delivery = Delivery(attempt, lambda: False, shortest=0.001)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        delivery.ensure()
        assert not delivery.running
    delivery.ensure()
    assert done.wait(PATIENCE)
    delivery.stop()


# -- asking who is down ------------------------------------------------------------------------------------------------


@pytest.fixture
def process(monkeypatch: pytest.MonkeyPatch) -> Process:
    monkeypatch.setattr("novacron_cache.recovery.SHORTEST", 0.001)
    monkeypatch.setattr("novacron_cache.recovery.LONGEST", 0.002)
    clock = ManualClock()
    return Process(clock, [MemoryTier(clock=clock), MemoryTier(clock=clock)])


def down(process: Process, number: int) -> Callable[[], int]:
    """Have a tier fail until its breaker is open; return how many questions it has refused."""
    tier = process.ways[number]
    asked: list[Any] = []

    def refused(operation: Any) -> Any:
        asked.append(operation)
        return type(tier).perform(tier, operation)

    tier.down = True
    tier.perform = refused  # type: ignore[method-assign]  # of this test alone
    while not process.engine.breakers[tier.name].is_open:
        process.run(question(tier))
    return lambda: len(asked)


def question(tier: Any) -> Any:
    yield tier, Fetch(["a"])


def test_a_tier_that_is_down_is_asked_until_it_answers_and_the_others_are_left_alone(process: Process) -> None:
    recovery = Recovery(process.engine)
    asked = down(process, 0)
    before = asked()
    wait_until(lambda: asked() > before + 2)
    assert process.engine.breakers["redis"].is_open
    assert len(process.seen(TierDown)) == 1
    process.ways[0].down = False
    wait_until(lambda: not process.engine.breakers["redis"].is_open)
    assert len(process.seen(TierUp)) == 1
    assert process.ways[1].operations == []
    recovery.stop()


def test_a_forked_child_goes_on_asking_for_what_is_down_and_for_nothing_else(process: Process) -> None:
    recovery = Recovery(process.engine)
    recovery.reset()
    assert not recovery._is_asking()
    asked = down(process, 0)
    recovery.stop()
    before = asked()
    recovery.reset()
    wait_until(lambda: asked() > before)
    recovery.stop()


def test_nobody_is_asked_once_the_cache_is_gone() -> None:
    recovery = Recovery(Process(ManualClock(), []).engine)
    gc.collect()
    assert recovery._ask(), "nothing is left to be asked"
    recovery.reset()
    assert not recovery._is_asking()
