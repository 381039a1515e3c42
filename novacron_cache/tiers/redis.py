"""The shared tier: payloads and markers in a Redis or Valkey server (7 or later).

What the operations mean is written once, without I/O: `plan` turns an operation into commands and `parse` turns the
replies into its result. Two executors of a few lines each carry the commands, one through `redis.Redis`, one through
`redis.asyncio.Redis`.

Keys, below the prefix `nc:<namespace>:` that an access rule can fence:

- `v:<stored key>`: a payload;
- `m:<dependency>`: the marker of a dependency, holding its current id;
- `r:{g}`: the log of rules, newest first, each element an id and a rule. Its head is the marker of `markers.RULES`,
  named `m:{g}`: the braces put both in one slot of a cluster, where one transaction can move them together. Namespace
  and dependencies are percent-encoded, so that no other name contains a brace.

Only that pair needs a transaction. Everything else holds by order, since a marker that is lost, late or newer than its
value costs a miss and nothing else: renewals go before payloads, and no command depends on an earlier one's reply.
Every key has a time to live, so the server may run with any `volatile-*` eviction.
"""

from __future__ import annotations

import math
import os
import threading
import weakref
from collections.abc import Generator, Sequence
from typing import Any, ClassVar, Final, NamedTuple

from ..effects import Capture, Delete, Fetch, Fetched, Operation, Purge, ReadClock, ReadRules, Renew, Store
from ..errors import TierUnavailableError
from ..keys import server_safe, server_unsafe
from ..markers import ID_BYTES, MAX_RULES, RULES, new_id
from . import Tier
from .redis_connections import ConnectionFactory, RedisConnections, RedisOptions, tier_error
from .redis_loops import AsyncClients

__all__ = ["Batch", "Commands", "RedisConnections", "RedisOptions", "RedisTier"]

_SCAN_COUNT = 1000
_LONGEST = 100 * 365 * 86_400.0  # seconds; the server refuses what overflows its clock


class Batch(NamedTuple):
    """Commands that travel in one round trip.

    Attributes:
        commands: each a tuple of the command's name and arguments.
    """

    commands: list[tuple[Any, ...]]


