"""Invalidation in two phases: whoever dies between its write and the end of the block leaves nothing stale."""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from servers import PATIENT, ServerProcess, redis_binary, required, running, valkey_binary, wait_until

from novacron_cache import Cache, CacheSettings, InvalidationPending
from novacron_cache.errors import DeclarationError, TemplateError, TierUnavailableError
from novacron_cache.link import LinkState

pytestmark = pytest.mark.servers


@pytest.fixture(scope="module", params=["valkey", "redis7"])
def server(request: pytest.FixtureRequest) -> Iterator[ServerProcess]:
    binary = valkey_binary() if request.param == "valkey" else redis_binary()
    with running(required(binary, request.param)) as started:
        yield started


Open = Callable[..., Cache]


@pytest.fixture(params=["server", "disk"])
def another(request: pytest.FixtureRequest, server: ServerProcess, tmp_path: Path) -> Iterator[Open]:
    """Open caches that share what they have, on a server or in a directory."""
    server.flush()
    opened: list[Cache] = []

    def open_(**settings: Any) -> Cache:
        options = {"namespace": "holds", "staleness_bound": 60, **settings}
        made = CacheSettings.connect(server.url, redis=PATIENT, **options) if request.param == "server" else None
        opened.append(Cache(made or CacheSettings.connect(disk=tmp_path / "l3", **options)))
        opened[-1].get("anything")
        link = opened[-1].engine.link
        assert link is not None
        wait_until(lambda: link.state is LinkState.UP)
        return opened[-1]

    yield open_
    for cache in opened:
        cache.close()


class Truth:
    """A database of one number, and the loader that reads it."""

    def __init__(self) -> None:
        self.value = 1
        self.loads = 0

    def load(self) -> int:
        self.loads += 1
        return self.value

    def read(self, cache: Cache) -> int:
        found: int = cache.get_or_load("k", self.load, tags=["t"])
        return found


@pytest.mark.parametrize("names", [{"tags": ["t"]}, {"keys": ["k"]}, {"tags": ["<x>"], "x": "t"}], ids=str)
def test_while_a_block_runs_nobody_serves_or_stores_what_it_names(another: Open, names: dict[str, Any]) -> None:
    ours, theirs, truth = another(), another(), Truth()
    assert [truth.read(ours), truth.read(theirs), truth.loads] == [1, 1, 1]
    with ours.invalidating(**names) as block:
        assert block.held
        wait_until(lambda: truth.read(theirs) == 1 and truth.loads > 1)
        loads = truth.loads
        assert [truth.read(ours), truth.read(theirs), truth.read(theirs)] == [1, 1, 1]
        assert truth.loads == loads + 3
        truth.value = 2
        assert [truth.read(theirs), truth.read(ours)] == [2, 2]
        assert block.receipt is None
    assert block.receipt is not None
    assert block.receipt.done
    loads = truth.loads
    assert [truth.read(theirs), truth.read(ours), truth.read(theirs)] == [2, 2, 2]
    assert truth.loads == loads + 1


def test_a_block_that_raises_invalidates_all_the_same(another: Open) -> None:
    cache, truth = another(), Truth()
    truth.read(cache)
    with contextlib.suppress(RuntimeError), cache.invalidating(tags=["t"]):
        truth.value = 2
        raise RuntimeError("halfway")
    assert truth.read(cache) == 2


def test_what_set_stores_while_it_is_held_is_not_kept(another: Open) -> None:
    ours, theirs = another(), another()
    with ours.invalidating(keys=["k"]):
        reasons: list[str] = []
        theirs.on("not_stored", lambda event: reasons.append(event.reason))
        theirs.set("k", 1)
        assert theirs.get("k") is None
        assert reasons == ["held"]
    theirs.set("k", 2)
    assert [ours.get("k"), theirs.get("k")] == [2, 2]


def test_a_load_that_ends_in_the_block_of_another_process_is_not_kept(another: Open) -> None:
    ours, theirs = another(), another()
    began, go_on = threading.Event(), threading.Event()

    def slow() -> str:
        began.set()
        assert go_on.wait(10)
        return "old"

    results: list[str] = []
    thread = threading.Thread(target=lambda: results.append(theirs.get_or_load("k", slow, tags=["t"])))
    thread.start()
    assert began.wait(10)
    with ours.invalidating(tags=["t"]):
        go_on.set()
        thread.join(10)
        assert results == ["old"]
        wait_until(lambda: theirs.get("k") is None)
    assert theirs.get("k") is None
    assert ours.get("k") is None


