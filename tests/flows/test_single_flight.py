"""One load for however many callers: threads, tasks, both; leaders that fail, are cancelled, or need themselves."""

from __future__ import annotations

import asyncio
import threading
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from flows.harness import Invalidation, Load, ManualClock, MemoryTier, Process, until
from servers import wait_until

from novacron_cache import Cache, flows
from novacron_cache.drivers import adrive
from novacron_cache.guards import Flight, Outcome

CROWD = 64


@pytest.fixture(params=[0, 1], ids=["memory alone", "a shared tier"])
def process(request: pytest.FixtureRequest) -> Process:
    clock = ManualClock()
    return Process(clock, [MemoryTier(clock=clock) for _ in range(request.param)])


async def aget(process: Process, key: str, loader: Callable[[], Any], **options: Any) -> Any:
    request = process.request(key, loader, **options)
    return process.value(request, await adrive(process.engine, flows.get_or_load(process.engine, request)))


class Loader:
    """A loader that counts its calls and returns when the test lets it."""

    def __init__(self, value: Any = "value") -> None:
        self.value = value
        self.calls = 0
        self.started = threading.Event()
        self.release = threading.Event()

    def __call__(self) -> Any:
        self.calls += 1
        self.started.set()
        assert self.release.wait(10)
        if isinstance(self.value, BaseException):
            raise self.value
        return self.value

    async def a(self) -> Any:
        self.calls += 1
        self.started.set()
        await until(lambda: self.release.is_set())
        if isinstance(self.value, BaseException):
            raise self.value
        return self.value


_waits: list[Flight] = []


@pytest.fixture(autouse=True)
def _count_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    _waits.clear()
    wait, await_ = Flight.wait, Flight.await_

    def counted(flight: Flight, seconds: float | None = None) -> Outcome:
        _waits.append(flight)
        return wait(flight, seconds)

    async def acounted(flight: Flight, seconds: float | None = None) -> Outcome:
        _waits.append(flight)
        return await await_(flight, seconds)

    monkeypatch.setattr(Flight, "wait", counted)
    monkeypatch.setattr(Flight, "await_", acounted)


def waits() -> int:
    """Return how often a caller began to wait for a flight."""
    return len(_waits)


def test_a_crowd_of_threads_loads_once(process: Process) -> None:
    loader = Loader()
    with ThreadPoolExecutor(CROWD) as pool:
        answers = [pool.submit(process.get, "key", loader) for _ in range(CROWD)]
        wait_until(lambda: waits() == CROWD - 1)
        loader.release.set()
        assert [answer.result(10) for answer in answers] == ["value"] * CROWD
    assert loader.calls == 1
    assert process.engine.counters("thing").joined == CROWD - 1


