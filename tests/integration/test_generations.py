"""A server that returns to an older state, in whatever way, brings nothing back that was invalidated."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from servers import PATIENT, FaultProxy, ServerProcess, redis_binary, required, running, valkey_binary, wait_until

from novacron_cache import Cache, CacheModel, CacheSettings, cached
from novacron_cache.link import LinkState

pytestmark = pytest.mark.servers


class Machine(CacheModel, key="machine:<machine_id>", ttl="10m", tags=["machine:<machine_id>"]):
    machine_id: str
    version: int


class Process:
    """A cache of its own, and a function that reads the shared truth."""

    def __init__(self, url: str, truth: dict[str, int], **settings: Any) -> None:
        self.truth = truth
        options = {"staleness_bound": 1.5, "redis": PATIENT, **settings}
        self.cache = Cache(CacheSettings.connect(url, namespace="generations", **options))
        self.loads = 0
        self.replayed: list[int] = []
        self.cache.on("generation_changed", lambda event: self.replayed.append(event.replayed))

        @cached(Machine, cache=self.cache)
        def machine(machine_id: str) -> Machine:
            self.loads += 1
            return Machine(machine_id=machine_id, version=truth[machine_id])

        self.machine = machine

    def version(self, machine_id: str = "m") -> int:
        return self.machine(machine_id).version

    def change(self, version: int, machine_id: str = "m") -> None:
        self.truth[machine_id] = version
        assert self.cache.invalidate_tags(f"machine:{machine_id}").done

    def linked(self) -> Process:
        self.cache.get("anything")
        wait_until(lambda: self.cache.engine.link is not None and self.cache.engine.link.state is LinkState.UP)
        return self


@pytest.fixture(params=["valkey", "redis7"])
def binary(request: pytest.FixtureRequest) -> Path:
    return required(valkey_binary() if request.param == "valkey" else redis_binary(), request.param)


@pytest.fixture
def process() -> Iterator[Callable[..., Process]]:
    opened: list[Process] = []

    def open_(url: str, truth: dict[str, int], **settings: Any) -> Process:
        opened.append(Process(url, truth, **settings))
        return opened[-1]

    yield open_
    for one in opened:
        one.cache.close()


def replicate(replica: ServerProcess, master: ServerProcess) -> None:
    replica.command("REPLICAOF", "127.0.0.1", str(master.port))
    wait_until(lambda: b"master_link_status:up" in replica.command("INFO", "replication"))


def snapshot(server: ServerProcess) -> None:
    """Have a server write what it has to its file; one that is writing it for a replica has to end first."""
    wait_until(lambda: server.command("SAVE") == b"+OK\r\n")


def caught_up(replica: ServerProcess, master: ServerProcess) -> None:
    def offset(server: ServerProcess, field: bytes) -> bytes:
        lines = server.command("INFO", "replication").splitlines()
        return next(line.partition(b":")[2] for line in lines if line.startswith(field))

    wait_until(lambda: offset(replica, b"slave_repl_offset") == offset(master, b"master_repl_offset"))


@pytest.mark.parametrize("with_replica", [False, True], ids=["alone", "with a replica"])
def test_a_server_restarted_from_an_older_snapshot_brings_nothing_back(
    binary: Path, process: Callable[..., Process], with_replica: bool
) -> None:
    # With a replica, the snapshot remembers the history, and the restarted server names it as its former one.
    with running(binary) as server, running(binary) as other:
        if with_replica:
            replicate(other, server)
        one = process(server.url, {"m": 1}).linked()
        two = process(server.url, one.truth, memory={"enabled": False})
        assert [one.version(), two.version()] == [1, 1]
        snapshot(server)
        one.change(2)
        assert two.version() == 2
        server.restart()
        wait_until(lambda: two.version() == 2 and not two.cache.engine.breakers["redis"].is_open)
        two.loads = 0
        assert two.version() == 2
        assert one.version() == 2
        assert two.loads <= 1
        late = process(server.url, one.truth)
        assert late.version() == 2


def test_a_disk_beside_a_server_that_was_rolled_back_brings_nothing_back(
    binary: Path, process: Callable[..., Process], tmp_path: Path
) -> None:
    with running(binary) as server:
        one = process(server.url, {"m": 1}, disk=tmp_path / "one")
        assert one.version() == 1
        snapshot(server)
        one.change(2)
        one.cache.close()
        server.restart()
        again = process(server.url, one.truth, disk=tmp_path / "one")
        assert again.version() == 2


def test_a_promoted_replica_that_has_lost_an_invalidation_does_not_serve_what_it_named(
    binary: Path, process: Callable[..., Process]
) -> None:
    with running(binary) as master, running(binary) as replica, FaultProxy(master.port) as way:
        replicate(replica, master)
        one = process(way.url, {"m": 1, "n": 1}).linked()
        two = process(way.url, one.truth).linked()
        assert [one.version(), two.version(), two.version("n")] == [1, 1, 1]
        caught_up(replica, master)
        replica.pause()
        one.change(2)  # acknowledged by the master alone
        wait_until(lambda: two.version() == 2)
        master.kill()
        replica.resume()
        replica.command("REPLICAOF", "NO", "ONE")
        way.lead_to(replica.port)
        way.reset()
        for one_process in (one, two):
            wait_until(lambda p=one_process: p.version() == 2 and p.replayed)
        late = process(way.url, one.truth)
        assert late.version() == 2


def test_what_a_replaced_master_acknowledged_is_sent_again_to_the_one_that_counts(
    binary: Path, process: Callable[..., Process]
) -> None:
    with (
        running(binary) as old, running(binary) as new,
        FaultProxy(old.port) as our_way, FaultProxy(old.port) as their_way,
    ):  # fmt: skip
        replicate(new, old)
        ours, theirs = process(our_way.url, {"m": 1}).linked(), process(their_way.url, {"m": 1}).linked()
        caught_up(new, old)
        new.command("REPLICAOF", "NO", "ONE")
        their_way.lead_to(new.port)
        their_way.reset()
        wait_until(lambda: theirs.version() == 1 and theirs.replayed)
        theirs.linked()
        ours.change(2)  # acknowledged by a master that nobody else listens to any more
        assert theirs.version() == 1
        our_way.lead_to(new.port)
        our_way.reset()
        assert ours.version() == 2
        wait_until(lambda: ours.replayed and ours.replayed[0] > 0)
        theirs.truth["m"] = 2
        wait_until(lambda: theirs.version() == 2)


def test_a_process_that_is_led_back_to_a_former_master_finds_nothing_old(
    binary: Path, process: Callable[..., Process]
) -> None:
    with running(binary) as first, running(binary) as second, FaultProxy(first.port) as way:
        one = process(way.url, {"m": 1}).linked()
        assert one.version() == 1
        way.lead_to(second.port)
        way.reset()
        wait_until(lambda: one.version() == 1 and one.replayed)
        one.change(2)
        one.cache.engine.pending._arrived.clear()  # what is sent again is not what saves it
        way.lead_to(first.port)
        way.reset()
        wait_until(lambda: len(one.replayed) >= 2)
        assert process(way.url, one.truth).version() == 2


def test_a_master_that_is_made_a_replica_in_place_is_not_read_any_more(
    binary: Path, process: Callable[..., Process]
) -> None:
    with running(binary) as old, running(binary) as new:
        one = process(old.url, {"m": 1}, memory={"enabled": False})
        one.cache.engine.link.ensure()
        one.linked()
        assert [one.version(), one.version(), one.loads] == [1, 1, 1]
        lost: list[float] = []
        one.cache.on("link_lost", lambda _: lost.append(time.monotonic()))
        replicate(old, new)  # connections stay open, and reads are answered
        wait_until(lambda: lost)
        one.truth["m"] = 2
        wait_until(lambda: one.version() == 2)


def test_an_ordinary_second_connection_invalidates_nothing(binary: Path, process: Callable[..., Process]) -> None:
    with running(binary) as server:
        one, two = process(server.url, {"m": 1}).linked(), process(server.url, {"m": 1}).linked()
        assert one.version() == 1
        one.cache.engine.authority.renew_connections()
        assert [two.version(), two.loads] == [1, 0]
        assert one.replayed == two.replayed == []


async def test_an_event_loop_meets_the_new_history_too(binary: Path, process: Callable[..., Process]) -> None:
    with running(binary) as server:
        one = process(server.url, {"m": 1}, memory={"enabled": False})
        await one.cache.aset("k", 1, tags=["t"])
        assert await one.cache.aget("k") == 1
        snapshot(server)
        await one.cache.ainvalidate_tags("t")
        server.restart()
        assert await one.cache.aget("k") is None
        assert await one.cache.aget("k") is None
        wait_until(lambda: one.replayed)
        assert await one.cache.aget("k") is None


def test_no_invalidation_of_the_new_generation_travels_to_the_old_server(
    binary: Path, process: Callable[..., Process]
) -> None:
    # Many tasks invalidate while the address begins to lead elsewhere: each receipt that says done has to be true.
    with running(binary) as old, running(binary) as new, FaultProxy(old.port) as way:
        one = process(way.url, {"m": 1}, memory={"enabled": False})
        receipts: dict[str, Any] = {}

        async def invalidate(worker: int, stop: asyncio.Event) -> None:
            number = 0
            while not stop.is_set():
                number += 1
                tag = f"{worker}-{number}"
                receipts[tag] = await one.cache.ainvalidate_tags(tag)

        async def run() -> None:
            stop = asyncio.Event()
            tasks = [asyncio.create_task(invalidate(worker, stop)) for worker in range(8)]
            while len(receipts) < 100:  # noqa: ASYNC110 - the tasks are what is waited for
                await asyncio.sleep(0)
            way.lead_to(new.port)  # connections that are open stay where they are
            # A new one meets it. What blocking callers have may be an older one, opened where a task waited too long.
            one.cache.engine.authority.connect().disconnect()
            seen = len(receipts)
            while len(receipts) < seen + 100:  # noqa: ASYNC110 - as above
                await asyncio.sleep(0)
            stop.set()
            await asyncio.gather(*tasks)

        asyncio.run(run())
        assert one.replayed
        wait_until(lambda: not one.cache.engine.pending)
        assert all(receipt.done for receipt in receipts.values())
        missing = [tag for tag in receipts if new.command("EXISTS", f"nc:generations:m:{{t:{tag}}}") != b":1\r\n"]
        assert missing == []


def test_an_address_that_leads_now_here_now_there_costs_a_call_a_few_connections(
    binary: Path, process: Callable[..., Process]
) -> None:
    with running(binary) as first, running(binary) as second, FaultProxy(first.port) as way:
        one = process(way.url, {"m": 1}, memory={"enabled": False})
        assert one.version() == 1
        greeted = 0
        generations = one.cache.engine.authority.generations
        greet = generations.greet

        def alternating(place: str = "") -> Any:
            nonlocal greeted
            greeted += 1
            way.lead_to((first, second)[greeted % 2].port)
            return greet(place)

        generations.greet = alternating
        for _ in range(5):
            greeted = 0
            one.cache.engine.authority.renew_connections()
            assert one.version() == 1
            assert greeted < 30
