"""A hypervisor's VMs through libvirt's own test driver, in this process: reads, changes, and events that invalidate."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
from servers import wait_until
from vm import fleet
from vm.libvirtd import domain, need_libvirt

from novacron_cache import Cache
from novacron_cache.vm import (
    CachedVMManager,
    HypervisorError,
    HypervisorUnavailableError,
    UnknownVMError,
    VMConfig,
    VMStatus,
)
from novacron_cache.vm.libvirt import LibvirtVMManager

URI = "test:///default"
MIB = 1 << 20


@pytest.fixture
def manager() -> Iterator[LibvirtVMManager]:
    need_libvirt()
    with LibvirtVMManager(URI, node_id="node-1") as manager:
        as_at_first(manager._connection.handle)
        yield manager


def as_at_first(handle: Any) -> None:
    """Leave only the domain `test`, running: there is one simulated host in a process, for as long as it is used."""
    for one in handle.listAllDomains():
        if one.name() != "test":
            for step in ("destroy", "undefine"):
                with contextlib.suppress(Exception):
                    getattr(one, step)()
    with contextlib.suppress(Exception):
        handle.lookupByName("test").resume()


@pytest.fixture
def host(manager: LibvirtVMManager) -> Any:
    """Libvirt's own connection, for changes behind the manager's back."""
    return manager._connection.handle


@pytest.fixture
def vms(manager: LibvirtVMManager) -> Iterator[CachedVMManager]:
    with Cache() as cache, CachedVMManager(manager, cache) as vms:
        yield vms


# -- reads -------------------------------------------------------------------------------------------------------------


def test_what_the_host_says_becomes_models(manager: LibvirtVMManager) -> None:
    assert manager.list_vms() == ["test"]
    state = manager.get_vm_state("test")
    assert state is not None
    assert (state.vm_id, state.node_id, state.status) == ("test", "node-1", VMStatus.RUNNING)
    assert manager.list_vm_states("node-1") == [state]
    resources = manager.get_vm_resources("test")
    assert resources is not None
    assert (resources.vcpus, resources.memory_bytes, resources.memory_max_bytes) == (2, 2048 * MIB, 8192 * MIB)
    assert [disk.device for disk in resources.disks] == ["vda"]
    assert resources.disk_bytes > 0
    metrics = manager.get_vm_metrics("test")
    assert metrics is not None
    assert metrics.cpu_seconds > 0
    assert metrics.memory_percent == 50
    assert metrics.disk_read_bytes > 0
    assert metrics.network_received_bytes > 0
    config = manager.get_vm_config("test")
    assert config is not None
    assert (config.hypervisor, config.persistent, config.vcpus) == ("test", True, 2)
    assert "<name>test</name>" in config.definition
    node = manager.get_node_resources("node-1")
    assert node is not None
    assert (node.cpus, node.vcpus_allocated, node.vms_active, node.vms_defined) == (16, 2, 1, 1)
    assert node.memory_allocated_bytes == 2048 * MIB
    assert manager.get_vm_migration("test") is None


def test_what_does_not_exist_is_none_and_what_is_not_here_is_nothing(manager: LibvirtVMManager) -> None:
    for kind in ("state", "resources", "migration", "metrics", "config"):
        assert getattr(manager, f"get_vm_{kind}")("nobody") is None
    assert manager.get_vm_states(["nobody", "test"]).keys() == {"test"}
    assert manager.get_vm_states(["nobody"]) == {}
    assert manager.get_vm_states([f"nobody-{number}" for number in range(20)] + ["test"]).keys() == {"test"}
    assert manager.list_vm_states("node-2") == []
    assert manager.get_node_resources("node-2") is None


def test_a_vm_that_does_not_run_uses_nothing(manager: LibvirtVMManager, host: Any) -> None:
    host.defineXML(domain("idle"))
    assert manager.get_vm_metrics("idle") is None
    state = manager.get_vm_state("idle")
    assert state is not None
    assert state.status is VMStatus.STOPPED
    host.lookupByName("idle").undefine()


class Vanishing:
    """A connection on which a domain goes right after it was found."""

    def __init__(self, handle: Any) -> None:
        self._handle = handle

    def __getattr__(self, name: str) -> Any:
        return getattr(self._handle, name)

    def _gone(self, found: Any) -> Any:
        found.destroy()  # it is not persistent, so that is its end
        return found

    def lookupByName(self, name: str) -> Any:  # noqa: N802 - libvirt's name
        return self._gone(self._handle.lookupByName(name))

    def listAllDomains(self) -> list[Any]:  # noqa: N802 - libvirt's name
        return [self._gone(one) if one.name() == "short-lived" else one for one in self._handle.listAllDomains()]


@pytest.mark.parametrize("kind", ["state", "resources", "migration", "metrics", "config"])
def test_a_vm_that_goes_while_it_is_read_does_not_exist(manager: LibvirtVMManager, host: Any, kind: str) -> None:
    host.createXML(domain("short-lived"))
    manager._connection._handle = Vanishing(host)
    assert getattr(manager, f"get_vm_{kind}")("short-lived") is None
    manager._connection._handle = host


def test_a_vm_that_goes_while_all_are_listed_is_left_out(manager: LibvirtVMManager, host: Any) -> None:
    host.createXML(domain("short-lived"))
    manager._connection._handle = Vanishing(host)
    node = manager.get_node_resources("node-1")
    assert node is not None
    assert node.vms_active == 1
    assert [state.vm_id for state in manager.list_vm_states("node-1")] == ["test"]
    manager._connection._handle = host


# -- changes -----------------------------------------------------------------------------------------------------------


def test_a_life_through_the_manager(vms: CachedVMManager) -> None:
    def status() -> VMStatus | None:
        state = vms.get_vm_state("web")
        return None if state is None else state.status

    assert status() is None
    vms.create_vm(VMConfig(vm_id="web", node_id="node-1", vcpus=2, memory_bytes=64 * MIB, autostart=True))
    assert status() is VMStatus.STOPPED
    assert vms.list_vms() == ("test", "web")
    vms.start_vm("web")
    assert status() is VMStatus.RUNNING
    vms.pause_vm("web")
    assert status() is VMStatus.PAUSED
    vms.resume_vm("web")
    vms.reboot_vm("web")
    assert status() is VMStatus.RUNNING
    vms.resize_vm("web", memory_bytes=32 * MIB, vcpus=1)
    resources = vms.get_vm_resources("web")
    assert resources is not None
    assert (resources.memory_bytes, resources.vcpus) == (32 * MIB, 1)
    node = vms.get_node_resources("node-1")
    assert node is not None
    assert node.vms_active == 2
    vms.stop_vm("web")
    assert status() is VMStatus.STOPPED
    config = vms.get_vm_config("web")
    assert config is not None
    assert config.autostart
    vms.start_vm("web")
    vms.delete_vm("web")
    assert status() is None
    assert vms.list_vms() == ("test",)


def test_a_vm_that_is_not_persistent_is_gone_when_it_stops(vms: CachedVMManager) -> None:
    vms.create_vm(VMConfig(vm_id="job", node_id="node-1", vcpus=1, memory_bytes=64 * MIB, persistent=False))
    assert vms.get_vm_config("job") is not None
    vms.stop_vm("job", force=True)
    wait_until(lambda: vms.get_vm_config("job") is None, what="the end is known")


async def test_calls_that_block_do_not_stop_the_loop(vms: CachedVMManager) -> None:
    await vms.apause_vm("test")
    found = await vms.aget_vm("test")
    assert found is not None
    assert found.state is not None
    assert found.state.status is VMStatus.PAUSED
    await vms.aresume_vm("test")


def test_errors_are_those_of_this_package_and_keep_libvirt_s_code(manager: LibvirtVMManager) -> None:
    with pytest.raises(UnknownVMError, match="there is no VM 'nobody'") as unknown:
        manager.start_vm("nobody")
    assert unknown.value.vm_id == "nobody"
    with pytest.raises(HypervisorError, match=r"start: .*already running") as refused:
        manager.start_vm("test")
    assert isinstance(refused.value.code, int)
    with pytest.raises(HypervisorError, match="migrate"):
        manager.migrate_vm("test", "node-2")
    with pytest.raises(HypervisorError, match="is on node-1 already"):
        manager.migrate_vm("test", "node-1")


def test_a_host_that_is_not_there_is_said_to_be_unavailable() -> None:
    need_libvirt()
    with pytest.raises(HypervisorUnavailableError, match="nowhere"):
        LibvirtVMManager("test+unix:///default?socket=/nowhere/libvirt-sock")


def test_nothing_is_printed_of_errors(manager: LibvirtVMManager, capfd: pytest.CaptureFixture[str]) -> None:
    assert manager.get_vm_state("nobody") is None
    assert capfd.readouterr() == ("", "")


# -- events ------------------------------------------------------------------------------------------------------------

KINDS = ("state", "resources", "metrics", "config")


def warm(vms: CachedVMManager, vm_id: str) -> None:
    for kind in KINDS:
        getattr(vms, f"get_vm_{kind}")(vm_id)
    vms.list_vms()
    vms.list_vm_states("node-1")
    vms.get_node_resources("node-1")


def lost(vms: CachedVMManager, vm_id: str) -> set[str]:
    entries = vms.entries
    gone = {kind for kind in KINDS if getattr(entries, f"get_vm_{kind}")(vm_id) is None}
    gone |= {"listing"} if entries.list_vm_states("node-1") is None else set()
    gone |= {"node"} if entries.get_node_resources("node-1") is None else set()
    return gone | ({"list"} if entries.list_vms() is None else set())


EVERYTHING = {*KINDS, "listing", "node", "list"}


@pytest.mark.parametrize(
    ("before", "change", "expected"),
    [
        ([], lambda vm: vm.suspend(), {"state", "listing"}),
        (["suspend"], lambda vm: vm.resume(), {"state", "listing"}),
        ([], lambda vm: vm.destroy(), EVERYTHING),
        (["destroy"], lambda vm: vm.create(), EVERYTHING),
        (["destroy"], lambda vm: vm.undefine(), EVERYTHING),
    ],
    ids=["suspend", "resume", "destroy", "create", "undefine"],
)
def test_a_change_behind_the_manager_s_back_invalidates_what_it_must(
    vms: CachedVMManager, host: Any, before: list[str], change: Callable[[Any], None], expected: set[str]
) -> None:
    vm = host.defineXML(domain("web"))
    vm.create()
    for step in before:
        getattr(vm, step)()
    settle(vms)
    warm(vms, "web")
    # A VM that does not run has no metrics; that there are none is what is known then.
    expected = expected | (lost(vms, "web") & {"metrics"})
    try:
        change(vm)
        wait_until(lambda: lost(vms, "web") >= expected, what="the event")
        settle(vms)
        assert lost(vms, "web") == expected
    finally:
        for name in ("destroy", "undefine"):
            with contextlib.suppress(Exception):
                getattr(vm, name)()


class Named:
    """As much of a domain as an event's callback may ask for without calling the host."""

    def name(self) -> str:
        return "test"


