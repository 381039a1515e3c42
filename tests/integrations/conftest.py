"""What tests of frameworks begin with: a cache in memory, and a count of calls."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pytest

from novacron_cache import Cache


@pytest.fixture
def cache() -> Iterator[Cache]:
    with Cache() as opened:
        yield opened


@pytest.fixture
def calls() -> Counter[str]:
    return Counter()
