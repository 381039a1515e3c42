"""One process of a scenario: it reads and writes through a cache of its own and records what it was served.

It obeys lines on its standard input (see `process`); whether its readers and writers run is said by the database that
all processes share.
"""

from __future__ import annotations

import json
import random
import sqlite3
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from novacron_cache import Cache, CacheModel, CacheSettings, cached
from novacron_cache.link import LinkState
from novacron_cache.markers import RULES, key_dep, tag_dep

from .database import Database
from .recording import Recording

GROUPS = 4


class Row(CacheModel, key="row:<n>", ttl="10m", tags=["row:<n>"]):
    """A value whose tags are known before it is loaded."""

    n: int
    version: int


class Late(CacheModel, key="late:<n>", ttl="10m", tags=["late:<n>", "group:<group>"]):
    """A value with a tag that only the loaded value names."""

    n: int
    version: int
    group: int


@dataclass
class Options:
    """What a worker is told.

    Attributes:
        number: which of the `count` workers it is; it writes the keys whose number leaves that remainder.
        settings: those of its cache.
        loop: whether it reads and writes in an event loop, not in threads.
        readers: how many read at once.
        rate: reads a second, of all readers together.
        writes: writes a second.
        strong: the share of strong reads.
        slow: the share of loads that take 250 ms between reading the database and returning.
        shift: seconds by which the wall clock is wrong.
        globs: how many of its invalidations name a glob.
        two_phase: the share of invalidations that are made in two phases.
    """

    database: str
    keys: int
    settings: dict[str, Any]
    number: int = 0
    count: int = 1
    loop: bool = False
    readers: int = 2
    rate: float = 1000.0
    writes: float = 40.0
    strong: float = 0.02
    slow: float = 0.02
    shift: float = 0.0
    globs: int = 8
    two_phase: float = 0.2

    def as_json(self) -> str:
        return json.dumps(asdict(self))


class ShiftedClock:
    """A wall clock that is wrong; durations are right, as they are on such a machine."""

    def __init__(self, shift: float) -> None:
        self._shift = shift

    monotonic = staticmethod(time.monotonic)

    def time(self) -> float:
        return time.time() + self._shift