STATE = {"state", "listing"}
RESOURCES = {"resources", "config", "metrics", "node"}


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        ("REBOOT", {"state", "metrics", "listing"}),
        *[(name, RESOURCES) for name in ("BALLOON_CHANGE", "DEVICE_ADDED", "DEVICE_REMOVED", "DISK_CHANGE", "TUNABLE")],
        *[(name, {"config"}) for name in ("METADATA_CHANGE", "TRAY_CHANGE")],
        *[(name, STATE) for name in ("AGENT_LIFECYCLE", "WATCHDOG", "IO_ERROR", "PMWAKEUP", "PMSUSPEND")],
    ],
)
def test_what_the_test_driver_never_tells_invalidates_what_it_must(
    vms: CachedVMManager, event: str, expected: set[str]
) -> None:
    warm(vms, "test")
    vms.manager._connection._listeners()[event](None, Named(), 1, 2, None)
    wait_until(lambda: lost(vms, "test") >= expected, what="the event")
    assert lost(vms, "test") == expected


@pytest.mark.parametrize("event", ["MIGRATION_ITERATION", "JOB_COMPLETED"])
def test_the_steps_of_a_migration_are_told(vms: CachedVMManager, event: str) -> None:
    vms.entries.set_vm_migration(fleet.migration("test"))
    warm(vms, "test")
    vms.manager._connection._listeners()[event](None, Named(), 1, None)
    wait_until(lambda: vms.entries.get_vm_migration("test") is None, what="the event")
    assert lost(vms, "test") == set()


