"""The hit in process memory: what a decorated function costs when its value is there.

The reference is the limit of what Python can do: a closure over a dictionary that formats the key, looks it up and
compares a deadline with the clock, with nothing else: no counter, no eviction, no invalidation. Every contender
answers for the same 1,000 keys with the same kind of value, a frozen model.
"""

from __future__ import annotations

import asyncio
import functools
import threading
from collections.abc import Awaitable, Callable, Sequence
from time import monotonic, perf_counter_ns
from typing import Any

from measuring import LIMIT, OURS, Area, Case, Contender, Figure, compare, own

from novacron_cache import Cache, CacheModel
from novacron_cache.settings import CacheSettings, MemorySettings

COUNT = 1_000
TTL = 3600.0
ROOM = 100_000
THREADS = 4


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


def _memory() -> Cache:
    return Cache(CacheSettings(memory=MemorySettings(max_items=ROOM)))


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


async def _awaits(function: Callable[[Any], Awaitable[Any]], keys: Sequence[Any]) -> float:
    start = perf_counter_ns()
    for key in keys:
        await function(key)
    return (perf_counter_ns() - start) / len(keys)


# --- sync functions -------------------------------------------------------------------------------------------------


def _limit_text(load: Callable[[Any], Any]) -> Callable[[str], Any]:
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


def _limit_number(load: Callable[[Any], Any]) -> Callable[[int], Any]:
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


def _ours_text(load: Callable[[Any], Any]) -> Callable[[str], Any]:
    @_memory().cached(VMState, key="vm:<vm_id>")
    def get(vm_id: str) -> VMState:
        return load(vm_id)

    return get


def _ours_number(load: Callable[[Any], Any]) -> Callable[[int], Any]:
    @_memory().cached(Port, key="port:<number>")
    def get(number: int) -> Port:
        return load(number)

    return get


def _lru_cache(load: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return functools.lru_cache(maxsize=ROOM)(lambda key: load(key))


def _cachebox(load: Callable[[Any], Any]) -> Callable[[Any], Any]:
    import cachebox

    # The values are immutable: nothing has to be copied on the way out.
    return cachebox.cached(cachebox.TTLCache(ROOM, TTL), postprocess=None)(lambda key: load(key))


def _cachetools(load: Callable[[Any], Any]) -> Callable[[Any], Any]:
    import cachetools

    return cachetools.cached(cachetools.TTLCache(ROOM, TTL), lock=threading.RLock())(lambda key: load(key))


Make = Callable[[Callable[[Any], Any]], Callable[[Any], Any]]


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
    ]


# --- methods --------------------------------------------------------------------------------------------------------


def _limit_method(load: Callable[[Any], Any]) -> Any:
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


def _ours_method(load: Callable[[Any], Any]) -> Any:
    cache = _memory()

    class Owner:
        @cache.cached(VMState, key="vm:<vm_id>")
        def get(self, vm_id: str) -> VMState:
            return load(vm_id)

    return Owner()


def _ours_method_alone(load: Callable[[Any], Any]) -> Any:
    cache = _memory()

    class Owner:
        @cache.cached(VMState, key="vm:<vm_id>", ignore=["self"])
        def get(self, vm_id: str) -> VMState:
            return load(vm_id)

    return Owner()


def _lru_method(load: Callable[[Any], Any]) -> Any:
    class Owner:
        @functools.lru_cache(maxsize=ROOM)  # noqa: B019 - that it keeps the instance alive is a part of the peer
        def get(self, vm_id: str) -> Any:
            return load(vm_id)

    return Owner()


def _cachebox_method(load: Callable[[Any], Any]) -> Any:
    import cachebox

    class Owner:
        def __init__(self) -> None:
            self.entries = cachebox.TTLCache(ROOM, TTL)

        @cachebox.cached(lambda self: self.entries, postprocess=None)
        def get(self, vm_id: str) -> Any:
            return load(vm_id)

    return Owner()


def _cachetools_method(load: Callable[[Any], Any]) -> Any:
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


# --- async functions ------------------------------------------------------------------------------------------------


def _limit_async(load: Callable[[Any], Any]) -> Callable[[str], Awaitable[Any]]:
    entries: dict[str, tuple[Any, float]] = {}

    async def get(vm_id: str) -> Any:
        key = f"vm:{vm_id}"
        entry = entries.get(key)
        if entry is not None and monotonic() < entry[1]:
            return entry[0]
        value = load(vm_id)
        entries[key] = (value, monotonic() + TTL)
        return value

    return get


