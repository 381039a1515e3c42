"""Blocking connections, and the pool that lends them, with nothing done for a command but what it needs.

A call that finds its value on a server spends more time in the client than in the parser and the validator together.
redis-py's connections and parsers are used, with the three steps that each command takes written out: a connection is
lent without a lock unless somebody has to wait for one, looked at with a poll that was prepared when it was opened, and
its reply is read in one function. Whatever is unusual about a reply goes the way that redis-py itself goes.

Imported with the first client, since `redis` is slow to import.
"""

from __future__ import annotations

import os
import select
import socket
import struct
import sys
import threading
import time
from contextlib import suppress
from queue import Empty, Full
from typing import TYPE_CHECKING, Any

from redis import BlockingConnectionPool, Connection, SSLConnection, UnixDomainSocketConnection, _parsers
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from .redis_exchange import POOL_EMPTY, SMALL, Packing, not_enough

if TYPE_CHECKING:
    from redis.connection import AbstractConnection as _Base
else:
    _Base = object

__all__ = ["Pool", "Stack", "TcpConnection", "TlsConnection", "UnixConnection"]

_HIREDIS: Any = getattr(_parsers, "_HiredisParser", ())
"""The kind of parser that `read_response` takes over from."""
_CAN_POLL = hasattr(select, "poll")


class _Prompt(_Base):
    _kernel_keeps_time = sys.platform == "linux"
    _polled: Any = None
    """The socket that `_poll` looks at."""
    _poll: Any = None

    def _connect(self) -> Any:
        connection: Any = super()
        sock, seconds = connection._connect(), self.socket_timeout
        if self._kernel_keeps_time and seconds and isinstance(self._parser, _HIREDIS):
            # Python would look before each step whether it is possible, and a hit pay for two such looks.
            span = struct.pack("@ll", *divmod(max(round(seconds * 1e6), 1), 1_000_000))
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, span)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, span)
            sock.settimeout(None)
        return sock

    def send_packed_command(self, command: Any, check_health: bool = True) -> None:
        """Send what was packed; the arguments are those of redis-py."""
        connection: Any = super()
        sock: Any = self._sock
        steps: Any = None
        if sock is not None and sock.gettimeout() is None and not _is_small(command):
            # The kernel would give the whole time to each of the steps that this takes.
            steps = sock
            steps.settimeout(self.socket_timeout)
        try:
            connection.send_packed_command(command, check_health)
        except RedisConnectionError as error:
            if isinstance(error.__context__, BlockingIOError):
                raise RedisTimeoutError("Timeout writing to socket") from None
            raise
        if steps is not None:
            steps.settimeout(None)

    def is_quiet(self) -> bool:
        """Return whether an idle connection is open, and has nothing to say that nobody waits for."""
        sock, parser = self._sock, self._parser
        if self._polled is not sock:
            if not _CAN_POLL or not hasattr(parser, "_reader"):
                return _is_quiet(self)
            self._poll, self._polled = _prepared(sock), sock
        reader = parser._reader
        # One that the server has closed is readable too.
        return reader is not None and not reader.has_data() and not self._poll(0)

    def read_response(self, *args: Any, **options: Any) -> Any:
        """Return the next reply, or raise it where it is an error; the arguments are those of redis-py."""
        connection: Any = self
        parser, sock = connection._parser, connection._sock
        reader, waiting = getattr(parser, "_reader", None), not_enough()
        if args or options or reader is None or sock is None or waiting is None:
            return super().read_response(*args, **options)
        try:
            while True:
                while (reply := reader.gets()) is waiting:
                    size = sock.recv_into(parser._buffer)
                    if not size:
                        raise RedisConnectionError("Connection closed by server.")
                    reader.feed(parser._buffer, 0, size)
                kind = type(reply)
                if kind is list or kind is bytes or kind is int or reply is None:
                    return reply
                if isinstance(reply, list):
                    parser.handle_push_response(reply)  # it answers nobody
                elif isinstance(reply, Exception) and not isinstance(reply, ResponseError):
                    raise reply
                else:
                    break
        except (TimeoutError, BlockingIOError):  # the latter where the kernel keeps the time
            connection.disconnect()
            raise RedisTimeoutError("Timeout reading from socket") from None
        except OSError as error:
            connection.disconnect()
            raise RedisConnectionError(f"Error while reading from socket: {error}") from error
        except BaseException:
            # Replies that were not read must be nobody else's.
            connection.disconnect()
            raise
        if isinstance(reply, ResponseError):
            raise reply
        return reply


