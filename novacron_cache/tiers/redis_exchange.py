"""One round trip over one connection of a pool: commands out, replies in.

redis-py's clients do the same with retries, metrics and callbacks around it, which cost more than the trip itself. Only
its pools, connections and parsers are used here.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache
from queue import Empty
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from redis import BlockingConnectionPool as _Pool
else:
    _Pool = object

__all__ = ["POOL_EMPTY", "Packing", "aexchange", "blocking_kinds", "exchange", "lean_pool", "replies"]

POOL_EMPTY = "No connection available."
"""The text of the error for callers that waited in vain for a connection."""
_WORTH_SENDING: Final = 65_536  # bytes


def exchange(pool: Any, commands: Sequence[Sequence[Any]]) -> list[Any]:
    """Send commands and return a reply for each, those that are errors as exceptions.

    Whatever interrupts this closes the connection: replies that were not read must be nobody else's.
    """
    connection = pool.get_connection()
    whole = False
    try:
        connection.send_packed_command(connection.pack_commands(commands), check_health=False)
        found = replies(connection, len(commands))
        whole = True
        return found
    finally:
        if not whole:
            connection.disconnect()
        pool.release(connection)


class Packing:
    """What a connection of redis-py does to send commands, without a look at each of what may be thousands of words.

    The first word is one command and no more, where redis-py would take it apart.
    """

    def pack_commands(self, commands: Iterable[Iterable[Any]]) -> list[bytes]:
        """Return commands as they travel, in pieces that each are worth a system call."""
        from hiredis import pack_command

        pieces: list[bytes] = []
        gathered: list[bytes] = []
        size = 0
        for command in commands:
            gathered.append(one := pack_command(tuple(command)))
            size += len(one)
            if size >= _WORTH_SENDING:
                pieces.append(b"".join(gathered))
                gathered, size = [], 0
        if gathered:
            pieces.append(b"".join(gathered))
        return pieces


def replies(connection: Any, count: int) -> list[Any]:
    """Return the next replies of a blocking connection, those that are errors as exceptions."""
    response_error = _response_error()
    found: list[Any] = []
    while len(found) < count:
        try:
            found.append(connection.read_response())
        except response_error as error:
            found.append(error)
        _take_what_came_along(connection, found, count)
    return found


def _take_what_came_along(connection: Any, found: list[Any], count: int) -> None:
    """Add those replies that arrived with the last one; a connection has much to do before it looks for each."""
    reader, waiting = getattr(connection._parser, "_reader", None), _waiting()
    if reader is None or waiting is None:
        return
    response_error = _response_error()
    while len(found) < count:
        reply = reader.gets()
        if reply is waiting:
            return
        if isinstance(reply, Exception) and not isinstance(reply, response_error):
            raise reply
        if not isinstance(reply, list) or type(reply) is list:  # else it is a push, which answers nobody
            found.append(reply)


async def aexchange(pool: Any, commands: Sequence[Sequence[Any]]) -> list[Any]:
    """Do what `exchange` does, awaiting an asynchronous connection; cancelled, it closes it."""
    response_error = _response_error()
    connection = await pool.get_connection()
    try:
        await connection.send_packed_command(connection.pack_commands(commands), check_health=False)
        found: list[Any] = []
        while len(found) < len(commands):
            try:
                found.append(await connection.read_response())
            except response_error as error:
                found.append(error)
            _take_what_came_along(connection, found, len(commands))
    except BaseException:
        await connection.disconnect(nowait=True)
        raise
    finally:
        await pool.release(connection)
    return found


@cache
def _response_error() -> type[Exception]:
    """Return the class of a reply that is an error; `redis` is slow to import, and slow enough to ask for it again."""
    from redis.exceptions import ResponseError

    return ResponseError


@cache
def _waiting() -> Any:
    """Return what a reader gives when no whole reply has arrived; None where the library does not say."""
    try:
        from redis._parsers.hiredis import NOT_ENOUGH_DATA
    except ImportError:  # another version of it may have it elsewhere: then each reply is asked for
        return None
    return NOT_ENOUGH_DATA


class _Lean(_Pool):
    """A blocking pool that does nothing for each call but take a connection, look whether it is open, and put it back.

    redis-py's own takes several times as long, for metrics and maintenance that are not used here.
    """

    def get_connection(self, command_name: Any = None, *keys: Any, **options: Any) -> Any:
        from redis.exceptions import ConnectionError as RedisConnectionError

        self._checkpid()
        try:
            connection: Any = self.pool.get(block=True, timeout=self.timeout)
        except Empty:
            raise RedisConnectionError(POOL_EMPTY) from None
        if connection is None:
            connection = self.make_connection()  # type: ignore[no-untyped-call]  # redis-py does not say
        try:
            if connection._sock is None:
                connection.connect()
            elif _has_something_to_say(connection):
                connection.disconnect()
                connection.connect()
        except BaseException:
            self.release(connection)
            raise
        return connection

    def release(self, connection: Any) -> None:
        self._checkpid()
        if not self.owns_connection(connection):
            connection.disconnect()
            connection = None
        elif connection.should_reconnect():
            connection.disconnect()
        self.pool.put_nowait(connection)


def _has_something_to_say(connection: Any) -> bool:
    """Return whether an idle connection was closed by the server, or has a reply that nobody waits for."""
    try:
        return bool(connection.can_read())
    except Exception:
        return True


@cache
def lean_pool() -> Any:
    """Return the class of such a pool; `redis` is slow to import, so this is made when it is first needed."""
    import redis

    return type("LeanPool", (_Lean, redis.BlockingConnectionPool), {})


@cache
def blocking_kinds() -> tuple[Any, Any, Any]:
    """Return the classes of blocking connections over TCP, TLS and unix sockets."""
    import redis

    kinds = (redis.Connection, redis.SSLConnection, redis.UnixDomainSocketConnection)
    tcp, tls, unix = (type(kind.__name__, (Packing, kind), {}) for kind in kinds)
    return tcp, tls, unix
