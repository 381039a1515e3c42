"""One round trip: what travels, and which reply belongs to which command, however the bytes arrive."""

from __future__ import annotations

import array
import asyncio
import fcntl
import socket
import termios
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError
from servers import wait_until

from novacron_cache.tiers import redis_async, redis_blocking, redis_exchange
from novacron_cache.tiers.redis_exchange import Packing, aexchange, exchange

SAID = b"+OK\r\n:1\r\n-ERR refused\r\n$3\r\nabc\r\n_\r\n*2\r\n:1\r\n$1\r\nb\r\n#t\r\n-WRONGTYPE no\r\n$0\r\n\r\n"
MEANT = [b"OK", 1, "refused", b"abc", None, [1, b"b"], True, "no", b""]
"""What it says in nine replies; texts are those of errors."""
PUSH = b">2\r\n$10\r\ninvalidate\r\n*1\r\n$1\r\nk\r\n"

Ask = Callable[[int], list[Any]]


class Lent:
    """A pool of one connection."""

    def __init__(self, connection: Any) -> None:
        self.connection = connection
        self.back = 0

    def get_connection(self) -> Any:
        return self.connection

    def release(self, connection: Any) -> None:
        assert connection is self.connection
        self.back += 1


class LentInALoop(Lent):
    async def get_connection(self) -> Any:
        return self.connection

    async def release(self, connection: Any) -> None:
        super().release(connection)


class Server:
    """The other end of a connection; it says what a test wants, in pieces that do not arrive together."""

    def __init__(self) -> None:
        self.far, self.near = socket.socketpair()
        self.near.settimeout(10)

    def say(self, *pieces: bytes) -> None:
        for piece in pieces:
            wait_until(lambda: not self._unread(), what="what was said before to be read")
            self.far.sendall(piece)

    def _unread(self) -> int:
        count = array.array("i", [0])
        fcntl.ioctl(self.near, termios.FIONREAD, count)
        return count[0]

    def heard(self) -> bytes:
        return self.far.recv(1 << 20)

    def close(self) -> None:
        self.far.close()
        self.near.close()


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.close()


@pytest.fixture(params=["blocking", "asynchronous"])
def ask(request: pytest.FixtureRequest, server: Server) -> Ask:
    """Send so many commands and return the replies, through a blocking connection or an asynchronous one."""

    def blocking(count: int) -> list[Any]:
        connection: Any = redis_blocking.TcpConnection(protocol=3, socket_timeout=10)
        connection._sock = server.near
        connection._parser.on_connect(connection)
        pool = Lent(connection)
        try:
            return exchange(pool, [("PING",)] * count)
        finally:
            assert pool.back == 1
            connection.disconnect()

    async def asynchronous(count: int) -> list[Any]:
        connection: Any = redis_async.TcpConnection(protocol=3, socket_timeout=10)
        server.near.setblocking(False)
        connection._reader, writer = await asyncio.open_connection(sock=server.near)
        connection._writer = writer
        connection._parser.on_connect(connection)
        pool = LentInALoop(connection)
        try:
            return await aexchange(pool, [("PING",)] * count)
        finally:
            assert pool.back == 1
            connection._reader = connection._writer = None
            writer.close()
            await writer.wait_closed()

    return blocking if request.param == "blocking" else lambda count: asyncio.run(asynchronous(count))


def meant(found: Sequence[Any]) -> list[Any]:
    return [
        str(one).removeprefix("ERR ").removeprefix("WRONGTYPE ") if isinstance(one, ResponseError) else one
        for one in found
    ]


def test_each_reply_answers_its_command_and_errors_are_among_them(server: Server, ask: Ask) -> None:
    server.say(SAID)
    assert meant(ask(len(MEANT))) == MEANT


@pytest.mark.parametrize("cut", range(1, len(SAID), 3))
def test_replies_may_arrive_in_pieces(server: Server, ask: Ask, cut: int) -> None:
    saying = threading.Thread(target=server.say, args=(SAID[:cut], SAID[cut:]))
    saying.start()
    assert meant(ask(len(MEANT))) == MEANT
    saying.join()


def test_a_library_that_keeps_its_marks_elsewhere_is_asked_for_each_reply(
    server: Server, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    redis_exchange.not_enough.cache_clear()
    monkeypatch.delattr("redis._parsers.hiredis.NOT_ENOUGH_DATA")
    try:
        assert redis_exchange.not_enough() is None
        monkeypatch.undo()
        server.say(SAID)
        assert meant(ask(len(MEANT))) == MEANT
    finally:
        redis_exchange.not_enough.cache_clear()


def test_what_is_pushed_in_between_answers_nobody(server: Server, ask: Ask) -> None:
    server.say(PUSH + b"+a\r\n" + PUSH + PUSH + b"+b\r\n" + b"+c\r\n" + PUSH)
    assert ask(3) == [b"a", b"b", b"c"]


@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_server_that_is_not_ready_ends_the_exchange(server: Server, ask: Ask, place: int) -> None:
    said = [b"+a\r\n", b"+b\r\n", b"+c\r\n"]
    said[place] = b"-LOADING Redis is loading the dataset in memory\r\n"
    server.say(b"".join(said))
    with pytest.raises(RedisConnectionError, match="loading"):
        ask(3)


def test_commands_travel_as_the_client_library_writes_them() -> None:
    commands: list[tuple[Any, ...]] = [
        ("SET", "schlüssel", b"\x00\xff", "PX", 1000), ("MGET", *map(str, range(100))), ("INCRBYFLOAT", "f", 0.1),
        ("EVAL", "return 1", 0), (b"PING",), ("SET", "", ""),
    ]  # fmt: skip
    assert b"".join(Packing().pack_commands(commands)) == b"".join(redis.Connection().pack_commands(commands))


def test_they_travel_in_few_pieces() -> None:
    many = Packing().pack_commands([("SET", f"k{number}", b"x" * 100, "PX", 1000) for number in range(5_000)])
    assert b"".join(many).count(b"SET") == 5_000
    assert all(65_536 <= len(piece) < 66_000 for piece in many[:-1])
    assert Packing().pack_commands([]) == []
    assert len(Packing().pack_commands([("SET", "k", b"x" * 1_000_000)])) == 1
