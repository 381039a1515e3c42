"""The shared tier: payloads and markers in a Redis or Valkey server (7 or later).

What the operations mean is written once, without I/O: `plan` turns an operation into commands and `parse` turns the
replies into its result. Two executors of a few lines each carry the commands, one over redis-py's blocking connections,
one over its asynchronous ones.

Keys, below the prefix `nc:<namespace>:` that an access rule can fence:

- `v:<stored key>`: a payload;
- `m:<dependency>`: the marker of a dependency, holding its current id;
- `s:<id>:<dependency>`: comes and goes to signal that a dependency got this id;
- `l:{<stored key>}`: who loads a value (see `redis_scripts.TAKE_LEASE`);
- `s:l<id>:{<stored key>}` and `s:x<id>:{<stored key>}`: come and go to signal that such a lease has ended;
- `g:{n}`: the histories of servers that the namespace has met (see `redis_generations`);
- `o:<process>`: the figures of a process that somebody watches; `o:{o}` lists the names of such processes;
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
from collections.abc import Generator, Iterator, Sequence
from functools import partial
from typing import Any, ClassVar, Final, NamedTuple

from ..effects import (
    DOWN,
    Capture,
    Delete,
    Ending,
    Fetch,
    Fetched,
    Hold,
    KeepLeases,
    Operation,
    Purge,
    ReadClock,
    ReadRules,
    Release,
    Renew,
    ReturnLease,
    Store,
    TakeLease,
    Taken,
    Together,
)
from ..errors import TierUnavailableError
from ..keys import server_safe, server_unsafe
from ..leases import ENDED, IN_VAIN
from ..markers import ID_BYTES, MAX_RULES, NAMESPACE, RULES, WATCHED, new_id
from . import Tier, redis_scripts
from .redis_coalescing import Coalescing
from .redis_connections import ConnectionFactory, RedisConnections, RedisOptions, error_code, tier_error
from .redis_exchange import aexchange, exchange
from .redis_generations import Generations
from .redis_loops import AsyncClients
from .redis_pools import PoolUse, renew, use_of

__all__ = ["Batch", "Commands", "RedisConnections", "RedisOptions", "RedisTier", "Scanned"]

_SCAN_COUNT = 1000
_PUBLISHERS = 1024  # how many names of processes that publish are kept, the newest
_LONGEST = 100 * 365 * 86_400.0  # seconds; the server refuses what overflows its clock
_GENERATION_LIFE = 365 * 86_400.0  # seconds
DONE_LIFE: Final = 0.25
"""Seconds for which a lease that has ended says that a value was stored: longer than from looking to asking."""
_TRANSIT = 0.02  # seconds that a question may take to arrive; where it takes longer, a value may be loaded twice
_WAIT = 100  # ms that the server may wait for its replicas; it looks at its clock ten times a second


class Batch(NamedTuple):
    """Commands that travel in one round trip.

    Attributes:
        commands: each a tuple of the command's name and arguments.
        holds: whether a marker may turn out to be held, which is then the command's reply: `HELD`.
        spare: how many commands, at the end, may fail without the others; `DOWN` is then their reply.
    """

    commands: list[tuple[Any, ...]]
    holds: bool = False
    spare: int = 0


class Scanned(NamedTuple):
    """Some of the keys that a server keeps.

    Attributes:
        server: the server's address.
        keys: their names; one may come twice.
        progress: which part of all servers has been gone through, from 0 to 1.
    """

    server: str
    keys: list[bytes]
    progress: float


HELD: Final = object()
"""The reply to a command that wanted the id of a marker that is held."""


class Commands:
    """Turns operations into commands and replies into results; pure, for one namespace.

    Args:
        namespace: keeps applications apart on one server.

    Attributes:
        in_order: whether the commands of one batch are carried out one after the other, wherever their keys live.
    """

    in_order: ClassVar[bool] = True

    def __init__(self, namespace: str) -> None:
        # Without a colon of its own, a namespace cannot reach into another's keys.
        self._prefix = f"nc:{server_safe(namespace).replace(':', '%3A')}:"
        self._value = self._prefix + "v:"
        self._marker = self._prefix + "m:"
        self._log = f"{self._prefix}r:{{{RULES}}}"
        self._published = self._prefix + "o:"
        self._publishers = f"{self._published}{{{WATCHED}}}"
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

    def lease_keys(self, key: str, holder: bytes, ending: Ending) -> tuple[str, str]:
        """Return the keys of a lease and of the signal that it has ended; a stored key contains no braces."""
        # What tells them from the signals of markers is no hexadecimal digit.
        letter = (IN_VAIN if ending is Ending.IN_VAIN else ENDED)[0]
        return f"{self._prefix}l:{{{key}}}", f"{self.signals}{letter}{holder.hex()}:{{{key}}}"

    def parse_signal(self, key: bytes) -> tuple[str, bytes] | None:
        """Return the (dependency, id) of a signal key, or None for any other key.

        That of a lease gives a stored key behind what `leases` calls its end, and the id of its holder.
        """
        text = key.decode("utf-8", "surrogateescape")
        marker_id, colon, dep = text[len(self.signals) :].partition(":")
        if not text.startswith(self.signals) or not colon or dep[:1] != "{" or dep[-1:] != "}":
            return None
        try:
            if (kind := marker_id[:1] + ":") in (ENDED, IN_VAIN):
                return kind + dep[1:-1], bytes.fromhex(marker_id[1:])
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
                return _batches(self._renew(renew, life) + self._capture(deps, life), holds=True)
            case Store():
                return _batches(self._store(operation))
            case Renew(markers, life, rules, replicas):
                commands = self._renew(markers, life) + self._append(rules, life)
                return _batches([*commands, ("WAIT", replicas, _WAIT)] if replicas else commands)
            case Hold(deps, holder, seconds):
                return _batches([self._hold(dep, holder, seconds) for dep in deps])
            case Release(markers, holder, life):
                return _batches([self._set_marker(dep, id_, life, holder) for dep, id_ in markers])
            case ReadRules():
                return [Batch([("LRANGE", self._log, 0, MAX_RULES - 1)])]
            case ReadClock():
                return [_TIME]
            case TakeLease() | KeepLeases() | ReturnLease():
                commands = self._lease(operation)
                return [Batch(commands, spare=len(commands))] if commands else []
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
            case Fetch(keys, deps):
                found = replies[0] if replies else []
                if not isinstance(found, list) or len(found) != len(keys) + len(deps):
                    raise TypeError("not an answer to MGET")
                return Fetched(found[: len(keys)], found[len(keys) :])
            case Capture(deps, _, renew):
                offered = plan[0].commands[len(renew) :] if plan else []
                found = list(replies[len(renew) : len(renew) + len(deps)])
                # `SET ... NX GET` answers with the id that was there, or with nothing when ours went in.
                return [offered[i][2] if one is None else None if one is HELD else one for i, one in enumerate(found)]
            case Renew(replicas=replicas) if replicas:
                return int(replies[-1]) >= replicas
            case Hold():
                return [bool(reply) for reply in replies]
            case ReadRules():
                return [(element[:ID_BYTES], element[ID_BYTES:]) for element in replies[0]]
            case ReadClock():
                return _time(list(replies))
            case KeepLeases():
                # One that could not be asked about may still be kept next time.
                return [reply is DOWN or bool(reply) for reply in replies]
            case _:
                return True

    def steps(self, operation: Operation) -> Generator[Batch, list[Any], Any]:
        """Yield each round trip of an operation, expect its replies, and return the operation's result."""
        if isinstance(operation, Purge):
            return (yield from self._purge())
        if isinstance(operation, Together):
            return (yield from self._together(operation))
        replies: list[Any] = []
        plan = self.plan(operation)
        for batch in plan:
            replies += yield batch
        if isinstance(operation, TakeLease):
            return (yield from self._take(operation, replies[0]))
        result = self.parse(operation, plan, replies)
        if isinstance(operation, Capture) and None in result:
            held = [position for position, one in enumerate(result) if one is None]
            again = yield Batch([self._capture_held(operation.deps[i], operation.life) for i in held])
            for position, one in zip(held, again, strict=True):
                result[position] = one
        return result

    def _together(self, operation: Together) -> Generator[Batch, list[Any], tuple[Any, Any]]:
        """Send the first batch of the one with the other; or the other afterwards, where it might come first."""
        first, then = operation.first, operation.then
        steps, (aside,) = self.steps(first), self.plan(then)
        apart = isinstance(then, ReturnLease) and not self.in_order
        extra: list[Any] = []
        try:
            batch = next(steps)
            if not apart:
                count = len(batch.commands)
                replies = yield Batch([*batch.commands, *aside.commands], batch.holds, aside.spare)
                extra, replies = replies[count:], replies[:count]
                batch = steps.send(replies)
            while True:
                batch = steps.send((yield batch))
        except StopIteration as done:
            result = done.value
        if not extra:
            extra = yield aside
        if isinstance(then, TakeLease):
            return result, (yield from self._take(then, extra[0]))
        return result, self.parse(then, [aside], extra)

    def _take(self, operation: TakeLease, reply: Any) -> Generator[Batch, list[Any], Any]:
        """Ask again, for longer, where a lease was not simply free; return the operation's result."""
        if not isinstance(reply, bytes):
            return reply
        name, _ = self.lease_keys(operation.key, operation.holder, Ending.STORED)
        old = max(0.0, 1000 * (DONE_LIFE - operation.looked - _TRANSIT))
        more = (operation.holder, _milliseconds(operation.seconds), operation.seen, math.floor(old))
        (reply,) = yield Batch([("EVAL", redis_scripts.TAKE_LEASE, 1, name, *more)], spare=1)
        return _taken(*reply) if isinstance(reply, list) else reply

    def _lease(self, operation: TakeLease | KeepLeases | ReturnLease) -> list[tuple[Any, ...]]:
        match operation:
            case TakeLease(key, holder, seconds):
                name, _ = self.lease_keys(key, holder, Ending.STORED)
                return [("SET", name, b"h" + holder, "NX", "GET", "PX", _milliseconds(seconds))]
            case KeepLeases(leases, seconds):
                px = _milliseconds(seconds)
                names = [self.lease_keys(key, holder, Ending.STORED)[0] for key, holder in leases]
                return [
                    ("EVAL", redis_scripts.KEEP_LEASE, 1, name, holder, px)
                    for name, (_, holder) in zip(names, leases, strict=True)
                ]
            case ReturnLease(key, holder, ending):
                stays = _milliseconds(DONE_LIFE) if ending is Ending.STORED else 0
                return [("EVAL", redis_scripts.RETURN_LEASE, 2, *self.lease_keys(key, holder, ending), holder, stays)]

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
        if operation.new_only:
            commands = [(*command, "NX") for command in commands]
        px = _milliseconds(operation.life)
        commands += [("PEXPIRE", self.marker_key(dep), px, "GT") for dep in operation.extend]
        return commands

    def _renew(self, markers: Sequence[tuple[str, bytes]], life: float) -> list[tuple[Any, ...]]:
        return [self._set_marker(dep, marker_id, life) for dep, marker_id in markers]

    def _set_marker(self, dep: str, marker_id: bytes, life: float, holder: bytes | None = None) -> tuple[Any, ...]:
        keys = (self.marker_key(dep), self.signal_key(dep, marker_id))
        if holder is None:
            return ("EVAL", redis_scripts.RENEW, 2, *keys, marker_id, _milliseconds(life))
        return ("EVAL", redis_scripts.RELEASE, 2, *keys, marker_id, _milliseconds(life), holder)

    def _hold(self, dep: str, holder: bytes, seconds: float) -> tuple[Any, ...]:
        keys = (self.marker_key(dep), self.signal_key(dep, holder))
        return ("EVAL", redis_scripts.HOLD, 2, *keys, holder, _milliseconds(seconds))

    def _capture_held(self, dep: str, life: float) -> tuple[Any, ...]:
        return ("EVAL", redis_scripts.CAPTURE_HELD, 1, self.marker_key(dep), new_id(), _milliseconds(life))

    def generation(self, replid: str, others: Sequence[str], life: float) -> tuple[Any, ...]:
        """Return the command that has a server's history known, and the namespace invalidated where one is new there.

        Its reply is for how many seconds the history has been known.

        Args:
            replid: the history of the server that a connection leads to.
            others: histories that this process has met before; a list that lacks one of them is out of date.
            life: seconds that the namespace's marker lives at least.
        """
        fresh = new_id()
        keys = (self.marker_key(NAMESPACE), self.signal_key(NAMESPACE, fresh), f"{self._prefix}g:{{{NAMESPACE}}}")
        ends = (_milliseconds(life), _milliseconds(_GENERATION_LIFE), replid, *others)
        return ("EVAL", redis_scripts.GENERATION, 3, *keys, fresh, *ends)

    def at(self, server: str, command: tuple[Any, ...]) -> Batch:
        """Return what asks one server something, wherever the keys are that it names."""
        return Batch([command])

    def publish(self, process: str, snapshot: bytes, life: float) -> Batch:
        """Return the commands that keep a process's figures for a while, where `publishers` finds its name."""
        px = _milliseconds(life)
        kept = ("SET", self._published + server_safe(process), snapshot, "PX", px)
        # Not found by scanning: that would take as long as the server holds keys.
        enlist = ("EVAL", redis_scripts.ENLIST, 1, self._publishers, server_safe(process), _PUBLISHERS, px)
        return Batch([kept, enlist])

    def publishers(self) -> Batch:
        """Return the command that reads the names of processes that published, some of them twice."""
        return Batch([("LRANGE", self._publishers, 0, _PUBLISHERS - 1)])

    def published(self, processes: Sequence[bytes]) -> Batch | None:
        """Return the command that reads the figures of the processes with these names, or None where there are none."""
        names = list(dict.fromkeys(self._published + name.decode("ascii", "replace") for name in processes))
        return Batch([("MGET", *names)]) if names else None

    def _append(self, rules: Sequence[tuple[bytes, bytes]], life: float) -> list[tuple[Any, ...]]:
        if not rules:
            return []
        keys = (self.marker_key(RULES), self.signal_key(RULES, rules[-1][0]), self._log)
        elements = [rule_id + rule for rule_id, rule in rules]
        return [("EVAL", redis_scripts.APPEND, 3, *keys, rules[-1][0], _milliseconds(life), MAX_RULES - 1, *elements)]

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