def test_somebody_elses_invalidation_does_not_end_a_hold(another: Open) -> None:
    ours, theirs, truth = another(), another(), Truth()
    with ours.invalidating(tags=["t"]):
        assert theirs.invalidate_tags("t").done
        truth.read(theirs)
        assert theirs.get("k") is None
    truth.read(theirs)
    assert theirs.get("k") == 1


def test_a_hold_lasts_until_the_last_of_its_holders_is_done(another: Open) -> None:
    one, two, truth = another(), another(), Truth()
    with one.invalidating(tags=["t"]):
        with two.invalidating(tags=["t"]):
            truth.read(one)
            assert one.get("k") is None
        truth.read(one)
        assert one.get("k") is None
        assert two.get("k") is None
    truth.read(one)
    assert one.get("k") == 1


def test_a_hold_is_prolonged_while_its_block_runs(another: Open) -> None:
    ours, theirs, truth = another(), another(), Truth()
    with ours.invalidating(tags=["t"], hold=1.2):
        prolonged = ours.engine.authority
        assert prolonged is not None
        seen: list[Any] = []
        perform = prolonged.perform
        prolonged.perform = lambda operation: (seen.append(operation), perform(operation))[1]  # type: ignore[method-assign]
        wait_until(lambda: sum(type(one).__name__ == "Hold" for one in seen) >= 4)
        truth.read(theirs)
        assert theirs.get("k") is None


def test_a_block_that_has_ended_is_not_held_any_more_however_often_it_was_prolonged(another: Open) -> None:
    cache, truth = another(), Truth()
    for _ in range(20):
        with cache.invalidating(tags=["t"], hold=0.01):
            pass
        assert truth.read(cache) == 1
        assert cache.get("k") == 1


async def test_the_asynchronous_form_holds_too(another: Open) -> None:
    ours, theirs, truth = another(), another(), Truth()
    async with ours.invalidating(tags=["t"]) as block:
        assert block.held
        assert await theirs.aget_or_load("k", truth.load, tags=["t"]) == 1
        assert await theirs.aget("k") is None
        truth.value = 2
    assert block.receipt is not None
    assert block.receipt.done
    assert await theirs.aget_or_load("k", truth.load, tags=["t"]) == 2
    assert await theirs.aget("k") == 2


async def test_a_cancelled_block_invalidates_all_the_same(another: Open) -> None:
    cache, truth = another(), Truth()
    assert await cache.aget_or_load("k", truth.load, tags=["t"]) == 1
    inside = asyncio.Event()

    async def write() -> None:
        async with cache.invalidating(tags=["t"]):
            truth.value = 2
            inside.set()
            await asyncio.sleep(60)

    task = asyncio.create_task(write())
    await inside.wait()
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    assert await cache.aget_or_load("k", truth.load, tags=["t"]) == 2
    assert await cache.aget_or_load("k", lambda: 3, tags=["t"]) == 2


def _write_and_die(url: str, ready: Any) -> None:
    cache = Cache(CacheSettings.connect(url, namespace="holds", redis=PATIENT, staleness_bound=60))
    with cache.invalidating(tags=["t"], hold=0.5):
        ready.set()
        signal.pause()


def test_a_writer_that_is_killed_after_its_write_leaves_nothing_stale(server: ServerProcess) -> None:
    server.flush()
    truth = Truth()
    with Cache(CacheSettings.connect(server.url, namespace="holds", redis=PATIENT, staleness_bound=60)) as reader:
        reader.get("anything")
        link = reader.engine.link
        assert link is not None
        wait_until(lambda: link.state is LinkState.UP)
        assert [truth.read(reader), truth.read(reader), truth.loads] == [1, 1, 1]
        context = multiprocessing.get_context("spawn")
        ready = context.Event()
        writer = context.Process(target=_write_and_die, args=(server.url, ready))
        writer.start()
        try:
            assert ready.wait(20)
            truth.value = 2  # the write that nobody invalidates
            os.kill(writer.pid or 0, signal.SIGKILL)
        finally:
            writer.kill()
            writer.join()
        wait_until(lambda: truth.read(reader) == 2)  # the bound is a minute: it was told
        wait_until(lambda: truth.read(reader) == 2 and reader.get("k") == 2)
        assert server.command("EXISTS", "nc:holds:m:{t:t}") == b":1\r\n"


