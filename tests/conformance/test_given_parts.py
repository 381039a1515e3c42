"""A tier and a codec that are not the package's pass the suites that define one."""

from __future__ import annotations

import pytest
from conformance.parts import NOTED, ArchiveTier, Shelf

from novacron_cache.codecs import Codec, register
from novacron_cache.testing import CodecSuite, ManualClock, TierSuite
from novacron_cache.tiers import Tier
from novacron_cache.tiers.given import given


class TestArchiveTier(TierSuite):
    @pytest.fixture
    def clock(self) -> ManualClock:
        return ManualClock()

    @pytest.fixture
    def shelf(self) -> Shelf:
        return Shelf()

    @pytest.fixture
    def tier(self, shelf: Shelf, clock: ManualClock) -> Tier:
        return ArchiveTier(shelf, prefix="one|", clock=clock)

    @pytest.fixture
    def other_namespace(self, shelf: Shelf, clock: ManualClock) -> Tier:
        return ArchiveTier(shelf, prefix="two|", clock=clock)


class TestTheSameTierAsACacheUsesIt(TestArchiveTier):
    @pytest.fixture
    def tier(self, shelf: Shelf, clock: ManualClock) -> Tier:
        return given([ArchiveTier(shelf, prefix="one|", clock=clock)])[0]


class TestNotedCodec(CodecSuite):
    @pytest.fixture
    def codec(self) -> Codec:
        return register(NOTED)
