"""The disk: rows of 300 bytes that are in the page cache, by one process.

What is compared is bytes in and out, as a tier works, and beside it whole calls that end with a model. The limit is
SQLite itself with a table of three columns, a write-ahead log, and a transaction for each row.
"""

from __future__ import annotations

import sqlite3
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from time import perf_counter_ns, time
from typing import Any

from l2_world import TTL, Loads, Machine, ids, linked, machine
from measuring import LIMIT, OURS, Area, Contender, Effort, Figure, compare_each, inverse, own, quantile, same

from novacron_cache import Cache
from novacron_cache.effects import Fetch, Item, Store
from novacron_cache.settings import CacheSettings, DiskSettings
from novacron_cache.tiers.disk import DiskTier

KEYS = ids()
BODIES = {key: machine(key).model_dump_json().encode() for key in KEYS}
PUTS = KEYS * 5
"""A turn of writing: long enough for its slowest hundredth to be ten writes, and for the log to be copied back."""
Get = Callable[[str], Any]
Put = Callable[[str, bytes], Any]


def _gets(get: Get) -> tuple[float, float]:
    taken = []
    for key in KEYS:
        start = perf_counter_ns()
        get(key)
        taken.append(perf_counter_ns() - start)
    return quantile(taken, 0.5), quantile(taken, 0.99)


def _puts(put: Put) -> tuple[float, float]:
    taken = []
    for key in PUTS:
        body = BODIES[key]
        start = perf_counter_ns()
        put(key, body)
        taken.append(perf_counter_ns() - start)
    return quantile(taken, 0.5), quantile(taken, 0.99)


class _Contenders:
    def __init__(self, directory: Path, stack: ExitStack) -> None:
        self._directory, self._stack = directory, stack

    def _place(self, name: str) -> Path:
        place = self._directory / name
        place.mkdir(mode=0o700)
        return place

    def sqlite(self, name: str) -> tuple[Get, Put]:
        base = sqlite3.connect(self._place(name) / "limit.db", isolation_level=None)
        self._stack.callback(base.close)
        for line in ("journal_mode = WAL", "synchronous = NORMAL", "mmap_size = 67108864", "cache_size = 8192"):
            base.execute(f"PRAGMA {line}")
        base.execute("CREATE TABLE kept (key TEXT PRIMARY KEY, value BLOB, expires REAL) WITHOUT ROWID")
        read = "SELECT value FROM kept WHERE key = ? AND expires > ?"
        write = "INSERT OR REPLACE INTO kept VALUES (?, ?, ?)"
        return (
            lambda key: base.execute(read, (key, time())).fetchone()[0],
            lambda key, body: base.execute(write, (key, body, time() + TTL)),
        )

    def diskcache(self, name: str, **options: Any) -> tuple[Get, Put]:
        import diskcache

        made = diskcache.Cache(str(self._place(name)), **options)
        self._stack.callback(made.close)
        return made.get, lambda key, body: made.set(key, body, expire=TTL)

    def tier(self, name: str) -> tuple[Get, Put]:
        made = DiskTier(self._place(name), namespace="bench")
        self._stack.callback(made.close)
        return (
            lambda key: made.perform(Fetch([key])).payloads[0],
            lambda key, body: made.perform(Store([Item(key, body, TTL)])),
        )

    def _cache(self, name: str) -> Cache:
        settings = CacheSettings(namespace="bench", disk=DiskSettings(path=self._place(name)))
        return linked(self._stack.enter_context(Cache(settings)))

    def whole(self, name: str) -> tuple[Get, Callable[[], None]]:
        loads = Loads()

        @self._cache(name).cached(Machine, key="machine:<machine_id>", tiers=["disk"])
        def get(machine_id: str) -> Machine:
            return loads.load(machine_id)

        return get, lambda: loads.check(KEYS, [get(key) for key in KEYS])

    def pickled(self, name: str) -> tuple[Get, Callable[[], None]]:
        import diskcache

        made = diskcache.Cache(str(self._place(name)))
        self._stack.callback(made.close)
        for key in KEYS:
            made.set(key, machine(key), expire=TTL)
        return made.get, lambda: same([machine(key) for key in KEYS], [made.get(key) for key in KEYS])

    def getting(self, name: str, make: Callable[[str], tuple[Get, Put]], note: str) -> Contender:
        def start() -> tuple[Callable[[], tuple[float, float]], Callable[[], None]]:
            get, put = make(f"get {name}")
            for key, body in BODIES.items():
                put(key, body)
            gets = own(_gets)
            return lambda: gets(get), lambda: same(BODIES.values(), map(get, BODIES))

        return Contender(name, start, note)

    def calling(self, name: str, make: Callable[[str], tuple[Get, Callable[[], None]]], note: str) -> Contender:
        def start() -> tuple[Callable[[], tuple[float, float]], Callable[[], None]]:
            get, check = make(f"call {name}")
            for key in KEYS:
                get(key)
            gets = own(_gets)
            return lambda: gets(get), check

        return Contender(name, start, note)

    def putting(self, name: str, make: Callable[[str], tuple[Get, Put]], note: str) -> Contender:
        def start() -> tuple[Callable[[], tuple[float, float]], Callable[[], None]]:
            get, put = make(f"put {name}")
            puts = own(_puts)
            return lambda: puts(put), lambda: same(BODIES.values(), map(get, BODIES))

        return Contender(name, start, note)


def run(effort: Effort) -> Area:
    """Measure the disk."""
    rounds = effort.of(60, 8, 1)
    with tempfile.TemporaryDirectory(prefix="ncb-") as directory, ExitStack() as stack:
        made = _Contenders(Path(directory), stack)
        bytes_ = {
            LIMIT: (made.sqlite, "sqlite3, write-ahead log, one row a transaction"),
            "diskcache, bytes": (lambda name: made.diskcache(name, eviction_policy="none"), "no eviction"),
            "diskcache, default": (made.diskcache, "as it comes: least recently stored leaves"),
            OURS: (made.tier, "the tier: expiry, eviction, guarded against a replaced or damaged file"),
        }
        get, get_tail = compare_each(
            ["L3 get, p50", "L3 get, p99"],
            [made.getting(name, make, note) for name, (make, note) in bytes_.items()],
            rounds=rounds,
            passes=1,
        )
        put, put_tail = compare_each(
            ["L3 set, p50", "L3 set, p99"],
            [made.putting(name, make, note) for name, (make, note) in bytes_.items()],
            rounds=rounds,
            passes=1,
        )
        whole, whole_tail = compare_each(
            ["L3 hit as a model, p50", "L3 hit as a model, p99"],
            [
                made.calling("diskcache, pickled", made.pickled, "get of a pickled model"),
                made.calling(OURS, made.whole, "a decorated function; markers, tags, ttl checked; L1 left out"),
            ],
            rounds=rounds,
            passes=1,
        )
    ns = whole_tail.row(OURS).value
    return Area(
        "l3",
        [get, get_tail, put, put_tail, whole, whole_tail],
        [
            Figure("L3 get, p50 / diskcache, bytes", inverse(get.row("diskcache, bytes").ours), 1.1),
            Figure("L3 get, p50 / sqlite3", get.row(OURS).ratio, None, 1.3),
            Figure("L3 set, p99 / diskcache, default", inverse(put_tail.row("diskcache, default").ours), 0.6),
            Figure("L3 set, p99 / sqlite3", put_tail.row(OURS).ratio, None, 1.3),
            Figure("L3 hit, p99", None if ns is None else ns / 1e6, 50.0, unit=" ms", floor=True),
        ],
    )