def _part(cursor: int) -> float:
    """Return which part of a server's table lies before a cursor, whose lowest bit is the one that counts most."""
    return int(f"{cursor:064b}"[::-1], 2) / 2**64


def _batches(commands: list[tuple[Any, ...]], *, holds: bool = False) -> list[Batch]:
    return [Batch(commands, holds)] if commands else []


def _milliseconds(seconds: float) -> int:
    return max(1, math.ceil(min(seconds, _LONGEST) * 1000))


class RedisTier(Tier):
    """Keeps payloads and markers in a Redis or Valkey server; shared by every process that names it.

    Connections are opened at the first operation. Blocking callers share one pool; each event loop has its own. A child
    that was forked starts with none of its parent's.

    Args:
        connections: how to reach the server.
        namespace: the prefix under which this application's keys live.
        marker_life: seconds for which the namespace's marker lives when the tier itself renews it.
    """

    name: ClassVar[str] = "redis"
    has_clock: ClassVar[bool] = True
    has_leases: ClassVar[bool] = True

    def __init__(self, connections: ConnectionFactory, namespace: str, *, marker_life: float = 2 * 86_400.0) -> None:
        self.commands = Commands(namespace)
        self.generations = Generations(partial(self.commands.generation, life=marker_life))
        connections.generations = self.generations
        self._connections = connections
        self._namespace = namespace
        self._lock = threading.Lock()
        self._client: Any = None
        self._aclients = AsyncClients(connections.aclient)
        self._reads = Coalescing(self._acarry_out)
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
        commands = self.commands
        if type(operation) is Fetch:
            # What is asked most often, and in one trip: nobody has to be asked what comes next.
            plan = commands.plan(operation)
            try:
                return commands.parse(operation, plan, self._execute(plan[0]) if plan else [])
            except MISSHAPEN as error:
                raise self._not_ours(error) from error
        steps = commands.steps(operation)
        try:
            batch = next(steps)
            while True:
                batch = steps.send(self._execute(batch))
        except StopIteration as done:
            return done.value
        except MISSHAPEN as error:
            raise self._not_ours(error) from error

    async def aperform(self, operation: Operation) -> Any:
        """Do what `perform` does through the running loop's client.

        A cancelled operation closes its connection, so that the reply it leaves behind is nobody else's. Reads that are
        asked for while another one is under way travel together.
        """
        if type(operation) is Fetch:
            return await self._reads.fetch(operation)
        return await self._acarry_out(operation)

    async def _acarry_out(self, operation: Operation) -> Any:
        if type(operation) is Fetch:
            plan = self.commands.plan(operation)
            try:
                return self.commands.parse(operation, plan, (await self._aexecute(plan[0])) if plan else [])
            except MISSHAPEN as error:
                raise self._not_ours(error) from error
        steps = self.commands.steps(operation)
        try:
            batch = next(steps)
            while True:
                batch = steps.send(await self._aexecute(batch))
        except StopIteration as done:
            return done.value
        except MISSHAPEN as error:
            raise self._not_ours(error) from error

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

    def pool_use(self) -> PoolUse:
        """Return how many connections are lent out and how many wait, of all pools together."""
        return use_of(self._client, self._aclients.clients())

    def servers(self) -> list[str]:
        """Return the addresses of the servers that keep the keys: every master of a cluster, else the one there is."""
        return [self._connections.where]

    def ask(self, server: str, *command: Any) -> Any:
        """Return what one of the `servers` answers to a command, as it came.

        Raises:
            TierError: it refused, or did not answer.
        """
        return self._execute(self.commands.at(server, command))[0]

    def scan(self, pattern: str = "*", count: int = _SCAN_COUNT) -> Iterator[Scanned]:
        """Yield the names of all keys that match a glob, a few at a time, from one server after the other.

        Args:
            pattern: a glob over the keys as the server knows them, which begin with `nc:<namespace>:`.
            count: how many keys a server looks at in one step; it does nothing else meanwhile.

        Raises:
            TierError: a server does not answer; what the others keep has then not been told.
        """
        servers = self.servers()
        for number, server in enumerate(servers):
            cursor = 0
            while True:
                after, keys = self.ask(server, "SCAN", cursor, "MATCH", pattern, "COUNT", count)
                cursor = int(after)
                part = 1.0 if not cursor else _part(cursor) if len(servers) == 1 else 0.0
                yield Scanned(server, keys, (number + part) / len(servers))
                if not cursor:
                    break

    def publish(self, process: str, snapshot: bytes, life: float) -> None:
        """Keep what a process says about itself, for `published`.

        Args:
            process: its name among those of the namespace.
            snapshot: what it says.
            life: seconds until that is forgotten.

        Raises:
            TierError: it could not be kept.
        """
        self._execute(self.commands.publish(process, snapshot, life))

    def published(self) -> list[bytes]:
        """Return what processes say about themselves; raises TierError when it cannot be read."""
        (processes,) = self._execute(self.commands.publishers())
        batch = self.commands.published(processes)
        # One reply, or in a cluster one for each process; a node that does not answer takes those it keeps with it.
        replies = [] if batch is None else self._execute(batch)
        return [one for reply in replies if isinstance(reply, list) for one in reply if isinstance(one, bytes)]

    def encounters(self) -> int:
        """Return how many servers behind this tier were met for the first time after another one."""
        return self.generations.encounters

    def renew_connections(self) -> None:
        """Have every connection opened anew, and checked again, before it is next used.

        What leads to a server that has been replaced, or is a master no longer, stays open and answers as before.
        """
        client = self._client
        if client is not None:
            renew(client)
        self._aclients.renew()

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
            replies = exchange(client.connection_pool, batch.commands)
        except Exception as error:
            raise self._named(error) from error
        return self._checked(replies, batch)

    async def _aexecute(self, batch: Batch) -> list[Any]:
        try:
            self._check_open()
            client = await self._aclients.current()
            replies = await aexchange(client.connection_pool, batch.commands)
        except Exception as error:
            raise self._named(error) from error
        return self._checked(replies, batch)

    def _checked(self, replies: list[Any], batch: Batch) -> list[Any]:
        spare = len(replies) - batch.spare
        for position, reply in enumerate(replies):
            if isinstance(reply, Exception):
                if position >= spare:
                    replies[position] = DOWN
                elif batch.holds and error_code(reply) == "WRONGTYPE":
                    replies[position] = HELD
                else:
                    raise self._named(reply) from reply
        return replies

    def _named(self, error: Exception) -> Exception:
        if isinstance(error, TierUnavailableError):
            return error
        if error_code(error) in {"READONLY", "MASTERDOWN"}:
            self.renew_connections()
        return tier_error(error, where=self._connections.where, secrets=self._connections.secrets)

    def _not_ours(self, error: Exception) -> TierUnavailableError:
        text = f"redis at {self._connections.where}: an answer has another form than asked for ({type(error).__name__})"
        return TierUnavailableError(text, tier=self.name)

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
        self.generations.reset()
        self._aclients.forget()
        self._reads.forget()

    def __repr__(self) -> str:
        return f"<RedisTier {self._connections.where} namespace={self._namespace!r}>"


MISSHAPEN: Final = (TypeError, ValueError, LookupError, AttributeError, ArithmeticError)
"""What reading an answer raises that is not what was asked for: the server is none, or something stands before it."""

_PING = Batch([("PING",)])
_TIME = Batch([("TIME",)])


def _taken(state: bytes, left: int) -> Taken:
    return Taken(state[1:], max(left, 1) / 1000, done=state[:1] == b"d")


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
