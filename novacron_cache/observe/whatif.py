"""What if process memory were larger, or smaller: its hit rate at other sizes, estimated while it works.

Theory. Keys are sampled by their hash, so a key is in the sample with every call or with none: SHARDS (Waldspurger,
Park, Garthwaite, Ahmad, "Efficient MRC Construction with SHARDS", FAST 2015). A cache that sees one key in r behaves
like one r times as large that sees them all, which holds for any policy; so there is a miniature of process memory,
with the very class of its policy, for each size (Waldspurger, Saemundsson, Ahmad, Park, "Cache Modeling and
Optimization using Miniature Simulations", ATC 2017). Calls in all are known exactly, and only the misses of the sample
are scaled up: which of the few hottest keys are in it then hardly matters, for they are hits at every size. The hit
rate at the present size is known exactly too, so the curve is moved to where it goes through it.

A hit in the front of a function tells nobody of itself, so sampled keys are kept out of fronts, and every other key
pays nothing. A sampled key that is asked for all the time is let in until the next look, after its first few hits: the
policies learn nothing from more of them, and a hot key stays as fast as it was.
"""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from ..entry import Entry
from ..events import Hit, Miss
from ..tiers.policies import make_policy

if TYPE_CHECKING:
    from ..cache import Cache

__all__ = ["FACT", "SIZES", "Miniatures", "WhatIf"]

FACT: Final = "whatif"
"""The fact of a snapshot that has the figures of a curve."""

SIZES: Final = (0.25, 0.5, 1.0, 2.0, 4.0)
"""The sizes that are tried, as multiples of the one there is."""

MINIATURE: Final = 2048
"""How many entries the miniature of the present size holds; what a process spends on all of them is some 8 MB."""

SMALLEST: Final = 64
"""Fewer would not be a likeness any more, however many calls there are."""

FEW: Final = 4
"""With how many hits between two looks a sampled key is let into fronts until the next one."""

MANY: Final = 16
"""How many hits of one key are taken note of between two looks."""

BUSY: Final = 8192
"""With more notes than this between two looks, fewer keys are sampled."""

SOON: Final = 8
"""Within how many notes the end of a call follows what it put into memory."""

HALF_LIFE: Final = 180.0
"""Seconds after which what was counted counts half."""

_RANGE: Final = 1 << 24


class Miniatures:
    """Small copies of a cache's process memory, each standing for another size of it.

    Args:
        policy: the eviction policy, as for the memory tier.
        items: how many entries process memory holds.
        max_bytes: how many bytes; None is no bound.
        rate: the share of the keys that they are shown.

    Attributes:
        misses: for each of `SIZES` how often a sampled key was not there, as if every key had been shown.
    """

    def __init__(self, policy: str | type[Any], items: int, max_bytes: int | None, rate: float) -> None:
        self._weight = 1.0 / rate
        self._caches = [
            make_policy(
                policy,
                max(1, round(items * size * rate)),
                None if max_bytes is None else max(1, round(max_bytes * size * rate)),
            )
            for size in SIZES
        ]
        self.misses = [0.0] * len(SIZES)

    def asked(self, key: str, now: float, *, created: float | None = None) -> None:
        """A key was asked for.

        Args:
            key: the key.
            now: monotonic seconds; what has expired by then is not there.
            created: when the value that was found was made; another one is another value. None is any.
        """
        for place, cache in enumerate(self._caches):
            entry = cache.get(key)
            if entry is None or now >= entry.expires or (created is not None and entry.created != created):
                self.misses[place] += self._weight
            else:
                entry.hits += 1

    def keep(self, key: str, size: int, created: float, expires: float) -> None:
        """A value is in process memory from now on; the same value stays where it is."""
        for cache in self._caches:
            known = cache.table.get(key)
            if known is not None and known.created == created:
                known.expires = expires
                continue
            cache.add(Entry(key, None, expires=expires, created=created, size=size))

    def drop(self, key: str) -> None:
        """A value is no longer valid."""
        for cache in self._caches:
            cache.remove(key)

    def fade(self, factor: float) -> None:
        """Have what was counted so far count less."""
        self.misses = [count * factor for count in self.misses]


def _identity(name: str, logical: str) -> str:
    return f"{name}\0{logical}"


_HIT, _KEPT, _FOUND, _MISSED, _GONE = range(5)

