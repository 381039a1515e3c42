"""Soft and hard time-outs of loaders: who waits for how long, what answers instead, and what becomes of the load."""

from __future__ import annotations

import asyncio
import contextvars
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from flows.harness import BOUND, MISSING, Invalidation, MemoryTier, Process, plan, until
from servers import wait_until

from novacron_cache import Cache, CacheModel, CacheSettings, DeclarationError, LoaderTimeout
from novacron_cache.events import Event, LoadFailed, LoadOverdue, NotStored, Stored
from novacron_cache.flows import patience
from novacron_cache.flows.reading import Found
from novacron_cache.testing import ManualClock

SOFT, HARD = 0.05, 0.15


class Source:
    """What a loader reads: at once, or when it is let go."""

    def __init__(self) -> None:
        self.value = "first"
        self.calls = 0
        self.cancelled = 0
        self.go = threading.Event()
        self.go.set()
        self.started = threading.Event()

    def read(self) -> str:
        value = self.value
        self.calls += 1
        self.started.set()
        assert self.go.wait(10)
        return value

    async def aread(self) -> str:
        value = self.value
        self.calls += 1
        self.started.set()
        try:
            await until(self.go.is_set)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return value


@pytest.fixture
def source() -> Iterator[Source]:
    source = Source()
    yield source
    source.go.set()


@pytest.fixture
def cache(clock: ManualClock) -> Iterator[Cache]:
    with Cache(CacheSettings(background_threads=2), clock=clock) as cache:
        yield cache


@pytest.fixture
def events(cache: Cache) -> list[Event]:
    seen: list[Event] = []
    cache.on("*", seen.append)
    return seen


def of(events: list[Event], kind: type[Event]) -> list[Any]:
    return [event for event in events if isinstance(event, kind)]


def expired(cache: Cache, clock: ManualClock, source: Source, **options: Any) -> Any:
    """Return a function whose value is past its ttl, within its grace, and whose loader hangs."""

    @cache.cached(str, key="key", ttl=10, grace=600, **options)
    def read() -> str:
        return source.read()

    assert read() == "first"
    clock.advance(11)
    source.value = "second"
    source.go.clear()
    return read


# -- soft -------------------------------------------------------------------------------------------------------------


def test_after_the_soft_timeout_the_stale_value_answers_and_the_load_completes_behind_it(
    cache: Cache, clock: ManualClock, source: Source, events: list[Event]
) -> None:
    read = expired(cache, clock, source, soft_timeout=SOFT)
    began = time.monotonic()
    assert read() == "first"
    assert time.monotonic() - began >= SOFT
    assert [event.seconds for event in of(events, LoadOverdue)] == [SOFT]
    assert cache.stats().overdue == 1
    source.go.set()
    wait_until(lambda: len(of(events, Stored)) == 2)
    clock.advance(1.1)  # what answered meanwhile was to answer for a second
    assert read() == "second"
    assert source.calls == 2


def test_a_load_that_is_quicker_than_its_soft_timeout_answers_itself(
    cache: Cache, clock: ManualClock, source: Source
) -> None:
    read = expired(cache, clock, source, soft_timeout=30)
    source.go.set()
    assert read() == "second"
    assert cache.stats().overdue == 0


def test_what_is_invalidated_while_its_load_is_behind_is_not_brought_back(
    cache: Cache, clock: ManualClock, source: Source, events: list[Event]
) -> None:
    read = expired(cache, clock, source, soft_timeout=SOFT)
    assert read() == "first"
    cache.invalidate("key")
    source.value = "third"
    source.go.set()
    wait_until(lambda: [event.reason for event in of(events, NotStored)] == ["invalidated"])
    assert read() == "third"


def test_a_stale_value_that_was_invalidated_meanwhile_does_not_answer(
    cache: Cache, clock: ManualClock, source: Source
) -> None:
    soft = 1.5
    read = expired(cache, clock, source, soft_timeout=soft)
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(read)
        assert source.started.wait(10)
        cache.invalidate("key")
        assert not answer.done()
        threading.Timer(soft + 0.2, source.go.set).start()
        assert answer.result(10) == "second"
    assert cache.stats().overdue == 0


def test_without_a_stale_value_the_soft_timeout_waits_for_the_load(cache: Cache, source: Source) -> None:
    source.go.clear()

    @cache.cached(str, key="key", grace=60, soft_timeout=SOFT)
    def read() -> str:
        return source.read()

    threading.Timer(3 * SOFT, source.go.set).start()
    assert read() == "first"


