"""Reads that travel together, against a server that answers when the test says so."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from novacron_cache.effects import Fetch, Fetched
from novacron_cache.errors import TierUnavailableError
from novacron_cache.tiers.redis_coalescing import MOST, Coalescing


class Server:
    """Has `v<key>` under each key and an id for each dependency; answers a trip when `answer` is called."""

    def __init__(self) -> None:
        self.trips: list[Fetch] = []
        self._open: list[asyncio.Future[None]] = []
        self.missing: set[str] = set()

    async def fetch(self, operation: Fetch) -> Fetched:
        self.trips.append(operation)
        answered = asyncio.get_running_loop().create_future()
        self._open.append(answered)
        await answered
        payloads = [None if key in self.missing else b"v" + key.encode() for key in operation.keys]
        whole = self.missing.isdisjoint(operation.keys)
        return Fetched(payloads, [b"i" + dep.encode() for dep in operation.deps], whole)

    async def answer(self, error: Exception | None = None) -> None:
        """Answer all that is under way, and let everybody take it in."""
        await settle()
        waiting, self._open = self._open, []
        for one in waiting:
            if one.done():
                continue
            if error is None:
                one.set_result(None)
            else:
                one.set_exception(error)
        await settle()


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.fixture
def read(server: Server) -> Callable[..., asyncio.Task[Fetched]]:
    reads = Coalescing(server.fetch)

    def start(key: str, *deps: str) -> asyncio.Task[Fetched]:
        return asyncio.ensure_future(reads.fetch(Fetch([key], deps)))

    return start


Read = Callable[..., "asyncio.Task[Fetched]"]


async def test_a_read_that_is_alone_goes_at_once(server: Server, read: Read) -> None:
    one = read("a", "x")
    await asyncio.sleep(0)
    assert server.trips == [Fetch(["a"], ("x",))]
    await server.answer()
    assert one.result() == Fetched([b"va"], [b"ix"])


async def test_reads_of_one_turn_share_the_next_trip_and_ask_for_each_thing_once(server: Server, read: Read) -> None:
    first = read("a")
    others = [read("b", "x", "y"), read("c", "x"), read("b", "x", "z")]
    await settle()
    # Nobody has waited for the first answer.
    assert [(list(trip.keys), list(trip.deps)) for trip in server.trips] == [
        (["a"], []),
        (["b", "c"], ["x", "y", "z"]),
    ]
    await server.answer()
    assert first.result().payloads == [b"va"]
    assert [one.result() for one in others] == [
        Fetched([b"vb"], [b"ix", b"iy"]),
        Fetched([b"vc"], [b"ix"]),
        Fetched([b"vb"], [b"ix", b"iz"]),
    ]


async def test_no_read_joins_a_trip_that_has_begun(server: Server, read: Read) -> None:
    read("a"), read("b")
    await settle()
    late = read("b")
    await settle()
    assert [list(trip.keys) for trip in server.trips] == [["a"], ["b"], ["b"]]
    await server.answer()
    assert late.result().payloads == [b"vb"]


async def test_a_cancelled_read_leaves_the_others_alone(server: Server, read: Read) -> None:
    read("a")
    gone, stays = read("b"), read("c")
    await settle()
    gone.cancel()
    await server.answer()
    assert gone.cancelled()
    assert stays.result().payloads == [b"vc"]


async def test_a_failed_trip_fails_each_of_its_reads(server: Server, read: Read) -> None:
    read("a"), (one := read("b")), (other := read("c"))
    await server.answer(TierUnavailableError("down", tier="redis"))
    for failed in (one, other):
        with pytest.raises(TierUnavailableError, match="down"):
            failed.result()


async def test_a_server_that_failed_takes_nothing_from_who_asked_another(server: Server, read: Read) -> None:
    server.missing.add("b")
    read("a"), (one := read("b")), (other := read("c"))
    await server.answer()
    assert [list(trip.keys) for trip in server.trips[2:]] == [["b"], ["c"]]
    await server.answer()
    assert one.result() == Fetched([None], [], whole=False)
    assert other.result() == Fetched([b"vc"], [])


async def test_many_reads_are_spread_over_several_trips(server: Server, read: Read) -> None:
    tasks = [read(f"k{number}") for number in range(2 * MOST + 1)]
    await settle()
    assert [len(trip.keys) for trip in server.trips] == [1, MOST, MOST]
    await server.answer()
    assert all(task.result().payloads == [f"vk{number}".encode()] for number, task in enumerate(tasks))


def test_each_event_loop_has_trips_of_its_own(server: Server) -> None:
    reads = Coalescing(server.fetch)

    async def one() -> Fetched:
        task = asyncio.ensure_future(reads.fetch(Fetch(["a"])))
        await server.answer()
        return task.result()

    assert [asyncio.run(one()).payloads for _ in range(3)] == [[b"va"]] * 3


async def test_whoever_is_cancelled_meanwhile_is_told_nothing_whatever_comes_of_the_trip(
    server: Server, read: Read
) -> None:
    for error in (None, TierUnavailableError("down", tier="redis")):
        for missing in (set(), {"gone"}):
            server.missing = missing
            first = read("first")
            await settle()
            second, gone = read("second"), read("gone")
            await settle()
            gone.cancel()
            await server.answer(None if missing else error)
            await server.answer(error)  # where a part of the trip failed, each is asked for alone
            _, result, _ = await asyncio.gather(first, second, gone, return_exceptions=True)
            assert gone.cancelled()
            assert result is error if error is not None else result.payloads == [b"vsecond"]


async def test_a_part_that_fails_when_it_is_asked_for_alone_fails_its_read_only(server: Server, read: Read) -> None:
    server.missing = {"b"}
    first = read("first")
    await settle()
    reads = [read("a"), read("b")]
    await server.answer()  # of the trip of both, a part failed
    server._open[1].set_exception(TierUnavailableError("down", tier="redis"))
    await server.answer()
    results = await asyncio.gather(first, *reads, return_exceptions=True)
    assert results[1].payloads == [b"va"]
    assert isinstance(results[2], TierUnavailableError)


async def test_those_who_wait_for_a_trip_that_is_cancelled_learn_that_the_tier_did_not_answer(server: Server) -> None:
    reads = Coalescing(server.fetch)
    first = asyncio.ensure_future(reads.fetch(Fetch(["first"])))
    await settle()
    second = asyncio.ensure_future(reads.fetch(Fetch(["second"])))
    await settle()
    (trip,) = reads._turns[asyncio.get_running_loop()]._trips
    trip.cancel()
    with pytest.raises(TierUnavailableError, match="cancelled"):
        await second
    await server.answer()
    assert (await first).payloads == [b"vfirst"]
    assert trip.cancelled()
