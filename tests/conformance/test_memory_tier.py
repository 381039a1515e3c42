"""Process memory carries out the operations of a tier, with either kind of eviction policy."""

from __future__ import annotations

import pytest
from servers import LongMoments

from novacron_cache.testing import LeaseSuite, ManualClock, TierSuite
from novacron_cache.tiers.memory import MemoryTier


class TestMemoryTier(TierSuite, LeaseSuite):
    @pytest.fixture
    def clock(self) -> ManualClock:
        return ManualClock()

    @pytest.fixture(params=["s3fifo", "lru"])
    def tier(self, request: pytest.FixtureRequest, clock: ManualClock) -> MemoryTier:
        return MemoryTier(policy=request.param, clock=clock)

    @pytest.fixture
    def other_namespace(self, clock: ManualClock) -> MemoryTier:
        return MemoryTier(clock=clock)


class TestMemoryTierByTheSystemsClock(LongMoments, TierSuite, LeaseSuite):
    @pytest.fixture
    def tier(self) -> MemoryTier:
        return MemoryTier()

    @pytest.fixture
    def other_namespace(self) -> MemoryTier:
        return MemoryTier()
