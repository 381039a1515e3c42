"""Other processes that note when something reaches them; the arguments are the kind, the server, and a file for notes.

`cache` is a cache whose memory has an entry: it notes when a signal has been obeyed. `raw` is nothing but a connection
with tracking on: it notes when a push has been read. `bystander` sends one PING after another and notes the slow ones.
"""

from __future__ import annotations

import mmap
import sys
import threading
import time
from pathlib import Path
from typing import Any

import hiredis
import redis

from novacron_cache import Cache

SLOTS = 4096
STALL = 2_000_000
RAW = "raw:"


class Notes:
    """Times that one process writes and another reads: a count and so many slots."""

    def __init__(self, path: Path, *, create: bool = False) -> None:
        size = 8 * (1 + 2 * SLOTS)
        if create:
            path.write_bytes(bytes(size))
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), size)
        self._words = memoryview(self._map).cast("q")

    @property
    def count(self) -> int:
        return self._words[0]

    def add(self, at: int, until: int = 0) -> None:
        place = 1 + 2 * (self._words[0] % SLOTS)
        self._words[place], self._words[place + 1] = at, until
        self._words[0] += 1

    def __getitem__(self, number: int) -> tuple[int, int]:
        place = 1 + 2 * (number % SLOTS)
        return self._words[place], self._words[place + 1]


def listen_as_cache(url: str, notes: Notes) -> None:
    cache = Cache.connect(url, namespace="faults")
    cache.get_or_load("seen:1", lambda: 1, tags=["seen"])
    engine = cache.engine
    signalled = engine.signalled

    def note(signals: Any) -> None:
        signalled(signals)
        notes.add(time.monotonic_ns())

    engine.signalled = note  # type: ignore[method-assign]  # what is measured is when it has been obeyed


def listen_raw(url: str, notes: Notes) -> None:
    connection: Any = redis.Redis.from_url(url, protocol=3).connection_pool.get_connection()
    connection.send_command("CLIENT", "TRACKING", "ON", "BCAST", "PREFIX", RAW)
    connection.read_response()
    sock, reader = connection._sock, hiredis.Reader()
    sock.settimeout(None)

    def run() -> None:
        while data := sock.recv(65536):
            reader.feed(data)
            while (message := reader.gets()) is not False:
                if message[0] == b"invalidate":
                    notes.add(time.monotonic_ns())

    threading.Thread(target=run, daemon=True).start()


def stand_by(url: str, notes: Notes) -> None:
    client = redis.Redis.from_url(url)

    def run() -> None:
        while True:
            began = time.monotonic_ns()
            client.ping()
            if (ended := time.monotonic_ns()) - began > STALL:
                notes.add(began, ended)

    threading.Thread(target=run, daemon=True).start()


def main() -> None:
    kind, url, path = sys.argv[1:]
    {"cache": listen_as_cache, "raw": listen_raw, "bystander": stand_by}[kind](url, Notes(Path(path)))
    print("ready", flush=True)  # noqa: T201 - the answer to whoever started it
    sys.stdin.read()
