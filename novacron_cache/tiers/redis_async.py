"""Asynchronous connections that can be cancelled, cost no task for each command, and are lent without locks.

redis-py sends through `asyncio.wait_for`. On Python 3.11 that starts a task for every command, a third of its whole
cost, and it loses a cancellation that arrives as the sending completes, which is the usual moment: a caller's time-out
would then never fire. These connections send under `asyncio.timeout` instead; nothing else differs.

Its pool lends and takes back under a condition and a lock. A caller that is cancelled while it waits to give a
connection back leaves it lent for ever; and before Python 3.11.8 a condition forgets a wake-up whose waiter is
cancelled at that moment, so that others wait beside a free connection until their time is over. All tasks of a pool
run in one thread, and what they do between two awaits nobody interrupts: here nothing is awaited.

Imported with the first asynchronous client, since `redis` is slow to import.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from redis.asyncio import BlockingConnectionPool, Connection, SSLConnection, UnixDomainSocketConnection
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from .redis_exchange import Packing

if TYPE_CHECKING:
    from redis.asyncio.connection import AbstractConnection as _Base
else:
    _Base = object

__all__ = ["Pool", "TcpConnection", "TlsConnection", "UnixConnection"]


class _Prompt(_Base):
    async def send_packed_command(self, command: bytes | str | Iterable[bytes], check_health: bool = True) -> None:
        """Write a command; `check_health` means nothing here, since a pool checks what it hands out."""
        if not self.is_connected:
            await self.connect_check_health(check_health=check_health)
        writer: Any = self._writer
        try:
            if isinstance(command, str):
                command = command.encode()
            writer.writelines([command] if isinstance(command, bytes) else command)
            async with asyncio.timeout(self.socket_timeout):
                await writer.drain()
        except TimeoutError:
            await self.disconnect(nowait=True)
            raise RedisTimeoutError("Timeout writing to socket") from None
        except OSError as error:
            await self.disconnect(nowait=True)
            raise RedisConnectionError(f"Error while writing to socket: {error}") from error
        except BaseException:
            # A command may be half sent, and its reply would be the next caller's.
            await self.disconnect(nowait=True)
            raise


class TcpConnection(_Prompt, Packing, Connection):
    """A connection over TCP."""


class TlsConnection(_Prompt, Packing, SSLConnection):
    """A connection over TCP and TLS."""


class UnixConnection(_Prompt, Packing, UnixDomainSocketConnection):
    """A connection over a unix socket."""


class Pool(BlockingConnectionPool):
    """Lends connections in the order of those who ask; the arguments are those of redis-py's pool."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._waiting: deque[asyncio.Future[Any]] = deque()

    async def get_connection(self, command_name: Any = None, *keys: Any, **options: Any) -> Any:
        """Return a connection that is ready; the arguments mean nothing.

        Raises:
            redis.exceptions.ConnectionError: none was given back within the pool's time-out, or none can be opened.
        """
        pool: Any = self
        connection = pool.get_available_connection() if self.can_get_connection() else await self._handed_over()
        try:
            await self.ensure_connection(connection)
        except BaseException:
            await self.release(connection)
            raise
        return connection

    async def release(self, connection: Any) -> None:
        """Take a connection back, for whoever has waited longest; this awaits nothing that could be cancelled."""
        if connection.should_reconnect():
            await connection.disconnect(nowait=True)
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(connection)
                return
        self._in_use_connections.discard(connection)
        self._available_connections.append(connection)

    async def _handed_over(self) -> Any:
        """Wait for a connection of somebody else, which counts as lent all the while."""
        waiter = asyncio.get_running_loop().create_future()
        self._waiting.append(waiter)
        try:
            async with asyncio.timeout(self.timeout):
                return await waiter
        except BaseException as error:
            if waiter.done() and not waiter.cancelled():
                await self.release(waiter.result())  # it came with the cancellation
            if isinstance(error, TimeoutError):
                raise RedisConnectionError("No connection available.") from None
            raise
