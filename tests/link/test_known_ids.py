"""Ids that the link watches: a payload that has them is believed, and nobody is asked for them again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from servers import PATIENT, FaultProxy, ServerProcess, wait_until

from novacron_cache import Cache, CacheModel, CacheSettings, cached
from novacron_cache.effects import Fetch, Operation
from novacron_cache.link import LinkState

pytestmark = pytest.mark.servers


class Disk(CacheModel, key="disk:<disk_id>", ttl="1m", tags=["disk:<disk_id>", "pool:<pool>"]):
    disk_id: str
    pool: str
    version: int


class Process:
    """A cache whose memory has room for one value, so that the next call for another one asks the server."""

    def __init__(self, url: str, truth: dict[str, int]) -> None:
        settings = CacheSettings.connect(
            url, namespace="known", memory={"max_items": 1}, redis=PATIENT, staleness_bound=60
        )
        self.cache = Cache(settings)
        self.loads: list[str] = []
        self.asked: list[Operation] = []

        @cached(Disk, cache=self.cache)
        def disk(disk_id: str) -> Disk:
            self.loads.append(disk_id)
            return Disk(disk_id=disk_id, pool="p1", version=truth[disk_id])

        self.disk = disk
        authority = self.cache.engine.authority
        assert authority is not None
        self._perform = authority.perform
        authority.perform = self._ask  # type: ignore[method-assign]  # of this test alone

    def _ask(self, operation: Operation) -> Any:
        self.asked.append(operation)
        return self._perform(operation)

    def linked(self) -> Process:
        self.cache.get("anything")
        link = self.cache.engine.link
        assert link is not None
        wait_until(lambda: link.state is LinkState.UP)
        return self

    def read(self, *disk_ids: str) -> list[int]:
        """Return the versions, and note what the server was asked for them alone."""
        self.asked.clear()
        return [self.disk(disk_id).version for disk_id in disk_ids]

    @property
    def fetched(self) -> list[tuple[int, int]]:
        """How many payloads and ids each read asked for."""
        assert all(isinstance(one, Fetch) for one in self.asked), self.asked
        return [(len(one.keys), len(one.deps)) for one in self.asked if isinstance(one, Fetch)]


@pytest.fixture
def truth() -> dict[str, int]:
    return {"a": 1, "b": 1, "c": 1}


@pytest.fixture
def process(valkey_server: ServerProcess, truth: dict[str, int]) -> Iterator[Callable[..., Process]]:
    opened: list[Process] = []

    def open_(url: str = "") -> Process:
        opened.append(Process(url or valkey_server.url, truth))
        return opened[-1].linked()

    yield open_
    for one in opened:
        one.cache.close()


def test_a_value_that_was_met_before_is_asked_for_alone(process: Callable[..., Process]) -> None:
    one = process()
    one.read("a", "b", "a", "b")  # once to load, once to learn
    assert one.loads == ["a", "b"]
    assert one.read("a", "b") == [1, 1]
    assert one.fetched == [(1, 0), (1, 0)]
    assert one.cache.stats().hits["redis"] == 4


def test_so_is_one_that_comes_with_a_loader_of_its_own(process: Callable[..., Process]) -> None:
    cache, one = (made := process()).cache, made
    for key in ("x", "y", "x", "y"):
        cache.get_or_load(key, lambda key=key: [key])
    one.asked.clear()
    cache.get_or_load("x", list).append("changed")
    assert cache.get_or_load("x", list) == ["x"]
    assert one.fetched == [(1, 0)]  # the second time it was in memory


def test_several_are_asked_for_together(process: Callable[..., Process]) -> None:
    one = process()
    for _ in range(2):
        one.read("a", "b", "c")
    one.asked.clear()
    assert [disk.version for disk in one.disk.many(["a", "b", "c"])] == [1, 1, 1]
    assert sorted(one.fetched) in ([(2, 0)], [(3, 0)])  # one may still be in memory
    assert one.loads == ["a", "b", "c"]


def test_a_tag_that_only_values_name_is_asked_about_once_for_all_of_them(process: Callable[..., Process]) -> None:
    one, other = process(), process()
    other.read("a", "b", "c")
    one.read("a")
    one.read("b")
    # Payload and ids of what the key names; that of the pool is known from the first.
    (asked,) = one.fetched
    assert asked[0] == 1
    assert one.loads == []


@pytest.mark.parametrize(
    "invalidate",
    [
        lambda cache: cache.invalidate("disk:a"),
        lambda cache: cache.invalidate_tags("pool:p1"),
        lambda cache: cache.invalidate_model(Disk),
        lambda cache: cache.invalidate_pattern("disk:*"),
        lambda cache: cache.invalidate_pattern("d*k:a"),
        lambda cache: cache.clear(),
    ],
    ids=["key", "late tag", "model", "segment", "glob", "namespace"],
)
@pytest.mark.parametrize("who", ["itself", "another process"])
def test_what_was_invalidated_is_not_known_any_more(
    process: Callable[..., Process], truth: dict[str, int], invalidate: Callable[[Cache], object], who: str
) -> None:
    one, other = process(), process()
    for _ in range(3):
        assert one.read("a", "b") == [1, 1]
    truth["a"] = truth["b"] = 2
    invalidate((one if who == "itself" else other).cache)
    if who == "itself":
        assert one.read("a") == [2]
    else:
        wait_until(lambda: one.read("a") == [2])
    one.read("b")
    assert one.read("a") == [2]


def test_a_value_that_another_process_stored_anew_is_found_after_one_question_more(
    process: Callable[..., Process], truth: dict[str, int]
) -> None:
    one, other = process(), process()
    for _ in range(2):
        one.read("a", "b")
    truth["a"] = 2
    other.cache.invalidate_tags("disk:a")
    assert other.read("a") == [2]
    wait_until(lambda: one.read("a") == [2])
    assert one.loads == ["a", "b"]


def test_known_ids_can_only_say_yes(process: Callable[..., Process], valkey_server: ServerProcess) -> None:
    one, other = process(), process()
    for _ in range(2):
        one.read("a", "b")
    # The server loses a marker: another process gives it another id, and no signal says so.
    authority = one.cache.engine.authority
    assert authority is not None
    lost = [dep for dep in one.cache.engine.known if dep.startswith("t:disk:a")]
    for dep in lost:
        authority.ask("", "UNLINK", authority.commands.marker_key(dep))  # type: ignore[attr-defined]
    assert other.read("a") == [1]
    assert other.loads == ["a"]
    loads = list(one.loads)
    assert one.read("a") == [1]
    assert one.loads == loads, "the new value is as good here as there"
    one.read("b")
    assert one.read("a") == [1]
    assert one.fetched == [(1, 0)], "and its id was learnt"


def test_nothing_is_known_once_the_link_is_lost(
    process: Callable[..., Process], valkey_server: ServerProcess, truth: dict[str, int]
) -> None:
    with FaultProxy(valkey_server.port) as proxy:
        one, other = process(proxy.url), process()
        for _ in range(2):
            one.read("a", "b")
        assert one.cache.engine.known
        lost: list[object] = []
        one.cache.on("link_lost", lost.append)
        proxy.reset()
        wait_until(lambda: lost)
        truth["a"] = 2
        other.cache.invalidate("disk:a")
        assert one.read("a") == [2]


def test_reads_of_one_loop_travel_together(valkey_server: ServerProcess, truth: dict[str, int]) -> None:
    async def main() -> tuple[list[int], list[int]]:
        settings = CacheSettings.connect(
            valkey_server.url, namespace="together", memory={"enabled": False}, redis=PATIENT
        )
        async with Cache(settings) as cache:
            await cache.aset_many({f"k{number}": number for number in range(64)})
            authority = cache.engine.authority
            assert authority is not None
            trips: list[int] = []
            aexecute = authority._aexecute  # type: ignore[attr-defined]  # what a redis tier has

            async def counted(batch: Any) -> Any:
                trips.append(len(batch.commands))
                return await aexecute(batch)

            authority._aexecute = counted  # type: ignore[attr-defined]  # what a redis tier has
            found = await asyncio.gather(*(cache.aget(f"k{number}") for number in range(64)))
            return list(found), trips

    found, trips = asyncio.run(main())
    assert found == list(range(64))
    assert sum(trips) <= 4, "64 reads, each in a trip of its own, would be 64"