def _ours_async(load: Callable[[Any], Any]) -> Callable[[str], Awaitable[Any]]:
    @_memory().cached(VMState, key="vm:<vm_id>")
    async def get(vm_id: str) -> VMState:
        return load(vm_id)

    return get


def _async_lru(load: Callable[[Any], Any]) -> Callable[[str], Awaitable[Any]]:
    from async_lru import alru_cache

    @alru_cache(maxsize=ROOM, ttl=TTL)
    async def get(vm_id: str) -> Any:
        return load(vm_id)

    return get


def _cachebox_async(load: Callable[[Any], Any]) -> Callable[[str], Awaitable[Any]]:
    import cachebox

    @cachebox.cached(cachebox.TTLCache(ROOM, TTL), postprocess=None)
    async def get(vm_id: str) -> Any:
        return load(vm_id)

    return get


def _aiocache(load: Callable[[Any], Any], **options: Any) -> Callable[[str], Awaitable[Any]]:
    import aiocache

    # In process memory its default serializer keeps the object as it is; its other ones would decode on each hit.
    @aiocache.cached(ttl=TTL, key_builder=lambda _, vm_id: f"vm:{vm_id}", **options)
    async def get(vm_id: str) -> Any:
        return load(vm_id)

    return get


def _cashews(load: Callable[[Any], Any]) -> Callable[[str], Awaitable[Any]]:
    import cashews

    cache = cashews.Cache()
    # By default it holds 1,000 items, so these keys would only just fit, and looks for expired ones every second.
    cache.setup("mem://", size=ROOM, check_interval=60, check_repr=False)

    @cache(ttl=TTL, key="vm:{vm_id}")
    async def get(vm_id: str) -> Any:
        return load(vm_id)

    return get


def _async(
    name: str, make: Callable[[Callable[[Any], Any]], Callable[[str], Awaitable[Any]]], loop: Any, note: str = ""
) -> Contender:
    def start() -> tuple[Callable[[], float], Callable[[], None]]:
        loads = Loads()

        async def warm() -> Callable[[str], Awaitable[Any]]:
            function = make(loads.state)
            await awaits(function, TEXTS)
            return function

        async def values() -> list[Any]:
            return [await function(key) for key in TEXTS]

        awaits = own(_awaits)
        function = loop.run(warm())
        return lambda: loop.run(awaits(function, TEXTS)), lambda: loads.check(TEXTS, loop.run(values()))

    return Contender(name, start, note)


def _async_case(rounds: int) -> Case:
    with asyncio.Runner() as loop:
        return compare(
            "async, str",
            [
                _async(LIMIT, _limit_async, loop, "closure, dict, ttl, f-string key"),
                _async(OURS, _ours_async, loop),
                _async("cachebox.cached", _cachebox_async, loop, "TTLCache; evicts first in, first out"),
                _async("async_lru", _async_lru, loop, "ttl"),
                _async("aiocache", _aiocache, loop, "memory; as it comes"),
                _async("aiocache, no timeout", functools.partial(_aiocache, timeout=0), loop, "memory; timeout=0"),
                _async("cashews", _cashews, loop, "memory; room for all keys, check_repr off"),
            ],
            rounds=rounds,
        )


# --- threads --------------------------------------------------------------------------------------------------------


class Crew:
    """Threads that run the same loop at once; made once, for starting a thread costs more than a turn."""

    def __init__(self, size: int, work: Callable[[], None]) -> None:
        self._gate = threading.Barrier(size + 1)
        self._work = work
        self._ending = False
        self._errors: list[BaseException] = []
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(size)]
        for thread in self._threads:
            thread.start()

    def _run(self) -> None:
        while True:
            self._gate.wait()
            if self._ending:
                return
            try:
                self._work()
            except BaseException as error:
                self._errors.append(error)
            self._gate.wait()

    def turn(self) -> float:
        """Return the nanoseconds from the moment all may start until all are done."""
        self._gate.wait()
        start = perf_counter_ns()
        self._gate.wait()
        taken = perf_counter_ns() - start
        if self._errors:
            raise self._errors[0]
        return float(taken)

    def end(self) -> None:
        """Let the threads go."""
        self._ending = True
        self._gate.wait()
        for thread in self._threads:
            thread.join()


