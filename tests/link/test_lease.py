"""Leases between real processes: one of them loads a cold key, however it ends, and the others go on."""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from servers import PATIENT, ServerProcess, redis_binary, required, running, valkey_binary, wait_until

from novacron_cache import Cache, CacheSettings
from novacron_cache.flows import leasing
from novacron_cache.leases import LIFE
from novacron_cache.link import LinkState

pytestmark = pytest.mark.servers
log = logging.getLogger(__name__)

LOADING = 0.3
SLACK = 5.0
"""Seconds that a busy machine may add."""

_spawn = multiprocessing.get_context("spawn")


def opened(url: str, **settings: Any) -> Cache:
    """Return a cache whose link is up."""
    cache = Cache(CacheSettings.connect(url, namespace="lease", redis=PATIENT, **settings))
    cache.get("anything")
    link = cache.engine.link
    assert link is not None
    wait_until(lambda: link.state is LinkState.UP)
    return cache


@pytest.fixture(scope="module", params=["valkey", "redis7"])
def server(request: pytest.FixtureRequest) -> Iterator[ServerProcess]:
    binary = valkey_binary() if request.param == "valkey" else redis_binary()
    with running(required(binary, request.param)) as started:
        yield started


@pytest.fixture(autouse=True)
def _empty(server: ServerProcess) -> None:
    server.flush()


# --- a fleet ----------------------------------------------------------------------------------------------------------


class Answer(NamedTuple):
    """What one process's callers got.

    Attributes:
        pid: the process.
        slowest: seconds that the last of them took.
        values: what they got: the process that loaded it.
    """

    pid: int
    slowest: float
    values: set[int]


class Loader:
    """Notes in a file which process loads, takes its time, and returns that process."""

    def __init__(self, log: Path, seconds: float) -> None:
        self._log = log
        self._seconds = seconds

    def _note(self) -> int:
        with self._log.open("a") as log:
            log.write(f"{os.getpid()}\n")
        return os.getpid()

    def load(self) -> int:
        pid = self._note()
        time.sleep(self._seconds)
        return pid

    async def aload(self) -> int:
        pid = self._note()
        await asyncio.sleep(self._seconds)
        return pid


def _member(url: str, style: str, callers: int, loader: Loader, ready: Any, go: Any, answers: Any) -> None:
    def call(_: int) -> tuple[float, int]:
        value: int = cache.get_or_load("cold", loader.load)
        return time.perf_counter(), value

    async def acall() -> tuple[float, int]:
        value: int = await cache.aget_or_load("cold", loader.aload)
        return time.perf_counter(), value

    async def crowd() -> tuple[float, list[tuple[float, int]]]:
        await cache.aget("warm")  # this loop has a connection, too
        ready.put(os.getpid())
        await asyncio.to_thread(go.wait, 30)
        began = time.perf_counter()
        return began, await asyncio.gather(*(acall() for _ in range(callers)))

    with opened(url) as cache:
        if style == "tasks":
            began, got = asyncio.run(crowd())
        else:
            with ThreadPoolExecutor(callers) as pool:
                list(pool.map(lambda _: time.sleep(0.01), range(callers)))
                ready.put(os.getpid())
                go.wait(30)
                began = time.perf_counter()
                got = list(pool.map(call, range(callers)))
        answers.put(Answer(os.getpid(), max(at for at, _ in got) - began, {value for _, value in got}))


class Fleet:
    """Processes whose callers all want one cold key at the same moment."""

    def __init__(self, url: str, log: Path, style: str, *, processes: int, callers: int, seconds: float) -> None:
        self._log = log
        self._go = _spawn.Event()
        self._answers = _spawn.Queue()
        ready = _spawn.Queue()
        loader = Loader(log, seconds)
        given = (url, style, callers, loader, ready, self._go, self._answers)
        self._members = [_spawn.Process(target=_member, args=given, daemon=True) for _ in range(processes)]
        for member in self._members:
            member.start()
        self.pids = {ready.get(timeout=60) for _ in self._members}

    def go(self) -> None:
        self._go.set()

    def loads(self) -> list[int]:
        return [int(line) for line in self._log.read_text().split()] if self._log.exists() else []

    def holder(self) -> int:
        """Return the process that loads, once it does."""
        return int(wait_until(self.loads)[0])

    def answers(self, count: int) -> list[Answer]:
        return [self._answers.get(timeout=60) for _ in range(count)]

    def end(self) -> None:
        for member in self._members:
            member.join(20)
            if member.is_alive():
                member.kill()
                member.join()


