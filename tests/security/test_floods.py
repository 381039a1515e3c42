"""Many requests for what is not there, or for ever new things, overrun neither the database nor a process's memory."""

from __future__ import annotations

import gc
import threading
from pathlib import Path

import pytest

from novacron_cache import Cache, CacheSettings, PatternLogFull, cached
from novacron_cache.markers import MAX_RULES
from novacron_cache.observe.recording import MAX_GHOSTS, MAX_MODELS


def test_what_does_not_exist_is_asked_for_once() -> None:
    with Cache() as cache:
        loads: list[str] = []

        @cached(str, key="user:<name>", negative_ttl="1m", cache=cache)
        def user(name: str) -> str | None:
            loads.append(name)
            return None

        assert [user("nobody") for _ in range(1000)] == [None] * 1000
        assert loads == ["nobody"]


def test_callers_of_one_missing_key_share_one_load() -> None:
    with Cache() as cache:
        loads: list[str] = []
        begun, ended = threading.Event(), threading.Event()

        @cached(str, key="user:<name>", cache=cache)
        def user(name: str) -> str:
            loads.append(name)
            begun.set()
            assert ended.wait(10.0)
            return name

        threads = [threading.Thread(target=user, args=["eve"]) for _ in range(20)]
        for thread in threads:
            thread.start()
        assert begun.wait(10.0)
        ended.set()
        for thread in threads:
            thread.join(10.0)
        assert loads == ["eve"]


def test_ever_new_keys_and_tags_leave_process_memory_within_its_bounds() -> None:
    with Cache(CacheSettings(memory={"max_items": 100})) as cache:
        user = cached(str, key="user:<name>", tags=["tag:<name>"], cache=cache)(lambda name: name)
        for number in range(5_000):
            user(str(number))
        gc.collect()
        memory = cache.engine.memory
        assert memory is not None
        assert len(memory.entries()) <= 100
        assert len(memory._by_logical) <= 100
        assert len(memory._by_tag) <= 100
        recorder = cache.observer.recorder
        assert len(recorder._ghosts) <= MAX_GHOSTS


def test_ever_new_names_share_a_label() -> None:
    with Cache() as cache:
        for number in range(MAX_MODELS + 50):
            cached(int, key="n:<n>", name=f"name-{number}", cache=cache)(lambda n: n)(1)
            cache.record_operation(f"operation-{number}", 0.1, success=True, pattern=f"pattern-{number}")
        names = {
            line.split('model="')[1].split('"')[0]
            for line in cache.export_prometheus().splitlines()
            if "model=" in line
        }
        assert len(names) <= MAX_MODELS + 1
        assert "other" in names


def test_a_flood_of_patterns_is_refused_and_told(tmp_path: Path) -> None:
    with Cache.connect(disk=tmp_path / "cache", namespace="shop") as cache:
        told: list[object] = []
        cache.on("rule_log_full", told.append)
        for number in range(MAX_RULES):
            cache.invalidate_pattern(f"k{number}*:?")
        with pytest.raises(PatternLogFull, match="give these entries a tag"):
            cache.invalidate_pattern("one-more*:?")
        assert told
        assert cache.observer.figures().total("rule_log_full") >= 1