_NOT_HERE: Final = frozenset({"cold", "evicted", "tier_down", "bypassed"})
"""Reasons of a miss that say nothing against a value that a larger memory would still have."""


class WhatIf:
    """Takes the sample of one cache, from when it is first looked at until nobody has looked for a while.

    Args:
        cache: the cache.
        patience: seconds after the last look at which it stops by itself.
        hashed: what says which keys are in the sample; that of the interpreter is another one in each process.
    """

    def __init__(self, cache: Cache, *, patience: float = 30.0, hashed: Callable[[str], int] = hash) -> None:
        self._cache = cache
        self._engine = cache.engine
        self._patience = patience
        self._hash = hashed
        self._monotonic = cache.engine.clock.monotonic
        self._lock = threading.Lock()
        self._events: deque[tuple[Any, ...]] = deque(maxlen=2 * BUSY)
        self._miniatures: Miniatures | None = None
        self._threshold = 0
        self._rate = 1.0
        self._until = 0.0
        self._off: list[Callable[[], None]] = []
        self._seen: dict[str, int] = {}
        self._let_in: dict[str, Entry] = {}
        self._forget()

    def _forget(self) -> None:
        self._began = self._looked = self._monotonic()
        self._calls = self._hits = 0.0
        self._counted = self._count()

    # -- what the engine tells; called in the threads of the application --------------------------------------------

    def keeps_out(self, entry: Entry) -> bool:
        """Return whether an entry has to stay out of fronts, so that each of its hits is seen."""
        if self._hash(entry.logical) % _RANGE >= self._threshold:
            return False
        if self._seen.get(entry.logical, 0) < FEW:
            return True
        self._let_in[entry.key] = entry
        return False

    def served(self, entry: Entry) -> None:
        """Process memory has answered."""
        if self._hash(entry.logical) % _RANGE < self._threshold:
            seen = self._seen[entry.logical] = self._seen.get(entry.logical, 0) + 1
            if seen <= MANY:
                self._note(_HIT, entry)
            if self._monotonic() > self._until:
                self.stop()

    def kept(self, entry: Entry) -> None:
        """Process memory has taken an entry in."""
        if self._hash(entry.logical) % _RANGE < self._threshold:
            self._note(_KEPT, entry)

    def _note(self, kind: int, entry: Entry) -> None:
        self._events.append((kind, _identity(entry.name, entry.logical), entry.size, entry.created, entry.expires))

    def gone(self, entry: Entry) -> None:
        """An entry was removed because it is not valid any more."""
        if self._hash(entry.logical) % _RANGE < self._threshold:
            self._events.append((_GONE, _identity(entry.name, entry.logical)))

    def _found(self, event: Hit) -> None:
        if self._hash(event.key) % _RANGE < self._threshold:
            self._events.append((_FOUND, _identity(event.name, event.key)))

    def _missed(self, event: Miss) -> None:
        if self._hash(event.key) % _RANGE < self._threshold:
            self._events.append((_MISSED, _identity(event.name, event.key), event.reason))
            if self._monotonic() > self._until:
                self.stop()

    # -- starting and stopping ---------------------------------------------------------------------------------------

    @property
    def runs(self) -> bool:
        """Whether a sample is taken."""
        return self._miniatures is not None

    def stop(self) -> None:
        """Take no sample any more."""
        self._threshold = 0  # seen at once by whoever is in the middle of a call
        self._engine.key_sample = None
        if self._engine.memory is not None:
            self._engine.memory.on_remove = None
        off, self._off = self._off, []
        for end in off:
            end()
        self._miniatures = None
        self._events.clear()
        self._seen, self._let_in = {}, {}

    def after_fork(self) -> None:
        """Begin anew in a forked child, when somebody looks there."""
        self._lock = threading.Lock()
        if self.runs:
            self.stop()

    def _start(self, rate: float | None) -> None:
        """Begin with what process memory holds now."""
        engine, memory = self._engine, self._engine.memory
        if memory is None:
            return
        options = self._cache.settings.memory
        entries = memory.entries()
        items = memory.max_items
        if memory.max_bytes is not None and entries and memory.bytes:
            items = max(1, min(items, round(memory.max_bytes * len(entries) / memory.bytes)))
        self._rate = min(1.0, MINIATURE / items) if rate is None else max(rate, min(1.0, SMALLEST / items))
        fresh = Miniatures(options.policy, memory.max_items, memory.max_bytes, self._rate)
        self._threshold = round(self._rate * _RANGE)
        self._events.clear()
        self._seen, self._let_in = {}, {}
        for entry in entries:
            if self._hash(entry.logical) % _RANGE < self._threshold:
                identity = _identity(entry.name, entry.logical)
                fresh.keep(identity, entry.size, entry.created, entry.expires)
        if not self._off:
            self._off = [engine.listeners.on(Hit, self._found), engine.listeners.on(Miss, self._missed)]
        memory.on_remove = self.gone
        engine.key_sample = self
        for entry in entries:
            if entry.fronts and self._hash(entry.logical) % _RANGE < self._threshold:
                memory.detach(entry)
        self._forget()
        self._miniatures = fresh

    # -- looking -----------------------------------------------------------------------------------------------------

    def look(self) -> dict[str, Any] | None:
        """Take in what was noted since the last look, and return what a snapshot says of it; None without memory."""
        with self._lock:
            if self._engine.memory is None:
                return None
            self._until = self._monotonic() + self._patience
            if self._miniatures is None:
                self._start(None)
                return None
            noted = self._drain(self._miniatures)
            figures = self._figures(self._miniatures)
            if noted > BUSY and self._rate * self._engine.memory.max_items > SMALLEST:
                self._start(self._rate / 2)
            return figures

    def _drain(self, miniatures: Miniatures) -> int:
        memory = self._engine.memory
        let_in, self._let_in, self._seen = self._let_in, {}, {}
        if memory is not None:
            for entry in list(let_in.values()):
                memory.detach(entry)
        now = self._monotonic()
        fading = 0.5 ** ((now - self._looked) / HALF_LIFE)
        self._looked = now
        miniatures.fade(fading)
        counted = self._count()
        self._calls = self._calls * fading + max(0.0, counted[0] - self._counted[0])
        self._hits = self._hits * fading + max(0.0, counted[1] - self._counted[1])
        self._counted = counted
        noted: list[tuple[Any, ...]] = []
        with contextlib.suppress(IndexError):  # no more, or it was stopped meanwhile
            noted.extend(self._events.popleft() for _ in range(len(self._events)))
        self._replay(miniatures, noted, now)
        return len(noted)

    def _replay(self, miniatures: Miniatures, noted: list[tuple[Any, ...]], now: float) -> None:
        """Have miniatures go through what was noted."""
        told: set[str] = set()
        for place, (kind, key, *more) in enumerate(noted):
            if kind == _KEPT:
                # What was found further away is put into memory a moment before the call is told of.
                if any(later[0] == _FOUND and later[1] == key for later in noted[place + 1 : place + 1 + SOON]):
                    miniatures.asked(key, now, created=more[1])
                    told.add(key)
                miniatures.keep(key, more[0], more[1], more[2])
            elif kind == _FOUND:
                if key not in told:
                    miniatures.asked(key, now)
                told.discard(key)
            elif kind == _HIT:
                miniatures.asked(key, now)
                # A smaller memory would have had to find it elsewhere, and would have it from now on.
                miniatures.keep(key, more[0], more[1], more[2])
            else:
                if kind == _GONE or more[0] not in _NOT_HERE:
                    miniatures.drop(key)
                if kind == _MISSED:
                    miniatures.asked(key, now)

    def _figures(self, miniatures: Miniatures) -> dict[str, Any]:
        memory, options = self._engine.memory, self._cache.settings.memory
        policy = options.policy if isinstance(options.policy, str) else options.policy.__name__
        return {
            "policy": policy,
            "items": 0 if memory is None else memory.max_items,
            "bytes": None if memory is None else memory.max_bytes,
            "calls": round(self._calls, 1),
            "hits": round(self._hits, 1),
            "seconds": round(self._looked - self._began, 1),
            "misses": [round(count, 1) for count in miniatures.misses],
        }

    def _count(self) -> tuple[float, float]:
        """Return the calls of this process so far, and those that process memory answered."""
        fronts = self._cache.fronts()
        counters = self._engine.all_counters().values()
        memory = sum(self._cache.front_hits(fronts).values())
        calls = memory
        for one in counters:
            hits = dict(one.hits)
            memory += hits.get("memory", 0)
            calls += sum(hits.values()) + sum(dict(one.misses).values()) + one.joined
        return float(calls), float(memory)