@pytest.fixture
def fleet(server: ServerProcess, tmp_path: Path) -> Iterator[Callable[..., Fleet]]:
    made: list[Fleet] = []

    def make(style: str, *, processes: int = 4, callers: int = 16, seconds: float = LOADING) -> Fleet:
        made.append(Fleet(server.url, tmp_path / "loads", style, processes=processes, callers=callers, seconds=seconds))
        return made[-1]

    yield make
    for one in made:
        one.end()


@pytest.mark.parametrize("style", ["threads", "tasks"])
def test_a_fleet_loads_a_cold_key_once(fleet: Callable[..., Fleet], style: str) -> None:
    all_ = fleet(style)
    all_.go()
    answers = all_.answers(4)
    assert len(all_.loads()) == 1
    assert {value for answer in answers for value in answer.values} == {all_.holder()}
    slowest = max(answer.slowest for answer in answers)
    log.info("%s: the slowest waiter took %.3f of the loader's time", style, slowest / LOADING)
    assert slowest < LOADING + SLACK


@pytest.mark.parametrize("style", ["threads", "tasks"])
def test_a_holder_that_is_killed_costs_one_more_load(fleet: Callable[..., Fleet], style: str) -> None:
    all_ = fleet(style, callers=25, seconds=1.0)
    all_.go()
    os.kill(all_.holder(), signal.SIGKILL)
    answers = all_.answers(3)
    assert len(all_.loads()) == 2
    assert {value for answer in answers for value in answer.values} == {all_.loads()[1]}
    assert max(answer.slowest for answer in answers) < LIFE + 2.0 + SLACK


def test_a_holder_that_is_stopped_loses_its_lease_and_overwrites_nothing(
    server: ServerProcess, fleet: Callable[..., Fleet]
) -> None:
    all_ = fleet("threads", processes=3, callers=4, seconds=1.0)
    all_.go()
    stopped = all_.holder()
    os.kill(stopped, signal.SIGSTOP)
    try:
        answers = all_.answers(2)
        assert len(all_.loads()) == 2
        other = all_.loads()[1]
        assert {value for answer in answers for value in answer.values} == {other}
        assert max(answer.slowest for answer in answers) < LIFE + 2.0 + SLACK
    finally:
        os.kill(stopped, signal.SIGCONT)
    (late,) = all_.answers(1)
    assert (late.pid, late.values) == (stopped, {stopped})
    with opened(server.url) as cache:
        assert cache.get("cold") == other


def test_a_slow_holder_is_waited_for(fleet: Callable[..., Fleet]) -> None:
    all_ = fleet("tasks", processes=2, callers=2, seconds=2.5 * LIFE)
    all_.go()
    answers = all_.answers(2)
    assert len(all_.loads()) == 1
    assert {value for answer in answers for value in answer.values} == {all_.holder()}


# --- two caches in one process ----------------------------------------------------------------------------------------


@pytest.fixture
def pair(server: ServerProcess) -> Iterator[tuple[Cache, Cache]]:
    with opened(server.url) as one, opened(server.url) as other:
        yield one, other


class Gate:
    """A loader that is inside until the test lets it out."""

    def __init__(self, result: Any = "value") -> None:
        self.result = result
        self.entered, self.open = threading.Event(), threading.Event()

    def __call__(self) -> Any:
        self.entered.set()
        assert self.open.wait(20)
        if isinstance(self.result, BaseException):
            raise self.result
        return self.result


def waits(cache: Cache) -> int:
    return cache.stats().waited


def never() -> Any:
    raise AssertionError("nobody should load this")


