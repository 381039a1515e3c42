"""A real libvirtd on a unix socket: what virsh changes is seen, listings are fast, and a daemon may die or hang."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest
from servers import PATIENT, ServerProcess, wait_until
from vm.libvirtd import LibvirtdProcess, domain, running

from novacron_cache import Cache
from novacron_cache.vm import (
    CachedVMManager,
    HypervisorError,
    HypervisorUnavailableError,
    VMCacheSettings,
    VMStatus,
    libvirt_connection,
)
from novacron_cache.vm.libvirt import LibvirtVMManager

pytestmark = pytest.mark.servers


@pytest.fixture(scope="module")
def shared_daemon() -> Iterator[LibvirtdProcess]:
    with running() as daemon:
        yield daemon


@pytest.fixture
def daemon(shared_daemon: LibvirtdProcess) -> Iterator[LibvirtdProcess]:
    """A daemon whose only domain, `test`, runs."""
    yield shared_daemon
    shared_daemon.virsh("resume", "test", check=False)


@pytest.fixture
def manager(daemon: LibvirtdProcess) -> Iterator[LibvirtVMManager]:
    with LibvirtVMManager(daemon.uri, node_id="node-1") as manager:
        yield manager


def status(vms: CachedVMManager, vm_id: str = "test") -> VMStatus | None:
    state = vms.get_vm_state(vm_id)
    return None if state is None else state.status


def seconds_until(condition: Callable[[], bool]) -> float:
    started = time.perf_counter()
    wait_until(condition)
    return time.perf_counter() - started


def delays(daemon: LibvirtdProcess, vms: CachedVMManager) -> list[float]:
    """Return how long after virsh has ended each of several changes is in a cached read, sorted."""
    found = []
    for _ in range(3):
        for command, expected in (("suspend", VMStatus.PAUSED), ("resume", VMStatus.RUNNING)):
            assert status(vms) is not expected
            daemon.virsh(command, "test")
            found.append(seconds_until(lambda expected=expected: status(vms) is expected))
    return sorted(found)


# A ttl would hide an event that never came.
LONG = VMCacheSettings(vm_state_ttl="1h", listing_ttl="1h", vm_config_ttl="1h", not_found_ttl="1h")


def test_what_virsh_changes_is_seen_within_100_ms(daemon: LibvirtdProcess, manager: LibvirtVMManager) -> None:
    with Cache() as cache, CachedVMManager(manager, cache, LONG) as vms:
        assert status(vms) is VMStatus.RUNNING
        assert [one.status for one in vms.list_vm_states("node-1")] == [VMStatus.RUNNING]
        # The quickest, for the machine may be busy with something else.
        assert delays(daemon, vms)[0] < 0.1
        daemon.virsh("suspend", "test")
        wait_until(lambda: status(vms) is VMStatus.PAUSED)
        assert [one.status for one in vms.list_vm_states("node-1")] == [VMStatus.PAUSED]
        assert status(vms, "web") is None
        definition = daemon.directory / "web.xml"
        definition.write_text(domain("web"))
        daemon.virsh("create", str(definition))
        wait_until(lambda: status(vms, "web") is VMStatus.RUNNING)
        assert set(vms.list_vms()) == {"test", "web"}
        daemon.virsh("destroy", "web")
        wait_until(lambda: status(vms, "web") is None)


def test_processes_without_a_connection_of_their_own_see_it_through_the_server(
    daemon: LibvirtdProcess, manager: LibvirtVMManager, valkey_server: ServerProcess
) -> None:
    with (
        Cache.connect(valkey_server.url, namespace="t", redis=PATIENT) as hears,
        Cache.connect(valkey_server.url, namespace="t", redis=PATIENT) as reads,
    ):
        linked: list[object] = []
        reads.on("link_up", linked.append)
        CachedVMManager(manager, hears, LONG)
        vms = CachedVMManager(manager, reads, LONG, events=False)
        assert status(vms) is VMStatus.RUNNING
        wait_until(lambda: linked, what="the link")
        assert status(vms) is VMStatus.RUNNING
        assert delays(daemon, vms)[0] < 0.1


def test_listing_200_vms_is_fifty_times_as_fast_from_the_cache(manager: LibvirtVMManager) -> None:
    handle = manager._connection.handle
    made = [handle.createXML(domain(f"vm-{number}")) for number in range(199)]
    try:
        with Cache() as cache, CachedVMManager(manager, cache) as vms:
            assert len(vms.list_vm_states("node-1")) == 200
            uncached, warm = [], []
            for _ in range(5):
                started = time.perf_counter()
                found = manager.list_vm_states("node-1")
                between = time.perf_counter()
                cached = vms.list_vm_states("node-1")
                warm.append(time.perf_counter() - between)
                uncached.append(between - started)
                assert list(cached) == found
            assert min(uncached) > 50 * min(warm)
    finally:
        for one in made:
            one.destroy()


def test_a_daemon_that_dies_makes_everything_suspect_and_is_connected_again() -> None:
    with (
        running() as daemon,
        LibvirtVMManager(daemon.uri, node_id="node-1") as manager,
        Cache() as cache,
        CachedVMManager(manager, cache, LONG, scope="hv-1") as vms,
    ):
        other = CachedVMManager(manager, cache, LONG, scope="hv-2", events=False)
        assert status(vms) is status(other) is VMStatus.RUNNING
        daemon.virsh("suspend", "test")
        wait_until(lambda: status(vms) is VMStatus.PAUSED)
        daemon.kill()
        wait_until(lambda: vms.entries.get_vm_state("test") is None, what="the suspicion")
        assert other.entries.get_vm_state("test") is not None
        with pytest.raises(HypervisorUnavailableError):
            vms.get_vm_state("test")
        wait_until(lambda: not manager.connected)
        with pytest.raises(HypervisorUnavailableError, match="lost and not made anew yet"):
            vms.pause_vm("test")

        daemon.start()
        wait_until(lambda: manager.connected, what="the connection")
        # The new daemon has simulated its domains anew.
        assert status(vms) is VMStatus.RUNNING
        daemon.virsh("suspend", "test")
        wait_until(lambda: status(vms) is VMStatus.PAUSED, what="the event over the new connection")


def test_a_daemon_that_hangs_is_taken_for_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libvirt_connection, "KEEPALIVE_SECONDS", 1)
    monkeypatch.setattr(libvirt_connection, "KEEPALIVE_COUNT", 1)
    with (
        running() as daemon,
        LibvirtVMManager(daemon.uri, node_id="node-1") as manager,
        Cache() as cache,
        CachedVMManager(manager, cache, LONG) as vms,
    ):
        vms.get_vm_state("test")
        daemon.pause()
        wait_until(lambda: vms.entries.get_vm_state("test") is None, what="the suspicion")
        with pytest.raises(HypervisorError):
            vms.get_vm_state("test")
        daemon.resume()
        wait_until(lambda: manager.connected, what="the connection")
        assert status(vms) is VMStatus.RUNNING


def test_closing_does_not_wait_for_a_daemon_that_is_gone() -> None:
    with running() as daemon:
        manager = LibvirtVMManager(daemon.uri)
        daemon.kill()
        wait_until(lambda: not manager.connected)
        started = time.monotonic()
        manager.close()
        assert time.monotonic() - started < 2
