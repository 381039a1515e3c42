"""Both drivers carry out the same flow: answers go in, errors are thrown in, and a failing tier is an answer."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Generator
from typing import Any

import pytest
from flows.harness import ManualClock, MemoryTier, Process

from novacron_cache.drivers import adrive, drive, probe
from novacron_cache.effects import DOWN, Aside, Capture, Delete, Fetch, Join, Load, LoadEach, Renew
from novacron_cache.engine import Engine
from novacron_cache.errors import CacheError, TierUnavailableError
from novacron_cache.events import TierDown, TierFailed, TierUp
from novacron_cache.guards import Leading, Outcome

Flow = Generator[Any, Any, Any]
Driver = Callable[[Engine, Flow], Awaitable[Any]]


async def blocking(engine: Engine, flow: Flow) -> Any:
    return drive(engine, flow)


@pytest.fixture(params=[blocking, adrive], ids=["drive", "adrive"])
def driver(request: pytest.FixtureRequest) -> Driver:
    return request.param  # type: ignore[no-any-return]  # a parameter


@pytest.fixture
def process(clock: ManualClock) -> Process:
    return Process(clock, [MemoryTier(clock=clock)])


def double(number: int, *, plus: int = 0) -> int:
    return 2 * number + plus


def fail() -> None:
    raise LookupError("no")


async def test_a_flow_gets_the_answers_to_what_it_yields(driver: Driver, process: Process) -> None:
    def flow() -> Flow:
        loaded = yield Load(double, (4,), {"plus": 1})
        (marker,) = yield process.ways[0], Capture(["k:a"], 10.0)
        fetched = yield process.ways[0], Fetch(["absent"], ["k:a"])
        return loaded, fetched.payloads, fetched.ids == [marker]

    assert await driver(process.engine, flow()) == (9, [None], True)


async def test_a_loaders_error_is_thrown_in_and_may_be_handled(driver: Driver, process: Process) -> None:
    def flow() -> Flow:
        try:
            yield Load(fail)
        except LookupError as error:
            return f"handled {error}"

    assert await driver(process.engine, flow()) == "handled no"


async def test_an_unhandled_error_comes_out_after_the_flow_has_cleaned_up(driver: Driver, process: Process) -> None:
    cleaned = []

    def flow() -> Flow:
        try:
            yield Load(fail)
        finally:
            cleaned.append(True)

    with pytest.raises(LookupError):
        await driver(process.engine, flow())
    assert cleaned == [True]


async def test_several_loads_give_values_and_errors_in_order(driver: Driver, process: Process) -> None:
    def flow() -> Flow:
        return (yield LoadEach([Load(double, (1,)), Load(fail), Load(double, (3,))]))

    first, second, third = await driver(process.engine, flow())
    assert (first, third) == ((2, None), (6, None))
    assert second[0] is None
    assert isinstance(second[1], LookupError)


async def test_several_loads_run_together_up_to_the_limit(process: Process) -> None:
    running, most = 0, 0

    async def load() -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0)
        running -= 1

    def flow() -> Flow:
        yield LoadEach([Load(load) for _ in range(10)], limit=4)

    await adrive(process.engine, flow())
    assert most == 4


async def test_a_failing_tier_is_an_answer_and_an_event(driver: Driver, process: Process, clock: ManualClock) -> None:
    way = process.ways[0]

    def flow() -> Flow:
        return (yield way, Fetch(["key"]))

    way.down = True
    assert [await driver(process.engine, flow()) for _ in range(4)] == [DOWN] * 4
    assert len(process.seen(TierFailed)) == 2  # then it is not asked any more
    assert [event.tier for event in process.seen(TierDown)] == ["redis"]
    way.down = False
    assert await driver(process.engine, flow()) is DOWN
    clock.advance(1.0)
    assert (await driver(process.engine, flow())).payloads == [None]
    assert [event.tier for event in process.seen(TierUp)] == ["redis"]


async def test_joining_gives_the_flights_outcome(driver: Driver, process: Process) -> None:
    flights = process.engine.flights
    flight, _ = flights.board("key", 0, lambda _: True)
    flights.land(flight, Outcome.LANDED, "value")
    flight.loop = None

    def flow() -> Flow:
        outcome = yield Join(flight)
        return outcome, flight.result

    assert await driver(process.engine, flow()) == (Outcome.LANDED, "value")


async def test_a_join_that_could_not_end_is_answered_at_once(driver: Driver, process: Process) -> None:
    flight, _ = process.engine.flights.board("key", 0, lambda _: True)

    def flow() -> Flow:
        return (yield Join(flight))

    with Leading([flight]):
        assert await driver(process.engine, flow()) is Outcome.SOLO


async def test_cancelling_a_task_is_thrown_into_the_flow(process: Process) -> None:
    cleaned = asyncio.Event()
    started = asyncio.Event()

    async def load() -> None:
        started.set()
        await asyncio.Event().wait()

    def flow() -> Flow:
        try:
            yield Load(load)
        except asyncio.CancelledError:
            cleaned.set()
            raise

    task = asyncio.create_task(adrive(process.engine, flow()))
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert cleaned.is_set()


def test_an_asynchronous_loader_in_a_blocking_call_is_an_error_that_says_what_to_do(process: Process) -> None:
    async def load() -> None: ...

    def flow() -> Flow:
        yield Load(load)

    with pytest.raises(CacheError, match="a-prefixed"):
        drive(process.engine, flow())


async def test_an_effect_nobody_knows_is_a_programming_error(driver: Driver, process: Process) -> None:
    def flow() -> Flow:
        yield "something"

    with pytest.raises(AssertionError, match="something"):
        await driver(process.engine, flow())


# -- what the drivers see to besides -----------------------------------------------------------------------------------


async def test_whoever_traces_has_every_flow_in_its_hands(driver: Driver, process: Process) -> None:
    traced: list[str] = []

    def trace(flow: Flow) -> Flow:
        traced.append("begun")
        answer = yield from flow
        traced.append("ended")
        return answer

    def flow() -> Flow:
        return (yield Load(double, (4,)))

    process.engine.traced = trace
    assert await driver(process.engine, flow()) == 8
    assert traced == ["begun", "ended"]


def test_an_asynchronous_call_under_another_loop_than_asyncio_s_says_what_to_do(process: Process) -> None:
    def flow() -> Flow:
        yield Load(double, (4,))

    call = adrive(process.engine, flow())
    with pytest.raises(CacheError, match=r"trio\.to_thread"):
        call.send(None)


class Lossy:
    """A tier some of whose connections have broken: so many questions find one of those."""

    def __init__(self, process: Process, *, times: int) -> None:
        self.asked: list[Any] = []
        self.left = times
        self._tier = process.ways[0]
        self._perform = self._tier.perform
        self._tier.perform = self.perform  # type: ignore[method-assign]  # of this test alone

    def perform(self, operation: Any) -> Any:
        self.asked.append(operation)
        if self.left:
            self.left -= 1
            raise TierUnavailableError("broken", tier="redis", cause="lost")
        return self._perform(operation)


async def test_a_question_over_a_connection_that_broke_is_asked_once_more(driver: Driver, process: Process) -> None:
    tier = Lossy(process, times=1)

    def flow() -> Flow:
        return (yield process.ways[0], Fetch(["absent"]))

    assert (await driver(process.engine, flow())).payloads == [None]
    assert len(tier.asked) == 2
    assert process.seen(TierFailed) == []


async def test_it_is_asked_no_third_time(driver: Driver, process: Process) -> None:
    tier = Lossy(process, times=2)

    def flow() -> Flow:
        return (yield process.ways[0], Fetch(["absent"]))

    assert await driver(process.engine, flow()) is DOWN
    assert len(tier.asked) == 2
    assert len(process.seen(TierFailed)) == 1


@pytest.mark.parametrize(
    "operation", [Renew([("t:a", b"0")], 10.0), Capture(["t:a"], 10.0, renew=[("t:a", b"0")]), Delete(["a"])]
)
async def test_what_must_not_happen_twice_is_asked_once(driver: Driver, process: Process, operation: Any) -> None:
    tier = Lossy(process, times=1)

    def flow() -> Flow:
        return (yield process.ways[0], operation)

    assert await driver(process.engine, flow()) is DOWN
    assert tier.asked == [operation]


def test_a_probe_of_a_tier_that_is_still_down_leaves_it_to_the_breaker(process: Process) -> None:
    tier = process.ways[0]
    tier.down = True
    probe(process.engine, tier)
    assert [type(event) for event in process.events] == [TierFailed]
    tier.down = False
    probe(process.engine, tier)
    assert not process.engine.breakers[tier.name].is_open


async def test_a_flow_beside_a_call_in_a_task_cannot_be_withdrawn(process: Process) -> None:
    done = asyncio.Event()

    def beside() -> Flow:
        done.set()
        yield Load(double, (1,))

    def flow() -> Flow:
        begun = yield Aside(beside(), (), done.clear, stoppable=False)
        return begun.bounded, begun.withdraw()

    assert await adrive(process.engine, flow()) == (True, False)
    await asyncio.wait_for(done.wait(), 10)
    await asyncio.gather(*process.engine.background.tasks)


def test_a_tier_that_does_not_answer_is_no_truth(process: Process) -> None:
    assert not DOWN
