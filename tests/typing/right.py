"""Right uses, checked by `test_typing.py`: every `assert_type` is what users see in their editor."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Generic, Literal, TypeVar, assert_type, overload

from novacron_cache import (
    AsyncCachedFunction,
    Cache,
    CachedFunction,
    CacheModel,
    Explanation,
    Receipt,
    Stats,
    WarmReport,
    cached,
    cached_many,
    configure,
    invalidates,
)
from novacron_cache.codecs import JSON, MSGPACK
from novacron_cache.entry import MissingType
from novacron_cache.tiers.memory import MemoryTier


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


# -- what a cached function can do, to the last type ------------------------------------------------------------------

assert_type(get_vm_state.explain("vm-1"), Explanation)
assert_type(get_vm_state.warm(["vm-1"]), WarmReport)
assert_type(get_vm_state.many([("vm-1",), {"vm_id": "vm-2"}]), list[VMState])
assert_type(annotated.key(1, deep=True), str)
assert_type(annotated.peek(1), tuple[int, ...] | MissingType)
annotated.set((1,), 1, deep=True)
as_declared: CachedFunction[[str], VMState] = get_vm_state


@cached(VMState, key="vm:<vm_id>")
async def fetch(vm_id: str) -> VMState:
    return get_vm_state(vm_id)


as_awaited: AsyncCachedFunction[[str], VMState] = fetch


async def use_async() -> None:
    assert_type(await fetch.refresh("vm-1"), VMState)
    assert_type(await fetch.many(["vm-1"]), list[VMState])
    assert_type(await fetch.warm(["vm-1"]), WarmReport)
    assert_type(await fetch.explain("vm-1"), Explanation)
    assert_type(fetch.tags("vm-1"), tuple[str, ...])
    assert_type(fetch.stats(), Stats)
    await fetch.set(await fetch("vm-1"), "vm-1")


# -- None, what is absent, and what is declared wider -----------------------------------------------------------------


@cached(key="maybe:<n>", negative_ttl="5s")
async def maybe(n: int) -> str | None:
    return None


@cached(dict[str, list[int]], key="table:<name>")
def table(name: str) -> dict[str, list[int]]:
    return {}


@cached(key="mode:<mode>")
def by_mode(mode: Literal["fast", "slow"]) -> Literal[1, 2]:
    return 1


async def use_maybe() -> None:
    assert_type(await maybe(1), str | None)
    assert_type(await maybe.peek(1), str | MissingType | None)


assert_type(table("a"), dict[str, list[int]])
assert_type(by_mode("fast"), Literal[1, 2])


# -- generics and overloads -------------------------------------------------------------------------------------------

T = TypeVar("T")


class Repository(Generic[T]):
    cache_scope = "rows"

    def __init__(self, kind: type[T]) -> None:
        self.kind = kind

    @cached(key="row:<n>")
    def row(self, n: int) -> T | None:
        return None

    @cached(key="rows:<page>", ignore=["self"])
    async def rows(self, page: int = 0) -> list[T]:
        return []


repository = Repository(int)
assert_type(repository.row(1), int | None)
assert_type(repository.row.invalidate(1), Receipt)


async def use_repository() -> None:
    assert_type(await repository.rows(), list[int])


@overload
def parsed(text: str, *, whole: Literal[True]) -> int: ...
@overload
def parsed(text: str, *, whole: Literal[False] = False) -> float: ...
@cached(key="parsed:<text>:<whole>")
def parsed(text: str, *, whole: bool = False) -> int | float:
    return int(text) if whole else float(text)


assert_type(parsed("1", whole=True), int)
assert_type(parsed("1"), float)


# -- classes: each kind of method, called on the class and on an instance ---------------------------------------------


class Store:
    @classmethod
    @cached(key="count:<kind>", ignore=["cls"])
    def count(cls, kind: str) -> int:
        return 0

    @cached(key="total:<kind>", ignore=["cls"])
    @classmethod
    async def total(cls, kind: str) -> int:
        return 0

    @cached(key="area:<width>:<height>")
    @staticmethod
    async def area(width: int, height: int = 1) -> int:
        return width * height

    @cached_many(int, key="size:<name>", each="names")
    @staticmethod
    def sizes(names: Sequence[str]) -> dict[str, int]:
        return {}

    @invalidates(tags=["kind:<kind>"])
    async def drop(self, kind: str) -> bytes:
        return b""

    @invalidates(keys=["count:<kind>"])
    @classmethod
    def reset(cls, kind: str) -> None:
        return None


store = Store()


async def use_store() -> None:
    assert_type(await store.total("a"), int)
    assert_type(await Store.total("a"), int)
    assert_type(await Store.total.peek("a"), int | MissingType)
    assert_type(await store.area(1, 2), int)
    assert_type(await store.area.peek(1, height=2), int | MissingType)
    assert_type(await Store.area(1, height=2), int)
    assert_type(await store.drop("a"), bytes)


assert_type(store.sizes(["a"]), dict[str, int])
assert_type(store.sizes.peek(["a"]), dict[str, int])
assert_type(hypervisor.static("vm-1"), VMState)
assert_type(hypervisor.static_outside("vm-1"), VMState)
assert_type(store.count("a"), int)
assert_type(Store.count("a"), int)
assert_type(Store.sizes(("a", "b")), dict[str, int])
assert_type(store.reset("a"), None)
assert_type(get_vm_states.invalidate(["vm-1"]), Receipt)
assert_type(get_vm_states.key(["vm-1"]), list[str])


# -- loader options: on functions, batches, models, and the decorators of a cache -------------------------------------


def is_known(vm_id: str) -> bool:
    return bool(vm_id)


def is_unknown(state: VMState) -> bool:
    return state.status == "unknown"


@cached(
    VMState,
    key="vm:<vm_id>",
    ttl=timedelta(seconds=30),
    tags=("vm:<vm_id>",),
    grace="5m",
    refresh_ahead=0.8,
    jitter=0.1,
    tiers=["memory", "redis"],
    negative_ttl=2.5,
    consistency="strong",
    soft_timeout="250ms",
    hard_timeout=5,
    max_concurrent_loads=8,
    condition=is_known,
    skip_if=is_unknown,
    shadow=0.05,
    codec=MSGPACK,
)
def choosy(vm_id: str) -> VMState:
    return get_vm_state(vm_id)


assert_type(choosy("vm-1"), VMState)
assert_type(choosy.peek("vm-1"), VMState | MissingType)


@cached(
    key="choosy:<n>",
    grace=timedelta(minutes=1),
    soft_timeout=0.2,
    hard_timeout="2s",
    consistency="bounded",
    condition=lambda n: n > 0,
    skip_if=lambda value: value is None,
)
async def choosy_later(n: int) -> int | None:
    return n


@cached_many(
    VMState,
    key="vm:<vm_id>",
    each="vm_ids",
    grace="1m",
    refresh_ahead=0.5,
    jitter=0.2,
    negative_ttl="5s",
    consistency="strong",
    soft_timeout=0.1,
    hard_timeout=timedelta(seconds=2),
    max_concurrent_loads=2,
    condition=lambda vm_ids: True,
    skip_if=is_unknown,
    shadow=1,
)
def choosy_batch(vm_ids: list[str]) -> dict[str, VMState]:
    return {}


@cached(VMState, key="vm:<vm_id>", ttl=None, grace=None, condition=None, skip_if=None, max_concurrent_loads=None)
def leaves_it_to_the_model(vm_id: str) -> VMState:
    return get_vm_state(vm_id)


class Choosy(
    CacheModel,
    key="choosy:<n>",
    name="choosy",
    ttl=timedelta(minutes=1),
    grace="5m",
    refresh_ahead=0.8,
    jitter=0.1,
    tiers=["memory"],
    negative_ttl="1s",
    consistency="strong",
    soft_timeout="250ms",
    hard_timeout=5,
    max_concurrent_loads=8,
    skip_if=lambda value: value.n < 0,
    shadow=0.5,
    codec=JSON,
    title="pydantic's own configuration",
    str_strip_whitespace=True,
):
    n: int


@cache.cached(Choosy, soft_timeout="100ms", grace="1m", condition=lambda n: n > 0)
def choosy_of_cache(n: int) -> Choosy:
    return Choosy(n=n)


@cache.cached_many(Choosy, key="choosy:<n>", each="numbers", hard_timeout="1s", max_concurrent_loads=1)
async def choosy_batch_of_cache(numbers: Sequence[int]) -> dict[int, Choosy]:
    return {}


assert_type(choosy_of_cache(1), Choosy)
assert_type(choosy_batch(["vm-1"]), dict[str, VMState])


async def use_options() -> None:
    assert_type(await choosy_later(1), int | None)
    assert_type(await choosy_batch_of_cache([1]), dict[int, Choosy])


# -- generic models and functions -------------------------------------------------------------------------------------


class Page(CacheModel, Generic[T], key="page:<number>"):
    number: int
    rows: list[T]


@cached(Page[int])
def numbers_of(number: int) -> Page[int]:
    return Page[int](number=number, rows=[])


assert_type(numbers_of(1), Page[int])
assert_type(numbers_of(1).rows, list[int])


def cached_by_id(fetch: Callable[[int], T]) -> CachedFunction[[int], T]:
    return cached(key="by-id:<n>", name="by-id")(fetch)


def text_of(n: int) -> str:
    return str(n)


assert_type(cached_by_id(text_of)(1), str)


class Reader:
    @overload
    def read(self, n: int) -> int: ...
    @overload
    def read(self, n: str) -> str: ...
    @cached(key="read:<n>", ignore=["self"])
    def read(self, n: int | str) -> int | str:
        return n


assert_type(Reader().read(1), int)
assert_type(Reader().read("1"), str)


# -- models' entries --------------------------------------------------------------------------------------------------

found = VMState.entries.get_many(["vm-1"])
assert_type(found["vm-1"], VMState)
assert_type(VMState.entries.invalidate("vm-1"), Receipt)
assert_type(VMState.entries.clear(), Receipt)
assert_type(VMState.entries.peek("vm-1"), VMState | MissingType | None)
assert_type(VMState.entries.using(cache).get("vm-1"), VMState | None)


async def use_entries() -> None:
    assert_type(await VMState.entries.aload("vm-1"), VMState | None)
    assert_type(await VMState.entries.ainvalidate("vm-1"), Receipt)
    await VMState.entries.aset(get_vm_state("vm-1"))


# -- caches -----------------------------------------------------------------------------------------------------------

assert_type(cache.invalidate("vm:vm-1"), Receipt)
assert_type(cache.invalidate_tags("node:<n>", n=1, match="all"), Receipt)
assert_type(cache.set("greeting", "hello", ttl="1m", tags=["words"]), None)
assert_type(cache.ttl("greeting"), float | None)
assert_type(cache.stats(), Stats)
assert_type(Cache(tiers=[MemoryTier()]), Cache)
assert_type(configure(default_ttl="5s"), Cache)