def test_calls_that_come_while_a_load_is_overdue_are_answered_without_waiting_and_load_nothing(
    cache: Cache, clock: ManualClock, source: Source
) -> None:
    soft = 1.0
    read = expired(cache, clock, source, soft_timeout=soft)
    assert read() == "first"
    for _ in range(3):
        clock.advance(1.1)
        began = time.monotonic()
        assert read() == "first"
        assert time.monotonic() - began < soft
    assert source.calls == 2


def test_threads_that_join_an_overdue_load_are_answered_with_the_stale_value(
    cache: Cache, clock: ManualClock, source: Source
) -> None:
    read = expired(cache, clock, source, soft_timeout=SOFT)
    with ThreadPoolExecutor(8) as pool:
        assert [answer.result(10) for answer in [pool.submit(read) for _ in range(8)]] == ["first"] * 8
    assert source.calls == 2


async def test_asynchronous_calls_are_answered_and_the_load_goes_on_in_a_task(
    clock: ManualClock, source: Source
) -> None:
    async with Cache(clock=clock) as cache:

        @cache.cached(str, key="key", ttl=10, grace=600, soft_timeout=SOFT)
        async def read() -> str:
            return await source.aread()

        assert await read() == "first"
        clock.advance(11)
        source.value = "second"
        source.go.clear()
        assert await asyncio.gather(*(read() for _ in range(5))) == ["first"] * 5
        assert len(cache._tasks) == 1
        source.go.set()
        await until(lambda: not cache._tasks)
        clock.advance(1.1)
        assert await read() == "second"
        assert (source.calls, source.cancelled) == (2, 0)


async def test_a_caller_that_is_cancelled_leaves_a_load_behind_that_completes(
    clock: ManualClock, source: Source
) -> None:
    async with Cache(clock=clock) as cache:

        @cache.cached(str, key="key", ttl=10, grace=600, soft_timeout=30)
        async def read() -> str:
            return await source.aread()

        await read()
        clock.advance(11)
        source.value = "second"
        source.go.clear()
        caller = asyncio.create_task(read())
        await until(lambda: source.calls == 2)
        caller.cancel()
        with pytest.raises(asyncio.CancelledError):
            await caller
        assert source.cancelled == 0
        source.go.set()
        await until(lambda: not cache._tasks)
        assert await read() == "second"
        assert source.calls == 2
        assert len(cache.engine.flights) == 0


async def test_closing_cancels_the_loads_behind(clock: ManualClock, source: Source) -> None:
    cache = Cache(clock=clock)

    @cache.cached(str, key="key", ttl=10, grace=600, soft_timeout=SOFT)
    async def read() -> str:
        return await source.aread()

    await read()
    clock.advance(11)
    source.go.clear()
    assert await read() == "first"
    await cache.aclose()
    assert source.cancelled == 1
    assert len(cache.engine.flights) == 0


def test_a_batch_is_answered_with_its_stale_values(cache: Cache, clock: ManualClock, source: Source) -> None:
    @cache.cached_many(str, key="vm:<vm>", each="vms", ttl=10, grace=600, soft_timeout=SOFT)
    def read(vms: list[str]) -> dict[str, str]:
        value = source.read()
        return dict.fromkeys(vms, value)

    assert read(["a", "b"]) == {"a": "first", "b": "first"}
    clock.advance(11)
    source.value = "second"
    source.go.clear()
    assert read(["a", "b"]) == {"a": "first", "b": "first"}
    source.go.set()
    wait_until(lambda: not len(cache.engine.flights))
    clock.advance(1.1)
    assert read(["a", "b"]) == {"a": "second", "b": "second"}
    assert source.calls == 2


def test_methods_have_time_outs_too(cache: Cache, clock: ManualClock, source: Source) -> None:
    class Host:
        @cache.cached(str, key="host", ttl=10, grace=600, soft_timeout=SOFT)
        def read(self) -> str:
            return source.read()

    host = Host()
    assert host.read() == "first"
    clock.advance(11)
    source.go.clear()
    assert host.read() == "first"
    assert cache.stats().overdue == 1


