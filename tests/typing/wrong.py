"""Wrong uses, checked by `test_typing.py`: each line with the marker must be reported, and no other line.

Behind the marker stands what each checker calls it: mypy's codes, then pyright's rules. A line that only one of them
can know to be wrong has a dash for the other.
"""

from __future__ import annotations

from typing import Generic, Literal, TypeVar, overload

from novacron_cache import Cache, CacheModel, cached, cached_many, invalidates


class VMState(CacheModel, key="vm:<vm_id>", ttl="30s"):
    vm_id: str


class Node(CacheModel, key="node:<node_id>"):
    node_id: str


@cached(VMState, key="vm:<vm_id>")
def get_vm_state(vm_id: str) -> VMState:
    return VMState(vm_id=vm_id)


get_vm_state(1)  # WRONG arg-type | reportArgumentType
get_vm_state()  # WRONG call-arg | reportCallIssue
get_vm_state("vm-1", "vm-2")  # WRONG call-arg | reportCallIssue
get_vm_state(vm="vm-1")  # WRONG call-arg | reportCallIssue
_ = get_vm_state("vm-1").status  # WRONG attr-defined | reportAttributeAccessIssue
get_vm_state.peek(1)  # WRONG arg-type | reportArgumentType
get_vm_state.invalidate()  # WRONG call-arg | reportCallIssue
get_vm_state.set("up", "vm-1")  # WRONG arg-type | reportArgumentType
_ = get_vm_state.peek("vm-1").vm_id  # WRONG union-attr | reportAttributeAccessIssue
get_vm_state.unknown("vm-1")  # WRONG attr-defined | reportAttributeAccessIssue


@cached(VMState, key="vm:<vm_id>")  # WRONG arg-type | reportArgumentType reportCallIssue
def returns_another_type(vm_id: str) -> Node:
    return Node(node_id=vm_id)


@cached(list[VMState], key="vm:<vm_id>")  # WRONG arg-type | reportArgumentType reportCallIssue
def returns_one(vm_id: str) -> VMState:
    return VMState(vm_id=vm_id)


@cached(VMState, key="vm:<vm_id>", negative_ttl=1)
def find(vm_id: str) -> VMState | None:
    return None


_ = find("vm-1").vm_id  # WRONG union-attr | reportOptionalMemberAccess
cached(VMState, key="vm:<vm_id>", tll="30s")  # WRONG call-overload | reportCallIssue
cached(VMState, key="vm:<vm_id>", ttl=[30])  # WRONG call-overload | reportArgumentType reportCallIssue


@cached(VMState, key="vm:<vm_id>")
async def fetch(vm_id: str) -> VMState:
    return VMState(vm_id=vm_id)


async def use() -> None:
    _ = fetch("vm-1").vm_id  # WRONG attr-defined | reportAttributeAccessIssue
    _ = (await fetch(1)).vm_id  # WRONG arg-type | reportArgumentType
    _ = (await fetch("vm-1")).status  # WRONG attr-defined | reportAttributeAccessIssue


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
hypervisor.state(1)  # WRONG arg-type | reportArgumentType
hypervisor.state(hypervisor, "vm-1")  # WRONG arg-type call-arg | reportCallIssue
Hypervisor.of_class(1)  # WRONG arg-type | reportArgumentType
hypervisor.states("vm-1")  # WRONG arg-type | reportArgumentType


@invalidates(tags=["vm:<vm_id>"])
def stop(vm_id: str) -> None:
    return None


stop(1)  # WRONG arg-type | reportArgumentType

cache = Cache()


@cache.cached(VMState, key="vm:<vm_id>")
def of_cache(vm_id: str) -> VMState:
    return VMState(vm_id=vm_id)


of_cache(1)  # WRONG arg-type | reportArgumentType


# -- what a cached function can do ------------------------------------------------------------------------------------

