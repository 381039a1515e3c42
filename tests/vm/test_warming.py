"""A warmer: critical VMs first, the others spread, never too many at once, and it ends with the cache."""

from __future__ import annotations

import asyncio
import itertools
import re
import threading
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from servers import PATIENT, ServerProcess, wait_until
from vm.fleet import AsyncFleet, Fleet

from novacron_cache import Cache
from novacron_cache.vm import CachedVMManager, VMCacheSettings, VMState, Warmer, WarmProgress
from novacron_cache.vm.warming import schedule

PLACES = {f"vm-{number}": f"node-{number % 3}" for number in range(12)}
KINDS = ["get_vm_config", "get_vm_state", "get_vm_resources"]


def settings(**more: Any) -> VMCacheSettings:
    return VMCacheSettings(**{"critical_vms": ("vm-7", "vm-3"), "warmup_interval": "200ms", **more})


# -- the schedule ------------------------------------------------------------------------------------------------------


ids = st.lists(st.sampled_from([f"vm-{n}" for n in range(30)]), max_size=40)


@given(ids, ids, st.floats(0.001, 10_000))
def test_a_round_has_each_vm_once_critical_ones_at_once_and_others_spread(
    critical: list[str], others: list[str], interval: float
) -> None:
    turns = list(schedule(critical, others, interval))
    assert [vm_id for _, vm_id in turns] == list(dict.fromkeys([*critical, *others]))
    offsets = [offset for offset, vm_id in turns if vm_id not in critical]
    assert all(offset == 0 for offset, vm_id in turns if vm_id in critical)
    gaps = [later - earlier for earlier, later in itertools.pairwise([0.0, *offsets, interval])]
    if offsets:
        assert max(gaps) - min(gaps) < interval * 1e-9
    assert all(0 < offset < interval for offset in offsets)


# -- one round ---------------------------------------------------------------------------------------------------------


def test_a_round_has_everything_of_the_critical_vms_in_the_cache() -> None:
    manager = Fleet(PLACES)
    with Cache() as cache, CachedVMManager(manager, cache, settings(warmup_concurrency=1)) as vms:
        done = vms.warmer.run_once()
        assert manager.asked == [(kind, vm_id) for vm_id in ("vm-7", "vm-3") for kind in KINDS]
        assert (done.running, done.total, done.done, done.rounds) == (False, 2, 2, 1)
        assert (done.loaded, done.cached, done.failed) == (6, 0, 0)
        assert vms.get_vm("vm-7") is not None
        assert len(manager.asked) == 6
        again = vms.warmer.run_once()
        assert (again.rounds, again.loaded, again.cached) == (2, 6, 6)
        assert len(manager.asked) == 6


def test_its_loads_are_among_the_metrics_of_the_cache() -> None:
    with Cache() as cache, CachedVMManager(Fleet(PLACES), cache, settings()) as vms:
        vms.warmer.run_once()
        metrics = cache.export_prometheus()
        counted = [line for line in metrics.splitlines() if "vm_warm" in line and "_total" in line]
        assert sorted(re.findall(r'pattern="(.*?)"', " ".join(counted))) == ["vm_config:", "vm_resources:", "vm_state:"]
        assert all(float(line.split()[-1]) == 2.0 for line in counted)


async def test_a_round_may_be_awaited() -> None:
    manager = AsyncFleet(PLACES)
    async with Cache() as cache, CachedVMManager(manager, cache, settings(warmup_all=True)) as vms:
        done = await vms.warmer.arun_once()
        assert (done.total, done.done, done.loaded) == (12, 12, 36)
        first = list(dict.fromkeys(call[1] for call in manager.fleet.asked if call[0] in KINDS))
        assert set(first[:2]) == {"vm-7", "vm-3"}
        assert await vms.aget_vm("vm-5") is not None
        assert len(manager.fleet.asked) == 1 + 36


def test_the_others_follow_at_distances() -> None:
    manager = Fleet(PLACES)
    times: list[float] = []
    answer = manager.get_vm_config

    def timed(vm_id: str) -> Any:
        times.append(time.monotonic())
        return answer(vm_id)

    manager.get_vm_config = timed  # type: ignore[method-assign]  # one instance of a test's own
    with Cache() as cache, CachedVMManager(manager, cache, settings(warmup_all=True)) as vms:
        started = time.monotonic()
        assert vms.warmer.run_once().done == 12
    offsets = [offset for offset, _ in schedule(("vm-7", "vm-3"), PLACES, 0.2)]
    # Never before its turn; how long after depends on the machine.
    assert all(at - started >= offset - 0.002 for at, offset in zip(sorted(times), offsets, strict=True))


class Slow(Fleet):
    """A manager that notes how many calls it has at once, and answers when it is told to."""

    def __init__(self, expected: int) -> None:
        super().__init__(PLACES)
        self.expected = expected
        self.full = threading.Barrier(expected)

    def get_vm_config(self, vm_id: str) -> Any:
        with self.lock:
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
        self.full.wait(10)  # so that as many as may come at once do
        with self.lock:
            self.at_once -= 1
        return super().get_vm_config(vm_id)


def test_there_are_never_more_loads_at_once_than_allowed() -> None:
    manager = Slow(3)
    with Cache() as cache:
        vms = CachedVMManager(manager, cache, settings(critical_vms=tuple(PLACES), warmup_concurrency=3))
        assert vms.warmer.run_once().loaded == 36
    assert manager.most_at_once == 3


async def test_nor_in_a_loop() -> None:
    manager = Slow(3)
    async with Cache() as cache:
        vms = CachedVMManager(manager, cache, settings(critical_vms=tuple(PLACES), warmup_concurrency=3))
        assert (await vms.warmer.arun_once()).loaded == 36
    assert manager.most_at_once == 3