def _crew(name: str, make: Make, size: int, repeats: int, note: str = "") -> Contender:
    def start() -> tuple[Callable[[], float], Callable[[], None]]:
        loads = Loads()
        function = make(loads.state)
        calls = own(_calls)
        calls(function, TEXTS)
        each = repeats // size

        def work() -> None:
            for _ in range(each):
                calls(function, TEXTS)

        crew = Crew(size, work)

        def check() -> None:
            crew.end()
            loads.check(TEXTS, [function(key) for key in TEXTS])

        return lambda: crew.turn() / (each * size * COUNT), check

    return Contender(name, start, note)


def _thread_case(rounds: int, repeats: int) -> Case:
    return compare(
        f"{THREADS} threads, str",
        [
            _crew(LIMIT, _limit_text, THREADS, repeats, "no lock"),
            _crew(f"{OURS}, 1 thread", _ours_text, 1, repeats),
            _crew(OURS, _ours_text, THREADS, repeats, "no lock"),
            _crew("functools.lru_cache", _lru_cache, THREADS, repeats, "no ttl"),
            _crew("cachebox.cached", _cachebox, THREADS, repeats),
            _crew("cachetools.cached", _cachetools, THREADS, repeats, "TTLCache and RLock"),
        ],
        rounds=rounds,
        passes=1,
    )


# --- the area -------------------------------------------------------------------------------------------------------


def run(*, quick: bool) -> Area:
    """Measure the hits.

    Args:
        quick: fewer rounds.
    """
    rounds = 40 if quick else 400
    text = compare("sync, str", _sync_contenders(_limit_text, _ours_text, TEXTS), rounds=rounds)
    number = compare("sync, int", _sync_contenders(_limit_number, _ours_number, NUMBERS), rounds=rounds)
    method = compare(
        "method, str",
        [
            _sync(LIMIT, _limit_text, TEXTS, "the limit of a function"),
            _method("limit as a method", _limit_method),
            _method(OURS, _ours_method, "a second instance would be noticed"),
            _method(f"{OURS}, ignore self", _ours_method_alone, "ignore=['self']: instances share openly"),
            _method("functools.lru_cache", _lru_method, "no ttl; keeps the instance alive"),
            _method("cachebox.cached", _cachebox_method, "TTLCache"),
            _method("cachetools.cachedmethod", _cachetools_method, "TTLCache and RLock"),
        ],
        rounds=rounds,
    )
    waiting = _async_case(rounds=12 if quick else 100)
    threads = _thread_case(rounds=5 if quick else 25, repeats=8 if quick else 48)
    area = Area("l1_hit", [text, number, method, waiting, threads])
    area.figures = [*_figures(text, method, waiting, threads), *_floors(text)]
    return area


def _figures(text: Case, method: Case, waiting: Case, threads: Case) -> list[Figure]:
    def slower(case: Case, peer: str) -> float | None:
        return case.row(peer).ours

    alone = threads.row(f"{OURS}, 1 thread").ours
    together = None if alone is None else 1 / alone
    figures = []
    for what, case, columns in (
        ("sync, str / limit", text, {"first release": 1.5, "at least": 1.25, "aim": 0.95}),
        ("method / limit of a function", method, {"first release": 2.5, "at least": 1.8, "aim": 1.2}),
        ("async / limit", waiting, {"first release": 1.5, "at least": 1.15, "aim": 0.9}),
    ):
        figures += [Figure(what, column, bound, True, case.row(OURS).ratio) for column, bound in columns.items()]
    for what, case, peer, columns in (
        ("cachebox.cached / sync, str", text, "cachebox.cached", {"at least": 1.6, "aim": 2.5}),
        ("cachetools.cached with lock / sync, str", text, "cachetools.cached", {"at least": 4.0, "aim": 6.0}),
        ("aiocache / async", waiting, "aiocache", {"at least": 45.0, "aim": 45.0}),
        ("cashews / async", waiting, "cashews", {"at least": 75.0, "aim": 75.0}),
    ):
        figures += [Figure(what, column, bound, False, slower(case, peer)) for column, bound in columns.items()]
    figures += [Figure(f"{THREADS} threads / 1 thread", column, 1.1, True, together) for column in ("at least", "aim")]
    return figures


def _floors(text: Case) -> list[Figure]:
    ns = text.row(OURS).ns
    return [
        Figure("hit in process memory", "floor", 1.0, True, None if ns is None else ns / 1e6, " ms"),
        Figure("hits, one thread", "floor", 10_000, False, None if ns is None else 1e9 / ns, " /s"),
    ]