def test_a_load_behind_runs_in_a_copy_of_its_callers_context(cache: Cache, clock: ManualClock) -> None:
    user: contextvars.ContextVar[str] = contextvars.ContextVar("user")
    seen: list[str] = []

    @cache.cached(str, key="key", hard_timeout=10)
    def read() -> str:
        seen.append(user.get())
        user.set("changed")
        return "value"

    user.set("alice")
    assert read() == "value"
    assert (seen, user.get()) == (["alice"], "alice")


# -- hard -------------------------------------------------------------------------------------------------------------


def test_after_the_hard_timeout_a_synchronous_caller_gets_an_error_and_the_load_goes_on(
    cache: Cache, source: Source, events: list[Event]
) -> None:
    source.go.clear()

    @cache.cached(str, key="key:<n>", hard_timeout=HARD)
    def read(n: int) -> str:
        return source.read()

    began = time.monotonic()
    with pytest.raises(LoaderTimeout, match=r"`.*read` for key 'key:1': the loader did not return within") as caught:
        read(1)
    assert HARD <= time.monotonic() - began < 20 * HARD
    assert (caught.value.key, caught.value.seconds, caught.value.waiting) == ("key:1", HARD, False)
    assert [type(event.error) for event in of(events, LoadFailed)] == [LoaderTimeout]
    with pytest.raises(LoaderTimeout):
        read(1)  # joins the load under way, and begins none of its own
    source.go.set()
    wait_until(lambda: of(events, Stored))
    assert read(1) == "first"
    assert source.calls == 1


def test_after_the_hard_timeout_a_value_in_its_grace_answers(
    cache: Cache, clock: ManualClock, source: Source, events: list[Event]
) -> None:
    read = expired(cache, clock, source, hard_timeout=HARD)
    assert read() == "first"
    assert [event.served_stale for event in of(events, LoadFailed)] == [True]
    assert cache.stats().stale == 1


async def test_after_the_hard_timeout_an_asynchronous_loader_is_cancelled(clock: ManualClock, source: Source) -> None:
    async with Cache(clock=clock) as cache:
        source.go.clear()

        @cache.cached(str, key="key", ttl=10, grace=60, hard_timeout=HARD)
        async def read() -> str:
            return await source.aread()

        answers = await asyncio.gather(*(read() for _ in range(4)), return_exceptions=True)
        assert [type(answer) for answer in answers] == [LoaderTimeout] * 4
        assert (source.calls, source.cancelled) == (1, 1)
        assert not cache._tasks
        assert len(cache.engine.flights) == 0
        source.go.set()
        assert await read() == "first"
        clock.advance(11)
        source.go.clear()
        assert await read() == "first"  # in its grace
        assert cache.stats().stale == 1


async def test_soft_and_hard_together_end_the_load_behind_at_the_hard_one(clock: ManualClock, source: Source) -> None:
    async with Cache(clock=clock) as cache:

        @cache.cached(str, key="key", ttl=10, grace=600, soft_timeout=SOFT, hard_timeout=HARD)
        async def read() -> str:
            return await source.aread()

        await read()
        clock.advance(11)
        source.go.clear()
        assert await read() == "first"
        assert source.cancelled == 0
        await until(lambda: source.cancelled == 1)
        await until(lambda: not cache._tasks)


async def test_a_time_out_of_the_callers_own_stays_one(source: Source) -> None:
    async with Cache() as cache:
        source.go.clear()

        @cache.cached(str, key="key", hard_timeout=30)
        async def read() -> str:
            return await source.aread()

        with pytest.raises(TimeoutError):
            async with asyncio.timeout(SOFT):
                await read()
        assert source.cancelled == 1
        assert len(cache.engine.flights) == 0


async def test_a_time_out_that_the_loader_raises_is_its_own_error() -> None:
    async with Cache() as cache:

        @cache.cached(str, key="key", hard_timeout=30)
        async def read() -> str:
            raise TimeoutError("of the database")

        with pytest.raises(TimeoutError, match="of the database"):
            await read()


def test_when_no_thread_is_free_in_time_the_error_says_so_and_nothing_is_left_behind(
    cache: Cache, source: Source
) -> None:
    source.go.clear()

    @cache.cached(str, key="key:<n>", hard_timeout=HARD)
    def read(n: int) -> str:
        return source.read()

    def ask(n: int) -> LoaderTimeout:
        with pytest.raises(LoaderTimeout) as caught:
            read(n)
        return caught.value

    with ThreadPoolExecutor(3) as pool:
        errors = list(pool.map(ask, range(3)))
    assert sorted(error.waiting for error in errors) == [False, False, True]
    assert "no background thread was free" in str(next(error for error in errors if error.waiting))
    assert source.calls == 2
    source.go.set()
    wait_until(lambda: not len(cache.engine.flights))
    assert [read(n) for n in range(3)] == ["first"] * 3


