"""What tests of the disk tier begin with: a directory, and a tier over it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from novacron_cache.tiers.disk import DiskTier


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def tier(path: Path) -> Iterator[DiskTier]:
    tier = DiskTier(path, timeout=1.0)  # a thread that has the lock may have to wait for a core
    yield tier
    tier.close()
