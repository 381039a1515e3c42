"""A directory carries out the operations of a tier."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from novacron_cache.testing import ManualClock, TierSuite
from novacron_cache.tiers.disk import DiskTier


class TestDiskTier(TierSuite):
    @pytest.fixture
    def clock(self) -> ManualClock:
        return ManualClock()

    @pytest.fixture
    def tier(self, tmp_path: Path, clock: ManualClock) -> Iterator[DiskTier]:
        # Patient, for this is about what it does, not about how soon it gives up on a busy machine.
        tier = DiskTier(tmp_path / "cache", namespace="shop", clock=clock, timeout=10.0)
        yield tier
        tier.close()

    @pytest.fixture
    def other_namespace(self, tmp_path: Path, clock: ManualClock) -> Iterator[DiskTier]:
        tier = DiskTier(tmp_path / "cache", namespace="shop:2", clock=clock, timeout=10.0)
        yield tier
        tier.close()


class TestDiskTierByTheSystemsClock(TierSuite):
    @pytest.fixture
    def tier(self, tmp_path: Path) -> Iterator[DiskTier]:
        tier = DiskTier(tmp_path / "cache", timeout=10.0)
        yield tier
        tier.close()

    @pytest.fixture
    def other_namespace(self, tmp_path: Path) -> Iterator[DiskTier]:
        tier = DiskTier(tmp_path / "cache", namespace="other", timeout=10.0)
        yield tier
        tier.close()