def _is_small(command: Any) -> bool:
    """Return whether a packed command is sent in one step, since what a socket takes is never less than this."""
    return len(command) == 1 and len(command[0]) <= SMALL


def _prepared(sock: Any) -> Any:
    """Return what polls a socket for something to read."""
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    return poll.poll


def _is_quiet(connection: Any) -> bool:
    """Do what `is_quiet` does by redis-py's own means."""
    try:
        return not connection.can_read()
    except Exception:
        return False


class TcpConnection(_Prompt, Packing, Connection):
    """A connection over TCP."""


class TlsConnection(_Prompt, Packing, SSLConnection):
    """A connection over TCP and TLS."""

    _kernel_keeps_time = False
    """A record may take several steps, of which each would begin anew to count."""

    def is_quiet(self) -> bool:
        """Return whether it is open and quiet; something may have been decrypted already that a poll does not see."""
        return _is_quiet(self)


class UnixConnection(_Prompt, Packing, UnixDomainSocketConnection):
    """A connection over a unix socket."""


class Stack:
    """What a pool has to lend, what came back last first: as `queue.LifoQueue`, but no lock is taken unless one waits.

    Args:
        maxsize: how much it takes.

    Attributes:
        queue: what is there; taking from its end and adding to it are one step each.
    """

    def __init__(self, maxsize: int) -> None:
        self.queue: list[Any] = []
        self._most = maxsize
        self._waiting = 0
        self._came = threading.Condition()

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        """Return what came last, having waited for it if need be.

        Args:
            block: whether to wait.
            timeout: how many seconds at most; None sets no bound.

        Raises:
            Empty: there is nothing.
        """
        try:
            return self.queue.pop()
        except IndexError:
            if not block:
                raise Empty from None
        return self._wait(timeout)

    def _wait(self, timeout: float | None) -> Any:
        until = None if timeout is None else time.monotonic() + timeout
        with self._came:
            # Counted before it looks once more: whatever is added after that look, its adder sees that one waits.
            self._waiting += 1
            try:
                while True:
                    with suppress(IndexError):  # one who did not wait may have been quicker
                        return self.queue.pop()
                    left = None if until is None else until - time.monotonic()
                    if left is not None and left <= 0:
                        raise Empty
                    self._came.wait(left)
            finally:
                self._waiting -= 1

    def get_nowait(self) -> Any:
        """Return what came last; raises Empty where there is nothing."""
        return self.get(block=False)

    def put_nowait(self, item: Any) -> None:
        """Add something; raises Full where there is too much already."""
        if len(self.queue) >= self._most:
            raise Full
        self.queue.append(item)
        if self._waiting:
            with self._came:
                self._came.notify()


class Pool(BlockingConnectionPool):
    """Lends connections; the arguments are those of redis-py's pool.

    redis-py's own takes several times as long, for metrics and maintenance that are not used here.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(queue_class=Stack, **kwargs)  # type: ignore[no-untyped-call]  # redis-py does not say

    def get_connection(self, command_name: Any = None, *keys: Any, **options: Any) -> Any:
        """Return a connection that is ready; the arguments mean nothing.

        Raises:
            redis.exceptions.ConnectionError: none was given back within the pool's time-out, or none can be opened.
        """
        if self.pid != os.getpid():
            self._checkpid()
        try:
            connection: Any = self.pool.queue.pop()
        except IndexError:
            connection = self._awaited()
        if connection is None:
            connection = self.make_connection()  # type: ignore[no-untyped-call]  # redis-py does not say
        try:
            if connection._sock is None:
                connection.connect()
            elif not connection.is_quiet():
                connection.disconnect()
                connection.connect()
        except BaseException:
            self.release(connection)
            raise
        return connection

    def _awaited(self) -> Any:
        """Return what somebody gives back in time."""
        try:
            return self.pool.get(timeout=self.timeout)
        except Empty:
            raise RedisConnectionError(POOL_EMPTY) from None

    def release(self, connection: Any) -> None:
        """Take a connection back; that it is the parent's is noticed when the next one is asked for, if not here."""
        if connection.pid != self.pid:
            connection.disconnect()
            connection = None
        elif connection._should_reconnect:
            connection.disconnect()
        self.pool.put_nowait(connection)