class Commands:
    """Turns operations into commands and replies into results; pure, for one namespace.

    Args:
        namespace: keeps applications apart on one server.
    """

    def __init__(self, namespace: str) -> None:
        # Without a colon of its own, a namespace cannot reach into another's keys.
        self._prefix = f"nc:{server_safe(namespace).replace(':', '%3A')}:"
        self._value = self._prefix + "v:"
        self._marker = self._prefix + "m:"
        self._log = f"{self._prefix}r:{{{RULES}}}"
        self.signals = self._prefix + "s:"
        """The prefix of the keys whose names tell other processes what was invalidated."""

    def value_key(self, key: str) -> str:
        """Return the server's key of a payload."""
        return self._value + key

    def marker_key(self, dep: str) -> str:
        """Return the server's key of a dependency's marker."""
        # In braces, so that a marker, its signals and, for the rules, the log share a slot.
        return f"{self._marker}{{{server_safe(dep)}}}"

    def signal_key(self, dep: str, marker_id: bytes) -> str:
        """Return the key whose coming and going says that a dependency got this id."""
        return f"{self.signals}{marker_id.hex()}:{{{server_safe(dep)}}}"

    def parse_signal(self, key: bytes) -> tuple[str, bytes] | None:
        """Return the (dependency, id) of a signal key, or None for any other key."""
        text = key.decode("utf-8", "surrogateescape")
        marker_id, colon, dep = text[len(self.signals) :].partition(":")
        if not text.startswith(self.signals) or not colon or dep[:1] != "{" or dep[-1:] != "}":
            return None
        try:
            return server_unsafe(dep[1:-1]), bytes.fromhex(marker_id)
        except ValueError:
            return None

    def plan(self, operation: Operation) -> list[Batch]:
        """Return the round trips of an operation; none where there is nothing to do.

        `Purge` has no plan: how many trips it takes depends on the replies. See `steps`.
        """
        match operation:
            case Fetch(keys, deps):
                names = [self._value + key for key in keys]
                names += map(self.marker_key, deps)
                return [Batch([("MGET", *names)])] if names else []
            case Capture(deps, life, renew):
                return _batches(self._capture(deps, life) + self._renew(renew, life))
            case Store():
                return _batches(self._store(operation))
            case Renew(markers, life, rules):
                return _batches(self._renew(markers, life) + self._append(rules, life))
            case ReadRules():
                return [Batch([("LRANGE", self._log, 0, MAX_RULES - 1)])]
            case ReadClock():
                return [_TIME]
            case Delete(keys):
                return [Batch([("UNLINK", *(self._value + key for key in keys))])] if keys else []
            case _:
                raise TypeError(f"no plan for {operation!r}")

    def parse(self, operation: Operation, plan: Sequence[Batch], replies: Sequence[Any]) -> Any:
        """Return the result of an operation.

        Args:
            operation: what was asked.
            plan: what `plan` returned for it; ids are chosen there.
            replies: one for each command of the plan, as they came.
        """
        match operation:
            case Fetch(keys, _):
                found = list(replies[0]) if replies else []
                return Fetched(found[: len(keys)], found[len(keys) :])
            case Capture(deps):
                offered = plan[0].commands if plan else []
                # `SET ... NX GET` answers with the id that was there, or with nothing when ours went in.
                return [offered[i][2] if replies[i] is None else replies[i] for i in range(len(deps))]
            case ReadRules():
                return [(element[:ID_BYTES], element[ID_BYTES:]) for element in replies[0]]
            case ReadClock():
                return _time(list(replies))
            case _:
                return True

    def steps(self, operation: Operation) -> Generator[Batch, list[Any], Any]:
        """Yield each round trip of an operation, expect its replies, and return the operation's result."""
        if isinstance(operation, Purge):
            return (yield from self._purge())
        replies: list[Any] = []
        plan = self.plan(operation)
        for batch in plan:
            replies += yield batch
        return self.parse(operation, plan, replies)

    def _capture(self, deps: Sequence[str], life: float) -> list[tuple[Any, ...]]:
        px = _milliseconds(life)
        names = list(map(self.marker_key, deps))
        # A marker that was there keeps its id but must outlive the value; GT never shortens.
        return [("SET", name, new_id(), "NX", "GET", "PX", px) for name in names] + [
            ("PEXPIRE", name, px, "GT") for name in names
        ]

    def _store(self, operation: Store) -> list[tuple[Any, ...]]:
        commands: list[tuple[Any, ...]] = [
            ("SET", self._value + item.key, item.payload, "PX", _milliseconds(item.ttl)) for item in operation.items
        ]
        px = _milliseconds(operation.life)
        commands += [("PEXPIRE", self.marker_key(dep), px, "GT") for dep in operation.extend]
        return commands

    def _renew(self, markers: Sequence[tuple[str, bytes]], life: float) -> list[tuple[Any, ...]]:
        return [command for dep, marker_id in markers for command in self._set_marker(dep, marker_id, life)]

    def _set_marker(self, dep: str, marker_id: bytes, life: float) -> list[tuple[Any, ...]]:
        keys = (self.marker_key(dep), self.signal_key(dep, marker_id))
        return [("EVAL", _RENEW, 2, *keys, marker_id, _milliseconds(life))]

    def _append(self, rules: Sequence[tuple[bytes, bytes]], life: float) -> list[tuple[Any, ...]]:
        if not rules:
            return []
        keys = (self.marker_key(RULES), self.signal_key(RULES, rules[-1][0]), self._log)
        elements = [rule_id + rule for rule_id, rule in rules]
        return [("EVAL", _APPEND, 3, *keys, rules[-1][0], _milliseconds(life), MAX_RULES - 1, *elements)]

    def _purge(self) -> Generator[Batch, list[Any], bool]:
        pattern = self._value + "*"  # an encoded namespace has no glob characters
        cursor: Any = 0
        while True:
            (reply,) = yield Batch([("SCAN", cursor, "MATCH", pattern, "COUNT", _SCAN_COUNT)])
            cursor, keys = reply
            if keys:
                yield Batch([("UNLINK", *keys)])
            if int(cursor) == 0:
                return True


def _batches(commands: list[tuple[Any, ...]]) -> list[Batch]:
    return [Batch(commands)] if commands else []


def _milliseconds(seconds: float) -> int:
    return max(1, math.ceil(min(seconds, _LONGEST) * 1000))


