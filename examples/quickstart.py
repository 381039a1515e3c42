"""Three tiers and a tag, in one file: run it with `python examples/quickstart.py`.

A slow source is asked for the state of machines, some states are asked for again, one node is restarted, and a second
process (here: a second cache over the same tiers) finds what the first one has loaded.
"""

import tempfile
import time

from novacron_cache import CacheModel, cached, cached_many, configure, invalidates

FLEET = {f"vm-{n}": ("node-1" if n <= 3 else "node-2", "running") for n in range(1, 6)}
asked: list[str] = []


def ask(vm_id: str) -> tuple[str, str]:
    """Answer as slowly as a hypervisor."""
    asked.append(vm_id)
    time.sleep(0.01)
    return FLEET[vm_id]


class VMState(CacheModel, key="node:<node_id>:vm:<vm_id>", ttl="30s", tags=["node:<node_id>"]):
    node_id: str
    vm_id: str
    status: str


@cached(VMState)
def vm_state(node_id: str, vm_id: str) -> VMState:
    return VMState(node_id=node_id, vm_id=vm_id, status=ask(vm_id)[1])


@cached_many(VMState, each="vm_ids")
def vm_states(node_id: str, vm_ids: list[str]) -> dict[str, VMState]:
    return {vm_id: VMState(node_id=node_id, vm_id=vm_id, status=ask(vm_id)[1]) for vm_id in vm_ids}


@invalidates(tags=["node:<node_id>"])
def stop_node(node_id: str) -> None:
    for vm_id, (node, _) in FLEET.items():
        if node == node_id:
            FLEET[vm_id] = (node, "stopped")


def timed(label: str, vm_id: str = "vm-1") -> None:
    started = time.perf_counter()
    state = vm_state("node-1", vm_id)
    print(f"{label:<38} {state.status:<8} {1000 * (time.perf_counter() - started):8.3f} ms")


def main() -> None:
    with tempfile.TemporaryDirectory() as directory:
        # A private server stands in for the one that `redis={"url": ...}` would name.
        cache = configure(namespace="quickstart", redis={"mode": "embedded"}, disk={"path": directory})
        print(cache)

        timed("loaded")
        timed("from memory")
        print("a batch loads the misses only:", list(vm_states("node-1", ["vm-1", "vm-2", "vm-3"])), "asked", asked)
        assert asked == ["vm-1", "vm-2", "vm-3"]

        stop_node("node-1")
        print("why the next call misses:", vm_state.explain("node-1", "vm-1").reason)
        timed("loaded again")
        assert vm_state("node-1", "vm-1").status == "stopped"

        stats = vm_state.stats()
        print(f"{stats.calls} calls, {stats.loads} loads, hits {stats.hits}, misses {stats.misses}")

        configure(namespace="quickstart", disk={"path": directory})  # as after a restart without the server
        timed("another authority: nothing is trusted")
        configure(namespace="quickstart", disk={"path": directory})
        timed("after a restart, from disk")
        configure().close()


if __name__ == "__main__":
    main()
