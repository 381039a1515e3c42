"""The soak of the fault runner (`soak`) would notice what grows, wherever that hangs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from faults.soaking import ITEMS, LARGEST, Soak, containers
from servers import ServerProcess

from novacron_cache import Cache


class Slotted:
    __slots__ = ("kept",)

    def __init__(self, kept: Any) -> None:
        self.kept = kept


@pytest.mark.parametrize(
    "hide", [lambda many: many, lambda many: {"a": [Slotted(many)]}, lambda many: (Slotted(many),)]
)
def test_a_large_container_is_found_wherever_it_hangs(hide: Any) -> None:
    with Cache() as cache:
        before = containers(cache)
        cache.engine.hidden = hide(dict.fromkeys(range(LARGEST + 1)))  # type: ignore[attr-defined]  # planted
        after = containers(cache)
    assert max(before.values()) <= LARGEST
    (way,) = [way for way, size in after.items() if size > LARGEST]
    assert way.startswith("Cache.engine.hidden")


@pytest.mark.servers
def test_a_leak_in_traffic_shows_although_everything_that_is_known_keeps_its_bound(
    valkey_server: ServerProcess, tmp_path: Path
) -> None:
    settings = {
        "namespace": "soak", "redis": {"url": valkey_server.url}, "disk": {"path": str(tmp_path / "disk")},
        "memory": {"max_items": ITEMS},
    }  # fmt: skip
    soak, leak = Soak(settings, 1_000_000), list[object]()
    soak.cache.on("stored", lambda event: leak.extend([event.name] * 1000))
    soak.works = [soak.single, soak.batch]
    found = soak.run(2.0)
    assert found.errors == []
    assert found.wrong == 0
    assert [what for what, (got, bound) in found.sizes.items() if got > bound] == []
    assert list(found.large.values()) == [len(leak)]
    assert next(iter(found.large)).startswith("Soak.cache.engine.listeners")
