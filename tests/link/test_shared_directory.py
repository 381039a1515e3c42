"""Processes that share a directory and no server hear of each other through the disk's log of changes."""

from __future__ import annotations

import asyncio
import gc
import multiprocessing
import os
import signal
import sqlite3
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from multiprocessing.connection import Connection
from pathlib import Path
from shutil import rmtree
from typing import Any

import pytest
from link.recorder import Recorder
from servers import wait_until

from novacron_cache import Cache, CacheModel, cached
from novacron_cache.effects import Capture, Fetch, Hold, Item, Operation, Purge, Release, Renew, Store
from novacron_cache.errors import TierUnavailableError
from novacron_cache.link import DiskLink, LinkState
from novacron_cache.markers import RULES, Rule, key_dep, new_id, tag_dep
from novacron_cache.tiers.disk import DiskTier
from novacron_cache.tiers.disk_markers import MAX_CHANGES, TRIM_EVERY

BOUND = 3.0


class Machine(CacheModel, key="machine:<machine_id>", ttl="1m", tags=["node:<node_id>"]):
    machine_id: str
    node_id: str


class Linked:
    """A tier, its link, and what the link says."""

    def __init__(self, path: Path, namespace: str = "link", bound: float = BOUND) -> None:
        # Patient, for this is not about how soon it gives up on a busy machine.
        self.tier = DiskTier(path, namespace=namespace, timeout=10.0)
        self.recorder = Recorder()
        self.link = DiskLink(self.tier, subscriber=self.recorder, bound=bound)

    def up(self) -> Linked:
        self.link.ensure()
        wait_until(lambda: self.link.state is LinkState.UP)
        return self

    def close(self) -> None:
        self.link.stop()
        self.tier.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def linked(path: Path) -> Iterator[Callable[..., Linked]]:
    opened: list[Linked] = []

    def open_(namespace: str = "link", **options: Any) -> Linked:
        opened.append(Linked(path, namespace, **options))
        return opened[-1]

    yield open_
    for one in opened:
        one.close()


def run_sql(path: Path, statement: str) -> list[Any]:
    connection = sqlite3.connect(path / "cache.db", isolation_level=None, timeout=10.0)
    try:
        return connection.execute(statement).fetchall()
    finally:
        connection.close()