get_vm_state.key(1)  # WRONG arg-type | reportArgumentType
get_vm_state.tags(vm="vm-1")  # WRONG call-arg | reportCallIssue
get_vm_state.refresh("vm-1", "vm-2")  # WRONG call-arg | reportCallIssue
get_vm_state.explain()  # WRONG call-arg | reportCallIssue
get_vm_state.set(get_vm_state("vm-1"))  # WRONG call-arg | reportCallIssue
get_vm_state.set(None, "vm-1")  # WRONG arg-type | reportArgumentType
get_vm_state.many("vm-1", "vm-2")  # WRONG call-arg | reportCallIssue
get_vm_state.many(1)  # WRONG arg-type | reportArgumentType
_ = get_vm_state.warm(["vm-1"]).laoded  # WRONG attr-defined | reportAttributeAccessIssue
_ = get_vm_state.stats().hit_rat  # WRONG attr-defined | reportAttributeAccessIssue
text: str = get_vm_state.invalidate("vm-1")  # WRONG assignment | reportAssignmentType
number: int = get_vm_state("vm-1")  # WRONG assignment | reportAssignmentType


async def use_async() -> None:
    fetch.set(get_vm_state("vm-1"), "vm-1")  # WRONG unused-coroutine | reportUnusedCoroutine
    await fetch.set("up", "vm-1")  # WRONG arg-type | reportArgumentType
    _ = fetch.peek("vm-1").vm_id  # WRONG attr-defined | reportAttributeAccessIssue
    _ = (await fetch.peek("vm-1")).vm_id  # WRONG union-attr | reportAttributeAccessIssue
    for state in fetch.many(["vm-1"]):  # WRONG attr-defined | reportGeneralTypeIssues
        fetch.key(state.vm_id)
    await fetch.key("vm-1")  # WRONG misc | reportGeneralTypeIssues
    await get_vm_state("vm-1")  # WRONG misc | reportGeneralTypeIssues


@cached(VMState, key="vm:<vm_id>")  # WRONG arg-type | reportArgumentType reportCallIssue
async def returns_another_type_later(vm_id: str) -> Node:
    return Node(node_id=vm_id)


@cached(VMState, key="vm:<vm_id>")  # WRONG arg-type | reportArgumentType reportCallIssue
def returns_several(vm_id: str) -> list[VMState]:
    return []


# -- generics and overloads -------------------------------------------------------------------------------------------

T = TypeVar("T")


class Repository(Generic[T]):
    cache_scope = "rows"

    def __init__(self, kind: type[T]) -> None:
        self.kind = kind

    @cached(key="row:<n>")
    def row(self, n: int) -> T | None:
        return None


repository = Repository(int)
repository.row("1")  # WRONG arg-type | reportArgumentType
other: str | None = repository.row(1)  # WRONG assignment | reportAssignmentType


@overload
def parsed(text: str, *, whole: Literal[True]) -> int: ...
@overload
def parsed(text: str, *, whole: Literal[False] = False) -> float: ...
@cached(key="parsed:<text>:<whole>")
def parsed(text: str, *, whole: bool = False) -> int | float:
    return int(text) if whole else float(text)


whole: int = parsed("1")  # WRONG assignment | reportAssignmentType
parsed("1", whole="yes")  # WRONG call-overload | reportArgumentType reportCallIssue
parsed(1)  # WRONG call-overload | reportArgumentType


# -- methods ----------------------------------------------------------------------------------------------------------


class Store:
    @cached(key="count:<kind>", ignore=["cls"])
    @classmethod
    async def count(cls, kind: str) -> int:
        return 0

    @cached(key="area:<width>:<height>")
    @staticmethod
    def area(width: int, height: int) -> int:
        return width * height

    @cached_many(int, key="size:<name>", each="names")
    @staticmethod
    def sizes(names: list[str]) -> dict[str, int]:
        return {}

    @invalidates(tags=["kind:<kind>"])
    async def drop(self, kind: str) -> bytes:
        return b""


store = Store()


