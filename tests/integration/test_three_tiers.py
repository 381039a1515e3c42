"""Two caches on one real server, as two processes would be: what one does the other sees, with a disk behind."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from servers import PATIENT, ServerProcess

from novacron_cache import Cache, CacheModel, CacheSettings
from novacron_cache.effects import Fetch, Item, Store
from novacron_cache.events import Corrupt
from novacron_cache.testing import ManualClock

pytestmark = pytest.mark.servers

BOUND = 3.0
NAMESPACE = "three-tiers"


class Machine(CacheModel, key="machine:<machine_id>", ttl="1m", tags=["machine:<machine_id>", "node:<node_id>"]):
    machine_id: str
    node_id: str


@pytest.fixture(params=["valkey_server", "redis7_server"])
def server(request: pytest.FixtureRequest) -> ServerProcess:
    server: ServerProcess = request.getfixturevalue(request.param)
    server.flush()
    return server


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def ours(server: ServerProcess, clock: ManualClock) -> Iterator[Cache]:
    with Cache(CacheSettings.connect(server.url, namespace=NAMESPACE, redis=PATIENT), clock=clock) as cache:
        yield cache


@pytest.fixture
def theirs(server: ServerProcess, clock: ManualClock) -> Iterator[Cache]:
    with Cache(CacheSettings.connect(server.url, namespace=NAMESPACE, redis=PATIENT), clock=clock) as cache:
        yield cache


def test_what_one_process_stores_the_other_reads(ours: Cache, theirs: Cache) -> None:
    ours.set("vm:1", {"state": "running"}, tags=["node:1"])
    assert theirs.get("vm:1") == {"state": "running"}
    assert theirs.stats().hits == {"redis": 1}
    assert theirs.get("vm:1") == {"state": "running"}
    assert theirs.get_or_load("vm:2", lambda: None) is None
    assert ours.get("vm:2", "default") is None


def test_a_value_that_is_touched_for_no_time_is_gone_everywhere(ours: Cache, theirs: Cache) -> None:
    ours.set("vm:1", "running")
    assert theirs.get("vm:1") == "running"
    assert theirs.touch("vm:1", 0) is True
    assert theirs.get("vm:1") is None
    assert ours.get("vm:1", consistency="strong") is None
    assert theirs.touch("vm:1", 0) is False


@pytest.mark.parametrize(
    "invalidate",
    [
        lambda cache: cache.invalidate("vm:1"),
        lambda cache: cache.invalidate_tags("a"),
        lambda cache: cache.invalidate_tags("a", "b", match="all"),
        lambda cache: cache.invalidate_pattern("vm:*"),
        lambda cache: cache.invalidate_pattern("*m:[1]"),
        lambda cache: cache.clear(),
    ],
    ids=["key", "tag", "all tags", "segment", "glob", "everything"],
)
def test_what_one_process_invalidates_the_other_forgets_within_the_bound(
    ours: Cache, theirs: Cache, clock: ManualClock, invalidate: Any
) -> None:
    ours.set("vm:1", "old", tags=["a", "b"])
    assert theirs.get("vm:1") == "old"
    assert invalidate(ours).done
    assert ours.get("vm:1") is None
    clock.advance(BOUND + 0.1)
    assert theirs.get("vm:1") is None
    assert theirs.get_or_load("vm:1", lambda: "new", tags=["a", "b"]) == "new"
    clock.advance(BOUND + 0.1)
    assert ours.get("vm:1") == "new"


def test_a_model_and_its_late_tags_travel_between_processes(ours: Cache, theirs: Cache) -> None:
    machine = Machine(machine_id="m1", node_id="n1")
    ours.set("machine:m1", machine)
    assert theirs.get("machine:m1", model=Machine) == machine
    assert ours.invalidate_tags("node:n1").done
    assert ours.get("machine:m1", model=Machine) is None


def test_sets_and_reads_of_many_keys_travel(ours: Cache, theirs: Cache) -> None:
    ours.set_many({f"k:{n}": n for n in range(300)}, tags=["many"])
    assert theirs.get_many(f"k:{n}" for n in range(310)) == {f"k:{n}": n for n in range(300)}
    ours.invalidate_tags("many")
    assert ours.get_many(f"k:{n}" for n in range(300)) == {}


async def test_both_worlds_share_everything(ours: Cache, theirs: Cache) -> None:
    await ours.aset("vm:1", "value", tags=["a"])
    assert await theirs.aget("vm:1") == "value"
    assert await asyncio.gather(*(theirs.aget_or_load("vm:2", lambda: "two") for _ in range(32))) == ["two"] * 32
    assert await asyncio.to_thread(ours.get, "vm:2") == "two"
    assert (await ours.ainvalidate_tags("a")).done
    assert await ours.aget("vm:1") is None
    await ours.aclose()
    await theirs.aclose()


def test_a_cache_outlives_the_loops_it_is_used_in(ours: Cache) -> None:
    async def use(number: int) -> Any:
        await ours.aset(f"vm:{number}", number)
        ours.engine.memory.clear()  # type: ignore[union-attr]  # there is one here
        return await ours.aget(f"vm:{number}")

    assert [asyncio.run(use(number)) for number in range(3)] == [0, 1, 2]
    assert ours.get("vm:1") == 1


# -- with a disk ------------------------------------------------------------------------------------------------------


def with_disk(server: ServerProcess, path: Path, clock: ManualClock) -> Cache:
    return Cache(CacheSettings.connect(server.url, namespace=NAMESPACE, redis=PATIENT, disk=path), clock=clock)


def test_the_disk_answers_for_an_emptied_server_only_while_its_markers_are_there(
    server: ServerProcess, tmp_path: Path, clock: ManualClock
) -> None:
    with with_disk(server, tmp_path, clock) as cache:
        cache.set("vm:1", "value")
    with with_disk(server, tmp_path, clock) as cache:
        value_key = cache._request("vm:1").key
        cache.engine.shared[0].perform(Store([Item(value_key, b"damaged", 10.0)]))
        damaged: list[Any] = []
        cache.on(Corrupt, damaged.append)
        assert cache.get("vm:1") == "value"
        assert [event.tier for event in damaged] == ["redis"]
        assert cache.stats().hits == {"disk": 1}
    with with_disk(server, tmp_path, clock) as cache:
        assert cache.get("vm:1") == "value"
        assert cache.stats().hits == {"redis": 1}  # it was handed nearer
    server.flush()
    with with_disk(server, tmp_path, clock) as cache:
        assert cache.get("vm:1") is None  # nobody knows what was invalidated meanwhile


def test_damage_in_every_tier_is_a_miss_and_an_event(server: ServerProcess, tmp_path: Path, clock: ManualClock) -> None:
    with with_disk(server, tmp_path, clock) as cache:
        cache.set("vm:1", "value")
        key = cache._request("vm:1").key
        near, far = cache.engine.shared
        for tier in (near, far):
            (payload,) = tier.perform(Fetch([key])).payloads
            assert payload is not None
            tier.perform(Store([Item(key, payload[: len(payload) // 2], 60.0)]))
    with with_disk(server, tmp_path, clock) as cache:
        damaged: list[Any] = []
        cache.on(Corrupt, damaged.append)
        assert cache.get_or_load("vm:1", lambda: "new") == "new"
        assert [event.tier for event in damaged] == ["redis", "disk"]
    with with_disk(server, tmp_path, clock) as cache:
        assert cache.get("vm:1") == "new"


def test_a_disk_that_slept_through_an_invalidation_serves_nothing_of_it(
    server: ServerProcess, tmp_path: Path, clock: ManualClock
) -> None:
    with with_disk(server, tmp_path, clock) as cache:
        cache.set_many({"vm:1": "one", "vm:2": "two"})
    with Cache(CacheSettings.connect(server.url, namespace=NAMESPACE, redis=PATIENT), clock=clock) as other:
        other.invalidate("vm:1")
    with with_disk(server, tmp_path, clock) as cache:
        near = cache.engine.shared[0]
        from novacron_cache.effects import Delete

        near.perform(Delete([cache._request("vm:1").key, cache._request("vm:2").key]))
        assert cache.get("vm:1") is None
        assert cache.get("vm:2") == "two"


def test_clearing_with_purge_leaves_no_payload_in_any_tier(
    server: ServerProcess, tmp_path: Path, clock: ManualClock
) -> None:
    with with_disk(server, tmp_path, clock) as cache:
        cache.set("vm:1", "value")
        key = cache._request("vm:1").key
        cache.clear(purge=True)
        assert [tier.perform(Fetch([key])).payloads for tier in cache.engine.shared] == [[None], [None]]
        assert cache.get("vm:1") is None
