"""Right uses, checked by `test_typing.py`: every `assert_type` is what users see in their editor."""

from __future__ import annotations

from typing import assert_type

from novacron_cache import Cache, CacheModel, Receipt, Stats, cached, cached_many, invalidates
from novacron_cache.entry import MissingType


class VMState(CacheModel, key="vm:<vm_id>", ttl="30s", tags=["vm:<vm_id>", "node:<node_id>"]):
    vm_id: str
    node_id: str
    status: str


@cached(VMState, key="vm:<vm_id>")
def get_vm_state(vm_id: str) -> VMState:
    return VMState(vm_id=vm_id, node_id="n", status="up")


assert_type(get_vm_state("vm-1"), VMState)
assert_type(get_vm_state(vm_id="vm-1"), VMState)
assert_type(get_vm_state.peek("vm-1"), VMState | MissingType)
assert_type(get_vm_state.refresh("vm-1"), VMState)
assert_type(get_vm_state.many(["vm-1"]), list[VMState])
assert_type(get_vm_state.invalidate("vm-1"), Receipt)
assert_type(get_vm_state.key("vm-1"), str)
assert_type(get_vm_state.tags("vm-1"), tuple[str, ...])
assert_type(get_vm_state.stats(), Stats)
assert_type(get_vm_state.__name__, str)
get_vm_state.set(get_vm_state("vm-1"), "vm-1")


@cached(VMState, key="vm:<vm_id>", negative_ttl="5s")
def find_vm_state(vm_id: str) -> VMState | None:
    return None


assert_type(find_vm_state("vm-1"), VMState | None)
find_vm_state.set(None, "vm-1")


@cached()
def annotated(n: int, *, deep: bool = False) -> tuple[int, ...]:
    return (n,)


assert_type(annotated(1, deep=True), tuple[int, ...])


@cached(key="fact:<n>", ttl=5)
def with_key(n: int) -> int | None:
    return n


assert_type(with_key(1), int | None)


@cached(list[VMState], key="node:<node_id>:vms", ttl="1m", tags=["node:<node_id>"])
async def list_vms(node_id: str) -> list[VMState]:
    return []


@cached(VMState, key="vm:<vm_id>")
async def find_async(vm_id: str) -> VMState | None:
    return None


@cached(int | str, key="either:<x>")
def either(x: str) -> int | str:
    return x


assert_type(either("x"), int | str)


async def use() -> None:
    assert_type(await list_vms("node-1"), list[VMState])
    assert_type(await list_vms.peek("node-1"), list[VMState] | MissingType)
    assert_type(await list_vms.invalidate("node-1"), Receipt)
    assert_type(list_vms.key("node-1"), str)
    assert_type(await find_async("vm-1"), VMState | None)
    assert_type(await VMState.entries.aget("vm-1"), VMState | None)


class Hypervisor:
    cache_scope = "qemu:///system"

    @cached(VMState, key="vm:<vm_id>")
    def state(self, vm_id: str) -> VMState:
        return get_vm_state(vm_id)

    @cached(VMState, key="vm:<vm_id>")
    async def state_async(self, vm_id: str) -> VMState:
        return get_vm_state(vm_id)

    @cached(VMState, key="vm:<vm_id>")
    @classmethod
    def of_class(cls, vm_id: str) -> VMState:
        return get_vm_state(vm_id)

    @cached(VMState, key="vm:<vm_id>")
    @staticmethod
    def static(vm_id: str) -> VMState:
        return get_vm_state(vm_id)

    @staticmethod
    @cached(VMState, key="vm:<vm_id>")
    def static_outside(vm_id: str) -> VMState:
        return get_vm_state(vm_id)

    @cached_many(VMState, key="vm:<vm_id>", each="vm_ids")
    def states(self, vm_ids: list[str]) -> dict[str, VMState]:
        return {}

    @cached_many(VMState, key="vm:<vm_id>", each="vm_ids")
    async def states_async(self, vm_ids: list[str]) -> dict[str, VMState]:
        return {}

    @invalidates(tags=["vm:<vm_id>"])
    def stop(self, vm_id: str) -> bool:
        return True


hypervisor = Hypervisor()
assert_type(hypervisor.state("vm-1"), VMState)
assert_type(hypervisor.state.peek("vm-1"), VMState | MissingType)
assert_type(hypervisor.state.key(vm_id="vm-1"), str)
assert_type(Hypervisor.state(hypervisor, "vm-1"), VMState)
assert_type(Hypervisor.of_class("vm-1"), VMState)
assert_type(hypervisor.of_class("vm-1"), VMState)
assert_type(Hypervisor.static("vm-1"), VMState)
assert_type(Hypervisor.static_outside("vm-1"), VMState)
assert_type(hypervisor.states(["vm-1"]), dict[str, VMState])
assert_type(hypervisor.states.peek(["vm-1"]), dict[str, VMState])
assert_type(hypervisor.stop("vm-1"), bool)


async def use_methods() -> None:
    assert_type(await hypervisor.state_async("vm-1"), VMState)
    assert_type(await hypervisor.state_async.refresh("vm-1"), VMState)
    assert_type(await hypervisor.states_async(["vm-1"]), dict[str, VMState])


@cached_many(VMState, key="vm:<vm_id>", each="vm_ids")
def get_vm_states(vm_ids: list[str]) -> dict[str, VMState]:
    return {}


assert_type(get_vm_states(["vm-1"]), dict[str, VMState])


@cached_many(VMState, key="vm:<vm_id>", each="vm_ids")
async def get_vm_states_async(vm_ids: list[str]) -> dict[str, VMState]:
    return {}


async def use_many() -> None:
    assert_type(await get_vm_states_async(["vm-1"]), dict[str, VMState])


assert_type(VMState.entries.get("vm-1"), VMState | None)
assert_type(VMState.entries.load("vm-1"), VMState | None)
VMState.entries.set(get_vm_state("vm-1"))


@VMState.entries.loader
def load_state(vm_id: str) -> VMState:
    return get_vm_state(vm_id)


assert_type(load_state("vm-1"), VMState)

cache = Cache()


@cache.cached(VMState, key="vm:<vm_id>")
def of_cache(vm_id: str) -> VMState:
    return get_vm_state(vm_id)


assert_type(of_cache("vm-1"), VMState)


@cache.cached_many(VMState, key="vm:<vm_id>", each="vm_ids")
def many_of_cache(vm_ids: list[str]) -> dict[str, VMState]:
    return {}


assert_type(many_of_cache(["vm-1"]), dict[str, VMState])


@cache.invalidates(tags=["vm:<vm_id>"])
def stop_vm(vm_id: str) -> int:
    return 1


assert_type(stop_vm("vm-1"), int)