class TestWhatIsHeard:
    @pytest.mark.parametrize("dep", [key_dep("vm:1"), tag_dep("node {é} *%:x"), "n", "m:VMState", RULES])
    def test_a_renewed_marker_is_signalled_once_with_its_new_id(self, linked: Callable[..., Linked], dep: str) -> None:
        one, other, marker_id = linked().up(), linked(), new_id()
        other.tier.perform(Renew([(dep, marker_id)], 60.0))
        assert one.link.barrier(5.0)
        assert one.link.barrier(5.0)
        assert one.recorder.signals == [(dep, marker_id)]

    def test_changes_come_in_their_order(self, linked: Callable[..., Linked]) -> None:
        one, other = linked().up(), linked()
        changes = [(tag_dep(str(n)), new_id()) for n in range(300)]
        for start in range(0, 300, 30):
            other.tier.perform(Renew(changes[start : start + 30], 60.0))
        assert one.link.barrier(5.0)
        assert one.recorder.signals == changes

    def test_what_was_before_the_link_was_up_is_not_repeated(self, linked: Callable[..., Linked]) -> None:
        linked().tier.perform(Renew([("n", new_id())], 60.0))
        one = linked().up()
        assert one.link.barrier(5.0)
        assert one.recorder.signals == []

    def test_a_rule_signals_the_head_of_the_log(self, linked: Callable[..., Linked]) -> None:
        one, other, rules = linked().up(), linked(), [new_id(), new_id()]
        other.tier.perform(Renew([], 60.0, [(rule_id, Rule(glob="v*1").encode()) for rule_id in rules]))
        assert one.link.barrier(5.0)
        assert one.recorder.signals == [(RULES, rules[-1])]

    def test_storing_capturing_and_purging_are_silent_but_a_new_key_id_is_not(
        self, linked: Callable[..., Linked]
    ) -> None:
        one, other, marker_id = linked().up(), linked(), new_id()
        other.tier.perform(Store([Item("v", b"1", 10.0)], extend=["n"], life=60.0))
        other.tier.perform(Capture(["n"], 60.0))
        other.tier.perform(Capture(["n"], 60.0, renew=[("k:v", marker_id)]))
        other.tier.perform(Purge())
        assert one.link.barrier(5.0)
        assert one.recorder.signals == [("k:v", marker_id)]

    def test_a_hold_is_signalled_when_it_begins_and_when_it_ends(self, linked: Callable[..., Linked]) -> None:
        one, other, dep, holder, after, end = linked().up(), linked(), key_dep("a"), new_id(), new_id(), new_id()
        other.tier.perform(Hold([dep], holder, 60.0))
        other.tier.perform(Hold([dep], holder, 60.0))
        other.tier.perform(Renew([(dep, after)], 60.0))
        other.tier.perform(Release([(dep, end)], holder, 60.0))
        assert one.link.barrier(5.0)
        assert one.recorder.signals == [(dep, holder), (dep, after), (dep, end)]

    def test_another_namespace_is_not_heard(self, linked: Callable[..., Linked]) -> None:
        one, other, marker_id = linked().up(), linked("other"), new_id()
        other.tier.perform(Renew([("n", new_id())], 60.0))
        linked().tier.perform(Renew([("n", marker_id)], 60.0))
        assert one.link.barrier(5.0)
        assert one.recorder.signals == [("n", marker_id)]

    def test_each_poll_moves_the_horizon_to_the_bound_after_it_began(self, linked: Callable[..., Linked]) -> None:
        one = linked().up()
        first = one.recorder.valid_until
        wait_until(lambda: one.recorder.valid_until > first)
        assert one.recorder.valid_until <= time.monotonic() + BOUND

    async def test_tasks_wait_for_a_barrier_without_blocking_the_loop(self, linked: Callable[..., Linked]) -> None:
        one = linked().up()
        assert all(await asyncio.gather(*(one.link.abarrier(5.0) for _ in range(20))))

    async def test_there_is_no_barrier_while_the_link_is_not_up(self, linked: Callable[..., Linked]) -> None:
        one = linked()
        assert not one.link.barrier(5.0)
        assert not await one.link.abarrier(5.0)
        one.up().link.stop()
        assert not one.link.barrier(5.0)

    def test_a_store_that_trims_the_log_hides_nothing(self, linked: Callable[..., Linked], path: Path) -> None:
        one, other = linked().up(), linked()
        for n in range(0, MAX_CHANGES + 3 * TRIM_EVERY, 500):
            other.tier.perform(Renew([(tag_dep(f"{n}:{m}"), new_id()) for m in range(500)], 60.0))
            assert one.link.barrier(5.0)
        assert len(one.recorder.signals) == len(set(one.recorder.signals)) > MAX_CHANGES + 2 * TRIM_EVERY
        assert one.recorder.lost == []
        ((kept,),) = run_sql(path, "SELECT count(*) FROM Change")
        assert MAX_CHANGES <= kept <= MAX_CHANGES + TRIM_EVERY + 500


class TestWhatLosesIt:
    def up_again(self, one: Linked) -> None:
        """It comes up with a fresh start, and hears what is invalidated from then on."""
        wait_until(lambda: len(one.recorder.lost) == 1)
        wait_until(lambda: one.link.state is LinkState.UP and one.recorder.ups == 2)
        one.recorder.signals.clear()
        marker_id = new_id()
        one.tier.perform(Renew([("n", marker_id)], 60.0))
        assert one.link.barrier(5.0)
        assert one.recorder.signals == [("n", marker_id)]

    def test_who_has_fallen_off_the_end_of_the_log_is_told(self, linked: Callable[..., Linked]) -> None:
        one = linked().up()
        count = MAX_CHANGES + 2 * TRIM_EVERY
        linked().tier.perform(Renew([(tag_dep(str(n)), new_id()) for n in range(count)], 60.0))
        self.up_again(one)

    def test_an_erased_database_is_noticed_though_another_one_has_taken_its_place(
        self, linked: Callable[..., Linked], path: Path
    ) -> None:
        one = linked().up()
        for file in path.glob("cache.db*"):
            file.unlink()
        linked().tier.perform(Renew([("n", new_id())], 60.0))
        self.up_again(one)

    def test_a_removed_directory_is_noticed_and_made_again(self, linked: Callable[..., Linked], path: Path) -> None:
        one = linked().up()
        rmtree(path)
        self.up_again(one)

    def test_a_damaged_database_is_made_anew(self, linked: Callable[..., Linked], path: Path) -> None:
        one = linked().up()
        for n in range(50):
            one.tier.perform(Store([Item(f"k{n}", b"x" * 3000, 60.0)]))
        run_sql(path, "PRAGMA wal_checkpoint(TRUNCATE)")
        with (path / "cache.db").open("r+b") as file:
            file.write(b"spoiled!" * 512 * 40)
        other = linked()
        for _ in range(3):
            try:
                other.tier.perform(Renew([("n", new_id())], 60.0))
            except TierUnavailableError:
                continue
            break
        self.up_again(one)

    def test_an_emptied_log_is_noticed(self, linked: Callable[..., Linked], path: Path) -> None:
        one = linked().up()
        run_sql(path, "DELETE FROM Change")
        wait_until(lambda: one.recorder.lost)

    def test_a_log_that_was_tampered_with_is_not_believed(self, linked: Callable[..., Linked], path: Path) -> None:
        one = linked().up()
        run_sql(path, "INSERT INTO Change (dep, id) VALUES ('4:link:n', 'text')")
        wait_until(lambda: one.recorder.lost)
        assert one.recorder.signals == []