def test_a_loader_that_calls_another_function_needs_no_second_thread() -> None:
    with Cache(CacheSettings(background_threads=1)) as cache:

        @cache.cached(int, key="inner:<n>", hard_timeout=20)
        def inner(n: int) -> int:
            return n

        @cache.cached(int, key="outer:<n>", hard_timeout=20)
        def outer(n: int) -> int:
            return inner(n) + inner(n + 1)

        assert outer(1) == 3


def test_each_load_of_many_has_the_hard_timeout_for_itself(cache: Cache, source: Source) -> None:
    @cache.cached(str, key="key:<n>", hard_timeout=HARD)
    def read(n: int) -> str:
        return source.read() if n == 1 else "quick"

    source.go.clear()
    with pytest.raises(LoaderTimeout, match="key:1"):
        read.many([0, 1, 2])
    assert (read.peek(0), read.peek(2)) == ("quick", "quick")


async def test_each_load_of_many_has_the_hard_timeout_for_itself_in_a_loop(source: Source) -> None:
    async with Cache() as cache:
        source.go.clear()

        @cache.cached(str, key="key:<n>", hard_timeout=HARD)
        async def read(n: int) -> str:
            return await source.aread() if n == 1 else "quick"

        with pytest.raises(LoaderTimeout, match="key:1"):
            await read.many([0, 1, 2])
        assert (await read.peek(0), await read.peek(2)) == ("quick", "quick")


def test_refresh_and_get_or_load_keep_to_the_time_outs_of_a_model(cache: Cache, source: Source) -> None:
    class State(CacheModel, key="state:<no>", hard_timeout=HARD):
        no: str

    def load(no: str = "1") -> State:
        source.read()
        return State(no=no)

    source.go.clear()
    State.entries.loader(load)
    read = cache.cached(State)(load)
    with pytest.raises(LoaderTimeout):
        cache.get_or_load("state:1", load, model=State)
    with pytest.raises(LoaderTimeout):
        read.refresh("2")
    with pytest.raises(LoaderTimeout):
        State.entries.using(cache).load("3")


def test_closing_does_not_wait_without_end_for_a_loader_that_never_returns(
    source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("novacron_cache.background.PATIENCE", 0.05)
    source.go.clear()
    cache = Cache(CacheSettings(background_threads=1))

    @cache.cached(str, key="key", hard_timeout=HARD)
    def read() -> str:
        return source.read()

    with pytest.raises(LoaderTimeout):
        read()
    cache.close()
    assert source.calls == 1


# -- declaring --------------------------------------------------------------------------------------------------------


def test_a_soft_timeout_without_grace_is_refused() -> None:
    with pytest.raises(DeclarationError, match="soft_timeout=1 needs grace"):

        class State(CacheModel, key="state:<no>", soft_timeout=1):
            no: str


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"soft_timeout": 2, "hard_timeout": 1, "grace": 60}, "must be shorter than hard_timeout=1"),
        ({"hard_timeout": 0}, "expected more than zero seconds"),
        ({"hard_timeout": "soon"}, "hard_timeout"),
        ({"max_concurrent_loads": 0}, "a whole number from 1 on"),
        ({"max_concurrent_loads": True}, "a whole number from 1 on"),
        ({"hard_time_out": 1}, "did you mean 'hard_timeout'"),
    ],
)
def test_wrong_limits_are_refused_where_they_are_declared(cache: Cache, options: dict[str, Any], says: str) -> None:
    with pytest.raises(DeclarationError, match=says):
        cache.cached(str, key="key", **options)(lambda: "value")


def test_a_synchronous_function_with_a_time_out_needs_threads_and_says_how_to_get_them() -> None:
    with Cache() as cache:

        @cache.cached(str, key="key", hard_timeout=1)
        def read() -> str:
            return "value"

        @cache.cached_many(str, key="key:<n>", each="ns", hard_timeout=1)
        def several(ns: list[int]) -> dict[int, str]:
            return {}

        for call in (read, lambda: several([1])):
            with pytest.raises(DeclarationError, match="background_threads=4"):
                call()


