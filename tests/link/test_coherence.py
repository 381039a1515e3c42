"""Several caches on one server, as several processes would be: what one invalidates, the others forget at once."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from servers import (
    IMPATIENT,
    PATIENT,
    FaultProxy,
    ServerProcess,
    free_port,
    redis_binary,
    required,
    running,
    wait_until,
)

from novacron_cache import Cache, CacheModel, CacheSettings, cached, cached_many
from novacron_cache.link import LinkState

pytestmark = pytest.mark.servers


class Machine(CacheModel, key="machine:<machine_id>", ttl="1m", tags=["machine:<machine_id>", "node:<node_id>"]):
    machine_id: str
    node_id: str
    version: int


class Process:
    """A cache of its own and a function that reads the shared truth."""

    def __init__(self, url: str, truth: dict[str, int], **settings: Any) -> None:
        options = {"redis": PATIENT, **settings}
        self.cache = Cache(CacheSettings.connect(url, namespace="coherence", **options))
        self.loads = 0

        @cached(Machine, cache=self.cache)
        def machine(machine_id: str) -> Machine:
            self.loads += 1
            return Machine(machine_id=machine_id, node_id="n1", version=truth.get(machine_id, 0))

        self.machine = machine

    def linked(self) -> Process:
        self.cache.get("anything")
        link = self.cache.engine.link
        assert link is not None
        wait_until(lambda: link.state is LinkState.UP)
        return self

    def version(self, machine_id: str = "m") -> int:
        return self.machine(machine_id).version


@pytest.fixture
def process(valkey_server: ServerProcess) -> Iterator[Callable[..., Process]]:
    opened: list[Process] = []

    def open_(truth: dict[str, int], url: str = "", **settings: Any) -> Process:
        opened.append(Process(url or valkey_server.url, truth, **settings))
        return opened[-1]

    yield open_
    for one in opened:
        one.cache.close()


@pytest.mark.parametrize(
    "invalidate",
    [
        lambda cache: cache.invalidate("machine:m"),
        lambda cache: cache.invalidate_tags("machine:m"),
        lambda cache: cache.invalidate_tags("node:n1"),
        lambda cache: cache.invalidate_tags("node:n1", "machine:m", match="all"),
        lambda cache: cache.invalidate_model(Machine),
        lambda cache: cache.invalidate_pattern("machine:*"),
        lambda cache: cache.invalidate_pattern("mach*:?"),
        lambda cache: cache.clear(),
    ],
    ids=["key", "tag", "late tag", "all tags", "model", "segment", "glob", "namespace"],
)
def test_another_process_forgets_at_once(
    process: Callable[..., Process], invalidate: Callable[[Cache], object]
) -> None:
    truth = {"m": 1}
    ours, theirs = process(truth, staleness_bound=60).linked(), process(truth, staleness_bound=60).linked()
    assert [ours.version(), theirs.version(), theirs.version()] == [1, 1, 1]
    assert theirs.cache.engine.fresh(theirs_key(theirs)) is not None
    truth["m"] = 2
    invalidate(ours.cache)
    assert ours.version() == 2
    wait_until(lambda: theirs.version() == 2)


def theirs_key(process: Process) -> str:
    return str(process.machine.explain("m").stored_key)


def test_a_set_replaces_what_other_processes_hold(process: Callable[..., Process]) -> None:
    truth = {"m": 1}
    ours, theirs = process(truth, staleness_bound=60).linked(), process(truth, staleness_bound=60).linked()
    assert theirs.version() == 1
    ours.machine.set(Machine(machine_id="m", node_id="n1", version=7), "m")
    wait_until(lambda: theirs.version() == 7)


@pytest.mark.parametrize("begin", ["set", "refresh"])
def test_a_process_that_has_read_nothing_from_the_server_hears_of_what_others_invalidate(
    process: Callable[..., Process], begin: str
) -> None:
    truth = {"m": 1}
    ours, theirs = process(truth, staleness_bound=60).linked(), process(truth, staleness_bound=60)
    if begin == "set":
        theirs.machine.set(Machine(machine_id="m", node_id="n1", version=1), "m")
    else:
        theirs.machine.refresh("m")
    assert theirs.version() == 1
    truth["m"] = 2
    ours.cache.invalidate("machine:m")
    wait_until(lambda: theirs.version() == 2)


def test_while_the_link_is_up_nothing_is_asked_past_the_bound(process: Callable[..., Process]) -> None:
    bound = 1.5
    one = process({"m": 1}, staleness_bound=bound).linked()
    one.version()
    asked: list[object] = []
    one.cache.on("hit", asked.append)
    perform = one.cache.engine.shared[0].perform
    one.cache.engine.shared[0].perform = lambda operation: asked.append(operation) or perform(operation)  # type: ignore[method-assign]
    end = time.monotonic() + bound + 0.5
    while time.monotonic() < end:
        assert one.version() == 1
        time.sleep(0.01)
    assert asked == []


def test_a_tag_of_the_result_reaches_the_shared_tier(process: Callable[..., Process]) -> None:
    truth = {"m": 1}
    ours, theirs = process(truth).linked(), process(truth).linked()
    ours.version()
    assert theirs.version() == 1
    assert theirs.loads == 0


def test_the_first_load_of_a_process_is_shared_although_its_link_is_only_coming_up(
    process: Callable[..., Process],
) -> None:
    ours, theirs = process({"m": 3}), process({})
    assert ours.version() == theirs.version() == 3
    assert theirs.loads == 0
    assert ours.machine.explain("m").tiers == {"memory": "fresh", "redis": "fresh"}


async def test_the_first_load_of_a_coroutine_and_of_a_batch_are_shared_too(process: Callable[..., Process]) -> None:
    ours, theirs = process({}).cache, process({}).cache

    @cached(Machine, cache=ours)
    async def one(machine_id: str) -> Machine:
        return Machine(machine_id=machine_id, node_id="n1", version=1)

    @cached_many(Machine, each="machine_ids", cache=theirs)
    def several(machine_ids: list[str]) -> dict[str, Machine]:
        return {name: Machine(machine_id=name, node_id="n2", version=2) for name in machine_ids}

    await one("a")
    assert {name: found.version for name, found in several(["a", "b"]).items()} == {"a": 1, "b": 2}
    assert (await one("b")).version == 2


def test_a_tag_invalidated_during_the_load_keeps_the_value_out_of_the_shared_tier(
    process: Callable[..., Process],
) -> None:
    truth = {"m": 1}
    theirs, third = process(truth).linked(), process(truth).linked()
    ours = process(truth)

    @cached(Machine, cache=ours.cache)
    def machine(machine_id: str) -> Machine:
        old = Machine(machine_id=machine_id, node_id="n1", version=truth["m"])
        truth["m"] = 2
        theirs.cache.invalidate_tags("node:n1")
        return old

    ours.linked()
    machine("m")
    assert third.version() == 2
    assert ours.machine("m").version == 2


def test_an_own_invalidation_does_not_come_back_as_a_signal(process: Callable[..., Process]) -> None:
    one = process({"m": 1}).linked()
    link = one.cache.engine.link
    assert link is not None
    one.version()
    one.cache.invalidate("machine:m")
    one.version()
    assert link.barrier(5.0)
    before = one.cache.engine.history.seq
    assert one.cache.engine.fresh(theirs_key(one)) is not None
    one.cache.invalidate("something:else")
    assert link.barrier(5.0)
    assert one.cache.engine.history.seq == before + 1


def old_until(process: Process, end: float) -> None:
    """Read what is old until it is not; no call that begins after a moment may still return it."""
    while True:
        began = time.monotonic()
        if process.version() != 1:
            return
        assert began < end


def test_a_black_holed_link_is_stale_for_the_bound_at_most(
    valkey_server: ServerProcess, process: Callable[..., Process]
) -> None:
    bound = 0.6
    truth = {"m": 1}
    with FaultProxy(valkey_server.port) as proxy:
        ours = process(truth, staleness_bound=bound).linked()
        theirs = process(truth, url=proxy.url, staleness_bound=bound, redis=IMPATIENT).linked()
        assert theirs.version() == 1
        proxy.hold()
        truth["m"] = 2
        ours.cache.invalidate("machine:m")
        old_until(theirs, time.monotonic() + bound)
        proxy.heal()
        wait_until(lambda: theirs.cache.engine.link and theirs.cache.engine.link.state is LinkState.UP)
        assert theirs.version() == 2


def test_a_stopped_link_thread_cannot_make_hits_stale(process: Callable[..., Process]) -> None:
    bound = 0.4
    truth = {"m": 1}
    ours, theirs = process(truth, staleness_bound=bound).linked(), process(truth, staleness_bound=bound).linked()
    assert theirs.version() == 1
    engine = theirs.cache.engine
    # As if the thread got no time at all: nothing it is told arrives.
    engine.signalled = engine.link_beat = lambda *_: None  # type: ignore[method-assign, assignment]
    truth["m"] = 2
    ours.cache.invalidate("machine:m")
    old_until(theirs, time.monotonic() + bound)


def test_a_server_that_forgets_everything_resurrects_nothing(
    valkey_server: ServerProcess, process: Callable[..., Process]
) -> None:
    truth = {"m": 1}
    ours, theirs = process(truth, staleness_bound=60).linked(), process(truth, staleness_bound=60).linked()
    assert theirs.version() == 1
    truth["m"] = 2
    valkey_server.flush()
    ours.cache.invalidate("machine:m")
    wait_until(lambda: theirs.version() == 2)


def test_touching_does_not_lengthen_what_the_link_vouched_for(process: Callable[..., Process]) -> None:
    one = process({"m": 1}, staleness_bound=0.5).linked()
    one.version()
    engine = one.cache.engine
    engine.signalled = engine.link_beat = lambda *_: None  # type: ignore[method-assign, assignment]
    one.cache.touch("machine:m", 60.0, model=Machine)
    entry = engine.old(theirs_key(one))
    assert entry is not None
    assert entry.deadline <= engine.horizon.valid_until


def test_a_glob_reaches_entries_that_keep_a_bound_of_their_own(process: Callable[..., Process]) -> None:
    truth = {"m": 1}
    ours, theirs = process(truth, staleness_bound=60).linked(), process(truth, staleness_bound=60).linked()
    theirs.version()
    theirs.cache.touch("machine:m", 60.0, model=Machine)
    truth["m"] = 2
    ours.cache.invalidate_pattern("mach*:?")
    wait_until(lambda: theirs.version() == 2)


def test_reconnecting_leaves_no_connection_behind_in_the_pool(
    valkey_server: ServerProcess, process: Callable[..., Process]
) -> None:
    with FaultProxy(valkey_server.port) as proxy:
        one = process({"m": 1}, url=proxy.url).linked()
        tier = one.cache.engine.shared[0]
        pool = tier._client.connection_pool  # type: ignore[attr-defined]  # what a redis tier has
        before = len(pool._connections)
        for _ in range(3):
            lost: list[object] = []
            off = one.cache.on("link_lost", lost.append)
            proxy.reset()
            wait_until(lambda lost=lost: lost)
            off()
            one.linked()
        assert len(pool._connections) <= before + 1


def test_entries_survive_a_lost_link_when_their_ids_still_hold(
    valkey_server: ServerProcess, process: Callable[..., Process]
) -> None:
    with FaultProxy(valkey_server.port) as proxy:
        one = process({"m": 1}, url=proxy.url).linked()
        one.version()
        lost: list[object] = []
        one.cache.on("link_lost", lost.append)
        proxy.reset()
        wait_until(lambda: lost)
        one.linked()
        assert one.version() == 1
        assert one.loads == 1


def test_what_was_loaded_while_the_server_was_away_is_asked_about_when_the_link_is_back(
    valkey_server: ServerProcess, process: Callable[..., Process]
) -> None:
    truth = {"m": 1}
    with FaultProxy(valkey_server.port) as proxy:
        ours = process(truth, staleness_bound=60).linked()
        theirs = process(truth, url=proxy.url, staleness_bound=60)
        theirs.linked()
        lost: list[object] = []
        theirs.cache.on("link_lost", lost.append)
        proxy.lead_to(free_port())
        proxy.reset()
        wait_until(lambda: lost)
        assert theirs.version() == 1  # nobody can be asked: it may be served for the bound
        truth["m"] = 2
        ours.cache.invalidate("machine:m")
        assert theirs.version() == 1
        proxy.lead_to(valkey_server.port)
        theirs.linked()
        wait_until(lambda: theirs.version() == 2)


def test_a_server_that_dies_costs_linked_entries_nothing_within_the_bound() -> None:
    bound = 3.0
    with running(required(redis_binary(), "redis-server 7 or later")) as server:
        one = Process(server.url, {"m": 1}, staleness_bound=bound).linked()
        one.version()
        lost: list[object] = []
        one.cache.on("link_lost", lost.append)
        died = time.monotonic()
        server.kill()
        wait_until(lambda: lost)
        assert one.version() == 1
        within = one.loads
        wait_until(lambda: time.monotonic() > died + bound + 0.1)
        assert one.version() == 1
        one.cache.close()
        assert (within, one.loads) == (1, 2)


def _invalidate_elsewhere(url: str) -> None:
    with Cache(CacheSettings.connect(url, namespace="coherence", redis=PATIENT)) as cache:
        cache.invalidate("machine:m")


def test_another_real_process_is_heard(valkey_server: ServerProcess, process: Callable[..., Process]) -> None:
    truth = {"m": 1}
    one = process(truth, staleness_bound=60).linked()
    assert one.version() == 1
    truth["m"] = 2
    child = multiprocessing.get_context("spawn").Process(target=_invalidate_elsewhere, args=(valkey_server.url,))
    child.start()
    wait_until(lambda: one.version() == 2, deadline=20.0)
    child.join()
    assert child.exitcode == 0