async def use_store() -> None:
    await store.count(1)  # WRONG arg-type | reportArgumentType
    await Store.count()  # WRONG call-arg | reportCallIssue
    await store.count.peek("a", "b")  # WRONG call-arg | reportCallIssue
    store.area(1)  # WRONG call-arg | reportCallIssue
    Store.area("1", 2)  # WRONG arg-type | reportArgumentType
    store.sizes("names")  # WRONG arg-type | reportArgumentType
    _ = store.sizes(["a"]).a  # WRONG attr-defined | reportAttributeAccessIssue
    await store.drop(1)  # WRONG arg-type | reportArgumentType
    stored: str = await store.drop("a")  # WRONG assignment | reportAssignmentType
    store.sizes([stored])


# -- loader options ---------------------------------------------------------------------------------------------------


def takes_no_value() -> bool:
    return True


async def decides_later(vm_id: str) -> bool:
    return bool(vm_id)


cached(VMState, grace=[30])  # WRONG call-overload | reportArgumentType reportCallIssue
cached(VMState, refresh_ahead="80%")  # WRONG call-overload | reportArgumentType reportCallIssue
cached(VMState, jitter="10%")  # WRONG call-overload | reportArgumentType reportCallIssue
cached(VMState, tiers=1)  # WRONG call-overload | reportArgumentType reportCallIssue
cached(VMState, tags=1)  # WRONG call-overload | reportArgumentType reportCallIssue
cached(VMState, negative_ttl=b"1s")  # WRONG call-overload | reportArgumentType reportCallIssue
cached(VMState, consistency="eventual")  # WRONG call-overload | reportArgumentType reportCallIssue
cached(VMState, soft_timeout=[1])  # WRONG call-overload | reportArgumentType reportCallIssue
cached(VMState, hard_timeout={"seconds": 1})  # WRONG call-overload | reportArgumentType reportCallIssue
cached(VMState, max_concurrent_loads="8")  # WRONG call-overload | reportArgumentType reportCallIssue
cached(VMState, max_concurrent_loads=1.5)  # WRONG call-overload | reportArgumentType reportCallIssue
cached(VMState, condition=True)  # WRONG call-overload | reportArgumentType reportCallIssue
cached(VMState, condition=decides_later)  # WRONG arg-type | reportArgumentType reportCallIssue
cached(VMState, skip_if="unknown")  # WRONG call-overload | reportArgumentType reportCallIssue
cached(VMState, skip_if=takes_no_value)  # WRONG arg-type | reportArgumentType reportCallIssue
cached(VMState, shadow="all")  # WRONG call-overload | reportArgumentType reportCallIssue
cached(key="n:<n>", soft_timeuot="1s")  # WRONG call-overload | reportCallIssue
cached(VMState, codec="msgpack")  # WRONG call-overload | reportArgumentType reportCallIssue
cache.cached(VMState, max_concurrent_loads="8")  # WRONG call-overload | reportArgumentType reportCallIssue
cache.cached(VMState, skip_if=takes_no_value)  # WRONG arg-type | reportArgumentType reportCallIssue
cached_many(VMState, each="vm_ids", grace=[30])  # WRONG arg-type | reportArgumentType
cached_many(VMState, each="vm_ids", refresh_ahead="80%")  # WRONG arg-type | reportArgumentType
cached_many(VMState, each="vm_ids", jitter="10%")  # WRONG arg-type | reportArgumentType
cached_many(VMState, each="vm_ids", tiers=1)  # WRONG arg-type | reportArgumentType
cached_many(VMState, each="vm_ids", tags=1)  # WRONG arg-type | reportArgumentType
cached_many(VMState, each="vm_ids", negative_ttl=b"1s")  # WRONG arg-type | reportArgumentType
cached_many(VMState, each="vm_ids", consistency="eventual")  # WRONG arg-type | reportArgumentType
cached_many(VMState, each="vm_ids", soft_timeout=[1])  # WRONG arg-type | reportArgumentType
cached_many(VMState, each="vm_ids", hard_timeout={"seconds": 1})  # WRONG arg-type | reportArgumentType
cached_many(VMState, each="vm_ids", max_concurrent_loads="8")  # WRONG arg-type | reportArgumentType
cached_many(VMState, each="vm_ids", max_concurrent_loads=1.5)  # WRONG arg-type | reportArgumentType
cached_many(VMState, each="vm_ids", condition=True)  # WRONG arg-type | reportArgumentType
cached_many(VMState, each="vm_ids", condition=decides_later)  # WRONG arg-type | reportArgumentType
cached_many(VMState, each="vm_ids", skip_if="unknown")  # WRONG arg-type | reportArgumentType
cached_many(VMState, each="vm_ids", skip_if=takes_no_value)  # WRONG arg-type | reportArgumentType
cached_many(VMState, each="vm_ids", shadow="all")  # WRONG arg-type | reportArgumentType
cached_many(VMState, each="vm_ids", soft_timeuot="1s")  # WRONG call-arg | reportCallIssue
cache.cached_many(VMState, each="vm_ids", hard_timeout=[1])  # WRONG arg-type | reportArgumentType


