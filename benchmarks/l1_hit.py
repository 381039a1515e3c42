"""The hit in process memory: what a decorated function or method costs when its value is there."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Sequence
from datetime import timedelta
from time import monotonic, perf_counter_ns
from typing import Any

from l1_world import (
    NUMBERS,
    ROOM,
    TEXTS,
    TTL,
    Load,
    Loads,
    Make,
    Port,
    VMState,
    limit_text,
    memory,
    ours_text,
)
from measuring import LIMIT, OURS, Area, Case, Contender, Effort, Figure, compare, own

# --- the loops ------------------------------------------------------------------------------------------------------


def _calls(function: Callable[[Any], Any], keys: Sequence[Any]) -> float:
    start = perf_counter_ns()
    for key in keys:
        function(key)
    return (perf_counter_ns() - start) / len(keys)


def _method_calls(owner: Any, keys: Sequence[Any]) -> float:
    start = perf_counter_ns()
    for key in keys:
        owner.get(key)
    return (perf_counter_ns() - start) / len(keys)


# --- sync functions -------------------------------------------------------------------------------------------------


def _limit_number(load: Load) -> Callable[[int], Any]:
    entries: dict[str, tuple[Any, float]] = {}

    def get(number: int) -> Any:
        key = f"port:{number}"
        entry = entries.get(key)
        if entry is not None and monotonic() < entry[1]:
            return entry[0]
        value = load(number)
        entries[key] = (value, monotonic() + TTL)
        return value

    return get


def _ours_number(load: Load) -> Callable[[int], Any]:
    @memory().cached(Port, key="port:<number>")
    def get(number: int) -> Port:
        value: Port = load(number)
        return value

    return get


def _lru_cache(load: Load) -> Callable[[Any], Any]:
    return functools.lru_cache(maxsize=ROOM)(lambda key: load(key))


def _cachebox(load: Load) -> Callable[[Any], Any]:
    import cachebox

    # The values are immutable: nothing has to be copied on the way out.
    return cachebox.cached(cachebox.TTLCache(ROOM, TTL), postprocess=None)(lambda key: load(key))


def _cachetools(load: Load) -> Callable[[Any], Any]:
    import cachetools

    return cachetools.cached(cachetools.TTLCache(ROOM, TTL), lock=threading.RLock())(lambda key: load(key))


def _theine(load: Load) -> Callable[[Any], Any]:
    import theine

    @theine.Memoize(ROOM, timedelta(seconds=TTL))
    def get(key: Any) -> Any:
        return load(key)

    # With a function for the key it is faster than without.
    get.key(lambda key: key)
    return get


def _dogpile(load: Load) -> Callable[[Any], Any]:
    from dogpile.cache import make_region

    # The backend that stores objects as they are; it has no bound.
    region = make_region().configure("dogpile.cache.memory", expiration_time=TTL)
    return region.cache_on_arguments(to_str=str)(lambda key: load(key))


def _sync(name: str, make: Make, keys: Sequence[Any], note: str = "") -> Contender:
    def start() -> tuple[Callable[[], float], Callable[[], None]]:
        loads = Loads()
        function = make(loads.state if isinstance(keys[0], str) else loads.port)
        calls = own(_calls)
        calls(function, keys)
        return lambda: calls(function, keys), lambda: loads.check(keys, [function(key) for key in keys])

    return Contender(name, start, note)


def _sync_contenders(limit: Make, ours: Make, keys: Sequence[Any]) -> list[Contender]:
    return [
        _sync(LIMIT, limit, keys, "closure, dict, ttl, f-string key"),
        _sync(OURS, ours, keys),
        _sync("functools.lru_cache", _lru_cache, keys, "no ttl"),
        _sync("cachebox.cached", _cachebox, keys, "TTLCache; evicts first in, first out"),
        _sync("cachetools.cached", _cachetools, keys, "TTLCache and RLock"),
        _sync("theine", _theine, keys, "ttl, its own key function"),
        _sync("dogpile.cache", _dogpile, keys, "memory backend, expiration; it has no bound"),
    ]


# --- methods --------------------------------------------------------------------------------------------------------


def _limit_method(load: Load) -> Any:
    entries: dict[str, tuple[Any, float]] = {}

    class Owner:
        def get(self, vm_id: str) -> Any:
            key = f"vm:{vm_id}"
            entry = entries.get(key)
            if entry is not None and monotonic() < entry[1]:
                return entry[0]
            value = load(vm_id)
            entries[key] = (value, monotonic() + TTL)
            return value

    return Owner()


def _ours_method(load: Load) -> Any:
    cache = memory()

    class Owner:
        @cache.cached(VMState, key="vm:<vm_id>")
        def get(self, vm_id: str) -> VMState:
            value: VMState = load(vm_id)
            return value

    return Owner()


def _ours_method_alone(load: Load) -> Any:
    cache = memory()

    class Owner:
        @cache.cached(VMState, key="vm:<vm_id>", ignore=["self"])
        def get(self, vm_id: str) -> VMState:
            value: VMState = load(vm_id)
            return value

    return Owner()


def _lru_method(load: Load) -> Any:
    class Owner:
        @functools.lru_cache(maxsize=ROOM)  # noqa: B019 - that it keeps the instance alive is a part of the peer
        def get(self, vm_id: str) -> Any:
            return load(vm_id)

    return Owner()


def _cachebox_method(load: Load) -> Any:
    import cachebox

    class Owner:
        def __init__(self) -> None:
            self.entries: Any = cachebox.TTLCache(ROOM, TTL)

        @cachebox.cached(lambda self: self.entries, postprocess=None)
        def get(self, vm_id: str) -> Any:
            return load(vm_id)

    return Owner()


def _cachetools_method(load: Load) -> Any:
    import cachetools

    class Owner:
        def __init__(self) -> None:
            self.entries: Any = cachetools.TTLCache(ROOM, TTL)
            self.lock = threading.RLock()

        @cachetools.cachedmethod(lambda self: self.entries, lock=lambda self: self.lock)
        def get(self, vm_id: str) -> Any:
            return load(vm_id)

    return Owner()


def _method(name: str, make: Callable[[Callable[[Any], Any]], Any], note: str = "") -> Contender:
    def start() -> tuple[Callable[[], float], Callable[[], None]]:
        loads = Loads()
        owner = make(loads.state)
        calls = own(_method_calls)
        calls(owner, TEXTS)
        return lambda: calls(owner, TEXTS), lambda: loads.check(TEXTS, [owner.get(key) for key in TEXTS])

    return Contender(name, start, note)


# --- the area -------------------------------------------------------------------------------------------------------


def run(effort: Effort) -> Area:
    """Measure the hits of functions and methods."""
    rounds = effort.of(400, 40, 3)
    text = compare("sync, str", _sync_contenders(limit_text, ours_text, TEXTS), rounds=rounds)
    number = compare("sync, int", _sync_contenders(_limit_number, _ours_number, NUMBERS), rounds=rounds)
    method = compare(
        "method, str",
        [
            _sync(LIMIT, limit_text, TEXTS, "the limit of a function"),
            _method("limit as a method", _limit_method),
            _method(OURS, _ours_method, "a second instance would be noticed"),
            _method(f"{OURS}, ignore self", _ours_method_alone, "ignore=['self']: instances share openly"),
            _method("functools.lru_cache", _lru_method, "no ttl; keeps the instance alive"),
            _method("cachebox.cached", _cachebox_method, "TTLCache"),
            _method("cachetools.cachedmethod", _cachetools_method, "TTLCache and RLock"),
        ],
        rounds=rounds,
    )
    return Area("l1_hit", [text, number, method], [*_figures(text, number, method), *_floors(text)])


def _figures(text: Case, number: Case, method: Case) -> list[Figure]:
    ours, cachebox, cachetools = (text.row(name) for name in (OURS, "cachebox.cached", "cachetools.cached"))
    return [
        Figure("L1 hit, function of str / limit", ours.ratio, 1.25, 0.95),
        Figure("L1 hit, function of int / limit", number.row(OURS).ratio, 1.25, 0.95),
        Figure("L1 hit: cachebox.cached / ours", cachebox.ours, 1.6, 2.5, at_most=False),
        Figure("L1 hit: cachetools TTL with lock / ours", cachetools.ours, 4.0, 6.0, at_most=False),
        Figure("L1 hit, method / limit of a function", method.row(OURS).ratio, 1.8, 1.2),
    ]


def _floors(text: Case) -> list[Figure]:
    ns = text.row(OURS).value
    return [
        Figure("L1 hit", None if ns is None else ns / 1e6, 1.0, unit=" ms", floor=True),
        Figure(
            "operations of one thread", None if ns is None else 1e9 / ns, 10_000, at_most=False, unit=" /s", floor=True
        ),
    ]
