"""A Redis or Valkey server carries out the operations of a tier: simulated, current, and the oldest supported."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from servers import PATIENT, FakeConnections, LongMoments, Options, ServerProcess

from novacron_cache.testing import LeaseSuite, TierSuite
from novacron_cache.tiers.redis import RedisConnections, RedisTier
from novacron_cache.tiers.redis_connections import ConnectionFactory


class RedisSuite(LongMoments, TierSuite, LeaseSuite):
    """Both namespaces of a server; a subclass says which server."""

    @pytest.fixture
    def connections(self) -> ConnectionFactory:
        raise NotImplementedError

    @pytest.fixture
    def tier(self, connections: ConnectionFactory) -> Iterator[RedisTier]:
        yield from self.opened(connections, "shop")

    @pytest.fixture
    def other_namespace(self, connections: ConnectionFactory) -> Iterator[RedisTier]:
        yield from self.opened(connections, "shop2")

    @staticmethod
    def opened(connections: ConnectionFactory, namespace: str) -> Iterator[RedisTier]:
        tier = RedisTier(connections, namespace)
        yield tier
        tier.close()


class TestSimulated(RedisSuite):
    @pytest.fixture
    def connections(self) -> ConnectionFactory:
        return FakeConnections()


@pytest.mark.servers
class TestValkey(RedisSuite):
    @pytest.fixture
    def connections(self, valkey_server: ServerProcess) -> ConnectionFactory:
        return RedisConnections(Options(url=valkey_server.url, **PATIENT))


@pytest.mark.servers
class TestRedis7(RedisSuite):
    @pytest.fixture
    def connections(self, redis7_server: ServerProcess) -> ConnectionFactory:
        return RedisConnections(Options(url=redis7_server.url, **PATIENT))
