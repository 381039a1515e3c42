"""How long a process serves what another one has invalidated: from before the write until it has left a foreign L1.

The reference is the least that tells anybody of anything: one `SET` by the writer, and a reader's thread that waits on
a socket for what the server pushes. The writer is a process of its own; both look at the same clock of the system. Idle
means that nothing else runs in the reader; busy, that another thread of it computes all the time, so that whoever is
told first has to get the interpreter: once as the interpreter is, and once with a cache that was told to shorten its
switch interval, which serves the thread beside it as well.
"""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import hiredis
from l2_world import Loads, Machine, Raw, cache, command
from measuring import LIMIT, OURS, Area, Case, Contender, Effort, Figure, compare_each, quantile
from serving import Server, server

from novacron_cache import Cache

EACH = 20
"""How many writes a turn waits for."""
DEADLINE = 5.0
SWITCH_INTERVAL = "0.2ms"
"""What the cache is told in the last cases."""
KEY = "m-1"


class Seen:
    """When a reader saw something."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self._at = 0

    def now(self) -> None:
        """Note that it is seen."""
        self._at = time.monotonic_ns()
        self._event.set()

    def forget(self) -> None:
        """Wait for the next one from now on."""
        self._event.clear()

    def since(self, start: int) -> float:
        """Return the nanoseconds from a moment until it was seen."""
        if not self._event.wait(DEADLINE):
            raise RuntimeError(f"nothing was seen within {DEADLINE} s")
        return float(self._at - start)


class RawReader:
    """A thread that waits for pushes."""

    def __init__(self, running: Server, seen: Seen) -> None:
        self._socket = running.connect()
        self._socket.settimeout(None)
        self._socket.sendall(b"HELLO 3\r\nCLIENT TRACKING ON BCAST PREFIX raw:\r\n")
        self._seen = seen
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def _listen(self) -> None:
        reader = hiredis.Reader()
        while data := self._socket.recv(1 << 16):
            reader.feed(data)
            while (message := reader.gets()) is not False:
                if isinstance(message, list) and message[0] == b"invalidate":
                    self._seen.now()

    def close(self) -> None:
        """End the thread."""
        self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join(DEADLINE)
        self._socket.close()


@contextmanager
def _writer(running: Server) -> Iterator[Callable[[str], int]]:
    """Have a process write; the function returns when it began to, in nanoseconds."""
    process = subprocess.Popen(  # noqa: S603
        [sys.executable, __file__, str(running.port)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdin is not None
    assert process.stdout is not None
    ask, answer = process.stdin, process.stdout

    def write(what: str) -> int:
        ask.write(what + "\n")
        ask.flush()
        return int(answer.readline())

    try:
        write("raw")
        yield write
    finally:
        process.stdin.close()
        process.wait(10)
        process.stdout.close()


def _write(port: int) -> None:
    """Be the writer, until nobody asks any more."""
    running = Server(port, 0)
    raw = Raw(running)
    words = command(b"SET", b"raw:signal", b"1")
    with cache(running) as made:
        for line in sys.stdin:
            # The reader has just been busy with what came before; it shall be at rest.
            time.sleep(0.002)
            start = time.monotonic_ns()
            if line.strip() == "raw":
                raw.ask(words)
            else:
                made.invalidate(f"machine:{KEY}")
            print(start, flush=True)
    raw.close()


@contextmanager
def _busy() -> Iterator[None]:
    ending = False

    def spin() -> None:
        number = 0
        while not ending:
            number += 1

    thread = threading.Thread(target=spin, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ending = True
        thread.join()


def _compare(
    running: Server, write: Callable[[str], int], reading: Cache, stack: ExitStack, what: str, rounds: int
) -> list[Case]:
    raw_seen, seen = Seen(), Seen()
    raw = RawReader(running, raw_seen)
    stack.callback(raw.close)
    loads = Loads()

    @reading.cached(Machine, key="machine:<machine_id>", name="seen")
    def get(machine_id: str) -> Machine:
        return loads.load(machine_id)

    # What the link calls when something was invalidated elsewhere; the value has left L1 when it returns.
    engine: Any = reading.engine
    original = type(engine).signalled.__get__(engine)

    watched: list[Any] = []

    def signalled(signals: Any) -> None:
        original(signals)
        if watched and not watched[0].alive:
            watched.clear()
            seen.now()

    engine.signalled = signalled
    stack.callback(lambda: engine.__dict__.pop("signalled", None))

    def pushed() -> tuple[float, float]:
        taken = []
        for _ in range(EACH):
            raw_seen.forget()
            taken.append(raw_seen.since(write("raw")))
        return quantile(taken, 0.5), quantile(taken, 0.95)

    def invalidated() -> tuple[float, float]:
        taken = []
        for _ in range(EACH):
            before = loads.count
            get(KEY)
            seen.forget()
            watched[:] = engine.memory.entries()
            taken.append(seen.since(write("ours")))
            get(KEY)
            if loads.count == before:
                raise AssertionError("a value outlived its invalidation")
        return quantile(taken, 0.5), quantile(taken, 0.95)

    return compare_each(
        [f"a write seen elsewhere, {what}, p50", f"a write seen elsewhere, {what}, p95"],
        [
            Contender(LIMIT, lambda: (pushed, lambda: None), "a push of the server, read from the socket"),
            Contender(OURS, lambda: (invalidated, lambda: None), "invalidate() elsewhere until it has left this L1"),
        ],
        rounds=rounds,
        passes=1,
    )


def run(effort: Effort) -> Area:
    """Measure how fast invalidations arrive."""
    rounds = effort.of(15, 3, 1)
    shorter = f"switch_interval={SWITCH_INTERVAL}"
    with server() as running, _writer(running) as write:
        with ExitStack() as stack:
            reading = stack.enter_context(cache(running))
            idle, idle_tail = _compare(running, write, reading, stack, "idle", rounds)
            with _busy():
                busy, busy_tail = _compare(running, write, reading, stack, "a busy thread", rounds)
        with ExitStack() as stack:
            reading = stack.enter_context(cache(running, switch_interval=SWITCH_INTERVAL))
            with _busy():
                short, short_tail = _compare(running, write, reading, stack, f"a busy thread, {shorter}", rounds)
    return Area(
        "coherence",
        [idle, idle_tail, busy, busy_tail, short, short_tail],
        [
            Figure("a write seen by a foreign L1, idle / raw push", idle.row(OURS).ratio, 1.3, 1.3),
            Figure("the same with a busy thread, p50", _milliseconds(busy), 1.0, 1.0, unit=" ms"),
            Figure(f"the same, {shorter}", _milliseconds(short), 1.0, 1.0, unit=" ms"),
        ],
    )


def _milliseconds(case: Case) -> float | None:
    taken = case.row(OURS).value
    return None if taken is None else taken / 1e6


if __name__ == "__main__":
    _write(int(sys.argv[1]))
