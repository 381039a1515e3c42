"""What tests of a model's dictionary begin with: processes over one directory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from unit.dictionaries.world import World


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path / "cache")
    yield made
    for cache in made.opened:
        cache.close()