class Log:
    """A log of changes that fails when it is told to."""

    def __init__(self) -> None:
        self.down = False
        self.asked = 0
        self.found: list[tuple[str, bytes]] = []

    def newest_change(self) -> tuple[int, bytes]:
        return self.changes((0, b""))[0]

    def changes(self, since: tuple[int, bytes]) -> tuple[tuple[int, bytes], list[tuple[str, bytes]]]:
        self.asked += 1
        if self.down:
            raise TierUnavailableError("locked", tier="disk")
        found, self.found = self.found, []
        return (since[0] + len(found), b"x"), found


class TestALogThatFails:
    @pytest.fixture
    def log(self) -> Log:
        return Log()

    @pytest.fixture
    def recorder(self) -> Recorder:
        return Recorder()

    @pytest.fixture
    def open_link(self, log: Log, recorder: Recorder) -> Iterator[Callable[[float], DiskLink]]:
        links: list[DiskLink] = []

        def open_(bound: float) -> DiskLink:
            link = DiskLink(log, subscriber=recorder, bound=bound)
            links.append(link)
            link.ensure()
            return link

        yield open_
        for link in links:
            link.stop()

    def test_a_moments_silence_costs_beats_and_nothing_else(
        self, log: Log, recorder: Recorder, open_link: Callable[[float], DiskLink]
    ) -> None:
        link = open_link(60.0)
        wait_until(lambda: link.state is LinkState.UP)
        log.down = True
        asked = log.asked
        wait_until(lambda: log.asked > asked + 2)
        before = recorder.valid_until
        assert not link.barrier(5.0)
        assert recorder.valid_until == before
        log.found, log.down = [("n", b"1")], False
        assert link.barrier(5.0)
        assert recorder.signals == [("n", b"1")]
        assert (recorder.ups, recorder.lost) == (1, [])
        assert recorder.valid_until > before

    def test_silence_for_half_the_bound_loses_the_link_until_it_ends(
        self, log: Log, recorder: Recorder, open_link: Callable[[float], DiskLink]
    ) -> None:
        link = open_link(0.3)
        wait_until(lambda: link.state is LinkState.UP)
        log.down = True
        wait_until(lambda: recorder.lost == ["locked"])
        asked = log.asked
        wait_until(lambda: log.asked > asked + 2)
        assert recorder.lost == ["locked"]
        log.down = False
        wait_until(lambda: recorder.ups == 2)

    def test_a_log_that_was_never_there_is_reported_once(
        self, log: Log, recorder: Recorder, open_link: Callable[[float], DiskLink]
    ) -> None:
        log.down = True
        open_link(3.0)
        wait_until(lambda: log.asked > 2)
        assert (recorder.ups, recorder.lost) == (0, ["locked"])

    def test_a_subscriber_that_fails_loses_the_link(
        self, log: Log, recorder: Recorder, open_link: Callable[[float], DiskLink], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        link = open_link(3.0)
        wait_until(lambda: link.state is LinkState.UP)

        def fail(_: object) -> None:
            raise MemoryError

        with monkeypatch.context() as patch:
            patch.setattr(recorder, "signalled", fail)
            log.found = [("n", b"1")]
            wait_until(lambda: recorder.lost == ["MemoryError"])
        wait_until(lambda: recorder.ups == 2)

    def test_a_link_that_nobody_listens_to_ends(self, log: Log) -> None:
        recorder = Recorder()
        link = DiskLink(log, subscriber=recorder, bound=3.0)
        link.ensure()
        wait_until(lambda: link.state is LinkState.UP)
        thread = link._thread
        assert thread is not None
        gone = weakref.ref(recorder)
        del recorder
        gc.collect()
        assert gone() is None
        thread.join(10)
        assert not thread.is_alive()

    def test_stopping_ends_the_thread_for_good(self, log: Log, open_link: Callable[[float], DiskLink]) -> None:
        link = open_link(3.0)
        thread = link._thread
        link.stop()
        link.stop()
        assert thread is not None
        assert not thread.is_alive()
        link.ensure()
        assert (link._thread, link.state) == (None, LinkState.STOPPED)


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_a_forked_child_has_a_link_of_its_own(linked: Callable[..., Linked]) -> None:
    one = linked().up()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            one.up()
            marker_id = new_id()
            one.tier.perform(Renew([("k:child", marker_id)], 60.0))
            if one.link.barrier(10.0) and one.recorder.signals == [("k:child", marker_id)]:
                code = 0
            one.close()
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    wait_until(lambda: [dep for dep, _ in one.recorder.signals] == ["k:child"])
    assert one.recorder.lost == []


INVALIDATIONS: list[Any] = [
    pytest.param("invalidate", ("vm:1",), id="key"),
    pytest.param("invalidate_tags", ("node:a",), id="tag"),
    pytest.param("invalidate_pattern", ("vm:*",), id="segment"),
    pytest.param("invalidate_pattern", ("*:1",), id="glob"),
    pytest.param("clear", (), id="clear"),
]


class TestCaches:
    @pytest.fixture
    def open_cache(self, path: Path) -> Iterator[Callable[..., Cache]]:
        with ExitStack() as stack:

            def open_(**settings: Any) -> Cache:
                cache = stack.enter_context(Cache.connect(namespace="shop", disk=path, **settings))
                cache.get("anything")
                link = cache.engine.link
                assert isinstance(link, DiskLink)
                wait_until(lambda: link.state is LinkState.UP)
                return cache

            yield open_

    @pytest.mark.parametrize(("method", "arguments"), INVALIDATIONS)
    def test_another_cache_forgets_at_once(
        self, open_cache: Callable[..., Cache], method: str, arguments: tuple[str, ...]
    ) -> None:
        # With such a bound, only the link can have told it.
        one, other = open_cache(staleness_bound=600.0), open_cache(staleness_bound=600.0)
        one.set("vm:1", "old", tags=["node:a"])
        assert other.get("vm:1") == "old"
        getattr(one, method)(*arguments)
        wait_until(lambda: other.get("vm:1") is None)

    def test_a_set_replaces_what_another_cache_holds(self, open_cache: Callable[..., Cache]) -> None:
        one, other = open_cache(staleness_bound=600.0), open_cache(staleness_bound=600.0)
        one.set("a", 1)
        assert other.get("a") == 1
        one.set("a", 2)
        wait_until(lambda: other.get("a") == 2)
        assert one.get("a") == 2

    def test_a_purge_is_heard_and_leaves_the_link_up(self, open_cache: Callable[..., Cache]) -> None:
        one, other = open_cache(staleness_bound=600.0), open_cache(staleness_bound=600.0)
        one.set("a", 1)
        assert other.get("a") == 1
        one.clear(purge=True)
        wait_until(lambda: other.get("a") is None)
        epoch = other.engine.epoch
        other.set("a", 2)
        wait_until(lambda: one.get("a") == 2)
        assert other.engine.epoch == epoch

    def test_what_is_held_leaves_the_memory_of_others(self, open_cache: Callable[..., Cache], path: Path) -> None:
        cache, holder = open_cache(staleness_bound=600.0), new_id()
        writer = DiskTier(path, namespace="shop", timeout=10.0)
        try:
            cache.set("a", 1)
            writer.perform(Hold([key_dep("a")], holder, 60.0))
            wait_until(lambda: cache.get("a") is None)
            writer.perform(Release([(key_dep("a"), new_id())], holder, 60.0))
            assert cache.get("a") is None
            assert cache.get_or_load("a", lambda: 2) == 2
            assert writer.perform(Fetch([], [key_dep("a")])).ids != [None]
        finally:
            writer.close()

    def test_while_one_holds_what_it_writes_another_neither_serves_nor_keeps_it(
        self, open_cache: Callable[..., Cache]
    ) -> None:
        one, other, loads = open_cache(staleness_bound=600.0), open_cache(staleness_bound=600.0), iter(range(100))

        def read() -> int:
            value: int = other.get_or_load("a", lambda: next(loads), tags=["t"])
            return value

        assert (read(), read()) == (0, 0)
        with one.invalidating(tags=["t"]) as holding:
            assert holding.held
            wait_until(lambda: read() > 0)
            first = read()
            assert read() == first + 1
        last = read()
        assert last > first + 1
        wait_until(lambda: read() == read())

    def test_a_tag_that_only_the_result_names_is_shared_from_the_first_load_on(
        self, open_cache: Callable[..., Cache]
    ) -> None:
        one, other, loads = open_cache(staleness_bound=600.0), open_cache(staleness_bound=600.0), list[str]()

        def load(machine_id: str) -> Machine:
            loads.append(machine_id)
            return Machine(machine_id=machine_id, node_id="n1")

        here, there = cached(Machine, cache=one)(load), cached(Machine, cache=other)(load)
        assert here("m") == there("m")
        assert loads == ["m"]
        other.invalidate_tags("node:n1")
        there("m")
        assert loads == ["m", "m"]
        machines = one.engine.memory
        assert machines is not None
        wait_until(lambda: not any(entry.logical == "machine:m" for entry in machines.entries()))

    @pytest.fixture
    def watch(self, monkeypatch: pytest.MonkeyPatch) -> Callable[[Cache], list[Operation]]:
        """What makes a list of all that a cache asks its disk from then on."""

        def watch_(cache: Cache) -> list[Operation]:
            operations: list[Operation] = []
            tier = cache.engine.authority
            assert tier is not None
            perform = tier.perform

            def note(operation: Operation) -> Any:
                operations.append(operation)
                return perform(operation)

            monkeypatch.setattr(tier, "perform", note)
            return operations

        return watch_

    def test_an_unchanged_value_is_kept_past_the_bound_and_nobody_is_asked(
        self, open_cache: Callable[..., Cache], watch: Callable[[Cache], list[Operation]]
    ) -> None:
        bound = 1.0
        cache = open_cache(staleness_bound=bound)
        cache.set("a", 1)
        operations = watch(cache)
        until, read = time.monotonic() + 3 * bound, list[bool]()

        def read_on() -> bool:
            read.append(cache.get("a") == 1)
            return time.monotonic() > until

        wait_until(read_on)
        assert all(read)
        # Without a link one call asks in each bound. A poll that is late on a busy machine may make a call ask, too.
        assert len(operations) <= 1

    def test_its_own_invalidations_cost_a_cache_nothing(
        self, open_cache: Callable[..., Cache], watch: Callable[[Cache], list[Operation]]
    ) -> None:
        cache = open_cache(staleness_bound=600.0)
        cache.set("a", 1)
        cache.invalidate("c")
        cache.invalidate_pattern("*:z")
        cache.set("b", 2)
        link = cache.engine.link
        assert link is not None
        assert link.barrier(5.0)
        operations = watch(cache)
        assert (cache.get("a"), cache.get("b")) == (1, 2)
        assert operations == []

    def test_closing_ends_the_link(self, path: Path) -> None:
        before = threading.active_count()
        with Cache.connect(namespace="shop", disk=path) as cache:
            cache.get("a")
            assert threading.active_count() > before
        assert cache.engine.link is not None
        assert cache.engine.link.state is LinkState.STOPPED
        wait_until(lambda: threading.active_count() == before)

    def test_without_process_memory_there_is_nothing_to_tell(self, path: Path) -> None:
        with Cache.connect(namespace="shop", disk=path, memory={"enabled": False}) as cache:
            assert cache.engine.link is None


def _serve(path: str, bound: float, requests: Connection) -> None:
    """Do with a cache what another process asks for, until it asks for nothing more."""
    with Cache.connect(namespace="shop", disk=path, staleness_bound=bound) as cache:
        cache.get("anything")
        link = cache.engine.link
        assert link is not None
        wait_until(lambda: link.state is LinkState.UP)
        requests.send("ready")
        while (request := requests.recv()) is not None:
            method, *arguments = request
            if method == "until_not":
                requests.send(_until_not(cache, *arguments))
            elif method == "wait_for":
                wait_until(lambda: cache.get(arguments[0]) == arguments[1])  # noqa: B023 - it is called right here
                requests.send("heard")
            else:
                options = arguments.pop() if method == "set" else {}
                result = getattr(cache, method)(*arguments, **options)
                requests.send(result if method == "get" else None)


def _until_not(cache: Cache, key: str, value: Any) -> float:
    """Read a key until it has another value; return when the last call began that returned this one."""
    began = 0.0
    while True:
        now = time.monotonic()
        if cache.get(key) != value:
            return began
        began = now


class Worker:
    """A cache in a process of its own."""

    def __init__(self, path: Path, bound: float, *, forked: bool = False) -> None:
        context: Any = multiprocessing.get_context("fork" if forked else "spawn")
        self.requests, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(str(path), bound, theirs))
        self.process.start()
        theirs.close()

    def send(self, *request: Any) -> None:
        self.requests.send(request)

    def receive(self) -> Any:
        assert self.requests.poll(30), "the worker hangs"
        return self.requests.recv()

    def __call__(self, *request: Any) -> Any:
        self.send(*request)
        return self.receive()

    def signal(self, number: signal.Signals) -> None:
        assert self.process.pid is not None
        os.kill(self.process.pid, number)

    def end(self) -> None:
        self.process.kill()
        self.process.join(30)
        self.requests.close()


