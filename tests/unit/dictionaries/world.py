"""Bodies that are alike, dictionaries made of them, and processes that share both."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import zstandard
from conformance.parts import ArchiveTier, Shelf

from novacron_cache import Cache, CacheModel, CacheSettings
from novacron_cache.codecs import Dictionary, Header, Pipeline
from novacron_cache.effects import Delete, Fetch, Item, Store
from novacron_cache.events import Corrupt
from novacron_cache.testing import ManualClock

KEY = bytes(range(32))
HEADER = Header(b"\1schema1", 1e9, 2e9, 2e9)
STATES = ("running", "stopped", "paused", "migrating")


def body(number: int) -> bytes:
    state, node = STATES[number % 4], number * 7 % 40
    return (
        f'{{"vm_id":"vm-{number:05d}","node_id":"node-{node}","status":"{state}","image":"debian-12-generic-amd64",'
        f'"memory_mb":{1024 << number % 4},"owner":"tenant-{number % 20}"}}'
    ).encode()


def trained(first: int = 0, level: int = 3) -> Dictionary:
    content = zstandard.train_dictionary(8192, [body(number) for number in range(first, first + 300)]).as_bytes()
    return Dictionary(content, level)


DICTIONARY = trained()
OTHER = trained(first=20_000)


def pipeline(*known: Dictionary, **options: Any) -> Pipeline:
    made = Pipeline(namespace="shop", **options)
    for dictionary in known:
        made.dictionaries.learn(dictionary.digest, dictionary.content)
    return made


class Machine(CacheModel, key="machine:<machine_id>", ttl="10m", tags=["node:<node>"]):
    machine_id: str
    node: str
    status: str
    image: str = "debian-12-generic-amd64"
    owner: str = "a-tenant-of-some-length"


def machine(number: int, status: str = "") -> Machine:
    return Machine(machine_id=f"m-{number}", node=f"n{number % 7}", status=status or STATES[number % 4])


class World:
    """Processes over one directory, with a clock of their own."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.clock = ManualClock()
        self.shelf = Shelf()
        self.opened: list[Cache] = []
        self.corrupt: list[Corrupt] = []
        self.operations: list[Any] = []

    def cache(self, *, archive: bool = False, on: bool = True, **settings: Any) -> Cache:
        settings = {"compression": "zstd", "compression_dictionaries": on, **settings}
        tiers = [ArchiveTier(self.shelf, clock=self.clock)] if archive else []
        made = Cache(
            CacheSettings(namespace="shop", disk={"path": self.path}, **settings), tiers=tiers, clock=self.clock
        )
        self.opened.append(made)
        made.on("corrupt", self.corrupt.append)
        perform = made.engine.shared[0].perform

        def noted(operation: Any) -> Any:
            self.operations.append(operation)
            return perform(operation)

        made.engine.shared[0].perform = noted  # type: ignore[method-assign]  # looked at, and passed on
        return made

    def filled(self, count: int = 300, **settings: Any) -> Cache:
        cache = self.cache(**settings)
        cache.set_many({f"machine:m-{number}": machine(number) for number in range(count)})
        return cache

    def payload(self, key: str) -> bytes | None:
        (found,) = self.opened[0].engine.shared[0].perform(Fetch([key])).payloads
        return found

    def remove(self, *keys: str) -> None:
        self.opened[0].engine.shared[0].perform(Delete(keys))

    def put(self, key: str, payload: bytes) -> None:
        self.opened[0].engine.shared[0].perform(Store([Item(key, payload, 1000.0)]))

    def fetched(self) -> list[str]:
        """Return the keys of dictionaries that were asked for since this was last called."""
        operations, self.operations[:] = list(self.operations), []
        return [key for one in operations if isinstance(one, Fetch) for key in one.keys if key.startswith("~")]


def codec(cache: Cache, number: int) -> str | None:
    """Return how a value is written where it is shared."""
    memory, cache.engine.memory = cache.engine.memory, None
    try:
        return cache.explain(f"machine:m-{number}", model=Machine).codec
    finally:
        cache.engine.memory = memory


WITH, WITHOUT = "json+zstd+dictionary", "json"