@pytest.fixture
def lasting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leases whose time nobody waits for."""
    monkeypatch.setattr(leasing, "LIFE", 600.0)


@pytest.mark.usefixtures("lasting")
def test_a_waiter_is_woken_by_the_end_of_the_lease_and_not_by_its_time(pair: tuple[Cache, Cache]) -> None:
    one, other = pair
    gate = Gate()
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(one.get_or_load, "k", gate)
        assert gate.entered.wait(10)
        second = pool.submit(other.get_or_load, "k", never)
        wait_until(lambda: waits(other) == 1)
        gate.open.set()
        assert second.result(20) == first.result(20) == "value"
    assert (waits(one), waits(other)) == (0, 1)
    assert other.stats().hits == {"redis": 1}


@pytest.mark.usefixtures("lasting")
def test_a_failing_holder_wakes_waiters_who_load_for_themselves(pair: tuple[Cache, Cache]) -> None:
    one, other = pair
    gate = Gate(LookupError("no such thing"))
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(one.get_or_load, "k", gate)
        assert gate.entered.wait(10)
        second = pool.submit(other.get_or_load, "k", lambda: "mine")
        wait_until(lambda: waits(other) == 1)
        gate.open.set()
        assert second.result(20) == "mine"
        assert isinstance(first.exception(20), LookupError)


@pytest.mark.usefixtures("lasting")
async def test_a_cancelled_holder_hands_over_at_once(pair: tuple[Cache, Cache]) -> None:
    one, other = pair
    entered = asyncio.Event()

    async def endless() -> None:
        entered.set()
        await asyncio.Event().wait()

    async def mine() -> str:
        return "mine"

    first = asyncio.create_task(one.aget_or_load("k", endless))
    await entered.wait()
    second = asyncio.create_task(other.aget_or_load("k", mine))
    async with asyncio.timeout(10):
        while not waits(other):  # noqa: ASYNC110 - counted in a plain number
            await asyncio.sleep(0.001)
        first.cancel()
        assert await second == "mine"
    with pytest.raises(asyncio.CancelledError):
        await first


def test_without_a_link_waiters_ask_again(server: ServerProcess) -> None:
    with opened(server.url) as one, opened(server.url) as other:
        assert other.engine.link is not None
        other.engine.link.stop()
        gate = Gate()
        with ThreadPoolExecutor(2) as pool:
            first = pool.submit(one.get_or_load, "k", gate)
            assert gate.entered.wait(10)
            second = pool.submit(other.get_or_load, "k", never)
            wait_until(lambda: waits(other) == 1)
            gate.open.set()
            assert second.result(20) == first.result(20) == "value"


def test_an_invalidation_while_waiting_is_obeyed(pair: tuple[Cache, Cache]) -> None:
    one, other = pair
    gate = Gate("old")
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(one.get_or_load, "k", gate)
        assert gate.entered.wait(10)
        second = pool.submit(other.get_or_load, "k", lambda: "new")
        wait_until(lambda: waits(other) == 1)
        assert one.invalidate("k").done
        gate.open.set()
        assert (first.result(20), second.result(20)) == ("old", "new")
    assert one.get("k") == other.get("k") == "new"


def test_a_lease_lives_below_the_prefix_for_a_second_at_most(server: ServerProcess, pair: tuple[Cache, Cache]) -> None:
    gate = Gate()
    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(pair[0].get_or_load, "k", gate)
        assert gate.entered.wait(10)
        assert server.command("EXISTS", "nc:lease:l:{:~kk}") == b":1\r\n"
        assert 0 < int(server.command("PTTL", "nc:lease:l:{:~kk}")[1:]) <= 1000 * LIFE
        gate.open.set()
        call.result(20)
    assert server.command("SCARD", "none") == b":0\r\n"
    wait_until(lambda: server.command("EXISTS", "nc:lease:l:{:~kk}") == b":0\r\n")


def test_a_lease_that_nobody_waits_for_is_signalled_to_nobody(pair: tuple[Cache, Cache]) -> None:
    one, other = pair
    heard: list[str] = []
    signalled = other.engine.leases.signalled

    def noted(signal: str, holder: bytes) -> bool:
        heard.append(signal)
        return signalled(signal, holder)

    other.engine.leases.signalled = noted  # type: ignore[method-assign]  # of this test alone
    one.get_or_load("k", lambda: 1)
    one.invalidate("other")
    assert other.engine.link is not None
    assert other.engine.link.barrier(10)
    assert heard == ["k:other"]


def test_a_server_without_memory_costs_the_lease_and_not_the_call(
    server: ServerProcess, pair: tuple[Cache, Cache]
) -> None:
    one, other = pair
    one.get_or_load("k", lambda: 1)
    one.invalidate("k")
    server.command("CONFIG", "SET", "maxmemory", "1")
    try:
        assert one.get_or_load("k", lambda: 2) == 2
        assert other.get_or_load("k", lambda: 3) == 3
        assert waits(other) == 0
    finally:
        server.command("CONFIG", "SET", "maxmemory", "0")
