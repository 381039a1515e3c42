"""Several processes of one machine: the sum is right however they begin and end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from servers import wait_until

from novacron_cache import Cache, CacheSettings, SettingsError
from novacron_cache.observe.directory import MANY, SnapshotDirectory
from novacron_cache.observe.snapshot import Snapshot

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


def shared(directory: Path, **more: Any) -> Cache:
    return Cache(CacheSettings(monitor={"directory": directory, "publish_interval": 0.05}, **more))


def basic(cache: Cache) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(cache.metrics_json())
    return {**found["basic"], "processes": found["processes"], "items": found["tiers"]["memory"].get("items", 0)}


def work(cache: Cache, keys: int, hits: int) -> None:
    @cache.cached(int, key="n:<n>", name="numbers")
    def get(n: int) -> int:
        return n

    for n in range(keys):
        for _ in range(hits + 1):
            get(n)


class Child:
    """A forked process that works, then waits to be told to end."""

    def __init__(self, run: Callable[[], object], *, close: Callable[[], None] | None = None) -> None:
        ready, told = os.pipe(), os.pipe()
        self.pid = os.fork()
        if not self.pid:
            code = 1
            try:
                run()
                os.write(ready[1], b".")
                os.read(told[0], 1)
                if close is not None:
                    close()
                code = 0
            finally:
                os._exit(code)
        os.close(ready[1])
        os.close(told[0])
        self._told = told[1]
        assert os.read(ready[0], 1) == b"."
        os.close(ready[0])

    def end(self) -> None:
        os.write(self._told, b".")
        self._reap()

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        self._reap()

    def _reap(self) -> None:
        os.close(self._told)
        os.waitpid(self.pid, 0)


def test_workers_forked_from_one_cache_are_summed_and_nothing_is_counted_twice(tmp_path: Path) -> None:
    with shared(tmp_path) as cache:
        work(cache, keys=2, hits=4)  # before the fork: each child has a copy of these counters
        assert basic(cache)["calls"] == 10
        children = [Child(lambda: work(cache, keys=3, hits=9)) for _ in range(3)]
        try:
            # Two of a child's three keys are in the memory it was forked with: 30 calls, 29 of them hits.
            wait_until(lambda: basic(cache)["calls"] == 10 + 3 * 30, what="the sum over four processes")
            found = basic(cache)
            assert (found["processes"], found["hits"], found["misses"]) == (4, 8 + 3 * 29, 2 + 3)
            assert found["items"] == 2 + 3 * 3
        finally:
            for child in children:
                child.kill()


def test_a_forked_child_begins_at_zero_also_without_a_directory() -> None:
    with Cache() as cache:
        work(cache, keys=2, hits=4)
        read, write = os.pipe()
        pid = os.fork()
        if not pid:
            try:
                before = basic(cache)["calls"]
                work(cache, keys=1, hits=1)
                os.write(write, json.dumps([before, basic(cache)["calls"], basic(cache)["items"]]).encode())
            finally:
                os._exit(0)
        os.close(write)
        with os.fdopen(read) as pipe:
            assert json.load(pipe) == [0, 2, 2]
        os.waitpid(pid, 0)


@pytest.mark.parametrize("how", ["kill", "end"])
def test_what_an_ended_process_counted_stays_and_what_it_held_does_not(tmp_path: Path, how: str) -> None:
    with shared(tmp_path) as cache:
        child = Child(lambda: work(cache, keys=3, hits=9), close=cache.close)
        wait_until(lambda: basic(cache)["calls"] == 30, what="the child's figures")
        assert basic(cache)["processes"] == 2
        getattr(child, how)()
        found = basic(cache)
        assert (found["calls"], found["processes"], found["items"]) == (30, 1, 0)


def test_a_process_that_ends_without_closing_its_cache_leaves_its_last_figures(tmp_path: Path) -> None:
    source = (
        "import sys; from novacron_cache import Cache, CacheSettings;"
        "cache = Cache(CacheSettings(monitor={'directory': sys.argv[1], 'publish_interval': 3600}));"
        "[cache.get_or_load(f'k{n}', lambda: n) for n in range(7)]"
    )
    subprocess.run([sys.executable, "-c", source, str(tmp_path)], check=True)
    with shared(tmp_path) as cache:
        assert basic(cache)["loads"] == 7


def test_figures_taken_before_the_last_ones_do_not_replace_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = Cache(CacheSettings(monitor={"directory": tmp_path, "publish_interval": 3600}))
    wait_until(lambda: list(tmp_path.glob("*.snapshot")), what="the first figures, which no test is to hold up")
    observer, taken, go_on = cache.observer, threading.Event(), threading.Event()
    take = observer.own_figures

    def take_slowly() -> Snapshot:
        figures = take()
        taken.set()
        assert go_on.wait(10)
        return figures

    with monkeypatch.context() as patched:
        patched.setattr(observer, "own_figures", take_slowly)
        slow = threading.Thread(target=observer.publish, args=(False,))
        slow.start()
        assert taken.wait(10)
    work(cache, keys=7, hits=0)
    observer.leave()
    go_on.set()
    slow.join()
    with shared(tmp_path) as other:
        assert basic(other)["loads"] == 7
    cache.close()


def test_another_application_in_the_same_directory_is_not_counted(tmp_path: Path) -> None:
    with shared(tmp_path, namespace="shop") as shop, shared(tmp_path, namespace="shop-2") as other:
        work(other, keys=3, hits=0)
        wait_until(lambda: len(list(tmp_path.glob("novacron_cache-shop-2-*.snapshot"))) == 1)
        assert basic(shop)["calls"] == 0


def test_two_caches_of_one_process_are_both_counted(tmp_path: Path) -> None:
    with shared(tmp_path, namespace="shop") as one, shared(tmp_path, namespace="shop") as two:
        work(one, keys=2, hits=0)
        work(two, keys=3, hits=0)
        wait_until(lambda: basic(one)["calls"] == 5)


class TestTidying:
    @staticmethod
    def dead(directory: SnapshotDirectory, number: int) -> None:
        snapshot = Snapshot(f"host:1:{number}", 1.0, facts={"namespace": "shop"})
        snapshot.add("loads", 1, "numbers")
        snapshot.add("items", 5, "memory")
        directory.write(snapshot, final=True)

    def test_many_files_of_the_dead_become_one_and_the_sum_stays(self, tmp_path: Path) -> None:
        directory = SnapshotDirectory(tmp_path, "shop")
        for number in range(3 * MANY):
            self.dead(directory, number)
            total = sum(one.total("loads") for one in directory.others("host:2:me"))
            assert total == number + 1
            assert len(list(tmp_path.glob("*.snapshot"))) <= MANY + 3

    def test_the_sum_is_right_when_putting_together_stops_halfway(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        directory = SnapshotDirectory(tmp_path, "shop")
        for number in range(MANY + 1):
            self.dead(directory, number)

        def died(path: Path, missing_ok: bool = False) -> None:
            raise OSError

        with monkeypatch.context() as dying:
            dying.setattr(Path, "unlink", died)
            assert sum(one.total("loads") for one in directory.others("host:2:me")) == MANY + 1
        assert len(list(tmp_path.glob("*.snapshot"))) == MANY + 2
        for _ in range(3):
            assert sum(one.total("loads") for one in directory.others("host:2:me")) == MANY + 1
        assert len(list(tmp_path.glob("*.snapshot"))) == 1

    def test_what_is_no_snapshot_is_left_alone(self, tmp_path: Path) -> None:
        directory = SnapshotDirectory(tmp_path, "shop")
        (tmp_path / "novacron_cache-shop-x.snapshot").write_bytes(b"half a sna")
        (tmp_path / "counter_12.db").write_bytes(b"another library's")
        assert directory.others("me") == []
        assert (tmp_path / "counter_12.db").exists()


def test_a_directory_that_cannot_be_made_is_an_error_that_names_the_setting(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SettingsError, match=r"monitor\.directory=.* cannot be made"):
        shared(tmp_path / "file" / "below")
