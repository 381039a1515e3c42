"""An inventory of a hypervisor through libvirt, cached, and kept current by the hypervisor's own events.

    python examples/libvirt_inventory.py [URI]

Without a URI it uses the driver that libvirt has for tests, which simulates a host and changes nothing; with one, such
as `qemu:///system`, it only reads. It needs the extra `libvirt`.
"""

import sys
import time

from novacron_cache import Cache, DeclarationError
from novacron_cache.vm import CachedVMManager, VMConfig, VMStatus
from novacron_cache.vm.libvirt import LibvirtVMManager

TEST = "test:///default"
MIB = 1 << 20


def inventory(vms: CachedVMManager, node_id: str) -> list[str]:
    lines = []
    for state in vms.list_vm_states(node_id):
        vm = vms.get_vm(state.vm_id)
        if vm is not None and vm.resources is not None:
            given = vm.resources
            lines.append(f"  {state.vm_id:<12} {state.status:<8} {given.vcpus} vCPU {given.memory_bytes // MIB:>6} MiB")
    node = vms.get_node_resources(node_id)
    if node is not None:
        lines.append(
            f"  in all       {node.vms_active} of {node.vms_defined} active, {node.cpu_overcommit:.2f} vCPU/CPU"
        )
    return lines


def changes(hypervisor: LibvirtVMManager, vms: CachedVMManager) -> None:
    """Change something past the cache, and see how soon the cache knows."""
    other = LibvirtVMManager(TEST)  # as another program would
    for number in range(3):
        other.create_vm(VMConfig(vm_id=f"web-{number}", node_id="", vcpus=1, memory_bytes=64 * MIB))
        other.start_vm(f"web-{number}")
    deadline = time.monotonic() + 5
    while len(vms.list_vm_states(hypervisor.node_id)) < 4 and time.monotonic() < deadline:
        time.sleep(0.001)
    print("\n".join(["another program has started three:", *inventory(vms, hypervisor.node_id)]))

    vms.get_vm_state("web-1")
    other.pause_vm("web-1")
    paused = time.perf_counter()
    while (state := vms.get_vm_state("web-1")) is None or state.status is not VMStatus.PAUSED:
        assert time.perf_counter() - paused < 5, "the event never came"
    print(f"and paused one: seen after {1000 * (time.perf_counter() - paused):.1f} ms")
    for number in range(3):
        other.delete_vm(f"web-{number}")
    other.close()


def main() -> None:
    uri = sys.argv[1] if len(sys.argv) > 1 else TEST
    try:
        hypervisor = LibvirtVMManager(uri)
    except DeclarationError as error:
        print(error)
        return
    with hypervisor, Cache() as cache, CachedVMManager(hypervisor, cache, scope=hypervisor.node_id) as vms:
        for what in ("from the hypervisor", "from the cache"):
            started = time.perf_counter()
            lines = inventory(vms, hypervisor.node_id)
            took = 1000 * (time.perf_counter() - started)
            print(f"{hypervisor.node_id}, {what} in {took:.2f} ms:")
        print("\n".join(lines))
        if uri == TEST:
            changes(hypervisor, vms)
        stats = cache.stats()
        print(f"{stats.calls} calls, {stats.loads} of them asked the hypervisor")


if __name__ == "__main__":
    main()
