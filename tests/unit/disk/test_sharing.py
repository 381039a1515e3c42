"""The disk tier shared by threads and processes, each of which may close it, die in it or wait for it."""

from __future__ import annotations

import asyncio
import gc
import multiprocessing
import os
import signal
import sqlite3
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from unit.disk.rows import LARGE, get, put, run_sql

from novacron_cache.effects import Capture, Fetch, Item, Renew, Store
from novacron_cache.errors import TierUnavailableError
from novacron_cache.markers import NAMESPACE, new_id, tag_dep
from novacron_cache.tiers.disk import DiskTier
from novacron_cache.tiers.disk_mark import Mark
from novacron_cache.tiers.gate import Gate


class TestThreadsAndClosing:
    def test_threads_share_it_and_leave_no_connection_behind(self, tier: DiskTier) -> None:
        put(tier, "a", b"1")
        errors: list[BaseException] = []

        def work(n: int) -> None:
            try:
                for turn in range(20):
                    get(tier, "a")
                    with suppress(TierUnavailableError):  # another one may be writing for too long
                        put(tier, f"{n}", b"%d" % turn)
            except BaseException as error:
                errors.append(error)

        threads = [threading.Thread(target=work, args=(n,)) for n in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert errors == []
        gc.collect()
        assert len(tier._open()._links) == 1

    def test_closing_closes_the_connections_of_all_threads(self, path: Path) -> None:
        tier = DiskTier(path)
        put(tier, "a", b"1")
        go, opened = threading.Event(), threading.Event()

        def stay() -> None:
            get(tier, "a")
            opened.set()
            go.wait(30)

        thread = threading.Thread(target=stay)
        thread.start()
        opened.wait(30)
        links = list(tier._open()._links)
        assert len(links) == 2
        tier.close()
        for link in links:
            with pytest.raises(sqlite3.ProgrammingError):
                link.connection.execute("SELECT 1")
        go.set()
        thread.join(30)
        assert not (path / "cache.db-wal").exists()

    async def test_after_closing_every_operation_is_refused(self, tier: DiskTier) -> None:
        assert (await tier.aperform(Fetch(["a"]))).payloads == [None]
        await tier.aclose()
        await tier.aclose()
        with pytest.raises(TierUnavailableError, match="closed"):
            tier.perform(Fetch(["a"]))
        with pytest.raises(TierUnavailableError, match="closed"):
            await tier.aperform(Fetch(["a"]))

    async def test_a_loop_is_not_blocked_and_several_operations_run_at_once(self, tier: DiskTier) -> None:
        await asyncio.gather(*(tier.aperform(Store([Item(f"k{n}", b"%d" % n, 60.0)])) for n in range(20)))
        fetched = await tier.aperform(Fetch([f"k{n}" for n in range(20)]))
        assert fetched.payloads == [b"%d" % n for n in range(20)]


def _capture(path: str, start: Any, answers: Any) -> None:
    tier = DiskTier(path, timeout=20.0)
    start.wait(30)
    answers.put(tier.perform(Capture([tag_dep("a"), tag_dep("b")], 60.0)))
    tier.close()


def _hold_the_lock(path: str, ready: Any) -> None:
    connection = sqlite3.connect(Path(path) / "cache.db", isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
    ready.set()
    threading.Event().wait(60)


class TestProcesses:
    def test_two_processes_that_capture_one_marker_get_one_id(self, path: Path, tier: DiskTier) -> None:
        put(tier, "a", b"1")
        spawn = multiprocessing.get_context("spawn")
        start, answers = spawn.Barrier(2), spawn.Queue()
        workers = [spawn.Process(target=_capture, args=(str(path), start, answers)) for _ in range(2)]
        for worker in workers:
            worker.start()
        first, second = answers.get(timeout=30), answers.get(timeout=30)
        for worker in workers:
            worker.join(30)
        assert first == second == tier.perform(Fetch([], [tag_dep("a"), tag_dep("b")])).ids

    def test_a_process_that_is_killed_while_it_writes_leaves_the_tier_working(self, path: Path, tier: DiskTier) -> None:
        put(tier, "a", b"1")
        spawn = multiprocessing.get_context("spawn")
        ready = spawn.Event()
        worker = spawn.Process(target=_hold_the_lock, args=(str(path), ready))
        worker.start()
        assert ready.wait(30)
        assert worker.pid is not None
        os.kill(worker.pid, signal.SIGSTOP)
        with pytest.raises(TierUnavailableError):
            put(tier, "a", b"2")
        assert get(tier, "a") == b"1"
        os.kill(worker.pid, signal.SIGKILL)
        worker.join(30)
        put(tier, "a", b"3")
        assert get(tier, "a") == b"3"

    @pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
    def test_a_forked_child_works_and_so_does_its_parent(self, path: Path, tier: DiskTier) -> None:
        put(tier, "a", b"1")
        asyncio.run(tier.aperform(Fetch(["a"])))
        stop, errors = threading.Event(), list[BaseException]()

        def write_all_the_time() -> None:
            while not stop.is_set():
                try:
                    put(tier, "busy", LARGE)
                except TierUnavailableError:
                    continue
                except BaseException as error:
                    errors.append(error)
                    return

        writer = threading.Thread(target=write_all_the_time)
        writer.start()
        try:
            for n in range(3):
                child = os.fork()
                if child == 0:
                    code = 1
                    try:
                        for _ in range(200):
                            try:
                                put(tier, f"child-{n}", b"%d" % n)
                                found = asyncio.run(tier.aperform(Fetch(["a", f"child-{n}"])))
                            except TierUnavailableError:
                                continue
                            code = 0 if found.payloads == [b"1", b"%d" % n] else 2
                            break
                        tier.close()
                    finally:
                        os._exit(code)
                assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        finally:
            stop.set()
            writer.join(30)
        assert errors == []
        assert tier.perform(Fetch([f"child-{n}" for n in range(3)])).payloads == [b"0", b"1", b"2"]
        assert run_sql(path, "PRAGMA integrity_check") == [("ok",)]


class TestGate:
    def test_it_is_held_only_once_everyone_has_left(self) -> None:
        gate = Gate()
        gate.enter(0)
        gate.enter(0)
        assert not gate.hold(0)
        gate.leave()
        gate.leave()
        assert gate.hold(0)

    def test_nobody_enters_while_it_is_held(self) -> None:
        gate = Gate()
        assert gate.hold(0)
        assert not gate.hold(0)
        with pytest.raises(TimeoutError):
            gate.enter(0)
        gate.free()
        gate.enter(0)
        gate.leave()

    def test_who_waits_to_enter_enters_when_it_is_free_again(self) -> None:
        gate, entered = Gate(), threading.Event()
        assert gate.hold(0)

        def enter() -> None:
            gate.enter(30)
            entered.set()

        waiting = threading.Thread(target=enter)
        waiting.start()
        gate.free()
        assert entered.wait(30)
        waiting.join(30)
        assert not gate.hold(0)


def test_a_directory_that_is_written_to_while_it_is_opened_has_lost_nothing(
    tier: DiskTier, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tier.perform(Capture([NAMESPACE], 60.0))
    put(tier, "k", b"payload")
    is_current = Mark.is_current

    def meanwhile(mark: Mark) -> bool:
        tier.perform(Renew([(tag_dep("t"), new_id())], 60.0))
        return is_current(mark)

    monkeypatch.setattr(Mark, "is_current", meanwhile)
    other = DiskTier(path)
    try:
        assert other.perform(Fetch(["k"], [NAMESPACE])).payloads == [b"payload"]
    finally:
        other.close()
