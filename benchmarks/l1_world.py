"""What the areas of process memory share: the keys, the values, and the loader that counts.

Every contender answers for the same 1,000 keys with the same kind of value, a frozen model. The reference is the limit
of what Python can do: a closure over a dictionary that formats the key, looks it up and compares a deadline with the
clock, with nothing else: no counter, no eviction, no invalidation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from time import monotonic
from typing import Any

from novacron_cache import Cache, CacheModel
from novacron_cache.settings import CacheSettings, MemorySettings

COUNT = 1_000
TTL = 3600.0
ROOM = 100_000


class VMState(CacheModel, key="vm:<vm_id>", ttl="1h", tags=["vm:<vm_id>", "node:<node_id>"]):
    vm_id: str
    node_id: str
    status: str


class Port(CacheModel, key="port:<number>", ttl="1h"):
    number: int
    open: bool


TEXTS = tuple(f"vm-{number}" for number in range(COUNT))
# Beyond the small integers that the interpreter keeps, as identifiers are.
NUMBERS = tuple(range(10_000, 10_000 + COUNT))


class Loads:
    """Makes the values, and counts how often it was asked."""

    def __init__(self) -> None:
        self.count = 0

    def state(self, vm_id: str) -> VMState:
        self.count += 1
        return VMState(vm_id=vm_id, node_id="node-1", status="running")

    def port(self, number: int) -> Port:
        self.count += 1
        return Port(number=number, open=True)

    def check(self, keys: Sequence[Any], values: Sequence[Any]) -> None:
        """Raise unless each key was loaded exactly once and gave its own value."""
        if self.count != len(keys):
            raise AssertionError(f"{self.count} loads of {len(keys)} keys")
        for key, value in zip(keys, values, strict=True):
            if key != (value.vm_id if isinstance(value, VMState) else value.number):
                raise AssertionError(f"{key!r} gave {value!r}")


def memory() -> Cache:
    """Return a cache of process memory with room for every key."""
    return Cache(CacheSettings(memory=MemorySettings(max_items=ROOM)))


Load = Callable[[Any], Any]
Make = Callable[[Load], Callable[[Any], Any]]
"""From the loader of a value to a cached function."""


def limit_text(load: Load) -> Callable[[str], Any]:
    entries: dict[str, tuple[Any, float]] = {}

    def get(vm_id: str) -> Any:
        key = f"vm:{vm_id}"
        entry = entries.get(key)
        if entry is not None and monotonic() < entry[1]:
            return entry[0]
        value = load(vm_id)
        entries[key] = (value, monotonic() + TTL)
        return value

    return get


def ours_text(load: Load) -> Callable[[str], Any]:
    @memory().cached(VMState, key="vm:<vm_id>")
    def get(vm_id: str) -> VMState:
        value: VMState = load(vm_id)
        return value

    return get
