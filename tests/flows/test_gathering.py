"""Calls of one event loop that come together are read together, and each gets what it would get alone."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
from flows.harness import BOUND, Fetch, FlakyTier, ManualClock, MemoryTier, StillLink, until

from novacron_cache import Cache, CacheModel, CacheSettings
from novacron_cache.effects import Operation
from novacron_cache.gathering import MOST
from novacron_cache.guards import Flight
from novacron_cache.markers import MAX_NAMED
from novacron_cache.requests import Request


class Disk(CacheModel, key="disk:<disk_id>", ttl="1m", tags=["disk:<disk_id>", "pool:<pool>"]):
    disk_id: str
    pool: str
    version: int


class SlowTier(FlakyTier):
    """A tier whose answers travel for as long as the test wants."""

    name = "far"

    def __init__(self, clock: ManualClock) -> None:
        super().__init__(MemoryTier(clock=clock), "far", leases=False)
        self.travelling: list[asyncio.Future[None]] = []
        self.slow = False

    async def aperform(self, operation: Operation) -> Any:
        answer = self.perform(operation)
        await asyncio.sleep(0)
        if self.slow and isinstance(operation, Fetch):
            self.travelling.append(asyncio.get_running_loop().create_future())
            await self.travelling[-1]
        return answer

    def arrive(self) -> None:
        for one in self.travelling:
            if not one.done():
                one.set_result(None)


class World:
    """A cache over such a tier, whose link is up, and a function whose values it has met."""

    def __init__(self, clock: ManualClock) -> None:
        self.clock = clock
        self.tier = SlowTier(clock)
        self.cache = Cache(CacheSettings(namespace="test"), tiers=[self.tier], clock=clock)
        self.engine = self.cache.engine
        self.engine.use_link(StillLink())
        self.engine.link_up(clock.monotonic() + BOUND)
        self.versions: dict[str, int] = {}
        self.loads: list[str] = []
        self.get = self.function("disk")

    def function(self, name: str, **options: Any) -> Callable[[str], Awaitable[Any]]:
        @self.cache.cached(Disk, name=name, **options)
        async def disk(disk_id: str) -> Disk:
            self.loads.append(disk_id)
            return Disk(disk_id=disk_id, pool="p", version=self.versions.get(disk_id, 1))

        return disk

    async def met(self, *disk_ids: str, get: Callable[[str], Awaitable[Any]] | None = None) -> None:
        """Have values stored and their ids known, and nothing in process memory."""
        for _ in range(3):
            for disk_id in disk_ids:
                await (get or self.get)(disk_id)
            self.forget()

    def forget(self) -> None:
        assert self.engine.memory is not None
        self.engine.memory.clear()
        self.loads.clear()
        self.tier.operations.clear()

    async def together(self, *disk_ids: str, get: Callable[[str], Awaitable[Any]] | None = None) -> list[int]:
        found = await asyncio.gather(*((get or self.get)(disk_id) for disk_id in disk_ids))
        assert [one.disk_id for one in found] == list(disk_ids)
        return [one.version for one in found]

    def start(self, *disk_ids: str) -> list[asyncio.Task[Any]]:
        return [asyncio.ensure_future(self.get(disk_id)) for disk_id in disk_ids]

    @property
    def trips(self) -> list[int]:
        """How many payloads each trip asked for."""
        return [len(one.keys) for one in self.tier.operations if isinstance(one, Fetch)]

    def request(self, disk_id: str) -> Request:
        """Return what a call with this argument asks for."""
        controller: Any = self.get.cache_controller  # type: ignore[attr-defined]  # every cached function has one
        made: Request = controller.request(*controller.compiled.collect(disk_id)[:3])
        return made

    def idle(self) -> bool:
        turns = self.cache.gathering._turns.values()
        return len(self.engine.flights) == 0 and all(turn.under_way == 0 and not turn._trips for turn in turns)


@pytest.fixture
def world() -> Iterator[World]:
    made = World(ManualClock())
    yield made
    assert made.idle()
    made.cache.close()


def several(count: int) -> list[str]:
    return [f"d{number}" for number in range(count)]


def run(main: Callable[[], Awaitable[Any]]) -> Any:
    async def limited() -> Any:
        async with asyncio.timeout(20):
            return await main()

    return asyncio.run(limited())


def test_the_first_goes_at_once_and_the_others_of_its_turn_share_one_trip(world: World) -> None:
    async def main() -> None:
        await world.met(*several(10))
        events: list[Any] = []
        world.cache.on("hit", events.append)
        before = world.cache.stats("disk").hits["far"]
        assert await world.together(*several(10)) == [1] * 10
        assert world.trips == [1, 9]
        assert world.loads == []
        assert world.cache.stats("disk").hits["far"] - before == 10
        assert {(event.key, event.tier) for event in events} == {(f"disk:{name}", "far") for name in several(10)}
        # From here on process memory has them, and the functions find them by their arguments.
        assert await world.together(*several(10)) == [1] * 10
        assert world.trips == [1, 9]

    run(main)


def test_calls_one_after_the_other_go_by_themselves(world: World) -> None:
    async def main() -> None:
        await world.met(*several(3))
        for name in several(3):
            await world.get(name)
        assert world.trips == [1, 1, 1]

    run(main)


def test_what_comes_while_a_batch_travels_is_another_one(world: World) -> None:
    async def main() -> None:
        await world.met(*several(6))
        world.tier.slow = True
        first = world.start("d0", "d1", "d2")
        await until(lambda: len(world.trips) == 2)
        second = world.start("d3", "d4", "d5")
        await until(lambda: len(world.trips) == 3)
        world.tier.arrive()
        await asyncio.gather(*first, *second)
        assert world.trips == [1, 2, 3]

    run(main)


def test_a_batch_has_a_bound(world: World) -> None:
    names = several(MOST + 12)

    async def main() -> None:
        await world.met(*names)
        assert await world.together(*names) == [1] * len(names)
        assert world.trips == [1, MOST, 11]

    run(main)


def test_several_who_want_one_key_make_one_trip_for_it(world: World) -> None:
    async def main() -> None:
        await world.met(*several(3))
        before = world.cache.stats("disk")
        assert await world.together("d0", "d1", "d1", "d2", "d0", "d1") == [1] * 6
        assert world.trips == [1, 2]
        assert world.loads == []
        after = world.cache.stats("disk")
        assert after.hits["far"] - before.hits["far"] == 3
        assert after.joined - before.joined == 3

    run(main)


def test_of_what_can_be_changed_each_gets_his_own(world: World) -> None:
    @world.cache.cached(list[int], key="list:<name>", name="lists", tags=["lists"])
    async def get(name: str) -> list[int]:
        return [1, 2]

    async def main() -> None:
        await world.met("a", "b", "c", get=get)
        found = await asyncio.gather(get("a"), get("b"), get("b"), get("c"))
        for one in found:
            one.append(3)
        assert await asyncio.gather(get("a"), get("b"), get("b"), get("c")) == [[1, 2]] * 4
        assert found == [[1, 2, 3]] * 4

    run(main)


def test_a_value_that_cannot_be_decoded_twice_holds_nobody_up(world: World) -> None:
    @world.cache.cached(list[int], key="list:<name>", name="lists")
    async def get(name: str) -> list[int]:
        return [1, 2]

    async def main() -> None:
        await world.met("a", "b", get=get)
        plan = get.cache_controller.plan  # type: ignore[attr-defined]  # every cached function has one
        load, decoded = plan.schema.load, list[bytes]()

        def once(body: bytes) -> Any:
            decoded.append(body)
            if decoded.count(body) == 2 and len(decoded) == 3:
                raise ValueError("a validator that changed its mind")
            return load(body)

        plan.schema.load = once
        assert await asyncio.gather(get("a"), get("b"), get("b"), get("b")) == [[1, 2]] * 4

    run(main)


def test_of_one_that_can_be_changed_and_is_not_kept_the_others_ask_for_another(world: World) -> None:
    @world.cache.cached(list[int], key="list:<name>", name="lists", tiers=["far"])
    async def get(name: str) -> list[int]:
        return [1, 2]

    async def main() -> None:
        await world.met("a", "b", get=get)
        found = await asyncio.gather(get("a"), get("b"), get("b"))
        assert found == [[1, 2]] * 3
        assert found[1] is not found[2]
        assert world.trips == [1, 1, 1]

    run(main)


def test_values_that_memory_does_not_keep_are_read_each_time(world: World) -> None:
    get = world.function("far", tiers=["far"])

    async def main() -> None:
        await world.met(*several(5), get=get)
        for _ in range(2):
            assert await world.together(*several(5), get=get) == [1] * 5
        assert world.trips == [1, 4, 1, 4]
        assert world.loads == []

    run(main)


def test_what_is_invalidated_while_it_travels_is_not_served(world: World) -> None:
    async def main() -> None:
        await world.met(*several(4))
        world.tier.slow = True
        tasks = world.start(*several(4))
        await until(lambda: len(world.trips) == 2)
        world.versions["d2"] = 2
        await world.cache.ainvalidate_tags("disk:d2")
        world.tier.slow = False
        world.tier.arrive()
        assert [(await task).version for task in tasks] == [1, 1, 2, 1]
        assert world.loads == ["d2"]

    run(main)


@pytest.mark.parametrize("when", ["before it leaves", "while it travels"])
def test_who_is_cancelled_takes_nothing_from_the_others(world: World, when: str) -> None:
    async def main() -> None:
        await world.met(*several(5))
        world.tier.slow = True
        tasks = world.start(*several(5))
        if when == "while it travels":
            await until(lambda: len(world.trips) == 2)
        else:
            await asyncio.sleep(0)
        tasks[2].cancel()
        await asyncio.sleep(0)
        world.tier.slow = False
        world.tier.arrive()
        found = await asyncio.gather(*tasks, return_exceptions=True)
        assert isinstance(found.pop(2), asyncio.CancelledError)
        assert [one.disk_id for one in found] == ["d0", "d1", "d3", "d4"]

    run(main)


def test_a_batch_that_everybody_has_left_asks_nobody(world: World) -> None:
    async def main() -> None:
        await world.met(*several(3))
        world.tier.slow = True
        first, *others = world.start(*several(3))
        await asyncio.sleep(0)
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        world.tier.arrive()
        await first
        assert world.trips == [1]

    run(main)


def test_what_is_not_there_is_loaded_by_each_who_wants_it_in_his_own_context(world: World) -> None:
    who: contextvars.ContextVar[str] = contextvars.ContextVar("who")
    seen: dict[str, str] = {}

    @world.cache.cached(int, key="n:<name>", name="numbers")
    async def get(name: str) -> int:
        seen[name] = who.get()
        return len(name)

    async def ask(name: str) -> int:
        who.set(f"caller of {name}")
        return await get(name)

    async def main() -> None:
        await asyncio.gather(*map(ask, several(4)))
        await world.met(*several(4), get=ask)
        for key in list(world.tier.tier._table):
            world.tier.tier.remove(key)
        seen.clear()
        world.tier.operations.clear()
        assert await asyncio.gather(*map(ask, several(4))) == [2] * 4
        assert seen == {name: f"caller of {name}" for name in several(4)}
        payloads = sum(name in key for one in world.tier.operations if isinstance(one, Fetch) for key in one.keys
                       for name in several(4))  # fmt: skip
        assert payloads <= 2 * 4, "each once alone, and once with its ids"

    run(main)


def test_what_memory_has_or_nobody_has_met_is_not_asked_for_with_the_others(world: World) -> None:
    again = world.function("disk")

    async def main() -> None:
        await world.met(*several(4))
        await world.get("d1")
        world.tier.operations.clear()
        found = await asyncio.gather(*map(again, ["d0", "d2", "d1", "d3", "new"]))
        assert [one.version for one in found] == [1] * 5
        fetches = [one for one in world.tier.operations if isinstance(one, Fetch)]
        assert sorted(len(one.keys) for one in fetches if not one.deps) == [1, 2]
        assert [len(one.keys) for one in fetches if one.deps] == [1]
        assert world.loads == ["new"]

    run(main)


def test_with_the_tier_down_everything_is_loaded(world: World) -> None:
    async def main() -> None:
        await world.met(*several(5))
        world.tier.down = True
        assert await world.together(*several(5)) == [1] * 5
        assert sorted(world.loads) == several(5)
        world.tier.down = False

    run(main)


def test_each_function_and_each_first_segment_has_a_batch_of_its_own(world: World) -> None:
    @world.cache.cached(int, key="<kind>:<name>", name="kinds")
    async def kinds(kind: str, name: str) -> int:
        return len(kind)

    async def main() -> None:
        wanted = [("x", "1"), ("x", "2"), ("x", "3"), ("yy", "1"), ("yy", "2")]
        await world.met(*several(3))
        for _ in range(3):
            for one in wanted:
                await kinds(*one)
            world.forget()
        found = await asyncio.gather(*(kinds(*one) for one in wanted), *map(world.get, several(3)))
        assert found[:5] == [1, 1, 1, 2, 2]
        assert world.trips == [1, 2, 2, 3]
        assert world.loads == []

    run(main)


@pytest.mark.parametrize(
    "options",
    [
        {"consistency": "strong"},
        {"shadow": 1.0},
        {"condition": lambda disk_id: disk_id != "d1"},
        {"refresh_ahead": 0.9, "tiers": ["far"]},
    ],
    ids=["strong", "shadow", "condition", "refreshed and not kept"],
)
def test_what_a_batch_would_treat_differently_goes_by_itself(world: World, options: dict[str, Any]) -> None:
    get = world.function("other", **options)
    alone = {"disk:d1"} if "condition" in options else {f"disk:{name}" for name in several(4)}

    async def main() -> None:
        await world.met(*several(4), get=get)
        turn, joined = world.cache.gathering.turn(), set[str]()
        join = turn.join

        def noted(request: Request) -> Any:
            if (found := join(request)) is not None:
                joined.add(request.logical)
            return found

        turn.join = noted  # type: ignore[method-assign]  # notes who goes along
        assert await world.together(*several(4), get=get) == [1] * 4
        assert not alone & joined
        assert await world.together(*several(4)) == [1] * 4

    run(main)


def test_a_call_that_is_traced_or_bypassed_or_has_a_long_key_goes_by_itself(world: World) -> None:
    long = "x" * MAX_NAMED

    async def main() -> None:
        await world.met(*several(3), long)
        turn = world.cache.gathering.turn()
        turn.under_way = 1
        request = world.request
        assert turn.join(request("d0")) is not None
        assert turn.join(request(long)) is None
        world.engine.traced = lambda flow: flow
        turn._groups.clear()
        assert turn.join(request("d1")) is None
        world.engine.traced = None
        with world.cache.bypassed():
            assert turn.join(request("d1")) is None
        world.engine.flights._by_key[request("d2").key] = Flight("d2", 0, None)
        assert turn.join(request("d2")) is None, "it is under way already"
        world.engine.flights.reset()
        assert turn.join(request("unmet")) is None
        turn.under_way = 0
        await asyncio.sleep(0)

    run(main)


def test_a_value_that_may_not_be_none_is_loaded_where_another_function_kept_a_none(world: World) -> None:
    @world.cache.cached(int, key="n:<name>", name="maybe")
    async def maybe(name: str) -> int | None:
        return None

    @world.cache.cached(int, key="n:<name>", name="maybe", cache=world.cache)
    async def always(name: str) -> int:
        return 7

    async def main() -> None:
        await world.met("a", "b", "c", get=maybe)
        assert await asyncio.gather(*map(always, "abc")) == [7] * 3

    run(main)


def test_what_is_due_is_refreshed_in_the_background(world: World) -> None:
    get = world.function("early", refresh_ahead=0.5)

    async def main() -> None:
        await world.met("d0", "d1", "d2", get=get)
        world.clock.advance(40.0)
        world.engine.link_beat(world.clock.monotonic() + BOUND)
        world.versions.update({"d0": 2, "d1": 2, "d2": 2})
        assert await world.together("d0", "d1", "d2", get=get) == [1] * 3
        await until(lambda: len(world.loads) == 3)
        await until(world.idle)
        assert await world.together("d0", "d1", "d2", get=get) == [2] * 3

    run(main)


def test_a_loop_that_ends_meanwhile_leaves_nothing_behind(world: World) -> None:
    async def abandoned() -> None:
        await world.met(*several(4))
        world.tier.slow = True
        world.start(*several(4))
        await until(lambda: len(world.trips) == 2)

    async def later() -> None:
        world.tier.slow = False
        world.forget()
        assert await world.together(*several(4)) == [1] * 4
        assert world.trips == [1, 3]
        assert len(world.cache.gathering._turns) == 1

    run(abandoned)
    assert len(world.engine.flights) == 0
    run(later)


def test_each_loop_has_its_own_batches(world: World) -> None:
    found: list[list[int]] = []

    def other() -> None:
        found.append(asyncio.run(world.together(*several(20), get=world.function("far", tiers=["far"]))))

    async def main() -> None:
        await world.met(*several(20), get=world.function("far", tiers=["far"]))
        threads = [threading.Thread(target=other) for _ in range(3)]
        for thread in threads:
            thread.start()
        await until(lambda: not any(thread.is_alive() for thread in threads))

    run(main)
    assert found == [[1] * 20] * 3


def test_a_forked_child_knows_no_loop_of_its_parent(world: World) -> None:
    async def main() -> None:
        world.cache.gathering.turn()
        assert len(world.cache.gathering._turns) == 1
        world.cache.gathering.after_fork()
        assert len(world.cache.gathering._turns) == 0

    run(main)