class Worker:
    """What both kinds of workers do: load, judge, decide what comes next."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.database = Database(Path(options.database), options.keys)
        self.cache = Cache(CacheSettings(**options.settings), clock=ShiftedClock(options.shift))
        self.recording = Recording()
        self.random = random.Random(options.number)  # noqa: S311 - the same choices in each run
        self.own_keys = range(options.number, options.keys, options.count)
        self.mine = [0] * options.keys
        """The version of each key that this process was the last to invalidate."""
        self.undelivered: list[tuple[int, int, int, Any]] = []
        self.globs = options.globs
        self.stopping = threading.Event()
        self.locker: sqlite3.Connection
        for name in ("link_up", "link_lost", "tier_down", "tier_up", "generation_changed", "failed_over"):
            self.cache.on(name, lambda event: self._happened(event.kind))

        @cached(Row, cache=self.cache)
        def row(n: int) -> Row:
            return Row(n=n, version=self.load(n))

        @cached(Late, cache=self.cache)
        def late(n: int) -> Late:
            return Late(n=n, version=self.load(n), group=group_of(n))

        self.functions = (row, late)

    def _happened(self, name: str) -> None:
        self.recording.events.append((time.monotonic_ns(), name))

    def load(self, n: int) -> int:
        """Read the database, as a loader does; some are slow."""
        self.recording.loaded(self.database.phase)
        version = self.database.version(n)
        if self.is_slow():
            time.sleep(0.25)
        return version

    def is_slow(self) -> bool:
        """Whether a load that has just read the database takes its time."""
        return self.database.reading and self.random.random() < self.options.slow

    def strong_read(self, n: int) -> tuple[str, Callable[[], Any], type[CacheModel]]:
        """Return the key, the loader and the model of a read that names them itself."""
        if n % 2:
            return f"late:{n}", lambda: Late(n=n, version=self.load(n), group=group_of(n)), Late
        return f"row:{n}", lambda: Row(n=n, version=self.load(n)), Row

    def judge(self, n: int, value: Any, began: int, before: int, *, strong: bool) -> None:
        """Compare what a call returned with what was true when it began."""
        duration = time.monotonic_ns() - began
        self.recording.read(self.database.phase, duration, strong=strong)
        if value is None:
            return
        if value.n != n:
            self.recording.wrong += 1
            return
        age = self.database.age(n, value.version, began)
        own = value.version < before
        if age > 0 or own:
            self.recording.older(began, age, n, strong=strong, own=own)

    def way(self, n: int) -> tuple[str, dict[str, Any]]:
        """Choose how the next write names what it invalidates: a method of the cache and its arguments."""
        prefix = "late" if n % 2 else "row"
        if self.globs > 0 and self.random.random() < 0.05:
            self.globs -= 1
            return "pattern", {"pattern": f"{prefix[:2]}*:{n}"}
        if self.random.random() < self.options.two_phase:
            return "hold", {"tags": [f"{prefix}:{n}"], "hold": 2.0}
        chosen = self.random.random()
        if n % 2 and chosen < 0.4:
            return "tags", {"tags": [f"group:{group_of(n)}"]}
        if chosen < 0.7:
            return "tags", {"tags": [f"{prefix}:{n}"]}
        return "key", {"keys": [f"{prefix}:{n}"]}

    def written(self, n: int, version: int, began: int, receipt: Any) -> None:
        """Note an invalidation that has returned."""
        done = receipt.done
        self.mine[n] = version
        if done:
            self.database.announce(n, version)
        else:
            self.undelivered.append((n, version, began, receipt))
        self.recording.wrote(self.database.phase, time.monotonic_ns() - began, pending=not done)

    def look_for_deliveries(self) -> None:
        """Announce what has been delivered meanwhile."""
        for item in tuple(self.undelivered):
            n, version, began, receipt = item
            if receipt.done:
                self.database.announce(n, version)
                self.undelivered.remove(item)
                named = [dependency(receipt.what, name) for name in receipt.values]
                self.recording.delayed.append((began, time.monotonic_ns() - began, named))
                self._happened("delivered")

    # -- commands -----------------------------------------------------------------------------------------------

    def obey(self, words: list[str]) -> Any:
        return getattr(self, f"do_{words[0]}")(*words[1:])

    def do_up(self) -> bool:
        """Whether the link is up, or there is none; brings it up."""
        self.cache.get("anything")
        link = self.cache.engine.link
        return link is None or link.state is LinkState.UP

    def do_settled(self) -> bool:
        """Whether everything was delivered."""
        self.look_for_deliveries()
        return not self.cache.engine.pending and not self.undelivered

    def do_pending(self) -> list[str]:
        """What has not been delivered, for whoever asks why."""
        markers, rules = self.cache.engine.pending.snapshot()
        return [dep for dep, _ in markers] + ["a rule"] * len(rules)

    def do_sweep(self) -> list[tuple[int, int]]:
        """Read every key; return what is older than the database: (key, version)."""
        found = []
        for n in range(self.options.keys):
            value = self.functions[n % 2](n)
            if value.version < self.database.version(n):
                found.append((n, value.version))
        return found

    def do_report(self) -> dict[str, Any]:
        return self.recording.as_dict()

    def do_fork(self, count: str, reads: str) -> dict[str, int]:
        from .forking import fork_children

        return fork_children(self, int(count), int(reads))

    def do_lock(self, database: str) -> bool:
        """Begin a transaction in a SQLite database and leave it open."""
        self.locker = sqlite3.connect(database, isolation_level=None)
        self.locker.execute("BEGIN IMMEDIATE")
        return True

    def do_unlock(self) -> bool:
        self.locker.execute("ROLLBACK")
        self.locker.close()
        return True

    def start(self) -> None:
        raise NotImplementedError

    def close(self) -> None:
        self.stopping.set()
        self.cache.close()


def group_of(n: int) -> int:
    """The group of a late value."""
    return n // 2 % GROUPS


def dependency(what: str, name: str) -> str:
    """The dependency that an invalidation renews: one for what it names, the log's head for globs."""
    return RULES if what == "pattern" else key_dep(name) if what == "key" else tag_dep(name)


class Pace:
    """Keeps to a rate; who was held up catches up for a second at most."""

    def __init__(self, rate: float, burst: int = 1) -> None:
        self.burst = burst
        self._interval = burst / rate
        self._next = time.monotonic()

    def wait(self) -> float:
        """Return the seconds to wait before the next burst."""
        now = time.monotonic()
        self._next = max(self._next + self._interval, now - 1.0)
        return max(self._next - now, 0.0)
