"""Wrong uses, checked by `test_typing.py`: each line with the marker must be reported, and no other line."""

from __future__ import annotations

from novacron_cache import Cache, CacheModel, cached, cached_many, invalidates


class VMState(CacheModel, key="vm:<vm_id>", ttl="30s"):
    vm_id: str


class Node(CacheModel, key="node:<node_id>"):
    node_id: str


@cached(VMState, key="vm:<vm_id>")
def get_vm_state(vm_id: str) -> VMState:
    return VMState(vm_id=vm_id)


get_vm_state(1)  # WRONG
get_vm_state()  # WRONG
get_vm_state("vm-1", "vm-2")  # WRONG
get_vm_state(vm="vm-1")  # WRONG
_ = get_vm_state("vm-1").status  # WRONG
get_vm_state.peek(1)  # WRONG
get_vm_state.invalidate()  # WRONG
get_vm_state.set("up", "vm-1")  # WRONG
_ = get_vm_state.peek("vm-1").vm_id  # WRONG
get_vm_state.unknown("vm-1")  # WRONG


@cached(VMState, key="vm:<vm_id>")  # WRONG
def returns_another_type(vm_id: str) -> Node:
    return Node(node_id=vm_id)


@cached(list[VMState], key="vm:<vm_id>")  # WRONG
def returns_one(vm_id: str) -> VMState:
    return VMState(vm_id=vm_id)


@cached(VMState, key="vm:<vm_id>", negative_ttl=1)
def find(vm_id: str) -> VMState | None:
    return None


_ = find("vm-1").vm_id  # WRONG
cached(VMState, key="vm:<vm_id>", tll="30s")  # WRONG
cached(VMState, key="vm:<vm_id>", ttl=[30])  # WRONG


@cached(VMState, key="vm:<vm_id>")
async def fetch(vm_id: str) -> VMState:
    return VMState(vm_id=vm_id)


async def use() -> None:
    _ = fetch("vm-1").vm_id  # WRONG
    _ = (await fetch(1)).vm_id  # WRONG
    _ = (await fetch("vm-1")).status  # WRONG


class Hypervisor:
    @cached(VMState, key="<self.uri>:<vm_id>")
    def state(self, vm_id: str) -> VMState:
        return VMState(vm_id=vm_id)

    @cached(VMState, key="vm:<vm_id>")
    @classmethod
    def of_class(cls, vm_id: str) -> VMState:
        return VMState(vm_id=vm_id)

    @cached_many(VMState, key="vm:<vm_id>", each="vm_ids", ignore=["self"])
    def states(self, vm_ids: list[str]) -> dict[str, VMState]:
        return {}


hypervisor = Hypervisor()
hypervisor.state(1)  # WRONG
hypervisor.state(hypervisor, "vm-1")  # WRONG
Hypervisor.of_class(1)  # WRONG
hypervisor.states("vm-1")  # WRONG


@invalidates(tags=["vm:<vm_id>"])
def stop(vm_id: str) -> None:
    return None


stop(1)  # WRONG

cache = Cache()


@cache.cached(VMState, key="vm:<vm_id>")
def of_cache(vm_id: str) -> VMState:
    return VMState(vm_id=vm_id)


of_cache(1)  # WRONG
