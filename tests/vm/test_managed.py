"""A wrapped manager: its reads are cached, its changes invalidate however they end, its errors pass through."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from servers import PATIENT, ServerProcess, wait_until
from vm import fleet
from vm.fleet import AsyncFleet, Fleet

from novacron_cache import Cache, CacheScopeWarning, CacheSettings, DeclarationError, default_cache
from novacron_cache.vm import CachedVMManager, UnknownVMError, VMCacheManager, VMCacheSettings, VMState, VMStatus

PLACES = {"vm-1": "node-1", "vm-2": "node-1", "vm-3": "node-2"}
READS = [
    ("get_vm_state", "vm-1"),
    ("get_vm_resources", "vm-1"),
    ("get_vm_metrics", "vm-1"),
    ("get_vm_config", "vm-1"),
    ("get_vm_migration", "vm-1"),
    ("get_node_resources", "node-1"),
    ("list_vm_states", "node-1"),
    ("list_vms",),
]
CHANGES: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = [
    ("start_vm", ("vm-1",), {}),
    ("stop_vm", ("vm-1",), {"force": True}),
    ("pause_vm", ("vm-1",), {}),
    ("resume_vm", ("vm-1",), {}),
    ("reboot_vm", ("vm-1",), {}),
    ("migrate_vm", ("vm-1", "node-2"), {}),
    ("delete_vm", ("vm-1",), {}),
]


@pytest.fixture
def manager() -> Fleet:
    return Fleet(PLACES)


@pytest.fixture
def vms(manager: Fleet) -> Iterator[CachedVMManager]:
    with Cache() as cache, CachedVMManager(manager, cache) as vms:
        yield vms


# -- reads -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("read", READS, ids=lambda read: read[0])
def test_a_read_asks_the_manager_once(vms: CachedVMManager, manager: Fleet, read: tuple[str, ...]) -> None:
    first = getattr(vms, read[0])(*read[1:])
    assert getattr(vms, read[0])(*read[1:]) == first
    assert manager.asked == [read]


@pytest.mark.parametrize("read", READS, ids=lambda read: read[0])
async def test_both_forms_of_a_read_share_what_they_find(
    vms: CachedVMManager, manager: Fleet, read: tuple[str, ...]
) -> None:
    first = await getattr(vms, f"a{read[0]}")(*read[1:])
    assert getattr(vms, read[0])(*read[1:]) == first
    assert await getattr(vms, f"a{read[0]}")(*read[1:]) == first
    assert manager.asked == [read]


def test_a_batch_asks_for_the_misses_only_and_once(vms: CachedVMManager, manager: Fleet) -> None:
    vms.get_vm_state("vm-2")
    found = vms.get_vm_states(["vm-3", "nobody", "vm-2", "vm-1", "vm-3"])
    assert list(found) == ["vm-3", "vm-2", "vm-1"]
    assert manager.asked == [("get_vm_state", "vm-2"), ("get_vm_states", "vm-3", "nobody", "vm-1")]
    vms.get_vm_states(["vm-1", "nobody", "vm-3"])
    assert vms.get_vm_state("nobody") is None
    assert len(manager.asked) == 2


async def test_a_batch_asks_for_the_misses_only_asynchronously_too(vms: CachedVMManager, manager: Fleet) -> None:
    vms.get_vm_state("vm-2")
    found = await vms.aget_vm_states(["vm-3", "vm-2"])
    assert list(found) == ["vm-3", "vm-2"]
    assert manager.asked == [("get_vm_state", "vm-2"), ("get_vm_states", "vm-3")]
    assert await vms.entries.aget_vm_states(["vm-1", "vm-2", "vm-3"]) == found


def test_what_belongs_together_is_read_together(vms: CachedVMManager) -> None:
    vm = vms.get_vm("vm-3")
    assert vm is not None
    assert (vm.config.vm_id, vm.state, vm.resources) == (
        "vm-3",
        fleet.state("vm-3", "node-2"),
        vms.get_vm_resources("vm-3"),
    )
    assert vms.get_vm("nobody") is None


async def test_what_belongs_together_is_awaited_together(vms: CachedVMManager) -> None:
    assert await vms.aget_vm("vm-3") == vms.get_vm("vm-3")
    assert await vms.aget_vm("nobody") is None


def test_callers_at_once_cause_one_call(vms: CachedVMManager, manager: Fleet) -> None:
    begun, go_on = threading.Event(), threading.Event()
    answer = manager.get_vm_state

    def slow(vm_id: str) -> VMState | None:
        begun.set()
        assert go_on.wait(10)
        return answer(vm_id)

    manager.get_vm_state = slow  # type: ignore[method-assign]  # one instance of a test's own
    found: list[VMState | None] = []
    threads = [threading.Thread(target=lambda: found.append(vms.get_vm_state("vm-1"))) for _ in range(8)]
    for thread in threads:
        thread.start()
    assert begun.wait(10)
    go_on.set()
    for thread in threads:
        thread.join()
    assert found == [fleet.state()] * 8
    assert manager.asked == [("get_vm_state", "vm-1")]


# -- what does not exist -----------------------------------------------------------------------------------------------


def test_that_there_is_no_such_vm_is_remembered_for_a_while(vms: CachedVMManager, manager: Fleet) -> None:
    for _ in range(3):
        assert vms.get_vm_state("nobody") is None
        assert vms.get_vm_config("nobody") is None
    assert manager.asked == [("get_vm_state", "nobody"), ("get_vm_config", "nobody")]
    left = vms.entries.cache.ttl("vm:nobody", model=VMState)
    assert left is not None
    assert left <= VMCacheSettings().not_found_ttl


def test_asking_for_vms_that_do_not_exist_does_not_push_out_those_that_do(manager: Fleet) -> None:
    settings = CacheSettings.model_validate({"memory": {"max_items": 200}})
    with Cache(settings) as cache, CachedVMManager(manager, cache) as vms:
        for _ in range(3):
            for vm_id in PLACES:
                vms.get_vm_state(vm_id)
        for number in range(2000):
            assert vms.get_vm_state(f"nobody-{number}") is None
        assert len(vms.entries.get_vm_states(PLACES)) == 3
        memory = cache.engine.memory
        assert memory is not None
        assert len(memory) <= 200


def test_a_vm_that_is_created_exists_at_once(vms: CachedVMManager, manager: Fleet) -> None:
    assert vms.get_vm("vm-4") is None
    assert vms.list_vms() == tuple(PLACES)
    assert len(vms.list_vm_states("node-1")) == 2
    vms.create_vm(fleet.config("vm-4"))
    assert vms.get_vm("vm-4") is not None
    assert vms.list_vms() == (*PLACES, "vm-4")
    assert len(vms.list_vm_states("node-1")) == 3


# -- changes -----------------------------------------------------------------------------------------------------------


def everything(vms: CachedVMManager) -> list[Any]:
    return [
        vms.get_vm_state("vm-1"), vms.get_vm_states(PLACES), vms.list_vms(), vms.list_vm_states("node-1"),
        vms.list_vm_states("node-2"), vms.get_node_resources("node-1"), vms.get_node_resources("node-2"),
        vms.get_vm_config("vm-1"), vms.get_vm_resources("vm-1"),
    ]  # fmt: skip


@pytest.mark.parametrize("fails", [False, True], ids=["done", "failed halfway"])
@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change[0])
def test_after_a_change_everything_read_is_as_the_manager_has_it(
    vms: CachedVMManager, manager: Fleet, change: tuple[str, tuple[Any, ...], dict[str, Any]], fails: bool
) -> None:
    everything(vms)
    name, args, kwargs = change
    if fails:
        manager.fails = TimeoutError("the hypervisor did not say whether it is done")
        with pytest.raises(TimeoutError):
            getattr(vms, name)(*args, **kwargs)
    else:
        getattr(vms, name)(*args, **kwargs)
    with Cache() as empty:
        assert everything(vms) == everything(CachedVMManager(manager, empty))


@pytest.mark.parametrize("fails", [False, True], ids=["done", "failed halfway"])
@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change[0])
async def test_after_a_change_that_was_awaited_too(
    vms: CachedVMManager, manager: Fleet, change: tuple[str, tuple[Any, ...], dict[str, Any]], fails: bool
) -> None:
    everything(vms)
    name, args, kwargs = change
    if fails:
        manager.fails = TimeoutError("the hypervisor did not say whether it is done")
        with pytest.raises(TimeoutError):
            await getattr(vms, f"a{name}")(*args, **kwargs)
    else:
        await getattr(vms, f"a{name}")(*args, **kwargs)
    with Cache() as empty:
        assert everything(vms) == everything(CachedVMManager(manager, empty))


def test_a_change_that_says_where_leaves_other_nodes_alone(vms: CachedVMManager, manager: Fleet) -> None:
    everything(vms)
    vms.pause_vm("vm-1", node_id="node-1")
    manager.asked.clear()
    assert vms.list_vm_states("node-2")
    assert vms.get_node_resources("node-2")
    assert vms.get_vm_config("vm-1")
    assert manager.asked == []
    assert [one.status for one in vms.list_vm_states("node-1")] == [VMStatus.PAUSED, VMStatus.RUNNING]


def test_what_is_read_while_a_change_is_under_way_is_not_kept(vms: CachedVMManager, manager: Fleet) -> None:
    vms.get_vm_state("vm-1")
    stop = manager.stop_vm
    seen: list[VMState | None] = []

    def slow(vm_id: str, *, force: bool = False) -> None:
        seen.append(vms.get_vm_state(vm_id))  # the manager still says "running", and soon will not
        stop(vm_id, force=force)

    manager.stop_vm = slow  # type: ignore[method-assign]  # one instance of a test's own
    vms.stop_vm("vm-1")
    assert seen == [fleet.state()]
    assert vms.get_vm_state("vm-1") == fleet.state(status="stopped")


@pytest.mark.servers
def test_while_a_change_is_under_way_no_process_keeps_what_it_reads(valkey_server: ServerProcess) -> None:
    manager, other = Fleet(PLACES), Fleet(PLACES)
    with (
        Cache.connect(valkey_server.url, namespace="t", redis=PATIENT) as ours,
        Cache.connect(valkey_server.url, namespace="t", redis=PATIENT) as theirs,
    ):
        vms, elsewhere = CachedVMManager(manager, ours), CachedVMManager(other, theirs)
        elsewhere.get_vm_state("vm-1")
        stop = manager.stop_vm

        def slow(vm_id: str, *, force: bool = False) -> None:
            wait_until(lambda: elsewhere.entries.get_vm_state("vm-1") is None, what="the hold is known elsewhere")
            other.asked.clear()
            for _ in range(3):
                elsewhere.get_vm_state("vm-1")
            stop(vm_id, force=force)

        manager.stop_vm = slow  # type: ignore[method-assign]  # one instance of a test's own
        vms.stop_vm("vm-1")
        assert other.asked == [("get_vm_state", "vm-1")] * 3


async def test_a_change_whose_caller_was_cancelled_still_invalidates_when_it_is_done(
    vms: CachedVMManager, manager: Fleet
) -> None:
    begun, go_on = threading.Event(), threading.Event()
    stop = manager.stop_vm

    def slow(vm_id: str, *, force: bool = False) -> None:
        begun.set()
        assert go_on.wait(10)
        stop(vm_id, force=force)

    manager.stop_vm = slow  # type: ignore[method-assign]  # one instance of a test's own
    change = asyncio.create_task(vms.astop_vm("vm-1"))
    await asyncio.to_thread(begun.wait, 10)
    change.cancel()
    with pytest.raises(asyncio.CancelledError):
        await change
    assert await vms.aget_vm_state("vm-1") == fleet.state()  # a thread cannot be cancelled: it is still at it
    go_on.set()
    await asyncio.to_thread(wait_until, lambda: vms.get_vm_state("vm-1") == fleet.state(status="stopped"))


# -- managers that fail ------------------------------------------------------------------------------------------------


def test_an_error_of_a_read_passes_through_and_nothing_is_kept(vms: CachedVMManager, manager: Fleet) -> None:
    answer = manager.get_vm_state

    def fails(_vm_id: str) -> VMState | None:
        raise ConnectionError("no route to hypervisor")

    manager.get_vm_state = fails  # type: ignore[assignment]  # one instance of a test's own
    with pytest.raises(ConnectionError, match="no route"):
        vms.get_vm_state("vm-1")
    manager.get_vm_state = answer  # type: ignore[method-assign]  # one instance of a test's own
    assert vms.get_vm_state("vm-1") == fleet.state()


def test_a_change_of_an_unknown_vm_is_the_manager_s_error(vms: CachedVMManager) -> None:
    with pytest.raises(UnknownVMError) as caught:
        vms.start_vm("nobody")
    assert caught.value.vm_id == "nobody"


# -- asynchronous managers ---------------------------------------------------------------------------------------------


async def test_an_asynchronous_manager_is_awaited() -> None:
    manager = AsyncFleet(PLACES)
    async with Cache() as cache, CachedVMManager(manager, cache) as vms:
        states = await asyncio.gather(*(vms.aget_vm_state("vm-1") for _ in range(20)))
        assert states == [fleet.state()] * 20
        assert manager.fleet.asked == [("get_vm_state", "vm-1")]
        assert (await vms.aget_vm_states(PLACES)).keys() == PLACES.keys()
        assert await vms.alist_vms() == tuple(PLACES)
        assert len(await vms.alist_vm_states("node-1")) == 2
        await vms.astop_vm("vm-1")
        assert await vms.aget_vm_state("vm-1") == fleet.state(status="stopped")


def test_blocking_on_an_asynchronous_manager_says_what_to_do() -> None:
    with (
        Cache() as cache,
        CachedVMManager(AsyncFleet(PLACES), cache) as vms,
        pytest.raises(DeclarationError, match=r"AsyncFleet\.get_vm_state is a coroutine function: await aget_vm_state"),
    ):
        vms.get_vm_state("vm-1")


# -- scopes ------------------------------------------------------------------------------------------------------------


def test_two_hypervisors_share_nothing_and_disturb_nobody() -> None:
    one, two = Fleet({"vm-1": "node-1"}), Fleet({"vm-1": "node-1", "vm-2": "node-1"})
    two.stop_vm("vm-1")
    with Cache() as cache:
        first, second = CachedVMManager(one, cache, scope="hv-1"), CachedVMManager(two, cache, scope="hv-2")
        assert everything(first) != everything(second)
        assert first.get_vm_state("vm-1") == fleet.state()
        assert second.get_vm_state("vm-1") == fleet.state(status="stopped")
        one.asked.clear()
        two.asked.clear()
        for name, args in [
            ("on_vm_deleted", ("vm-1",)), ("on_vm_migrated", ("vm-1", None, None)), ("invalidate_vm", ("vm-1",)),
            ("invalidate_node", ("node-1",)), ("invalidate_cluster", ()), ("invalidate_vm_pattern", ("vm:*",)),
        ]:  # fmt: skip
            getattr(first.entries, name)(*args)
            everything(second)
        assert two.asked == []
        everything(first)
        assert one.asked


def test_a_pattern_over_the_cache_means_every_scope() -> None:
    with Cache() as cache:
        scoped = [VMCacheManager(cache, scope=scope) for scope in ("", "hv-1", "hv-2")]
        for one in scoped:
            one.set_vm_state(fleet.state())
        cache.invalidate_pattern("vm:*")
        assert [one.get_vm_state("vm-1") for one in scoped] == [None] * 3


def test_without_a_scope_the_model_s_own_manager_sees_the_same() -> None:
    with Cache() as cache:
        vms = VMCacheManager(cache)
        vms.set_vm_state(fleet.state())
        assert VMState.entries.using(cache).get("vm-1") == fleet.state()
        VMState.entries.using(cache).set(fleet.state(status="paused"))
        assert vms.get_vm_state("vm-1") == fleet.state(status="paused")
        assert cache.get("vm:vm-1", model=VMState) == fleet.state(status="paused")
        assert VMCacheManager(cache, scope="hv-1").get_vm_state("vm-1") is None


@pytest.mark.parametrize("scope", ["qemu:///system", "a<b>c", "*", "<id_>", "hv 1/2"])
def test_any_text_is_a_scope(scope: str) -> None:
    with Cache() as cache:
        other = VMCacheManager(cache, scope="hv-1")
        other.set_vm_state(fleet.state())
        vms = VMCacheManager(cache, scope=scope)
        fetched = vms.get_vm_state("vm-1", lambda _: fleet.state(status="paused"))
        assert fetched == vms.get_vm_state("vm-1") == fleet.state(status="paused")
        assert vms.list_vm_states("node-1", lambda _: [fleet.state()]) == (fleet.state(),)
        assert vms.list_vms(lambda: ["vm-1"]) == ("vm-1",)
        vms.invalidate_vm_pattern("vm:*")
        assert vms.get_vm_state("vm-1") is None
        assert other.get_vm_state("vm-1") == fleet.state()
        vms.invalidate_cluster()
        assert vms.list_vms() is None


def test_a_scope_that_is_no_text_is_refused() -> None:
    with Cache() as cache, pytest.raises(DeclarationError, match="scope=7"):
        VMCacheManager(cache, scope=7)  # type: ignore[arg-type]  # the mistake


def test_two_managers_of_one_scope_are_warned_of() -> None:
    with Cache() as cache:
        one, two = Fleet(), Fleet()
        CachedVMManager(one, cache)
        CachedVMManager(one, cache)
        with pytest.warns(CacheScopeWarning, match="pass scope='...'"):
            CachedVMManager(two, cache)
        CachedVMManager(two, cache, scope="hv-2")
        two.cache_scope = "hv-3"  # type: ignore[attr-defined]  # what a manager may have
        assert CachedVMManager(two, cache).entries.names.scope == "hv-3"
        del one
        gc.collect()
        CachedVMManager(two, cache, scope="")


def test_the_default_cache_is_taken_where_none_is_given() -> None:
    assert CachedVMManager(Fleet(PLACES), scope="of a test").entries.cache is default_cache()


# -- a manager that has events -----------------------------------------------------------------------------------------


class Telling(Fleet):
    """A manager that tells of changes, as a hypervisor does."""

    def __init__(self, vms: dict[str, str]) -> None:
        super().__init__(vms)
        self.listening: list[VMCacheManager] = []

    def subscribe(self, entries: VMCacheManager) -> Any:
        self.listening.append(entries)
        return lambda: self.listening.remove(entries)


def test_a_manager_with_events_is_subscribed_to_until_the_end() -> None:
    manager = Telling(PLACES)
    with Cache() as cache:
        with CachedVMManager(manager, cache) as vms:
            assert manager.listening == [vms.entries]
            vms.get_vm_state("vm-1")
            manager.stop_vm("vm-1")
            manager.listening[0].on_vm_state_change("vm-1", "running", "stopped")
            assert vms.get_vm_state("vm-1") == fleet.state(status="stopped")
        assert manager.listening == []
        with CachedVMManager(manager, cache, events=False):
            assert manager.listening == []


def test_a_closed_manager_leaves_no_thread() -> None:
    before = threading.active_count()
    settings = VMCacheSettings(enable_warmup=True, critical_vms=("vm-1",))
    with Cache() as cache, CachedVMManager(Fleet(PLACES), cache, settings) as vms:
        wait_until(lambda: vms.warmer.progress.done == 1, what="the critical VM is warm")
    assert threading.active_count() == before