def test_tasks_of_two_loops_and_threads_together_load_once(process: Process) -> None:
    loader = Loader()

    def in_a_loop() -> list[Any]:
        async def crowd() -> list[Any]:
            return await asyncio.gather(*(aget(process, "key", loader.a) for _ in range(CROWD // 2)))

        return asyncio.run(crowd())

    with ThreadPoolExecutor(CROWD) as pool:
        loops = [pool.submit(in_a_loop) for _ in range(2)]
        loader.started.wait(10)
        threads = [pool.submit(process.get, "key", loader) for _ in range(8)]
        wait_until(lambda: waits() == CROWD + 8 - 1)
        loader.release.set()
        assert [value for loop in loops for value in loop.result(10)] == ["value"] * CROWD
        assert [thread.result(10) for thread in threads] == ["value"] * 8
    assert loader.calls == 1


def test_every_waiter_sees_the_loaders_error(process: Process) -> None:
    loader = Loader(LookupError("no such thing"))
    with ThreadPoolExecutor(8) as pool:
        answers = [pool.submit(process.get, "key", loader) for _ in range(8)]
        wait_until(lambda: waits() == 7)
        loader.release.set()
        errors = [answer.exception(10) for answer in answers]
    assert errors == [loader.value] * 8
    assert loader.calls == 1
    assert process.get("key", lambda: "later") == "later"


@pytest.mark.parametrize("options", [{}, {"grace": 60, "soft_timeout": 30}], ids=["unbounded", "bounded"])
async def test_no_waiter_is_raised_the_frames_of_those_before_it(options: dict[str, Any]) -> None:
    loader = Loader(LookupError("no such thing"))
    depths = []

    async with Cache() as cache:

        @cache.cached(key="key", **options)
        async def load() -> str:
            return str(await loader.a())

        async def call() -> None:
            try:
                await load()
            except LookupError as error:
                depths.append(len(traceback.extract_tb(error.__traceback__)))

        calls = [asyncio.create_task(call()) for _ in range(CROWD)]
        await until(lambda: waits() >= CROWD - 1)
        loader.release.set()
        await asyncio.gather(*calls)
    assert loader.calls == 1
    assert len(depths) == CROWD
    assert max(depths) < 2 * min(depths), "each of them lengthened it for the next"


async def test_a_cancelled_leader_hands_over_to_one_other(process: Process) -> None:
    first, second = Loader("first"), Loader("second")
    leader = asyncio.create_task(aget(process, "key", first.a))
    await asyncio.sleep(0)
    await until(lambda: first.started.is_set())
    followers = [asyncio.create_task(aget(process, "key", second.a)) for _ in range(8)]
    await until(lambda: waits() == 8)
    leader.cancel()
    second.release.set()
    assert await asyncio.gather(*followers) == ["second"] * 8
    assert second.calls == 1
    with pytest.raises(asyncio.CancelledError):
        await leader
    assert len(process.engine.flights) == 0


async def test_a_cancelled_follower_harms_nobody(process: Process) -> None:
    loader = Loader()
    tasks = [asyncio.create_task(aget(process, "key", loader.a)) for _ in range(3)]
    await until(lambda: waits() == 2)
    tasks[1].cancel()
    loader.release.set()
    assert await tasks[0] == await tasks[2] == "value"
    with pytest.raises(asyncio.CancelledError):
        await tasks[1]
    assert loader.calls == 1


def test_an_interrupted_leader_hands_over(process: Process) -> None:
    first = Loader(KeyboardInterrupt())
    with ThreadPoolExecutor(8) as pool:
        leader = pool.submit(process.get, "key", first)
        first.started.wait(10)
        second = Loader("second")
        followers = [pool.submit(process.get, "key", second) for _ in range(4)]
        wait_until(lambda: waits() == 4)
        second.release.set()
        first.release.set()
        assert [follower.result(10) for follower in followers] == ["second"] * 4
        with pytest.raises(KeyboardInterrupt):
            leader.result(10)
    assert second.calls == 1


async def test_a_blocking_call_on_a_loops_thread_does_not_wait_for_that_loops_flight(process: Process) -> None:
    loader = Loader()
    task = asyncio.create_task(aget(process, "key", loader.a))
    await until(lambda: loader.started.is_set())
    assert process.get("key", lambda: "by itself") == "by itself"
    loader.release.set()
    assert await task == "value"


async def test_a_blocking_call_in_another_thread_waits_for_a_loops_flight(process: Process) -> None:
    loader = Loader()
    task = asyncio.create_task(aget(process, "key", loader.a))
    await until(lambda: loader.started.is_set())
    thread = asyncio.get_running_loop().run_in_executor(None, process.get, "key", lambda: "by itself")
    await until(lambda: waits() == 1)
    loader.release.set()
    assert await task == await thread == "value"


def test_a_loader_may_ask_for_its_own_key(process: Process) -> None:
    def loader(depth: int = 0) -> int:
        return depth if depth == 2 else process.get("key", lambda: loader(depth + 1))

    assert process.get("key", loader) == 2


async def test_an_asynchronous_loader_may_ask_for_its_own_key_even_in_a_child_task(process: Process) -> None:
    async def loader() -> str:
        return await asyncio.create_task(aget(process, "key", lambda: "inner"))

    assert await asyncio.wait_for(aget(process, "key", loader), 10) == "inner"


async def test_a_loader_may_ask_for_its_own_key_in_a_thread_of_its_context(process: Process) -> None:
    async def loader() -> str:
        return await asyncio.to_thread(process.get, "key", lambda: "inner")

    assert await asyncio.wait_for(aget(process, "key", loader), 10) == "inner"


def test_two_loaders_that_need_each_other_in_two_threads_both_end(process: Process) -> None:
    together = threading.Barrier(2)

    def loader(other: str) -> Callable[[], str]:
        def load() -> str:
            together.wait(10)
            return str(process.get(other, lambda: f"{other} alone"))

        return load

    with ThreadPoolExecutor(2) as pool:
        answers = [pool.submit(process.get, key, loader(other)) for key, other in (("a", "b"), ("b", "a"))]
        values = [answer.result(10) for answer in answers]
    assert any(value.endswith("alone") for value in values)
    assert len(process.engine.flights) == 0


async def test_two_loaders_that_need_each_other_in_two_tasks_both_end(process: Process) -> None:
    together = asyncio.Barrier(2)

    def loader(other: str) -> Callable[[], Any]:
        async def load() -> Any:
            await together.wait()
            return await aget(process, other, lambda: f"{other} alone")

        return load

    values = await asyncio.wait_for(
        asyncio.gather(aget(process, "a", loader("b")), aget(process, "b", loader("a"))), 10
    )
    assert any(value.endswith("alone") for value in values)


def test_a_read_that_begins_after_an_invalidation_does_not_share_an_older_load(process: Process) -> None:
    call = process.loading("key", lambda: "old").after(Load)
    process.invalidate(Invalidation.keys(["key"]))
    assert process.get("key", lambda: "new") == "new"
    assert call.finish() == "old"
    assert process.get("key", lambda: "newer") == "new"


def test_a_read_after_an_invalidation_of_something_else_shares_the_load(process: Process) -> None:
    call = process.loading("key", lambda: "value").after(Load)
    process.invalidate(Invalidation.keys(["other"]))
    joined = process.loading("key", lambda: "another")
    while not joined.stuck:
        joined.step()
    call.finish()
    assert joined.finish() == "value"


def test_a_call_with_its_own_loader_does_not_take_a_batch_loaders_silence_for_an_answer(process: Process) -> None:
    request = process.request("key")
    released, started = threading.Event(), threading.Event()

    def batch(_keys: Any) -> Load:
        def load() -> dict[str, Any]:
            started.set()
            assert released.wait(10)
            return {}

        return Load(load)

    with ThreadPoolExecutor(2) as pool:
        many = pool.submit(process.run, flows.get_many(process.engine, [request], batch))
        started.wait(10)
        one = pool.submit(process.get, "key", lambda: "found")
        wait_until(lambda: waits() == 1)
        released.set()
        assert many.result(10) == [None]
        assert one.result(10) == "found"


def test_several_keys_lead_some_flights_and_join_others(process: Process) -> None:
    loader = Loader("a")
    with ThreadPoolExecutor(2) as pool:
        alone = pool.submit(process.get, "a", loader)
        loader.started.wait(10)
        requests = [process.request(key, lambda key=key: f"{key} of many") for key in ("a", "b")]
        many = pool.submit(process.run, flows.get_many(process.engine, requests))
        wait_until(lambda: waits() == 1)
        assert process.get("b", lambda: "third") == "b of many"  # what it leads lands before it waits
        loader.release.set()
        entries = many.result(10)
        assert [process.value(r, e) for r, e in zip(requests, entries, strict=True)] == ["a", "b of many"]
        assert alone.result(10) == "a"


def test_an_error_among_several_keys_leaves_the_others_stored(process: Process) -> None:
    def fail() -> str:
        raise LookupError("b")

    requests = [process.request("a", lambda: "a"), process.request("b", fail), process.request("c", lambda: "c")]
    with pytest.raises(LookupError):
        process.run(flows.get_many(process.engine, requests))
    assert process.peek("a") == "a"
    assert process.peek("c") == "c"
    assert len(process.engine.flights) == 0


async def test_a_loop_that_ends_in_the_middle_of_a_load_leaves_no_flight_behind(process: Process) -> None:
    loader = Loader()

    def run() -> None:
        async def main() -> None:
            task = asyncio.create_task(aget(process, "key", loader.a))
            await until(lambda: loader.started.is_set())
            task.cancel()

        asyncio.run(main())

    await asyncio.to_thread(run)
    assert await aget(process, "key", lambda: "after") == "after"
