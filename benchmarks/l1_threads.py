"""Threads that hit process memory at once: whether they share the interpreter alone, or wait for locks as well.

With an interpreter lock, no number of threads makes more hits in a second than one; what can be lost is time spent in
waiting. So the promise is that a hit costs the same whatever the number of threads.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from datetime import timedelta
from time import perf_counter_ns
from typing import Any

from l1_world import COUNT, ROOM, TEXTS, TTL, Load, Loads, Make, limit_text, ours_text
from measuring import LIMIT, OURS, Area, Contender, Effort, Figure, compare, inverse, own

CREWS = (1, 2, 4)


def _calls(function: Callable[[Any], Any]) -> None:
    for key in TEXTS:
        function(key)


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
        calls(function)
        each = repeats // size

        def work() -> None:
            for _ in range(each):
                calls(function)

        crew = Crew(size, work)

        def check() -> None:
            crew.end()
            loads.check(TEXTS, [function(key) for key in TEXTS])

        return lambda: crew.turn() / (each * size * COUNT), check

    return Contender(name, start, note)


def _lru_cache(load: Load) -> Callable[[Any], Any]:
    return functools.lru_cache(maxsize=ROOM)(lambda key: load(key))


def _cachebox(load: Load) -> Callable[[Any], Any]:
    import cachebox

    return cachebox.cached(cachebox.TTLCache(ROOM, TTL), postprocess=None)(lambda key: load(key))


def _cachetools(load: Load) -> Callable[[Any], Any]:
    import cachetools

    return cachetools.cached(cachetools.TTLCache(ROOM, TTL), lock=threading.RLock())(lambda key: load(key))


def _theine(load: Load) -> Callable[[Any], Any]:
    import theine

    @theine.Memoize(ROOM, timedelta(seconds=TTL))
    def get(key: Any) -> Any:
        return load(key)

    get.key(lambda key: key)
    return get


def run(effort: Effort) -> Area:
    """Measure hits of one, two and four threads."""
    repeats = effort.of(48, 16, 4)
    peers: list[tuple[str, Make, str]] = [
        (LIMIT, limit_text, "no lock"),
        (OURS, ours_text, "no lock"),
        ("functools.lru_cache", _lru_cache, "no ttl"),
        ("cachebox.cached", _cachebox, "TTLCache"),
        ("cachetools.cached", _cachetools, "TTLCache and RLock"),
        ("theine", _theine, "ttl"),
    ]
    most = CREWS[-1]
    alone = f"{OURS}, 1 thread"
    cases = [
        compare(
            f"{size} threads, str",
            [
                *(_crew(name, make, size, repeats, note) for name, make, note in peers),
                _crew(alone, ours_text, 1, repeats, "the same hits by one thread"),
            ],
            rounds=effort.of(25, 5, 2),
            passes=1,
        )
        for size in CREWS[1:]
    ]
    return Area(
        "l1_threads", cases, [Figure(f"{most} threads / 1 thread, a hit", inverse(cases[-1].row(alone).ours), 1.1, 1.1)]
    )
