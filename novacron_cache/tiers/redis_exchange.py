"""One round trip over one connection of a pool: commands out, replies in.

redis-py's clients do the same with retries, metrics and callbacks around it, which cost more than the trip itself. Only
its pools, connections and parsers are used here.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any, Final, Protocol

from .redis_scripts import digest_of

__all__ = [
    "POOL_EMPTY",
    "SMALL",
    "Listener",
    "Packing",
    "aexchange",
    "exchange",
    "exchange_one",
    "exchange_script",
    "not_enough",
    "replies",
]

POOL_EMPTY = "No connection available."
"""The text of the error for callers that waited in vain for a connection."""
_WORTH_SENDING: Final = 65_536  # bytes
SMALL: Final = 4096
"""Bytes that a socket takes in one step."""


class Listener(Protocol):
    """Hears what the server signals, over a connection of its own; see `TrackingLink`."""

    def expect(self) -> Any:
        """Sleep through what arrives until `take`; return what that wants to have, or None."""
        ...

    def take(self, expected: Any, echo: bytes, /) -> None:
        """Listen again, and to this not at all."""


def exchange(
    pool: Any, commands: Sequence[Sequence[Any]], listener: Listener | None = None, echo: bytes = b""
) -> list[Any]:
    """Send commands and return a reply for each, those that are errors as exceptions.

    Whatever interrupts this closes the connection: replies that were not read must be nobody else's.

    Args:
        pool: where to take a connection.
        commands: what to send.
        listener: who would be woken by what the commands have the server signal, and learn nothing by it.
        echo: that signal, as it travels.
    """
    connection = pool.get_connection()
    whole, expected = False, None
    try:
        if listener is not None:
            expected = listener.expect()
        _send(connection, connection.pack_commands(commands))
        found = replies(connection, len(commands))
        whole = True
        return found
    finally:
        if listener is not None and expected is not None:
            listener.take(expected, echo)
        if not whole:
            connection.disconnect()
        pool.release(connection)


def exchange_script(pool: Any, command: tuple[Any, ...], listener: Listener | None, echo: bytes) -> list[Any]:
    """Do what `exchange` does with one `EVAL` that may be carried out twice, and leave out its text.

    A server that does not know the script is sent it, as is one that only takes whole ones, or only from this user.
    """
    _, script, *arguments = command
    found = exchange(pool, [("EVALSHA", digest_of(script), *arguments)], listener, echo)
    if isinstance(found[0], Exception) and _wants_the_text(found[0]):
        return exchange(pool, [command], listener, echo)
    return found


def _wants_the_text(error: Exception) -> bool:
    from redis.exceptions import NoPermissionError, NoScriptError

    return isinstance(error, NoScriptError | NoPermissionError) or "unknown command" in str(error)


def exchange_one(pool: Any, command: tuple[Any, ...]) -> Any:
    """Do what `exchange` does with one command, and return its reply; raises it where it is an error."""
    connection = pool.get_connection()
    whole = False
    try:
        _send(connection, (_packer()(command),))
        reply = connection.read_response()
        whole = True
        return reply
    except _response_error():
        whole = True
        raise
    finally:
        if not whole:
            connection.disconnect()
        pool.release(connection)


def _send(connection: Any, packed: Sequence[bytes]) -> None:
    sock = connection._sock
    # There is none where another thread has closed it, a moment ago.
    if sock is None or len(packed) > 1 or len(packed[0]) > SMALL:
        connection.send_packed_command(packed, check_health=False)
    else:
        sock.sendall(packed[0])


class Packing:
    """What a connection of redis-py does to send commands, without a look at each of what may be thousands of words.

    The first word is one command and no more, where redis-py would take it apart.
    """

    def pack_commands(self, commands: Iterable[Iterable[Any]]) -> list[bytes]:
        """Return commands as they travel, in pieces that each are worth a system call."""
        pack_command = _packer()
        if type(commands) is list and len(commands) == 1:
            return [pack_command(tuple(commands[0]))]
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
        if len(found) < count:
            _take_what_came_along(connection, found, count)
    return found


def _take_what_came_along(connection: Any, found: list[Any], count: int) -> None:
    """Add those replies that arrived with the last one; a connection has much to do before it looks for each."""
    reader, waiting = getattr(connection._parser, "_reader", None), not_enough()
    if reader is None or waiting is None:
        return
    while len(found) < count:
        reply = reader.gets()
        if reply is waiting:
            return
        if isinstance(reply, Exception) and not isinstance(reply, _response_error()):
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
def _packer() -> Any:
    """Return what packs a command, without the look for a module that an import takes."""
    from hiredis import pack_command

    return pack_command


@cache
def _response_error() -> type[Exception]:
    """Return the class of a reply that is an error; `redis` is slow to import, and slow enough to ask for it again."""
    from redis.exceptions import ResponseError

    return ResponseError


@cache
def not_enough() -> Any:
    """Return what a reader gives when no whole reply has arrived; None where the library does not say."""
    try:
        from redis._parsers.hiredis import NOT_ENOUGH_DATA
    except ImportError:  # another version of it may have it elsewhere: then each reply is asked for
        return None
    return NOT_ENOUGH_DATA
