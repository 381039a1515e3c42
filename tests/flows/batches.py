"""A process that reads several keys of one plan, for tests of what is read in columns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
from flows.harness import Call, Fetch, Invalidation, Load, ManualClock, MemoryTier, Process, StillLink, plan

from novacron_cache import flows
from novacron_cache.codecs import JSON
from novacron_cache.entry import Entry
from novacron_cache.keys import stored_text_key
from novacron_cache.markers import dependencies, key_dep
from novacron_cache.requests import Plan, Request, Several
from novacron_cache.schema import Schema

KEYS = ["d:a", "d:b", "d:c", "d:e"]
TEXTS: Schema[Any] = Schema.of(str, codec=JSON)
Between = Callable[[], Any]
INVALIDATED = [
    pytest.param(Invalidation.keys(["d:b"]), ["k:d:b"], id="key"),
    pytest.param(Invalidation.tags(["pool:p"]), ["t:pool:p"], id="late tag"),
    pytest.param(Invalidation.model("disk"), ["m:disk"], id="model"),
    pytest.param(Invalidation.pattern("d:*"), ["p:d"], id="segment"),
]
"""What hits the second key, with the dependencies that are signalled then."""


class Batch:
    """A process that reads several keys of one plan, none of which its memory has."""

    def __init__(
        self,
        clock: ManualClock,
        shared: MemoryTier,
        *,
        early: bool = False,
        kept: bool = False,
        immutable: bool = False,
    ) -> None:
        self.process = Process(clock, [shared])
        self.engine = self.process.engine
        self.early, self.kept, self.immutable = early, kept, immutable
        self.told: dict[str, Entry] = {}
        self.truth = {key: [key, 1] for key in KEYS}
        self.loads: list[str] = []
        self.plan = self._plan()
        self.engine.use_link(StillLink())
        self.engine.link_up(clock.monotonic() + 30.0)

    def _plan(self, **options: Any) -> Plan:
        tiers = frozenset({"redis", "memory"} if self.kept else {"redis"})
        made = plan("disk", tiers=tiers, schema=TEXTS if self.immutable else None, **options)
        self.schema = made.schema
        return made

    def tags(self, key: str) -> tuple[str, ...]:
        return (f"disk:{key}",) if self.early else ()

    def request(self, key: str) -> Request:
        return self.process.request(key, tags=self.tags(key), late=lambda _: ("pool:p",), plan=self.plan)

    def wanted(self, keys: Sequence[str]) -> Several:
        stored = [stored_text_key("disk", key) for key in keys]
        common = dependencies(keys[0], "disk", ())[:4]
        tags = [self.tags(key) for key in keys]
        return Several(self.plan, stored, list(map(key_dep, keys)), list(keys), tags, common, self.request)

    def _load(self, keys: Sequence[str]) -> dict[str, Any]:
        self.loads += keys
        return {key: self.truth[key] for key in keys if key in self.truth}

    def flow(self, keys: Sequence[str] = KEYS) -> Any:
        def load(requests: Sequence[Request]) -> Load:
            return Load(self._load, ([request.subject for request in requests],))

        return flows.get_values(self.engine, self.wanted(keys), load, self.told.__setitem__)

    def forget(self) -> None:
        """Have process memory evict everything, and note nothing of what was before."""
        assert self.engine.memory is not None
        self.engine.memory.clear()
        self.loads.clear()
        self.told.clear()
        self.process.ways[0].operations.clear()

    def read(self, keys: Sequence[str] = KEYS) -> list[Any]:
        """Return the values, and note what was loaded and fetched for them alone."""
        self.forget()
        return list(self.process.run(self.flow(keys)))

    def reading(self, keys: Sequence[str] = KEYS) -> Call:
        self.forget()
        return Call(self.engine, self.flow(keys))

    def met(self) -> Batch:
        """Have everything loaded and its ids known."""
        self.read()
        self.read()
        assert self.read() == self.current
        assert self.fetched == [(len(KEYS), 0)]
        return self

    def during_decoding(self, what: Between, at: int = 2) -> None:
        """Have something happen when so many values have been decoded."""
        load, count = self.schema.load, 0

        def decode(body: bytes) -> Any:
            nonlocal count
            count += 1
            if count == at:
                what()
            return load(body)

        self.schema.load = decode

    @property
    def current(self) -> list[Any]:
        return [self.truth[key] for key in KEYS]

    @property
    def fetched(self) -> list[tuple[int, int]]:
        """How many payloads and ids each trip asked for."""
        operations = self.process.ways[0].operations
        return [(len(one.keys), len(one.deps)) for one in operations if isinstance(one, Fetch)]

    def hits(self) -> int:
        return self.engine.counters("disk").hits["redis"]