class TestProcesses:
    @pytest.fixture
    def start(self, path: Path) -> Iterator[Callable[..., list[Worker]]]:
        workers: list[Worker] = []

        def start_(count: int, bound: float, **options: Any) -> list[Worker]:
            started = [Worker(path, bound, **options) for _ in range(count)]
            workers.extend(started)
            assert [worker.receive() for worker in started] == ["ready"] * count
            return started

        yield start_
        for worker in workers:
            worker.end()

    def test_a_real_process_hears_another_and_the_other_way_round(self, start: Callable[..., list[Worker]]) -> None:
        one, other = start(2, 600.0)
        for writer, reader in ((one, other), (other, one)):
            for parameter in INVALIDATIONS:
                method, arguments = parameter.values
                writer("set", "vm:1", parameter.id, {"tags": ["node:a"]})
                reader("wait_for", "vm:1", parameter.id)
                writer(method, *arguments)
                reader("wait_for", "vm:1", None)  # long before its bound

    def test_a_stopped_process_serves_nothing_past_the_bound_when_it_goes_on(
        self, start: Callable[..., list[Worker]], path: Path
    ) -> None:
        bound = 0.5
        (worker,) = start(1, bound)
        with Cache.connect(namespace="shop", disk=path) as cache:
            cache.set("a", "old")
            assert worker("get", "a") == "old"
            worker.send("until_not", "a", "old")
            worker.signal(signal.SIGSTOP)
            cache.invalidate("a")
            invalidated = time.monotonic()
            wait_until(lambda: time.monotonic() > invalidated + bound)
            worker.signal(signal.SIGCONT)
            last: float = worker.receive()
            assert last < invalidated + bound
            assert worker("get", "a") is None

    @pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
    def test_eight_processes_agree(self, start: Callable[..., list[Worker]]) -> None:
        workers = start(8, 600.0, forked=True)
        for version in range(4):
            workers[version]("set", "version", version, {})
            for worker in workers:
                worker.send("wait_for", "version", version)
            for worker in workers:
                worker.receive()

    def test_what_a_killed_process_invalidated_is_heard(self, start: Callable[..., list[Worker]], path: Path) -> None:
        (worker,) = start(1, 600.0)
        with Cache.connect(namespace="shop", disk=path, staleness_bound=600.0) as cache:
            cache.get("anything")
            link = cache.engine.link
            assert link is not None
            wait_until(lambda: link.state is LinkState.UP)
            cache.set("a", 1)
            worker("invalidate", "a")
            worker.signal(signal.SIGKILL)
            wait_until(lambda: cache.get("a") is None)