def test_settings_give_a_function_time_outs() -> None:
    settings = CacheSettings(background_threads=1, models={"slow": {"hard_timeout": HARD}})
    with Cache(settings) as cache:
        released = threading.Event()

        @cache.cached(bool, key="key", name="slow")
        def read() -> bool:
            return released.wait(10)

        with pytest.raises(LoaderTimeout):
            read()
        released.set()


# -- with other processes ---------------------------------------------------------------------------------------------


@pytest.fixture
def fleet(clock: ManualClock) -> tuple[Process, Process]:
    tiers = [MemoryTier(clock=clock), MemoryTier(clock=clock)]
    ours, theirs = (Process(clock, tiers, leases=True, background_threads=2) for _ in range(2))
    return ours, theirs


def test_a_load_behind_does_not_bring_back_what_another_process_invalidated(
    fleet: tuple[Process, Process], clock: ManualClock, source: Source
) -> None:
    ours, theirs = fleet
    patient = plan(ttl=10.0, grace=600.0, soft_timeout=SOFT)
    ours.get("key", source.read, plan=patient)
    clock.advance(11)
    source.value = "second"
    source.go.clear()
    assert ours.get("key", source.read, plan=patient) == "first"
    theirs.invalidate(Invalidation.keys(["key"]))
    source.go.set()
    wait_until(lambda: not len(ours.engine.flights))
    assert theirs.peek("key", plan=patient) is MISSING
    clock.advance(BOUND + 0.1)
    assert ours.peek("key", plan=patient) is MISSING


def test_a_load_behind_keeps_its_lease_and_gives_it_back(
    fleet: tuple[Process, Process], clock: ManualClock, source: Source
) -> None:
    ours, theirs = fleet
    patient = plan(ttl=10.0, grace=600.0, soft_timeout=SOFT)
    ours.get("key", source.read, plan=patient)
    clock.advance(11)
    source.value = "second"
    source.go.clear()
    assert ours.get("key", source.read, plan=patient) == "first"
    assert theirs.get("key", source.read, plan=patient) == "first"  # and begins no second load
    assert source.calls == 2
    source.go.set()
    wait_until(lambda: not len(ours.engine.flights) and not len(theirs.engine.flights))
    clock.advance(1.1)
    assert ours.get("key", source.read, plan=patient) == theirs.get("key", source.read, plan=patient) == "second"
    assert source.calls == 2


def test_waiting_for_another_processes_load_counts(
    fleet: tuple[Process, Process], clock: ManualClock, source: Source
) -> None:
    ours, theirs = fleet
    source.go.clear()
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(ours.get, "key", source.read)
        assert source.started.wait(10)
        with pytest.raises(LoaderTimeout):
            theirs.get("key", lambda: "other", plan=plan(hard_timeout=HARD))
        source.go.set()
        assert slow.result(10) == "first"


def test_a_stale_value_that_another_process_invalidated_answers_nobody_who_joins_later(
    fleet: tuple[Process, Process], clock: ManualClock, source: Source
) -> None:
    ours, theirs = fleet
    patient = plan(ttl=10.0, grace=600.0, soft_timeout=SOFT, hard_timeout=3 * HARD)
    ours.get("key", source.read, plan=patient)
    clock.advance(11)
    source.go.clear()
    assert ours.get("key", source.read, plan=patient) == "first"
    theirs.invalidate(Invalidation.keys(["key"]))
    clock.advance(1.1)  # no longer answered from memory: the ids are looked at once more
    with pytest.raises(LoaderTimeout):
        ours.get("key", source.read, plan=patient)


@pytest.mark.parametrize(("soft", "hard", "left"), [(1.0, 2.0, 1.0), (2.0, 2.0, None), (3.0, 2.0, None)])
def test_a_soft_time_out_that_an_override_put_behind_the_hard_one_is_none(
    soft: float, hard: float, left: float | None
) -> None:
    clock = ManualClock()
    ours = Process(clock, [])
    limited = plan(grace=60.0, soft_timeout=soft, hard_timeout=hard)
    ours.get("a", lambda: 1, plan=limited)
    found = Found(stale=ours.engine.old(ours.request("a", plan=limited).key))
    limits = patience.of([(ours.request("a", plan=limited), found)], 100.0)
    assert limits is not None
    assert (limits.began, limits.soft, limits.until) == (100.0, left, 102.0)
