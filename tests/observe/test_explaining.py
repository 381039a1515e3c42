"""What `explain` tells beside the tiers' states: how a payload is written, the state of each tag, the last miss."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from novacron_cache import Cache, CacheSettings
from novacron_cache.observe import recording
from novacron_cache.testing import ManualClock


def on_disk(directory: Path, **more: Any) -> Cache:
    return Cache(CacheSettings.connect(namespace="shop", disk=directory, memory={"enabled": False}, **more))


@pytest.mark.parametrize(
    ("settings", "codec"),
    [
        ({}, "json"),
        ({"serialization": "msgpack"}, "msgpack"),
        ({"compression": "zlib", "compression_min_bytes": 1}, "json+zlib"),
        ({"signing_keys": ["a-key-of-16-bytes"]}, "json, signed"),
        (
            {"compression": "zstd", "compression_min_bytes": 1, "signing_keys": ["a-key-of-16-bytes"]},
            "json+zstd, signed",
        ),
    ],
)
def test_it_says_how_the_payload_is_written(tmp_path: Path, settings: dict[str, Any], codec: str) -> None:
    with on_disk(tmp_path, **settings) as cache:
        get = cache.cached(list[int], key="n:<n>", ttl=60)(lambda n: [n] * 100)
        get(1)
        assert (get.explain(1).tier, get.explain(1).codec) == ("disk", codec)
        assert get.explain(2).codec is None


def test_process_memory_holds_values_and_not_payloads() -> None:
    with Cache() as cache:
        cache.set("a", 1)
        assert (cache.explain("a").tier, cache.explain("a").codec) == ("memory", None)


def test_it_says_which_tag_was_invalidated(tmp_path: Path) -> None:
    with on_disk(tmp_path) as cache:
        cache.set("a", 1, tags=["red", "round"])
        assert cache.explain("a").tag_states == {"red": "current", "round": "current"}
        cache.invalidate_tags("round")
        found = cache.explain("a")
        assert (found.reason, found.tag_states) == ("invalidated", {"red": "current", "round": "invalidated"})


def test_a_value_can_be_invalid_though_all_its_tags_are_current(tmp_path: Path) -> None:
    with on_disk(tmp_path) as cache:
        cache.set("a", 1, tags=["red"])
        cache.invalidate("a")
        found = cache.explain("a")
        assert (found.reason, found.tag_states) == ("invalidated", {"red": "current"})


def test_in_process_memory_alone_what_is_there_is_current() -> None:
    with Cache() as cache:
        cache.set("a", 1, tags=["red"])
        assert cache.explain("a").tag_states == {"red": "current"}
        cache.invalidate_tags("red")
        assert cache.explain("a").tag_states == {}


class TestTheLastMiss:
    def test_is_remembered_after_the_value_is_there(self) -> None:
        clock = ManualClock()
        with Cache(clock=clock) as cache:
            get = cache.cached(int, key="n:<n>", ttl=10)(lambda n: n)
            assert get.explain(1).last_miss is None
            get(1)
            assert (get.explain(1).reason, get.explain(1).last_miss) == ("hit", "cold")
            clock.advance(11)
            get(1)
            assert (get.explain(1).reason, get.explain(1).last_miss) == ("hit", "expired")

    def test_says_that_a_value_was_evicted(self) -> None:
        with Cache(CacheSettings(memory={"max_items": 2, "policy": "lru"})) as cache:
            get = cache.cached(int, key="n:<n>")(lambda n: n)
            for n in (1, 2, 3, 1):
                get(n)
            assert get.explain(1).last_miss == "evicted"

    def test_looking_is_no_miss(self) -> None:
        with Cache() as cache:
            get = cache.cached(int, key="n:<n>")(lambda n: n)
            get.peek(1), get.explain(1)
            assert get.explain(1).last_miss is None

    def test_only_so_many_are_remembered(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(recording, "MAX_GHOSTS", 3)
        with Cache() as cache:
            get = cache.cached(int, key="n:<n>")(lambda n: n)
            for n in range(5):
                get(n)
            assert [get.explain(n).last_miss for n in range(5)] == [None, None, "cold", "cold", "cold"]

    def test_is_unknown_where_nothing_is_counted(self) -> None:
        with Cache(CacheSettings(enable_metrics=False)) as cache:
            get = cache.cached(int, key="n:<n>")(lambda n: n)
            get(1)
            assert get.explain(1).last_miss is None


def test_it_is_plain_data_for_json(tmp_path: Path) -> None:
    with on_disk(tmp_path) as cache:
        cache.set("a", 1, tags=["red"])
        plain = cache.explain("a").as_dict()
        assert (plain["codec"], plain["tag_states"], plain["last_miss"]) == ("plain", {"red": "current"}, None)
