"""What the areas of the server share: the values, a check, and the contenders that only read and decode.

A value is a frozen model of about 300 bytes of JSON. Each contender stores its own values in its own way before the
first turn and then only reads: loads would show in the check. The least that anybody can do is a socket, hiredis as the
parser and pydantic's validator; peers that have no idea of models are given `model_validate_json`, which is what one
writes by hand, and those that pickle do it as they come.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

import hiredis
from serving import Server

from novacron_cache import Cache, CacheModel
from novacron_cache.settings import CacheSettings, MemorySettings, RedisSettings

COUNT = 200
TTL = 3600


class Machine(CacheModel, key="machine:<machine_id>", ttl="10m", tags=["rack:<rack>"]):
    machine_id: str
    rack: str
    name: str
    status: str
    cores: int
    memory_mb: int
    started: datetime
    owner: str
    image: str
    address: str
    load: float


def machine(machine_id: str) -> Machine:
    """Return the value of a key."""
    number = int(machine_id[2:])
    return Machine(
        machine_id=machine_id, rack=f"r-{number % 10}", name=f"worker-{number:06}.example.internal", status="running",
        cores=number % 64 + 1, memory_mb=1024 * (number % 128 + 1), image="debian-12-generic-amd64-20260901",
        started=datetime(2026, 9, 1, number % 24, number % 60, tzinfo=UTC), owner=f"team-{number % 40}",
        address=f"10.{number % 256}.{number // 256 % 256}.7", load=number % 100 / 100,
    )  # fmt: skip


def ids(count: int = COUNT) -> list[str]:
    """Return as many keys."""
    return [f"m-{number}" for number in range(count)]


def cache(server: Server, *, max_items: int = 10_000, switch_interval: str | None = None) -> Cache:
    """Return a cache over the server whose link is up, with time-outs that a loaded machine does not run into."""
    return linked(
        Cache(
            CacheSettings(
                namespace="bench",
                memory=MemorySettings(max_items=max_items),
                redis=RedisSettings(url=server.url, socket_timeout=5.0, connect_timeout=5.0),
                switch_interval=switch_interval,
            )
        )
    )


def linked(made: Cache) -> Cache:
    """Return a cache once it hears of what others invalidate."""
    up = threading.Event()
    made.on("link_up", lambda _: up.set())
    made.get("anything")
    if not up.wait(10):
        raise RuntimeError("the link did not come up within 10 s")
    return made


class Loads:
    """The loader: counts how often it was asked."""

    def __init__(self) -> None:
        self.count = 0

    def load(self, machine_id: str) -> Machine:
        self.count += 1
        return machine(machine_id)

    def check(self, keys: Sequence[str], values: Sequence[Any]) -> None:
        """Raise unless each key was loaded exactly once and gave its own value."""
        if self.count != len(keys):
            raise AssertionError(f"{self.count} loads of {len(keys)} keys")
        if list(values) != [machine(key) for key in keys]:
            raise AssertionError("a key gave another one's value")


def command(*words: bytes) -> bytes:
    """Return a command as it travels."""
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in words)


class Raw:
    """The least that is needed to ask a server: a socket and a parser."""

    def __init__(self, server: Server) -> None:
        self._socket = server.connect()
        self._reader = hiredis.Reader()

    def ask(self, data: bytes) -> Any:
        """Send a command and return its reply."""
        self._socket.sendall(data)
        while (reply := self._reader.gets()) is False:
            self._reader.feed(self._socket.recv(1 << 20))
        return reply

    def fill(self, prefix: str, keys: Sequence[str]) -> None:
        """Store the values as JSON."""
        for key in keys:
            self.ask(
                command(b"SET", f"{prefix}{key}".encode(), machine(key).__pydantic_serializer__.to_json(machine(key)))
            )

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()


class Pipe(asyncio.Protocol):
    """The least for many tasks: one connection, and what is asked in one turn of the loop is written at once."""

    def __init__(self) -> None:
        self._reader = hiredis.Reader()
        self._waiting: list[asyncio.Future[Any]] = []
        self._first = 0
        self._out: list[bytes] = []
        self._transport: Any = None
        self._loop = asyncio.get_running_loop()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def ask(self, data: bytes) -> asyncio.Future[Any]:
        """Return a future of the reply."""
        future: asyncio.Future[Any] = self._loop.create_future()
        self._waiting.append(future)
        if not self._out:
            self._loop.call_soon(self._flush)
        self._out.append(data)
        return future

    def _flush(self) -> None:
        self._transport.write(b"".join(self._out))
        self._out.clear()

    def data_received(self, data: bytes) -> None:
        self._reader.feed(data)
        while (reply := self._reader.gets()) is not False:
            self._waiting[self._first].set_result(reply)
            self._first += 1
        if self._first == len(self._waiting):
            self._waiting.clear()
            self._first = 0

    def close(self) -> None:
        """Close the connection."""
        self._transport.close()


async def open_pipe(server: Server) -> Pipe:
    """Return a connected pipe."""
    _, pipe = await asyncio.get_running_loop().create_connection(Pipe, "127.0.0.1", server.port)
    return pipe


Decode = Callable[[bytes], Machine]
decode: Decode = Machine.__pydantic_validator__.validate_json
