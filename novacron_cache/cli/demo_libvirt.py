"""`novacron-cache demo --libvirt URI`: what a hypervisor's VMs cost with and without the cache, and how soon it hears.

Two processes of an application, played by two caches that share a server, read the same host. One listens to libvirt's
events; the other hears of changes from the server only, as most processes of a real application do. The driver that
libvirt has for tests simulates a host in this process, so there VMs are made and changed; on any other host the demo
only reads, and waits for changes that somebody else makes.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from statistics import median
from typing import Any, Final

from .. import Cache, CacheSettings
from ..vm import CachedVMManager, VMConfig, VMState, VMStatus
from ..vm.libvirt import LibvirtVMManager

TEST_DRIVER: Final = "test:///"
VMS: Final = 200
CHANGES: Final = 20
PATIENCE: Final = 5.0
"""Seconds after which a change counts as one that was never seen."""

MIB: Final = 1 << 20
PREFIX: Final = "demo-"


def run(uri: str, settings: CacheSettings, seconds: float, watch: Callable[[str], None]) -> dict[str, Any]:
    """Show the cache on a host and return what was seen, as plain data.

    Args:
        uri: libvirt's.
        settings: of both caches.
        seconds: for how long to wait for changes of a host that is not simulated.
        watch: called with a line of text whenever something was seen.

    Raises:
        HypervisorUnavailableError: there is no such host now.
        DeclarationError: libvirt-python is not installed.
    """
    with ExitStack() as stage:
        host = stage.enter_context(LibvirtVMManager(uri))
        simulated = uri.startswith(TEST_DRIVER)
        if simulated:
            stage.enter_context(_machines(host))
        one, two = (stage.enter_context(Cache(settings)) for _ in range(2))
        # The scope names the host; the second does not subscribe.
        listening = stage.enter_context(CachedVMManager(host, one, scope=host.node_id))
        other = stage.enter_context(CachedVMManager(host, two, scope=host.node_id, events=False))
        vm_ids = list(host.list_vms())
        watch(f"{uri} is {host.node_id}, with {len(vm_ids)} VMs")
        timings = _timings(host, listening, vm_ids)
        changes = _change(host, listening, other) if simulated else _wait(listening, seconds, watch)
        stale = sum(_stale(host, vms) for vms in (listening, other))
        stats = [cache.stats() for cache in (one, two)]
        calls, loads = sum(each.calls for each in stats), sum(each.loads for each in stats)
        return {
            "uri": uri,
            "node_id": host.node_id,
            "simulated": simulated,
            "vms": len(vm_ids),
            "timings": timings,
            "changes": changes,
            "never_seen": sum(None in change.values() for change in changes),
            "stale": stale,
            "reads": calls,
            "loads": loads,
            "loads_avoided": calls - loads,
        }


@contextmanager
def _machines(host: LibvirtVMManager) -> Iterator[None]:
    """Have some more VMs on a simulated host; they are gone afterwards, for it may be used again in this process."""
    made = [f"{PREFIX}{number:03}" for number in range(VMS - len(host.list_vms()))]
    try:
        for vm_id in made:
            host.create_vm(VMConfig(vm_id=vm_id, node_id="", vcpus=1, memory_bytes=16 * MIB))
            host.start_vm(vm_id)
        yield
    finally:
        for vm_id in set(made) & set(host.list_vms()):
            host.delete_vm(vm_id)


# -- what a call takes ------------------------------------------------------------------------------------------------


def _timings(host: LibvirtVMManager, vms: CachedVMManager, vm_ids: list[str]) -> dict[str, dict[str, float]]:
    """Return microseconds of an uncached and a warm call: medians, each of several calls."""
    node_id = host.node_id
    calls: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {
        "listing": (lambda: host.list_vm_states(node_id), lambda: vms.list_vm_states(node_id)),
        "node_resources": (lambda: host.get_node_resources(node_id), lambda: vms.get_node_resources(node_id)),
    }
    if vm_ids:
        first = vm_ids[0]
        calls["vm_state"] = (lambda: host.get_vm_state(first), lambda: vms.get_vm_state(first))
        calls["vm_resources"] = (lambda: host.get_vm_resources(first), lambda: vms.get_vm_resources(first))
    found = {}
    for name, (uncached, cached) in calls.items():
        cached()
        before, warm = _microseconds(uncached, 15, 1), _microseconds(cached, 15, 100)
        found[name] = {
            "uncached_us": round(before, 2),
            "warm_us": round(warm, 2),
            "speed_up": round(before / warm, 1),
        }
    return found


def _microseconds(call: Callable[[], Any], turns: int, times: int) -> float:
    def turn() -> float:
        started = time.perf_counter()
        for _ in range(times):
            call()
        return (time.perf_counter() - started) / times

    return 1e6 * median(turn() for _ in range(turns))


# -- what changes -----------------------------------------------------------------------------------------------------


def _change(host: LibvirtVMManager, listening: CachedVMManager, other: CachedVMManager) -> list[dict[str, Any]]:
    """Pause and resume VMs of a simulated host, past the caches, and return how soon each of them knew."""
    changes = []
    for number in range(CHANGES):
        vm_id = f"{PREFIX}{number // 2:03}"
        for vms in (listening, other):
            vms.get_vm_state(vm_id)  # both have it in memory
        status = VMStatus.RUNNING if number % 2 else VMStatus.PAUSED
        (host.resume_vm if number % 2 else host.pause_vm)(vm_id)
        seen: dict[int, float] = {}
        changed = time.perf_counter()
        while len(seen) < 2 and time.perf_counter() - changed < PATIENCE:
            for place, vms in enumerate((listening, other)):
                state = vms.get_vm_state(vm_id)
                if state is not None and state.status is status:
                    seen.setdefault(place, 1000 * (time.perf_counter() - changed))
            time.sleep(0.0001)  # the threads that carry the change need the interpreter too
        first, second = (round(seen[place], 3) if place in seen else None for place in range(2))
        changes.append({"vm_id": vm_id, "status": status.value, "seen_ms": first, "other_seen_ms": second})
    return changes


def _wait(vms: CachedVMManager, seconds: float, watch: Callable[[str], None]) -> list[dict[str, Any]]:
    """Read a host that others change, and return what has become of its VMs; how soon, only they could say."""
    until = time.monotonic() + seconds
    changes: list[dict[str, Any]] = []
    known = _states(vms)
    watch(f"change a VM now, as `virsh suspend` does: for {seconds:g} s every change is told")
    # An interrupt ends it early, with what was seen so far.
    with contextlib.suppress(KeyboardInterrupt):
        while (left := until - time.monotonic()) > 0:
            time.sleep(min(left, 0.02))
            now = _states(vms)
            for vm_id in sorted(known.keys() | now.keys()):
                before, after = (states[vm_id].status.value if vm_id in states else "gone" for states in (known, now))
                if before != after:
                    changes.append({"vm_id": vm_id, "status": after})
                    watch(f"{vm_id}: {before} -> {after}")
            known = now
    return changes


def _states(vms: CachedVMManager) -> dict[str, VMState]:
    return {state.vm_id: state for state in vms.list_vm_states(vms.entries.names.scope)}


def _stale(host: LibvirtVMManager, vms: CachedVMManager) -> int:
    """Return how many VMs still differ from what the host says when everything has had time to arrive."""
    until = time.monotonic() + PATIENCE
    while True:
        cached = _states(vms)
        true = {state.vm_id: state for state in host.list_vm_states(host.node_id)}
        differing = sum(cached.get(vm_id) != true.get(vm_id) for vm_id in cached.keys() | true.keys())
        if not differing or time.monotonic() > until:
            return differing
        time.sleep(0.01)


# -- for people -------------------------------------------------------------------------------------------------------


def told(result: dict[str, Any], server: str) -> str:
    """Return the outcome as text."""
    labels = {
        "vm_state": "the state of a VM",
        "vm_resources": "its resources",
        "listing": f"the states of {result['vms']} VMs",
        "node_resources": "the host's resources",
    }
    lines = [f"{'':26}{'from libvirt':>14}{'warm':>12}{'speed-up':>12}"]
    for name, label in labels.items():
        if (timing := result["timings"].get(name)) is not None:
            uncached, warm = _time(timing["uncached_us"]), _time(timing["warm_us"])
            lines.append(f"{label:26}{uncached:>14}{warm:>12}{timing['speed_up']:>11,.0f}x")
    changes = result["changes"]
    if result["simulated"]:
        lines += ["", "This driver answers from the process's own memory; a daemon's answer takes a trip more."]
        here, there = (_spread(changes, name) for name in ("seen_ms", "other_seen_ms"))
        lines += [
            "",
            f"{len(changes)} changes past the caches, VMs paused and resumed, as another program would:",
            f"  seen by the process that listens to libvirt after {here}",
            f"  and by the other, through {server}, after {there}",
        ]
    reads = f"{result['reads']:,} cached reads, {result['loads']:,} asked libvirt"
    lines += ["", f"{reads}; {len(changes)} changes, {result['never_seen']} never seen, {result['stale']} stale values"]
    return "\n".join(lines)


def _time(microseconds: float) -> str:
    return f"{microseconds:.2f} us" if microseconds < 1000 else f"{microseconds / 1000:.2f} ms"


def _spread(changes: list[dict[str, Any]], name: str) -> str:
    times = [change[name] for change in changes if change[name] is not None]
    return f"{median(times):.2f} ms, the slowest {max(times):.2f} ms" if times else "never"