def test_without_a_server_the_block_invalidates_before_and_after(server: ServerProcess) -> None:
    with running(server.binary) as mortal:
        cache = Cache(CacheSettings.connect(mortal.url, namespace="holds", redis=PATIENT))
        try:
            truth = Truth()
            assert truth.read(cache) == 1
            mortal.kill()
            with cache.invalidating(tags=["t"]) as block:
                assert not block.held
                truth.value = 2
            assert truth.read(cache) == 2
            assert block.receipt is not None
            assert block.receipt.pending
            with (
                pytest.raises(InvalidationPending, match="nothing was written"),
                cache.invalidating(tags=["t"], wait=True),
            ):
                pytest.fail("the block must not run")
            mortal.start()
            wait_until(lambda: block.receipt is not None and block.receipt.done)
        finally:
            cache.close()


def test_in_process_memory_alone_nothing_is_kept_until_the_block_ends() -> None:
    with Cache() as cache:
        truth = Truth()
        assert truth.read(cache) == 1
        with cache.invalidating(tags=["t"]), cache.invalidating(tags=["t"]):
            assert truth.read(cache) == 1
            truth.value = 2
            assert truth.read(cache) == 2
            truth.value = 3
            assert truth.read(cache) == 3
        truth.loads = 0
        assert [truth.read(cache), truth.read(cache), truth.loads] == [3, 3, 1]


def test_holds_are_taken_again_at_once_when_the_server_has_lost_them(server: ServerProcess) -> None:
    server.flush()
    with Cache(CacheSettings.connect(server.url, namespace="holds", redis=PATIENT)) as ours:
        ours.get("anything")
        link = ours.engine.link
        assert link is not None
        wait_until(lambda: link.state is LinkState.UP)
        with ours.invalidating(tags=["t"], hold="10m"):
            server.flush()
            wait_until(lambda: server.command("TYPE", "nc:holds:m:{t:t}") == b"+zset\r\n")


def test_a_hold_that_was_refused_is_given_back(server: ServerProcess) -> None:
    server.flush()
    with Cache(CacheSettings.connect(server.url, namespace="holds", redis=PATIENT)) as cache:
        cache.get("anything")
        tier = cache.engine.authority
        assert tier is not None
        perform = tier.perform

        def lossy(operation: Any) -> Any:
            answer = perform(operation)
            if type(operation).__name__ == "Hold":
                raise TierUnavailableError("the answer is lost", tier="redis")
            return answer

        tier.perform = lossy  # type: ignore[method-assign]  # of this test alone
        with pytest.raises(InvalidationPending, match="nothing was written"):
            cache.invalidating(tags=["t"], hold="10m", wait=True).__enter__()
        tier.perform = perform  # type: ignore[method-assign]  # of this test alone
        wait_until(lambda: not cache.engine.pending)
        cache.set("k", 1, tags=["t"])
        assert cache.get("k", consistency="strong") == 1


async def test_a_block_that_is_cancelled_before_it_runs_is_given_back(server: ServerProcess) -> None:
    server.flush()
    async with Cache(CacheSettings.connect(server.url, namespace="holds", redis=PATIENT)) as cache:
        await cache.aget("anything")
        for turn in range(12):
            task = asyncio.ensure_future(cache.invalidating(tags=["t"], hold="10m").__aenter__())
            for _ in range(turn):
                await asyncio.sleep(0)
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                block = await task
                await block.__aexit__(None, None, None)
        while cache._invalidations:
            await asyncio.gather(*cache._invalidations)
        await cache.aset("k", 1, tags=["t"])
        assert await cache.aget("k", consistency="strong") == 1


def test_a_glob_cannot_be_held() -> None:
    with Cache() as cache, pytest.raises(TemplateError, match="a glob has no marker to hold"):
        cache.invalidating(pattern="a*:b")


def test_a_block_names_something() -> None:
    with Cache() as cache, pytest.raises(DeclarationError, match="name what is about to change"):
        cache.invalidating()


def test_a_pattern_of_a_first_segment_can_be_held() -> None:
    with Cache() as cache:
        cache.set("vm:1", 1)
        with cache.invalidating(pattern="vm:*"):
            assert cache.get("vm:1") is None
