"""What many unit tests begin with: a clock that they move on themselves, a cache in memory, and what is asked of it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from unit.forms import Call, calling
from unit.vms import Loader

from novacron_cache import Cache
from novacron_cache.testing import ManualClock


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def cache(clock: ManualClock) -> Iterator[Cache]:
    with Cache(clock=clock) as made:
        yield made


@pytest.fixture
def source() -> Loader:
    return Loader()


@pytest.fixture(params=["sync", "async"])
def call(request: pytest.FixtureRequest, cache: Cache) -> Call:
    """Call a method of the cache by its blocking name, in one of its two forms."""
    return calling(cache, request.param)