class RedisTier(Tier):
    """Keeps payloads and markers in a Redis or Valkey server; shared by every process that names it.

    Connections are opened at the first operation. Blocking callers share one pool; each event loop has its own. A child
    that was forked starts with none of its parent's.

    Args:
        connections: how to reach the server.
        namespace: the prefix under which this application's keys live.
    """

    name: ClassVar[str] = "redis"
    has_clock: ClassVar[bool] = True

    def __init__(self, connections: ConnectionFactory, namespace: str) -> None:
        self.commands = Commands(namespace)
        self._connections = connections
        self._namespace = namespace
        self._lock = threading.Lock()
        self._client: Any = None
        self._aclients = AsyncClients(connections.aclient)
        self._closed = False
        _tiers.add(self)

    def perform(self, operation: Operation) -> Any:
        """Carry out an operation through the blocking client.

        Returns:
            What the operation's class documents.

        Raises:
            TierUnavailableError: the server cannot be reached, did not answer in time, or refuses reads or writes.
            TierError: the server refused a command for another reason.
        """
        steps = self.commands.steps(operation)
        try:
            batch = next(steps)
            while True:
                batch = steps.send(self._execute(batch))
        except StopIteration as done:
            return done.value

    async def aperform(self, operation: Operation) -> Any:
        """Do what `perform` does through the running loop's client.

        A cancelled operation closes its connection, so that the reply it leaves behind is nobody else's.
        """
        steps = self.commands.steps(operation)
        try:
            batch = next(steps)
            while True:
                batch = steps.send(await self._aexecute(batch))
        except StopIteration as done:
            return done.value

    def connect(self) -> Any:
        """Return a connection of its own, which has spoken RESP3 and logged in; not one of the pool."""
        client = self._client or self._connect()
        pool = client.connection_pool
        # Not `make_connection()`: the pool would keep, and count, what it makes.
        connection = pool.connection_class(**pool.connection_kwargs)
        connection.connect()
        return connection

    def ping(self) -> None:
        """Return when the server answers; raises TierError when it does not."""
        self._execute(_PING)

    async def aping(self) -> None:
        """Return when the server answers; raises TierError when it does not."""
        await self._aexecute(_PING)

    def info(self, section: str = "server") -> dict[str, str]:
        """Return a section of the server's report on itself, such as `"memory"` or `"replication"`."""
        return _info(self._execute(Batch([("INFO", section)])))

    async def ainfo(self, section: str = "server") -> dict[str, str]:
        """Return a section of the server's report on itself, such as `"memory"` or `"replication"`."""
        return _info(await self._aexecute(Batch([("INFO", section)])))

    def close(self) -> None:
        """Close all connections; those of a loop that runs in another thread are closed by that loop."""
        with self._lock:
            self._closed = True
            client, self._client = self._client, None
        if client is not None:
            client.connection_pool.disconnect()
        self._aclients.close()

    async def aclose(self) -> None:
        """Close all connections, waiting for those of the running loop."""
        self._closed = True
        await self._aclients.aclose()
        self.close()

    def _execute(self, batch: Batch) -> list[Any]:
        try:
            client = self._client or self._connect()
            if len(batch.commands) == 1:
                return [client.execute_command(*batch.commands[0])]
            with client.pipeline(transaction=False) as pipeline:
                for command in batch.commands:
                    pipeline.execute_command(*command)
                replies: list[Any] = pipeline.execute(raise_on_error=False)
        except Exception as error:
            raise self._named(error) from error
        return self._checked(replies)

    async def _aexecute(self, batch: Batch) -> list[Any]:
        try:
            self._check_open()
            client = await self._aclients.current()
            if len(batch.commands) == 1:
                return [await client.execute_command(*batch.commands[0])]
            async with client.pipeline(transaction=False) as pipeline:
                for command in batch.commands:
                    pipeline.execute_command(*command)
                replies: list[Any] = await pipeline.execute(raise_on_error=False)
        except Exception as error:
            raise self._named(error) from error
        return self._checked(replies)

    def _checked(self, replies: list[Any]) -> list[Any]:
        for reply in replies:
            if isinstance(reply, Exception):
                raise self._named(reply) from reply
        return replies

    def _named(self, error: Exception) -> Exception:
        if isinstance(error, TierUnavailableError):
            return error
        return tier_error(error, where=self._connections.where, secrets=self._connections.secrets)

    def _connect(self) -> Any:
        with self._lock:
            self._check_open()
            if self._client is None:
                self._client = self._connections.client()
            return self._client

    def _check_open(self) -> None:
        if self._closed:
            raise TierUnavailableError("the redis tier is closed", tier=self.name)

    def _after_fork(self) -> None:
        self._lock = threading.Lock()
        self._aclients.forget()

    def __repr__(self) -> str:
        return f"<RedisTier {self._connections.where} namespace={self._namespace!r}>"


_RENEW: Final = """#!lua flags=allow-oom
local left = redis.call('PTTL', KEYS[1])
if left < tonumber(ARGV[2]) then
  redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
else
  redis.call('SET', KEYS[1], ARGV[1], 'KEEPTTL')
end
redis.call('SET', KEYS[2], '', 'PX', 1000)
redis.call('DEL', KEYS[2])
return 1
"""
"""Gives a marker a new id, never shortening its life, and signals it: one step in one slot, which a server that has run
out of memory carries out too."""

_APPEND: Final = (
    _RENEW.replace("return 1", "")
    + """redis.call('LPUSH', KEYS[3], unpack(ARGV, 4))
redis.call('LTRIM', KEYS[3], 0, ARGV[3])
if redis.call('PTTL', KEYS[3]) < tonumber(ARGV[2]) then
  redis.call('PEXPIRE', KEYS[3], ARGV[2])
end
return 1
"""
)
"""Appends rules to the log and moves its head to the last one, in one step."""

_PING = Batch([("PING",)])
_TIME = Batch([("TIME",)])


def _time(replies: list[Any]) -> float:
    whole, micro = replies[0]
    return int(whole) + int(micro) / 1e6


def _info(replies: list[Any]) -> dict[str, str]:
    lines = replies[0].decode("utf-8", "replace").splitlines()
    return dict(line.split(":", 1) for line in lines if ":" in line and not line.startswith("#"))


_tiers: weakref.WeakSet[RedisTier] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for tier in tuple(_tiers):
        tier._after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