def test_a_pause_for_a_migration_is_a_step_of_it(vms: CachedVMManager, manager: LibvirtVMManager) -> None:
    libvirt = manager._connection.libvirt
    vms.entries.set_vm_migration(fleet.migration("test"))
    warm(vms, "test")
    event = libvirt.VIR_DOMAIN_EVENT_SUSPENDED, libvirt.VIR_DOMAIN_EVENT_SUSPENDED_MIGRATED
    manager._connection._listeners()["LIFECYCLE"](None, Named(), *event, None)
    wait_until(lambda: vms.entries.get_vm_migration("test") is None, what="the event")
    assert lost(vms, "test") == STATE


def test_every_event_that_is_listened_for_is_one_of_libvirt_s(manager: LibvirtVMManager) -> None:
    connection = manager._connection
    assert [
        name for name in connection._listeners() if not hasattr(connection.libvirt, f"VIR_DOMAIN_EVENT_ID_{name}")
    ] == []


def is_paused(vms: CachedVMManager) -> bool:
    state = vms.get_vm_state("test")
    assert state is not None
    return state.status is VMStatus.PAUSED


def settle(vms: CachedVMManager) -> None:
    """Wait until every event so far has been carried out: they come in order, and this one concerns nothing else."""
    assert vms.get_vm_config("test") is not None
    connection = vms.manager._connection
    vm = connection.handle.lookupByName("test")
    vm.setMetadata(connection.libvirt.VIR_DOMAIN_METADATA_TITLE, str(time.monotonic_ns()), None, None)
    wait_until(lambda: vms.entries.get_vm_config("test") is None, what="the last event")


