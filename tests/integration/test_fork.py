"""A forked child uses the cache it inherited, and the parent goes on."""

from __future__ import annotations

import multiprocessing
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from servers import PATIENT, ServerProcess, wait_until

from novacron_cache import Cache, CacheSettings, fronting

pytestmark = [
    pytest.mark.servers,
    # The parent has threads on purpose.
    pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning"),
]


@pytest.fixture
def cache(valkey_server: ServerProcess, tmp_path: Path) -> Any:
    settings = CacheSettings.connect(valkey_server.url, namespace="fork", disk=tmp_path / "disk", redis=PATIENT)
    with Cache(settings) as cache:
        yield cache


def in_a_child(work: Callable[[], Any]) -> Any:
    """Return what a function returns in a forked child."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()

    def run() -> None:
        try:
            theirs.send(work())
        except BaseException as error:
            theirs.send(repr(error))
            raise

    child = context.Process(target=run)
    child.start()
    try:
        assert ours.poll(20), "the child hangs"
        return ours.recv()
    finally:
        child.join(20)
        if child.is_alive():
            child.kill()
            pytest.fail("the child does not end")


def test_a_child_reads_and_writes_and_the_parent_sees_it(cache: Cache) -> None:
    cache.set("parent", 1)

    def work() -> Any:
        read = cache.get("parent"), cache.get_or_load("child", lambda: 2)
        cache.engine.memory.clear()  # type: ignore[union-attr]  # there is one here
        return (*read, cache.get("parent"), cache.get("child"), cache.invalidate("parent").done)

    assert in_a_child(work) == (1, 2, 1, 2, True)
    assert cache.get("child") == 2
    wait_until(lambda: cache.get("parent") is None, what="the bound")
    cache.set("parent", 3)
    assert cache.get("parent") == 3


@pytest.fixture
def leading() -> Iterator[Callable[[Cache], threading.Event]]:
    """Have a thread of this process lead a load that goes on until its event is set."""
    threads: list[tuple[threading.Thread, threading.Event]] = []

    def lead(cache: Cache) -> threading.Event:
        started, release = threading.Event(), threading.Event()

        def slowly() -> str:
            started.set()
            assert release.wait(30)
            return "parent"

        threads.append((threading.Thread(target=cache.get_or_load, args=("key", slowly)), release))
        threads[-1][0].start()
        assert started.wait(10)
        return release

    yield lead
    for thread, release in threads:
        release.set()
        thread.join(10)


def test_a_child_does_not_wait_for_loads_that_its_parent_leads(
    leading: Callable[[Cache], threading.Event],
) -> None:
    with Cache() as alone:
        leading(alone)
        assert in_a_child(lambda: alone.get_or_load("key", lambda: "child")) == "child"


def test_a_child_waits_for_its_parents_load_as_any_other_process_does(
    cache: Cache, leading: Callable[[Cache], threading.Event]
) -> None:
    release = leading(cache)
    timer = threading.Timer(0.5, release.set)
    timer.start()
    assert in_a_child(lambda: cache.get_or_load("key", lambda: "child")) == "parent"
    timer.join()


def test_a_child_forked_while_a_batch_function_meets_its_cache_meets_it_as_well() -> None:
    with Cache() as alone:

        @alone.cached_many(str, key="name:<one>", each="ones")
        def names(ones: list[str]) -> dict[str, str]:
            return {one: one.upper() for one in ones}

        inside, leave = threading.Event(), threading.Event()

        def hold() -> None:
            with fronting._registering:
                inside.set()
                leave.wait(60)

        holder = threading.Thread(target=hold)
        holder.start()
        assert inside.wait(10)
        try:
            assert in_a_child(lambda: names(["a"])) == {"a": "A"}
        finally:
            leave.set()
            holder.join(10)


FIRST_CALLS = """
import asyncio, sys
from novacron_cache import Cache

cache = Cache.connect(sys.argv[1], namespace="imports")

@cache.cached(int, key="n:<n>", tags=["all"])
def blocking(n: int) -> int:
    return n

@cache.cached(int, key="n:<n>", tags=["all"])
async def awaited(n: int) -> int:
    return n

before = set(sys.modules)
blocking(1), asyncio.run(awaited(2)), cache.invalidate_tags("all"), cache.health(), cache.close()
print(*sorted(name for name in set(sys.modules) - before if not name.startswith("novacron_cache")))
"""


def test_the_first_calls_import_nothing_in_the_middle_of_which_another_thread_might_fork(
    valkey_server: ServerProcess,
) -> None:
    url = f"redis://localhost:{valkey_server.port}"
    ran = subprocess.run([sys.executable, "-c", FIRST_CALLS, url], capture_output=True, text=True, timeout=60)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout.split() == []


def test_children_forked_under_traffic_all_answer(cache: Cache) -> None:
    done = threading.Event()
    # A module that another thread is importing while the process forks can never be imported in the child.
    cache.get_or_load("before", str)

    def traffic(name: int) -> None:
        number = 0
        while not done.is_set():
            number += 1
            cache.get_or_load(f"{name}:{number}", str)
            cache.invalidate(f"{name}:{number - 1}")

    threads = [threading.Thread(target=traffic, args=(name,)) for name in range(3)]
    for thread in threads:
        thread.start()
    try:
        for number in range(6):
            assert in_a_child(lambda n=number: cache.get_or_load(f"child:{n}", lambda: n)) == number
    finally:
        done.set()
        for thread in threads:
            thread.join(20)
    assert cache.get_or_load("after", lambda: "parent") == "parent"
