"""What most tests of flows begin with: a clock, two tiers, and two processes that share them."""

from __future__ import annotations

import pytest
from flows.harness import ManualClock, MemoryTier, Process


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def tiers(clock: ManualClock) -> list[MemoryTier]:
    return [MemoryTier(clock=clock), MemoryTier(clock=clock)]


@pytest.fixture
def ours(clock: ManualClock, tiers: list[MemoryTier]) -> Process:
    return Process(clock, tiers)


@pytest.fixture
def theirs(clock: ManualClock, tiers: list[MemoryTier]) -> Process:
    return Process(clock, tiers)