def test_a_vm_that_somebody_else_creates_is_found(vms: CachedVMManager, host: Any) -> None:
    assert vms.get_vm_state("web") is None
    host.createXML(domain("web"))
    wait_until(lambda: vms.get_vm_state("web") is not None, what="the VM is known")
    host.lookupByName("web").destroy()
    wait_until(lambda: vms.get_vm_state("web") is None, what="its end is known")


def test_a_burst_of_events_is_carried_out_in_few_steps(vms: CachedVMManager, host: Any) -> None:
    told: list[object] = []
    vm = host.lookupByName("test")
    hold = threading.Event()
    first = threading.Event()

    def listener(event: object) -> None:
        told.append(event)
        first.set()
        assert hold.wait(10)

    vms.entries.cache.on("invalidated", listener)
    vm.suspend()
    assert first.wait(10)
    for _ in range(50):
        vm.resume()
        vm.suspend()
    vm.resume()
    hold.set()
    vms.get_vm_state("test")
    wait_until(lambda: not is_paused(vms), what="the last event")
    assert len(told) < 20


def test_subscribing_makes_what_others_have_kept_suspect(manager: LibvirtVMManager) -> None:
    with Cache() as cache:
        early = CachedVMManager(manager, cache, events=False)
        early.get_vm_state("test")
        assert early.entries.get_vm_state("test") is not None
        with CachedVMManager(manager, cache, events=False):
            assert early.entries.get_vm_state("test") is not None
        with CachedVMManager(manager, cache):
            assert early.entries.get_vm_state("test") is None


def test_each_subscriber_hears_and_one_that_was_closed_does_no_harm(manager: LibvirtVMManager, host: Any) -> None:
    with Cache() as one, Cache() as two:
        closed = Cache()
        CachedVMManager(manager, closed)
        first, second = CachedVMManager(manager, one, scope="a"), CachedVMManager(manager, two)
        closed.close()
        first.get_vm_state("test")
        second.get_vm_state("test")
        host.lookupByName("test").suspend()
        for vms in (first, second):
            wait_until(partial(is_paused, vms), what="the event")
        assert len(manager._connection._subscribers) == 2
        first.close()
        second.close()
        assert len(manager._connection._subscribers) == 0
        host.lookupByName("test").resume()


def test_a_closed_manager_leaves_no_thread_and_says_so(manager: LibvirtVMManager) -> None:
    before = threading.active_count()
    other = LibvirtVMManager(URI)
    assert threading.active_count() == before + 1
    other.close()
    other.close()
    assert threading.active_count() == before
    assert not other.connected
    with pytest.raises(HypervisorUnavailableError, match="closed"):
        other.get_vm_state("test")


FORKED = """
import os, sys
from novacron_cache import DeclarationError
from novacron_cache.vm import HypervisorUnavailableError
from novacron_cache.vm.libvirt import LibvirtVMManager
manager = LibvirtVMManager("test:///default")
child = os.fork()
if not child:
    try:
        manager.get_vm_state("test")
    except HypervisorUnavailableError as error:
        print(error, flush=True)
    try:
        LibvirtVMManager("test:///default")
    except DeclarationError as error:
        print(error, flush=True)
    manager.close()
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
assert manager.get_vm_state("test") is not None
manager.close()
"""


def test_a_forked_child_is_told_to_connect_itself() -> None:
    need_libvirt()
    done = subprocess.run([sys.executable, "-c", FORKED], capture_output=True, text=True, check=True, timeout=30)
    assert done.stdout.splitlines() == [
        "the connection to test:///default is of the process from which this one was forked",
        "libvirt does not survive a fork: connect in the child, before any use in the parent",
    ]