@pytest.mark.servers
def test_several_processes_load_each_value_once(valkey_server: ServerProcess) -> None:
    """Two caches over one server stand for two processes: the second finds what the first has loaded."""
    one, two = Fleet(PLACES), Fleet(PLACES)
    with (
        Cache.connect(valkey_server.url, namespace="t", redis=PATIENT) as first,
        Cache.connect(valkey_server.url, namespace="t", redis=PATIENT) as second,
    ):
        linked: list[object] = []
        first.on("link_up", linked.append)
        first.get("the first call that needs the server makes the link")
        wait_until(lambda: linked, what="the link")
        CachedVMManager(one, first, settings()).warmer.run_once()
        done = CachedVMManager(two, second, settings()).warmer.run_once()
    assert (len(one.asked), two.asked) == (6, [])
    assert (done.loaded, done.cached) == (0, 6)


def test_a_vm_that_cannot_be_loaded_does_not_keep_the_others_cold(caplog: pytest.LogCaptureFixture) -> None:
    manager = Fleet(PLACES)
    answer = manager.get_vm_state

    def fails(vm_id: str) -> VMState | None:
        if vm_id == "vm-7":
            raise ConnectionError("no route to hypervisor")
        return answer(vm_id)

    manager.get_vm_state = fails  # type: ignore[method-assign]  # one instance of a test's own
    with Cache() as cache, CachedVMManager(manager, cache, settings(critical_vms=("vm-7", "gone", "vm-3"))) as vms:
        done = vms.warmer.run_once()
        assert (done.done, done.failed) == (3, 1)
        assert vms.entries.get_vm_state("vm-3") is not None
    assert "warming vm_state of a VM failed: ConnectionError" in caplog.text
    assert "vm-7" not in caplog.text


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_without_the_list_of_vms_the_critical_ones_are_warm_all_the_same(
    caplog: pytest.LogCaptureFixture, asynchronous: bool
) -> None:
    manager = Fleet(PLACES)

    def fails() -> Any:
        raise ConnectionError("no route to hypervisor")

    manager.list_vms = fails  # type: ignore[method-assign]  # one instance of a test's own
    with Cache() as cache, CachedVMManager(manager, cache, settings(warmup_all=True)) as vms:
        done = await vms.warmer.arun_once() if asynchronous else vms.warmer.run_once()
        assert (done.done, done.loaded, done.failed) == (2, 6, 1)
    assert "warming the list of VMs failed" in caplog.text


async def test_a_load_that_fails_is_counted_in_a_loop_too() -> None:
    manager = Fleet(PLACES)

    def fails(_vm_id: str) -> VMState | None:
        raise ConnectionError("no route to hypervisor")

    manager.get_vm_state = fails  # type: ignore[assignment]  # one instance of a test's own
    async with Cache() as cache, CachedVMManager(manager, cache, settings()) as vms:
        done = await vms.warmer.arun_once()
        assert (done.done, done.loaded, done.failed) == (2, 4, 2)
        again = await vms.warmer.arun_once()
        assert (again.cached, again.failed) == (4, 4)


def test_progress_is_told_step_by_step_and_a_listener_that_fails_stops_nothing() -> None:
    told: list[WarmProgress] = []

    def listener(progress: WarmProgress) -> None:
        told.append(progress)
        raise ValueError("of the listener")

    with Cache() as cache:
        vms = CachedVMManager(Fleet(PLACES), cache, settings(warmup_concurrency=1))
        Warmer(vms, on_progress=listener).run_once()
    assert [one.done for one in told if one.running][-1] == 2
    assert sorted(one.done for one in told) == [one.done for one in told]
    assert told[-1].rounds == 1


# -- the service -------------------------------------------------------------------------------------------------------


def test_the_thread_goes_on_with_rounds_and_ends_with_the_manager() -> None:
    manager = Fleet(PLACES)
    with Cache() as cache:
        with CachedVMManager(manager, cache, settings(enable_warmup=True, warmup_interval="20ms")) as vms:
            wait_until(lambda: vms.warmer.progress.rounds >= 3, what="three rounds")
            vms.entries.invalidate_cluster()
            wait_until(lambda: vms.entries.get_vm_state("vm-3"), what="the critical VM is warm again")
        assert not vms.warmer.running
        assert len(manager.asked) == 12


def test_the_thread_ends_with_the_cache() -> None:
    cache = Cache()
    vms = CachedVMManager(Fleet(PLACES), cache, settings(enable_warmup=True, warmup_interval="1h"))
    vms.start_warming()
    vms.start_warming()
    wait_until(lambda: vms.warmer.progress.rounds == 1, what="the first round")
    cache.close()
    wait_until(lambda: not vms.warmer.running, what="the end of the thread")
    assert vms.warmer.progress.failed == 0
    vms.close()


async def test_the_task_ends_with_the_manager_and_with_the_cache() -> None:
    cache = Cache()
    vms = CachedVMManager(AsyncFleet(PLACES), cache, settings(enable_warmup=True, warmup_interval="20ms"))
    async with vms:
        await asyncio.to_thread(wait_until, lambda: vms.warmer.progress.rounds >= 3)
        assert vms.warmer.running
    await asyncio.to_thread(wait_until, lambda: not vms.warmer.running)
    async with vms:
        await cache.aclose()
        await asyncio.to_thread(wait_until, lambda: not vms.warmer.running)


def test_nothing_is_warmed_where_it_is_not_enabled() -> None:
    manager = Fleet(PLACES)
    with Cache() as cache, CachedVMManager(manager, cache, settings()) as vms:
        assert not vms.warmer.running
    assert manager.asked == []
