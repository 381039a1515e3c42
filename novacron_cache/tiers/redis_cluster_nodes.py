"""The clients of a cluster: a pool for each node, and one exchange with several of them at once.

redis-py's own cluster client retries, waits and refreshes in ways that multiply every time-out, so only its pools and
connections are used.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from itertools import chain
from typing import Any

from .redis_exchange import aexchange, replies
from .redis_loops import close_now
from .redis_nodes import host_port
from .redis_pools import renew_pool

__all__ = ["AsyncNodes", "Nodes"]

Groups = Mapping[str, Sequence[Sequence[Any]]]
Outcome = list[Any] | Exception


class _Pools:
    """Pools by address, each made when it is first used; looks like one pool to those who close and renew them.

    Args:
        build: returns a new client, of which the pool is taken.
        greet: what a new connection does first, called with the address and the connection.
    """

    def __init__(self, build: Callable[[], Any], greet: Callable[[str, Any], Any]) -> None:
        self._build = build
        self._greet = greet
        self._lock = threading.Lock()
        self._pools: dict[str, Any] = {}
        self._wanted: Collection[str] = ()

    @property
    def connection_pool(self) -> Any:
        """Itself: what is done to it is done to the pools of all nodes."""
        return self

    def pool(self, address: str) -> Any:
        """Return the pool of a node."""
        found = self._pools.get(address)
        if found is None:
            with self._lock:
                found = self._pools.get(address)
                if found is None:
                    found = self._pools[address] = self._at(address)
        return found

    def _at(self, address: str) -> Any:
        pool = self._build().connection_pool
        host, port = host_port(address)
        greet = partial(self._greet, address)
        pool.connection_kwargs |= {"host": host, "port": port, "redis_connect_func": greet}
        return pool

    def keep(self, addresses: Collection[str]) -> bool:
        """Let go of the pools of all other nodes; what is in use there is closed when it is given back.

        Returns:
            Whether others were kept until now.
        """
        if addresses == self._wanted:
            return False
        with self._lock:
            self._wanted = addresses
            gone = [self._pools.pop(address) for address in tuple(self._pools) if address not in addresses]
        for pool in gone:
            self._let_go(pool)
        return True

    @staticmethod
    def _let_go(pool: Any) -> None:
        renew_pool(pool)

    def after_fork(self) -> None:
        """Make the lock anew in a forked child; the pools notice by themselves that they are in one."""
        self._lock = threading.Lock()

    def pools(self) -> Sequence[Any]:
        """Return every pool there is."""
        return tuple(self._pools.values())


class Nodes(_Pools):
    """Blocking clients."""

    def connect(self, address: str) -> Any:
        """Return a connection that no pool counts."""
        pool = self.pool(address)
        connection = pool.connection_class(**pool.connection_kwargs)
        connection.connect()
        return connection

    def exchange(self, groups: Groups) -> dict[str, Outcome]:
        """Send each node its commands, then read all replies; a node that fails gives its exception.

        Args:
            groups: commands by address.

        Returns:
            By address one reply for each command, those that are errors as exceptions.
        """
        outcomes: dict[str, Outcome] = {}
        open_: dict[str, tuple[Any, Any]] = {}
        try:
            for address, commands in groups.items():
                try:
                    pool = self.pool(address)
                    connection = pool.get_connection()
                    open_[address] = (pool, connection)
                    connection.send_packed_command(connection.pack_commands(commands), check_health=False)
                except Exception as error:
                    outcomes[address] = error
                    self._release(open_.pop(address, None), broken=True)
            for address in tuple(open_):
                try:
                    outcomes[address] = replies(open_[address][1], len(groups[address]))
                except Exception as error:
                    outcomes[address] = error
                    self._release(open_.pop(address), broken=True)
                else:
                    self._release(open_.pop(address), broken=False)
        finally:
            # Whoever interrupts this leaves replies unread, which must be nobody else's.
            for held in open_.values():
                self._release(held, broken=True)
        return outcomes

    @staticmethod
    def _release(held: tuple[Any, Any] | None, *, broken: bool) -> None:
        if held is not None:
            pool, connection = held
            if broken:
                connection.disconnect()
            pool.release(connection)

    def disconnect(self) -> None:
        """Close every connection."""
        for pool in self.pools():
            pool.disconnect()


class AsyncNodes(_Pools):
    """Asynchronous clients of one event loop."""

    @staticmethod
    def _let_go(pool: Any) -> None:
        for connection in tuple(pool._in_use_connections):
            connection.mark_for_reconnect()
        close_now(pool._available_connections)

    async def exchange(self, groups: Groups) -> dict[str, Outcome]:
        """Do what `Nodes.exchange` does, with all nodes at once."""
        if len(groups) == 1:
            ((address, commands),) = groups.items()
            try:
                return {address: await self._exchange(address, commands)}
            except Exception as error:
                return {address: error}
        found = await asyncio.gather(
            *(self._exchange(address, commands) for address, commands in groups.items()), return_exceptions=True
        )
        outcomes: dict[str, Outcome] = {}
        for address, outcome in zip(groups, found, strict=True):
            if isinstance(outcome, BaseException) and not isinstance(outcome, Exception):
                raise outcome
            outcomes[address] = outcome
        return outcomes

    async def _exchange(self, address: str, commands: Sequence[Sequence[Any]]) -> list[Any]:
        return await aexchange(self.pool(address), commands)

    @property
    def _available_connections(self) -> list[Any]:
        return list(chain.from_iterable(pool._available_connections for pool in self.pools()))

    @property
    def _in_use_connections(self) -> list[Any]:
        return list(chain.from_iterable(pool._in_use_connections for pool in self.pools()))

    async def disconnect(self) -> None:
        """Close every connection."""
        for pool in self.pools():
            await pool.disconnect()

    async def run_proactive_reconnect(self) -> None:
        """Close connections that are not in use, and have the others opened anew once they are not."""
        for pool in self.pools():
            await pool.run_proactive_reconnect()
