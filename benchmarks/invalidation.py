"""An invalidation by tag: what it costs where a million values have the tag, and who else notices.

The reference is one `INCR` by redis-py: no invalidation that tells other processes can be less than a round trip. A
bystander, a process of its own, reads one key all the time; the longest that it waits while a contender is at work is
what the server does to everybody else, and what a busy machine does anyway.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from statistics import median
from time import perf_counter_ns
from typing import Any

from l2_world import Raw, cache, command
from measuring import LIMIT, OURS, Area, Case, Contender, Effort, Figure, Row, compare_each, inverse
from serving import Server, server

from novacron_cache import Cache

TAG = "fleet"
CHUNK = 1_000
REPEATS = 50
"""How many commands a turn sends."""


@contextmanager
def _bystander(running: Server) -> Iterator[Callable[[], float]]:
    """Have a process read one key; the function returns the longest wait since it was last called, nanoseconds."""
    process = subprocess.Popen(  # noqa: S603
        [sys.executable, __file__, str(running.port)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdin is not None
    assert process.stdout is not None
    ask, answer = process.stdin, process.stdout

    def longest() -> float:
        ask.write("longest\n")
        ask.flush()
        return float(answer.readline())

    try:
        longest()
        yield longest
    finally:
        process.stdin.close()
        process.wait(10)
        process.stdout.close()


def _watch(port: int) -> None:
    """Be the bystander, until nobody asks any more."""
    import select

    raw = Raw(Server(port, 0))
    raw.ask(command(b"SET", b"bystander", b"value"))
    get = command(b"GET", b"bystander")
    longest = 0
    while True:
        for _ in range(50):
            start = perf_counter_ns()
            raw.ask(get)
            longest = max(longest, perf_counter_ns() - start)
            # It shall hear what the server does to it, and not be the load itself.
            time.sleep(0.0002)
        if select.select([sys.stdin], [], [], 0)[0]:
            if not sys.stdin.readline():
                return
            print(longest, flush=True)
            longest = 0


def _fill(made: Cache, count: int) -> None:
    for first in range(0, count, CHUNK):
        made.set_many(
            {f"vm:{number}": number for number in range(first, min(first + CHUNK, count))}, tags=[TAG], ttl=3600
        )


def _many(made: Cache, client: Any, longest: Callable[[], float], count: int, rounds: int) -> list[Case]:
    sample = [f"vm:{number}" for number in range(0, count, max(1, count // 50))]

    def timed(act: Callable[[], Any]) -> Callable[[], tuple[float, float]]:
        def turn() -> tuple[float, float]:
            longest()
            start = perf_counter_ns()
            for _ in range(REPEATS):
                act()
            taken = (perf_counter_ns() - start) / REPEATS
            return taken, longest()

        return turn

    def incr() -> tuple[Callable[[], tuple[float, float]], Callable[[], None]]:
        return timed(lambda: client.incr("counter")), lambda: None

    def ours() -> tuple[Callable[[], tuple[float, float]], Callable[[], None]]:
        if len(made.get_many(sample)) < len(sample):
            raise AssertionError("not everything was stored")

        def check() -> None:
            if found := made.get_many(sample):
                raise AssertionError(f"{len(found)} values outlived their tag")

        return timed(lambda: made.invalidate_tags(TAG)), check

    return compare_each(
        [f"invalidate a tag of {count:,} keys", "the longest wait of a bystander meanwhile"],
        [
            Contender(LIMIT, incr, "one INCR by redis-py"),
            Contender(OURS, ours, "invalidate_tags, acknowledged"),
        ],
        rounds=rounds,
        passes=1,
    )


def _few(running: Server, made: Cache, count: int, rounds: int) -> Case:
    """Measure those that get slower with the number of keys; what is invalidated has to be stored again each time."""
    raw = Raw(running)

    def members() -> float:
        for first in range(0, count, CHUNK):
            keys = [f"plain:{number}".encode() for number in range(first, min(first + CHUNK, count))]
            raw.ask(command(b"MSET", *[word for key in keys for word in (key, b"1")]))
            raw.ask(command(b"SADD", b"plain-tag", *keys))
        start = perf_counter_ns()
        found = raw.ask(command(b"SMEMBERS", b"plain-tag"))
        for first in range(0, len(found), CHUNK):
            raw.ask(command(b"UNLINK", *found[first : first + CHUNK]))
        raw.ask(command(b"UNLINK", b"plain-tag"))
        return float(perf_counter_ns() - start)

    async def cashews_(counted: int) -> float:
        import cashews

        made = cashews.Cache()
        made.setup(running.url, check_repr=False)
        made.register_tag(TAG, "vm:{number}")
        try:
            for first in range(0, counted, CHUNK):
                part = range(first, min(first + CHUNK, counted))
                await asyncio.gather(*(made.set(f"vm:{number}", number, expire=3600, tags=[TAG]) for number in part))
            start = perf_counter_ns()
            await made.delete_tags(TAG)
            taken = float(perf_counter_ns() - start)
            if await made.get("vm:0") is not None:
                raise AssertionError("a value outlived its tag")
        finally:
            await made.close()
        return taken

    def ours() -> float:
        _fill(made, count)
        start = perf_counter_ns()
        made.invalidate_tags(TAG)
        taken = float(perf_counter_ns() - start)
        if made.get("vm:0") is not None:
            raise AssertionError("a value outlived its tag")
        return taken

    turns: dict[str, tuple[Callable[[], float], str]] = {
        OURS: (ours, "up to 10,000 of them were in L1, and leave it"),
        "SMEMBERS and UNLINK": (members, "a set for each tag, by hand"),
        "cashews": (lambda: asyncio.run(cashews_(count)), "delete_tags"),
    }
    case = Case(f"invalidate a tag of {count:,} keys just stored")
    base = 0.0
    for name, (turn, note) in turns.items():
        row = Row(name, note=note)
        case.rows.append(row)
        try:
            row.value = median(turn() for _ in range(rounds))
        except Exception as error:
            row.failed = f"{type(error).__name__}: {error}"
            continue
        base = base or row.value
        row.ratio = row.ours = row.value / base
    raw.close()
    return case


def run(effort: Effort) -> Area:
    """Measure invalidation by tag."""
    import redis

    many, few = effort.of(1_000_000, 10_000, 1_000), effort.of(20_000, 2_000, 500)
    with ExitStack() as stack:
        running = stack.enter_context(server())
        made = stack.enter_context(cache(running))
        client = redis.Redis.from_url(running.url)
        stack.callback(client.close)
        _fill(made, many)
        longest = stack.enter_context(_bystander(running))
        cost, stall = _many(made, client, longest, many, effort.of(60, 10, 2))
        running.flush()
        later = _few(running, made, few, effort.of(5, 2, 1))
    waited = stall.row(OURS).value
    return Area(
        "invalidation",
        [cost, stall, later],
        [
            Figure(f"invalidate a tag of {many:,} keys / one INCR", inverse(cost.row(LIMIT).ours), 2.0, 2.0),
            Figure(
                "longest wait of a bystander meanwhile", None if waited is None else waited / 1e6, 2.0, 2.0, unit=" ms"
            ),
        ],
    )


if __name__ == "__main__":
    _watch(int(sys.argv[1]))
