"""Blocking connections and their pool: what is lent is ready, what was read is whole, and nobody waits in vain."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from queue import Empty, Full
from typing import Any

import pytest
from redis._parsers import _RESP3Parser
from redis.exceptions import BusyLoadingError, ResponseError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError
from servers import wait_until

from novacron_cache.tiers.redis_blocking import Pool, Stack, TcpConnection, TlsConnection
from novacron_cache.tiers.redis_connections import tier_error
from novacron_cache.tiers.redis_exchange import exchange_one

PUSH = b">2\r\n$10\r\ninvalidate\r\n*1\r\n$1\r\nk\r\n"


class Line:
    """A connection whose other end is in the hands of a test."""

    def __init__(self, **options: Any) -> None:
        self.connection: Any = TcpConnection(protocol=3, socket_timeout=10, **options)
        self.far: socket.socket
        self.near: socket.socket
        self._opened: list[socket.socket] = []
        self.open()

    def open(self) -> None:
        """Lead the connection to a new socket."""
        self.far, self.near = socket.socketpair()
        self._opened += [self.far, self.near]
        self.near.settimeout(10)
        self.connection._sock = self.near
        self.connection._parser.on_connect(self.connection)

    def close(self) -> None:
        self.connection.disconnect()
        for sock in self._opened:
            sock.close()


@pytest.fixture
def line() -> Iterator[Line]:
    made = Line()
    yield made
    made.close()


class TestReading:
    @pytest.mark.parametrize(
        ("said", "meant"),
        [
            (b"$3\r\nabc\r\n", b"abc"),
            (b"*2\r\n$1\r\na\r\n_\r\n", [b"a", None]),
            (b":7\r\n", 7),
            (b"+OK\r\n", b"OK"),
            (b"_\r\n", None),
            (b"#f\r\n", False),
            (b",1.5\r\n", 1.5),
            (b"%1\r\n+a\r\n:1\r\n", {b"a": 1}),
            (PUSH + b":7\r\n", 7),
        ],
    )
    def test_a_reply_is_what_it_stands_for(self, line: Line, said: bytes, meant: object) -> None:
        line.far.sendall(said)
        assert line.connection.read_response() == meant

    def test_it_may_come_in_pieces(self, line: Line) -> None:
        def say() -> None:
            for byte in b"*1\r\n$3\r\nabc\r\n":
                line.far.sendall(bytes([byte]))

        saying = threading.Thread(target=say)
        saying.start()
        assert line.connection.read_response() == [b"abc"]
        saying.join()

    def test_one_that_is_longer_than_what_is_read_at_once_is_whole(self, line: Line) -> None:
        body = bytes(300_000)
        saying = threading.Thread(target=line.far.sendall, args=(b"$%d\r\n%b\r\n" % (len(body), body),))
        saying.start()
        assert line.connection.read_response() == body
        saying.join()

    def test_a_refusal_is_raised_and_leaves_the_connection_open(self, line: Line) -> None:
        line.far.sendall(b"-ERR refused\r\n:1\r\n")
        with pytest.raises(ResponseError, match="refused"):
            line.connection.read_response()
        assert line.connection.read_response() == 1

    def test_a_server_that_is_not_ready_closes_it(self, line: Line) -> None:
        line.far.sendall(b"-LOADING Redis is loading the dataset in memory\r\n")
        with pytest.raises(BusyLoadingError):
            line.connection.read_response()
        assert not line.connection.is_connected

    def test_so_does_one_that_says_nothing_in_time(self, line: Line) -> None:
        line.near.settimeout(0.01)
        with pytest.raises(RedisTimeoutError):
            line.connection.read_response()
        assert not line.connection.is_connected

    def test_so_does_one_that_hangs_up(self, line: Line) -> None:
        line.far.sendall(b"*1\r\n$3\r\nab")
        line.far.close()
        with pytest.raises(RedisConnectionError, match="closed"):
            line.connection.read_response()
        assert not line.connection.is_connected

    def test_so_does_one_that_resets(self, line: Line) -> None:
        class Broken:
            def recv_into(self, _buffer: bytearray) -> int:
                raise ConnectionResetError(104, "reset")

            def shutdown(self, _how: int) -> None: ...

            def close(self) -> None: ...

        line.connection._sock = Broken()
        with pytest.raises(RedisConnectionError, match="reset"):
            line.connection.read_response()
        assert not line.connection.is_connected

    def test_so_does_whatever_interrupts_it(self, line: Line) -> None:
        class Interrupted(socket.socket):
            def recv_into(self, *_: Any) -> int:
                raise KeyboardInterrupt

        line.connection._sock = Interrupted()
        with pytest.raises(KeyboardInterrupt):
            line.connection.read_response()
        assert not line.connection.is_connected

    def test_what_is_no_reply_closes_it(self, line: Line) -> None:
        line.far.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        with pytest.raises(Exception, match="Protocol"):
            line.connection.read_response()
        assert not line.connection.is_connected

    def test_one_that_is_not_connected_says_so(self, line: Line) -> None:
        line.connection.disconnect()
        with pytest.raises(RedisConnectionError):
            line.connection.read_response()

    def test_a_parser_of_another_kind_reads_in_its_own_way(self) -> None:
        line = Line(parser_class=_RESP3Parser)
        try:
            line.far.sendall(b"$3\r\nabc\r\n")
            assert line.connection.read_response() == b"abc"
            assert line.connection.is_quiet()
        finally:
            line.close()


def ready(connection: Any) -> None:
    """Do what a connection does first, but for what a server would have to answer."""
    connection._parser.on_connect(connection)


class TestTime:
    """A server that takes a connection and says nothing; the test decides what it reads."""

    @pytest.fixture
    def deaf(self) -> Iterator[socket.socket]:
        with socket.create_server(("127.0.0.1", 0)) as listening:
            yield listening

    @pytest.fixture(params=["by the kernel", "by Python"])
    def connection(
        self, request: pytest.FixtureRequest, deaf: socket.socket, monkeypatch: pytest.MonkeyPatch
    ) -> Iterator[Any]:
        monkeypatch.setattr(TcpConnection, "_kernel_keeps_time", request.param == "by the kernel")
        made: Any = TcpConnection(
            host="127.0.0.1", port=deaf.getsockname()[1], protocol=3, socket_timeout=0.05,
            redis_connect_func=ready,
        )  # fmt: skip
        made.connect()
        yield made
        made.disconnect()

    def test_an_answer_that_does_not_come_in_time_is_a_time_out(self, connection: Any) -> None:
        with pytest.raises(RedisTimeoutError):
            connection.read_response()
        assert not connection.is_connected

    def test_so_is_a_command_that_is_not_taken(self, connection: Any) -> None:
        with pytest.raises(RedisTimeoutError):
            connection.send_packed_command([bytes(64 << 20)], check_health=False)
        assert not connection.is_connected

    def test_what_takes_several_steps_is_sent_whole(self, connection: Any, deaf: socket.socket) -> None:
        far, _ = deaf.accept()
        far.settimeout(10)
        body, heard = bytes(range(256)) * 4096, bytearray()

        def hear() -> None:
            while len(heard) < 2 * len(body):
                heard.extend(far.recv(1 << 20))

        hearing = threading.Thread(target=hear)
        hearing.start()
        connection.send_packed_command([body, body], check_health=False)
        hearing.join()
        assert heard == body + body
        far.sendall(b":1\r\n")
        assert connection.read_response() == 1
        far.close()

    def test_what_a_single_command_fails_with_is_named_a_time_out(self, connection: Any) -> None:
        with pytest.raises((OSError, RedisTimeoutError)) as failure:
            exchange_one(TestOneCommand.Lent(connection), ("SET", "k", bytes(64 << 20)))
        assert tier_error(failure.value, where="there").cause == "timeout"
        assert not connection.is_connected

    def test_another_error_stays_what_it_was(self, connection: Any) -> None:
        connection._sock.shutdown(socket.SHUT_RDWR)
        with pytest.raises(RedisConnectionError, match="writing"):
            connection.send_packed_command([b"x"], check_health=False)

    def test_without_a_time_out_it_waits(self, deaf: socket.socket) -> None:
        made: Any = TcpConnection(
            host="127.0.0.1", port=deaf.getsockname()[1], protocol=3, socket_timeout=None,
            redis_connect_func=ready,
        )  # fmt: skip
        made.connect()
        far, _ = deaf.accept()
        with far:
            far.sendall(b":1\r\n")
            assert made.read_response() == 1
        made.disconnect()

    def test_with_a_parser_of_another_kind_python_keeps_the_time(self, deaf: socket.socket) -> None:
        made: Any = TcpConnection(
            host="127.0.0.1", port=deaf.getsockname()[1], protocol=3, socket_timeout=0.05, parser_class=_RESP3Parser,
            redis_connect_func=ready,
        )  # fmt: skip
        made.connect()
        assert made._sock.gettimeout() == 0.05
        with pytest.raises(RedisTimeoutError):
            made.read_response()


class TestQuiet:
    def test_it_is_while_nothing_comes(self, line: Line) -> None:
        assert line.connection.is_quiet()
        assert line.connection.is_quiet()

    def test_it_is_not_where_a_reply_came_that_nobody_waits_for(self, line: Line) -> None:
        line.far.sendall(b":1\r\n")
        assert not line.connection.is_quiet()

    def test_it_is_not_where_one_was_received_with_another(self, line: Line) -> None:
        line.far.sendall(b":1\r\n:2\r\n")
        assert line.connection.read_response() == 1
        assert not line.connection.is_quiet()

    def test_it_is_not_when_the_server_has_hung_up(self, line: Line) -> None:
        assert line.connection.is_quiet()
        line.far.close()
        assert not line.connection.is_quiet()

    def test_it_is_asked_of_the_socket_that_the_connection_has_now(self, line: Line) -> None:
        assert line.connection.is_quiet()
        first = line.far
        line.open()
        first.sendall(b":1\r\n")
        assert line.connection.is_quiet()
        line.far.sendall(b":1\r\n")
        assert not line.connection.is_quiet()

    @pytest.mark.parametrize(("pending", "quiet"), [(0, True), (5, False)])
    def test_what_tls_has_decrypted_counts(self, line: Line, pending: int, quiet: bool) -> None:
        class Decrypting(socket.socket):
            def pending(self) -> int:
                return pending

        made: Any = TlsConnection(protocol=3)
        made._sock = Decrypting(fileno=line.near.detach())
        made._parser.on_connect(made)
        assert made.is_quiet() is quiet
        made.disconnect()
        assert not made.is_quiet()


class TestOneCommand:
    class Lent:
        def __init__(self, connection: Any) -> None:
            self.connection = connection
            self.back = 0

        def get_connection(self) -> Any:
            return self.connection

        def release(self, connection: Any) -> None:
            assert connection is self.connection
            self.back += 1

    def test_it_travels_and_its_reply_comes_back(self, line: Line) -> None:
        lent = self.Lent(line.connection)
        line.far.sendall(b"*1\r\n$1\r\nv\r\n")
        assert exchange_one(lent, ("MGET", "k")) == [b"v"]
        assert line.far.recv(100) == b"*2\r\n$4\r\nMGET\r\n$1\r\nk\r\n"
        assert (lent.back, line.connection.is_connected) == (1, True)

    def test_a_refusal_is_raised_and_the_connection_goes_on(self, line: Line) -> None:
        lent = self.Lent(line.connection)
        line.far.sendall(b"-NOPERM no\r\n")
        with pytest.raises(ResponseError):
            exchange_one(lent, ("MGET", "k"))
        assert (lent.back, line.connection.is_connected) == (1, True)

    def test_where_the_reply_was_not_read_the_connection_is_closed(self, line: Line) -> None:
        lent = self.Lent(line.connection)
        line.near.settimeout(0.01)
        with pytest.raises(RedisTimeoutError):
            exchange_one(lent, ("MGET", "k"))
        assert (lent.back, line.connection.is_connected) == (1, False)

    def test_one_that_another_thread_has_closed_is_opened_anew(
        self, line: Line, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        lent = self.Lent(line.connection)
        line.connection.disconnect()
        monkeypatch.setattr(line.connection, "connect_check_health", lambda **_: line.open())
        monkeypatch.setattr(line.connection, "read_response", lambda: line.far.recv(100))
        assert exchange_one(lent, ("PING",)) == b"*1\r\n$4\r\nPING\r\n"

    def test_so_it_is_where_it_was_interrupted(self, line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
        lent = self.Lent(line.connection)

        def interrupted() -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(line.connection, "read_response", interrupted)
        with pytest.raises(KeyboardInterrupt):
            exchange_one(lent, ("MGET", "k"))
        assert (lent.back, line.connection.is_connected) == (1, False)


class TestStack:
    def test_what_came_last_goes_first(self) -> None:
        stack = Stack(3)
        for item in "abc":
            stack.put_nowait(item)
        assert [stack.get(), stack.get_nowait(), stack.get(timeout=0)] == ["c", "b", "a"]

    def test_it_takes_no_more_than_it_may(self) -> None:
        stack = Stack(1)
        stack.put_nowait("a")
        with pytest.raises(Full):
            stack.put_nowait("b")
        assert stack.queue == ["a"]

    def test_where_nothing_is_it_says_so(self) -> None:
        stack = Stack(1)
        with pytest.raises(Empty):
            stack.get_nowait()
        with pytest.raises(Empty):
            stack.get(timeout=0.01)

    @pytest.mark.parametrize("timeout", [10.0, None])
    def test_who_waits_gets_what_is_given_back(self, timeout: float | None) -> None:
        stack, got = Stack(1), list[Any]()
        waiting = threading.Thread(target=lambda: got.append(stack.get(timeout=timeout)))
        waiting.start()
        wait_until(lambda: stack._waiting == 1)
        stack.put_nowait("a")
        waiting.join()
        assert got == ["a"]
        assert stack._waiting == 0

    def test_who_was_called_in_vain_waits_on(self) -> None:
        stack, got = Stack(1), list[Any]()
        waiting = threading.Thread(target=lambda: got.append(stack.get(timeout=10)))
        waiting.start()
        wait_until(lambda: stack._waiting == 1)
        with stack._came:
            # Given back, and taken by somebody who did not wait, before the one who waits has been woken.
            stack.queue.append("a")
            stack._came.notify()
            assert stack.get() == "a"
        stack.put_nowait("b")
        waiting.join()
        assert got == ["b"]

    def test_many_threads_share_a_few_and_nobody_is_left_waiting(self) -> None:
        stack, lent, most = Stack(3), list[int](), list[int]()
        for item in range(3):
            stack.put_nowait(item)

        def use() -> None:
            for _ in range(300):
                item = stack.get(timeout=30)
                lent.append(item)
                most.append(len(lent))
                lent.remove(item)
                stack.put_nowait(item)

        threads = [threading.Thread(target=use) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(most) == 2400
        assert max(most) <= 3
        assert sorted(stack.queue) == [0, 1, 2]


class TestPool:
    class Connection:
        """What a pool needs of one."""

        made = 0

        def __init__(self, **_: Any) -> None:
            type(self).made += 1
            self.pid = 0
            self._sock: Any = None
            self._should_reconnect = False
            self.quiet = True
            self.opened = 0

        def connect(self) -> None:
            self._sock = self
            self.opened += 1

        def disconnect(self) -> None:
            self._sock = None

        def is_quiet(self) -> bool:
            return self.quiet

    @pytest.fixture
    def pool(self) -> Pool:
        return Pool(connection_class=self.Connection, max_connections=2, timeout=0.01)

    def lend(self, pool: Pool) -> Any:
        connection = pool.get_connection()
        connection.pid = pool.pid
        return connection

    def test_a_connection_is_opened_once_and_lent_again(self, pool: Pool) -> None:
        one = self.lend(pool)
        pool.release(one)
        assert self.lend(pool) is one
        assert one.opened == 1

    def test_there_are_no_more_than_it_may_open(self, pool: Pool) -> None:
        one, other = self.lend(pool), self.lend(pool)
        assert one is not other
        with pytest.raises(RedisConnectionError, match="No connection available"):
            pool.get_connection()
        pool.release(other)
        assert self.lend(pool) is other
        assert [count for count, _ in pool.get_connection_count()] == [0, 2]

    def test_one_that_has_something_to_say_is_opened_anew(self, pool: Pool) -> None:
        one = self.lend(pool)
        pool.release(one)
        one.quiet = False
        assert self.lend(pool) is one
        assert one.opened == 2

    def test_one_that_is_to_be_opened_anew_is_closed_when_it_comes_back(self, pool: Pool) -> None:
        one = self.lend(pool)
        one._should_reconnect = True
        pool.release(one)
        assert one._sock is None

    def test_one_of_the_parent_is_not_lent_in_a_forked_child(self, pool: Pool) -> None:
        one = self.lend(pool)
        one.pid += 1
        pool.release(one)
        assert one._sock is None
        assert self.lend(pool) is not one

    def test_one_that_cannot_be_opened_is_not_lost(self, pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
        def refused(connection: Any) -> None:
            connection.pid = pool.pid
            raise RedisConnectionError("refused")

        monkeypatch.setattr(self.Connection, "connect", refused)
        for _ in range(5):
            with pytest.raises(RedisConnectionError, match="refused"):
                pool.get_connection()
        assert len(pool.pool.queue) == 2
