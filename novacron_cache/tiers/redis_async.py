"""Asynchronous connections that can be cancelled and cost no task for each command.

redis-py sends through `asyncio.wait_for`. On Python 3.11 that starts a task for every command, a third of its whole
cost, and it loses a cancellation that arrives as the sending completes, which is the usual moment: a caller's time-out
would then never fire. These connections send under `asyncio.timeout` instead; nothing else differs.

Imported with the first asynchronous client, since `redis` is slow to import.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from redis.asyncio import Connection, SSLConnection, UnixDomainSocketConnection
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

if TYPE_CHECKING:
    from redis.asyncio.connection import AbstractConnection as _Base
else:
    _Base = object

__all__ = ["TcpConnection", "TlsConnection", "UnixConnection"]


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


class TcpConnection(_Prompt, Connection):
    """A connection over TCP."""


class TlsConnection(_Prompt, SSLConnection):
    """A connection over TCP and TLS."""


class UnixConnection(_Prompt, UnixDomainSocketConnection):
    """A connection over a unix socket."""
