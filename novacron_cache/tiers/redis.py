"""The shared tier: payloads and markers in a Redis or Valkey server (7 or later).

What the operations mean is written once, without I/O, in `redis_commands`. Two executors of a few lines each carry the
commands, one over redis-py's blocking connections, one over its asynchronous ones.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Iterator
from functools import partial
from typing import Any, ClassVar, NamedTuple

from ..effects import DOWN, Fetch, Fetched, Operation, Renew
from ..errors import TierUnavailableError
from . import Tier
from .redis_coalescing import Coalescing
from .redis_commands import HELD, MISSHAPEN, SCAN_COUNT, Batch, Commands
from .redis_connections import ConnectionFactory, RedisConnections, RedisOptions, error_code, tier_error
from .redis_exchange import Listener, aexchange, exchange, exchange_one, exchange_script
from .redis_generations import Generations
from .redis_loops import AsyncClients
from .redis_pools import PoolUse, renew, use_of

__all__ = ["RedisConnections", "RedisOptions", "RedisTier", "Scanned"]


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


def _part(cursor: int) -> float:
    """Return which part of a server's table lies before a cursor, whose lowest bit is the one that counts most."""
    return int(f"{cursor:064b}"[::-1], 2) / 2**64


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
        self._values = self.commands.value_key("")
        self.generations = Generations(partial(self.commands.generation, life=marker_life))
        connections.generations = self.generations
        self._connections = connections
        self._namespace = namespace
        self._lock = threading.Lock()
        self._client: Any = None
        self._aclients = AsyncClients(connections.aclient)
        self._reads = Coalescing(self._acarry_out)
        self._closed = False
        self.listener: Listener | None = None
        """Who hears the signals of this server in this process; what it sends itself is kept from it."""
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
        if type(operation) is Fetch and not operation.deps and len(operation.keys) == 1:
            found = self._ask_one(operation.keys[0])
            if type(found) is list and len(found) == 1:
                return Fetched(found, [])
            raise self._not_ours(TypeError("not an answer to MGET"))
        if type(operation) in _IN_ONE_TRIP:
            # What is asked most often: nobody has to be asked what comes next.
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

    def _ask_one(self, key: str) -> Any:
        """Return what the server says about one payload: a list of it, or of None; raises what `perform` raises."""
        try:
            client = self._client or self._connect()
            return exchange_one(client.connection_pool, ("MGET", self._values + key))
        except Exception as error:
            raise self._named(error) from error

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

    def scan(self, pattern: str = "*", count: int = SCAN_COUNT) -> Iterator[Scanned]:
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
            if batch.echo:
                replies = exchange_script(client.connection_pool, batch.commands[0], self.listener, batch.echo)
            else:
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


_IN_ONE_TRIP = frozenset({Fetch, Renew})
_PING = Batch([("PING",)])


def _info(replies: list[Any]) -> dict[str, str]:
    lines = replies[0].decode("utf-8", "replace").splitlines()
    return dict(line.split(":", 1) for line in lines if ":" in line and not line.startswith("#"))


_tiers: weakref.WeakSet[RedisTier] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for tier in tuple(_tiers):
        tier._after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
