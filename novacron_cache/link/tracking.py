"""The link over one RESP3 connection of its own, in one thread."""

from __future__ import annotations

import asyncio
import contextlib
import os
import selectors
import socket
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any, Protocol

from .machine import Answer, LinkMachine, LinkState


class Subscriber(Protocol):
    """Who listens to a link; all methods are called from the link's thread."""

    def link_up(self, valid_until: float) -> None:
        """Signals arrive from now on; nothing before is vouched for."""

    def link_beat(self, valid_until: float) -> None:
        """Every signal sent until `valid_until` minus the bound has arrived."""

    def link_lost(self, reason: str) -> None:
        """Signals may have been missed since the last beat."""

    def signalled(self, signals: list[tuple[str, bytes]]) -> None:
        """Dependencies got these new ids."""


_HEARTBEAT = b"*2\r\n$4\r\nINFO\r\n$11\r\nreplication\r\n"

_links: weakref.WeakSet[TrackingLink] = weakref.WeakSet()


class TrackingLink:
    """Keeps one connection to one master and tells its subscriber what is signalled there.

    Args:
        connect: opens a connection that has spoken RESP3 and logged in; returns an object with `_sock`, as
            redis-py's connections have, and `disconnect()`.
        prefix: the prefix of the signal keys.
        parse: turns a signal key into (dependency, new id), or None for a key that is none.
        subscriber: told what happens; held weakly.
        bound: the staleness bound, seconds.
        beat: seconds between heartbeats; None derives it from the bound.
        monotonic: the clock of the hits.
    """

    def __init__(
        self,
        connect: Callable[[], Any],
        *,
        prefix: str,
        parse: Callable[[bytes], tuple[str, bytes] | None],
        subscriber: Subscriber,
        bound: float,
        beat: float | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._connect = connect
        self._prefix = prefix
        self._parse = parse
        self._subscriber = weakref.ref(subscriber)
        self._bound = bound
        self._beat = beat
        self._monotonic = monotonic
        self._reset()
        _links.add(self)

    def _reset(self) -> None:
        self.machine = LinkMachine(self._bound, self._beat)
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._stopping = threading.Event()
        self._waiting: list[Callable[[bool], None]] = []
        self._wake: tuple[socket.socket, socket.socket] | None = None
        self._connection: Any = None

    @property
    def state(self) -> LinkState:
        """Where the link is."""
        return self.machine.state

    def ensure(self) -> None:
        """Start the thread unless it runs; cheap enough to be called before every trip to the server.

        Where no thread or socket is to be had, there is no link this time.
        """
        if self._thread is not None or self._stopping.is_set():
            return
        with self._lock:
            if self._thread is not None or self._stopping.is_set():
                return
            try:
                wake = socket.socketpair()
            except OSError:
                return
            for end in wake:
                end.setblocking(False)
            self._wake = wake
            self._thread = threading.Thread(target=self._run, name="novacron_cache link", daemon=True)
            try:
                self._thread.start()
            except RuntimeError:
                self._thread = self._wake = None
                for end in wake:
                    end.close()

    def stop(self) -> None:
        """End the thread, close the connection and fail whoever waits for a barrier."""
        self._stopping.set()
        self._nudge()
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout=5.0)
        self.machine.state = LinkState.STOPPED
        self._release(False)

    # -- the barrier --------------------------------------------------------------------------------------------------

    def barrier(self, patience: float) -> bool:
        """Wait until every signal sent before this call has been handled; False when the link cannot say so."""
        done = threading.Event()
        result = [False]

        def finish(good: bool) -> None:
            result[0] = good
            done.set()

        if not self._enlist(finish):
            return False
        done.wait(patience)
        return result[0]

    async def abarrier(self, patience: float) -> bool:
        """Do what `barrier` does without blocking the running loop."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[bool] = loop.create_future()

        def settle(good: bool) -> None:
            if not future.done():
                future.set_result(good)

        def finish(good: bool) -> None:
            try:
                loop.call_soon_threadsafe(settle, good)
            except RuntimeError:
                return  # that loop is closed, and its waiter with it

        if not self._enlist(finish):
            return False
        try:
            async with asyncio.timeout(patience):
                return await future
        except TimeoutError:
            return False

    def _enlist(self, finish: Callable[[bool], None]) -> bool:
        with self._lock:
            if self.machine.state is not LinkState.UP or self._stopping.is_set():
                return False
            self._waiting.append(finish)
        self._nudge()
        return True

    def _release(self, good: bool, waiting: list[Callable[[bool], None]] | None = None) -> None:
        if waiting is None:
            with self._lock:
                waiting, self._waiting = self._waiting, []
        for finish in waiting:
            finish(good)

    def _nudge(self) -> None:
        wake = self._wake
        if wake is not None:
            try:
                wake[1].send(b"x")
            except (BlockingIOError, OSError):
                return  # it is awake already, or gone

    # -- the thread ---------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while not self._stopping.is_set() and self._subscriber() is not None:
                try:
                    reason = self._session()
                except Exception as error:
                    # Whatever a connection can raise: the name of the class says enough, and holds no secret.
                    reason = type(error).__name__
                finally:
                    self._hang_up()
                news = self.machine.state is LinkState.UP or reason != self.machine.reason
                pause = self.machine.lost(reason)
                subscriber = self._subscriber()
                if news and subscriber is not None and not self._stopping.is_set():
                    # Also when it has never been up: what keeps it from coming up should not stay a secret.
                    subscriber.link_lost(reason)
                del subscriber
                self._release(False)
                self._stopping.wait(pause)
        finally:
            wake, self._wake = self._wake, None
            for end in wake or ():
                end.close()
            # Whatever ended the thread, a later call may start another.
            self.machine.lost(self.machine.reason)
            self._release(False)
            self._thread = None

    def _session(self) -> str:
        """Connect, arm, and listen until the link is lost; return why."""
        import hiredis

        self.machine.state = LinkState.CONNECTING
        self._connection = self._connect()
        sock: socket.socket = self._connection._sock
        reader = hiredis.Reader(notEnoughData=Ellipsis)
        sock.settimeout(self._bound / 2)
        sock.sendall(_command("CLIENT", "TRACKING", "ON", "BCAST", "PREFIX", self._prefix))
        if (reply := _read(sock, reader)) != b"OK":
            return f"tracking was refused: {reply}"
        sock.setblocking(False)
        self.machine.connected(self._monotonic())
        wake = self._wake
        if wake is None:
            return "stopped"
        with selectors.DefaultSelector() as selector:
            selector.register(sock, selectors.EVENT_READ)
            selector.register(wake[0], selectors.EVENT_READ)
            return self._listen(sock, reader, selector, wake[0])

    def _listen(self, sock: socket.socket, reader: Any, selector: selectors.BaseSelector, wake: socket.socket) -> str:
        behind: list[Callable[[bool], None]] = []
        while not self._stopping.is_set():
            now = self._monotonic()
            if self.machine.overdue(now):
                return "no answer"
            with self._lock:
                urgent = bool(self._waiting)
            if self.machine.beat_due(now) or (urgent and not behind and not self.machine.outstanding):
                # Whoever waits from here on waits for the next question: this one may be answered before their call.
                with self._lock:
                    behind, self._waiting = self._waiting, []
                self.machine.asked(now)
                sock.settimeout(self._bound / 2)
                sock.sendall(_HEARTBEAT)
                sock.setblocking(False)
            for key, _ in selector.select(self.machine.wait(self._monotonic())):
                if key.fileobj is wake:
                    _drain(wake)
            if (reason := self._take(sock, reader)) is not None:
                self._release(False, behind)
                return reason
            if behind and not self.machine.outstanding:
                self._release(True, behind)
                behind = []
            if self._subscriber() is None:
                return "nobody listens"
        self._release(False, behind)
        return "stopped"

    def _take(self, sock: socket.socket, reader: Any) -> str | None:
        """Handle what has arrived; return why the link is lost, or None."""
        while True:
            try:
                data = sock.recv(65536)
            except (BlockingIOError, InterruptedError):
                break
            except OSError as error:
                if type(error).__name__ in ("SSLWantReadError", "SSLWantWriteError"):
                    break
                raise
            if not data:
                return "the server closed the connection"
            reader.feed(data)
        signals: list[tuple[str, bytes]] = []
        while (message := reader.gets()) is not Ellipsis:
            if isinstance(message, list) and message and message[0] == b"invalidate":
                if message[1] is None:
                    return "the server forgot everything"
                signals += [signal for key in message[1] if (signal := self._parse(key)) is not None]
            elif isinstance(message, Exception):
                return str(message)
            elif isinstance(message, bytes):
                # Signals that came before this answer must be obeyed before it vouches for anything.
                self._tell(signals)
                signals = []
                if (reason := self._beaten(message)) is not None:
                    return reason
        self._tell(signals)
        return None

    def _tell(self, signals: list[tuple[str, bytes]]) -> None:
        subscriber = self._subscriber()
        if signals and subscriber is not None:
            subscriber.signalled(signals)

    def _beaten(self, message: bytes) -> str | None:
        was_up = self.machine.state is LinkState.UP
        reason = self.machine.answered(Answer.parse(message.decode("utf-8", "replace")), self._monotonic())
        subscriber = self._subscriber()
        if reason is None and subscriber is not None:
            if was_up:
                subscriber.link_beat(self.machine.valid_until)
            else:
                subscriber.link_up(self.machine.valid_until)
        return reason

    def _hang_up(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(Exception):  # it is being thrown away
                connection.disconnect()

    def after_fork(self) -> None:
        """Start afresh in a forked child: the thread stayed in the parent, and so did the connection.

        The child's copies of the sockets are closed without a word to the server, which would hear it as the parent's.
        """
        if (connection := self._connection) is not None:
            sock = getattr(connection, "_sock", None)
            if sock is not None:
                os.close(sock.detach())
            connection._sock = None
        for end in self._wake or ():
            end.close()
        stopped = self._stopping.is_set()
        self._reset()
        if stopped:
            self._stopping.set()


def _command(*words: str) -> bytes:
    parts = [f"*{len(words)}\r\n".encode()]
    for word in words:
        data = word.encode()
        parts.append(b"$%d\r\n%s\r\n" % (len(data), data))
    return b"".join(parts)


def _read(sock: socket.socket, reader: Any) -> Any:
    while (message := reader.gets()) is Ellipsis:
        data = sock.recv(65536)
        if not data:
            raise ConnectionError("the server closed the connection")
        reader.feed(data)
    return message


def _drain(wake: socket.socket) -> None:
    try:
        while wake.recv(4096):
            continue
    except (BlockingIOError, InterruptedError):
        return


def _after_fork() -> None:
    for link in list(_links):
        link.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
