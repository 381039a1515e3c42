"""Asynchronous connections as the pool lends them: what a write that fails, or is cut off, leaves behind."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from novacron_cache.tiers.redis_async import Pool, TcpConnection


class Writer:
    """The writing end of a connection, which a test may hold up or break."""

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.error: Exception | None = None
        self.go = asyncio.Event()
        self.go.set()
        self.closed = False

    def writelines(self, parts: list[bytes]) -> None:
        self.written += parts

    async def drain(self) -> None:
        if self.error is not None:
            raise self.error
        await self.go.wait()

    def close(self) -> None:
        self.closed = True


class Wired(TcpConnection):
    """A connection to nobody."""

    writer: Writer | None = None

    async def connect(self) -> None:
        self.writer = self._writer = Writer()  # type: ignore[assignment]  # it stands in for one
        self._reader = object()  # type: ignore[assignment]  # nothing is read

    async def connect_check_health(self, *args: Any, **kwargs: Any) -> None:
        await self.connect()

    async def disconnect(self, nowait: bool = False, **_: Any) -> None:
        if self.writer is not None:
            self.writer.close()
        self._writer = self._reader = None

    async def can_read(self, *_: Any) -> bool:
        return False

    def maint_notifications_enabled(self) -> bool:
        return False


@pytest.fixture
async def connection() -> AsyncIterator[Wired]:
    made = Wired(host="localhost", port=1, socket_timeout=10.0)
    yield made
    await made.disconnect()


async def test_a_command_is_written_as_it_comes_and_connects_first_where_it_has_to(connection: Wired) -> None:
    await connection.send_packed_command("PING\r\n")
    assert connection.writer is not None
    await connection.send_packed_command(b"GET\r\n")
    await connection.send_packed_command([b"SET", b"\r\n"])
    assert connection.writer.written == [b"PING\r\n", b"GET\r\n", b"SET", b"\r\n"]


@pytest.mark.parametrize(
    ("error", "raised"), [(TimeoutError(), RedisTimeoutError), (OSError("broken pipe"), RedisConnectionError)]
)
async def test_a_write_that_fails_closes_the_connection(
    connection: Wired, error: Exception, raised: type[Exception]
) -> None:
    await connection.connect()
    assert connection.writer is not None
    connection.writer.error = error
    with pytest.raises(raised, match="writing to socket"):
        await connection.send_packed_command(b"PING")
    assert connection.writer.closed
    assert not connection.is_connected


async def test_a_write_that_is_cut_off_closes_the_connection_for_half_a_command_may_be_sent(connection: Wired) -> None:
    await connection.connect()
    assert connection.writer is not None
    connection.writer.go.clear()
    writing = asyncio.ensure_future(connection.send_packed_command(b"PING"))
    await asyncio.sleep(0)
    writing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await writing
    assert connection.writer.closed


@pytest.fixture
def pool() -> Pool:
    return Pool(connection_class=Wired, max_connections=1, timeout=10.0, host="localhost", port=1)


async def test_whoever_waits_longest_gets_the_connection_that_comes_back(pool: Pool) -> None:
    connection = await pool.get_connection()
    first, gone, last = (asyncio.ensure_future(pool.get_connection()) for _ in range(3))
    await asyncio.sleep(0)
    gone.cancel()
    await asyncio.sleep(0)
    await pool.release(connection)
    assert await first is connection
    assert not last.done()
    await pool.release(connection)
    assert await last is connection
    await pool.release(connection)
    assert await pool.get_connection() is connection
    await connection.disconnect()


async def test_a_connection_that_comes_with_the_cancellation_goes_to_the_next(pool: Pool) -> None:
    connection = await pool.get_connection()
    first, second = (asyncio.ensure_future(pool.get_connection()) for _ in range(2))
    await asyncio.sleep(0)
    await pool.release(connection)  # handed to the first, which has not run since
    first.cancel()
    assert await second is connection
    assert first.cancelled()
    await connection.disconnect()


async def test_a_pool_whose_connections_do_not_come_back_in_time_says_so() -> None:
    pool = Pool(connection_class=Wired, max_connections=1, timeout=0.01, host="localhost", port=1)
    connection = await pool.get_connection()
    with pytest.raises(RedisConnectionError, match="No connection available"):
        await pool.get_connection()
    await pool.release(connection)
    assert await pool.get_connection() is connection
    await connection.disconnect()


async def test_a_connection_that_cannot_be_opened_is_given_back(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    async def refuse(_: Pool, connection: Any) -> None:
        raise RedisConnectionError("refused")

    with monkeypatch.context() as patch:
        patch.setattr(Pool, "ensure_connection", refuse)
        for _ in range(2):
            with pytest.raises(RedisConnectionError, match="refused"):
                await pool.get_connection()
    connection = await pool.get_connection()
    await connection.disconnect()
