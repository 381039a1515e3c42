"""Decorators on the methods of a VM manager: reads are cached for each hypervisor, changes invalidate.

Run it with `python examples/vm_manager.py`.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from novacron_cache import cached, cached_many, configure, invalidates
from novacron_cache.vm import NodeResources, VMState, VMStatus

GIB = 1 << 30


class Hypervisor:
    """One host: slow to answer, as hosts are.

    `cache_scope` tells the hosts apart, so that each has a `vm-1` of its own.
    """

    def __init__(self, name: str, vms: dict[str, str]) -> None:
        self.cache_scope = self.name = name
        self.vms = {vm_id: VMStatus(status) for vm_id, status in vms.items()}
        self.asked = 0

    def ask(self) -> dict[str, VMStatus]:
        self.asked += 1
        time.sleep(0.01)
        return self.vms

    @cached(VMState)
    def state(self, vm_id: str) -> VMState | None:
        status = self.ask().get(vm_id)
        return None if status is None else VMState(vm_id=vm_id, node_id=self.name, status=status)

    @cached_many(VMState, each="vm_ids")
    def states(self, vm_ids: list[str]) -> dict[str, VMState]:
        found = self.ask()
        return {one: VMState(vm_id=one, node_id=self.name, status=found[one]) for one in vm_ids if one in found}

    @cached(NodeResources, key="node:<self.name>")
    def resources(self) -> NodeResources:
        active = sum(status.active for status in self.ask().values())
        return NodeResources(
            node_id=self.name, cpus=64, memory_bytes=512 * GIB,
            vcpus_allocated=4 * active, memory_allocated_bytes=8 * GIB * active, vms_active=active,
        )  # fmt: skip

    @invalidates(tags=["vm:<vm_id>", "node:<self.name>"])
    def stop(self, vm_id: str) -> None:
        self.vms[vm_id] = VMStatus.STOPPED


@contextmanager
def timed(what: str) -> Iterator[None]:
    started = time.perf_counter()
    yield
    print(f"{what:<44} {1000 * (time.perf_counter() - started):8.3f} ms")


def main() -> None:
    cache = configure()
    north = Hypervisor("north", {"vm-1": "running", "vm-2": "running", "vm-3": "paused"})
    south = Hypervisor("south", {"vm-1": "stopped"})

    with timed("the state of a VM, from the hypervisor"):
        north.state("vm-1")
    with timed("the same, from the cache"):
        north.state("vm-1")
    with timed("three VMs, of which one is cached"):
        assert list(north.states(["vm-3", "vm-1", "vm-2"])) == ["vm-3", "vm-1", "vm-2"]
    assert north.asked == 2

    first, second = north.state("vm-1"), south.state("vm-1")
    assert first is not None
    assert second is not None
    print(f"vm-1 is {first.status} in the north and {second.status} in the south")

    for _ in range(100):
        assert north.state("vm-9") is None  # that there is none is cached too
    assert north.asked == 3

    before = north.resources().cpu_overcommit
    north.stop("vm-1")
    stopped = north.state("vm-1")
    assert stopped is not None
    assert stopped.status is VMStatus.STOPPED
    print(f"after a stop: vm-1 is {stopped.status}, CPUs carry {before:.3f} -> {north.resources().cpu_overcommit:.3f}")

    stats = cache.stats()
    print(f"{stats.calls} calls, {north.asked + south.asked} questions to hypervisors, hit rate {stats.hit_rate:.0%}")
    cache.close()


if __name__ == "__main__":
    main()
