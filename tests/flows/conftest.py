"""What most tests of flows begin with: a clock, two tiers, and two processes that share them."""

from __future__ import annotations

import pytest
from flows.batches import Batch
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


@pytest.fixture
def shared(clock: ManualClock) -> MemoryTier:
    return MemoryTier(clock=clock)


@pytest.fixture(params=[False, True], ids=["late tags", "early tags"])
def early(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture(params=[False, True], ids=["the server alone", "memory too"])
def batch(request: pytest.FixtureRequest, early: bool, clock: ManualClock, shared: MemoryTier) -> Batch:
    return Batch(clock, shared, early=early, kept=request.param).met()