# -- generic models and functions -------------------------------------------------------------------------------------


class Page(CacheModel, Generic[T], key="page:<number>"):
    number: int
    rows: list[T]


@cached(Page[int])
def numbers_of(number: int) -> Page[int]:
    return Page[int](number=number, rows=[])


texts: list[str] = numbers_of(1).rows  # WRONG assignment | reportAssignmentType


@cached(Page[int])  # WRONG arg-type | reportArgumentType reportCallIssue
def texts_of(number: int) -> Page[str]:
    return Page[str](number=number, rows=[])


class Reader:
    @overload
    def read(self, n: int) -> int: ...
    @overload
    def read(self, n: str) -> str: ...
    @cached(key="read:<n>", ignore=["self"])
    def read(self, n: int | str) -> int | str:
        return n


Reader().read(b"1")  # WRONG call-overload | reportArgumentType reportCallIssue
read_text: str = Reader().read(1)  # WRONG assignment | reportAssignmentType


# -- batches and invalidations ----------------------------------------------------------------------------------------


@cached_many(VMState, key="vm:<vm_id>", each="vm_ids")
def get_vm_states(vm_ids: list[str]) -> dict[str, VMState]:
    return {}


get_vm_states([1])  # WRONG list-item | reportArgumentType
_ = get_vm_states(["vm-1"])["vm-1"].status  # WRONG attr-defined | reportAttributeAccessIssue
get_vm_states.peek("vm-1")  # WRONG arg-type | reportArgumentType
get_vm_states.set({}, ["vm-1"])  # WRONG attr-defined | reportAttributeAccessIssue
cached_many(VMState, key="vm:<vm_id>")  # WRONG call-arg | reportCallIssue
cached_many(VMState, each="vm_ids", key=1)  # WRONG arg-type | reportArgumentType
invalidates(tags=1)  # WRONG arg-type | reportArgumentType
invalidates(tag=["vm:<vm_id>"])  # WRONG call-arg | reportCallIssue

# -- models' entries --------------------------------------------------------------------------------------------------

VMState.entries.set(Node(node_id="n"))  # WRONG arg-type | reportArgumentType
_ = VMState.entries.get("vm-1").vm_id  # WRONG union-attr | reportOptionalMemberAccess
VMState.entries.get_many(1)  # WRONG arg-type | reportArgumentType
VMState.entries.fetch("vm-1")  # WRONG attr-defined | reportAttributeAccessIssue

# -- caches -----------------------------------------------------------------------------------------------------------

cache.invalidate(1)  # WRONG arg-type | reportArgumentType
cache.set("a", 1, ttl=[1])  # WRONG arg-type | reportArgumentType
cache.get("a", consistency="eventual")  # WRONG arg-type | reportArgumentType
cache.invalidate("a", durability="replicas")  # WRONG arg-type | reportArgumentType
cache.get(1)  # WRONG arg-type | reportArgumentType
Cache(tiers=["memory"])  # WRONG list-item | reportArgumentType
Cache(tiers=[Cache])  # WRONG list-item | reportArgumentType
