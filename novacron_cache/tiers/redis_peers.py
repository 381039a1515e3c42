"""Connections to several servers, served by one thread: none that is slow, dead or new keeps the others waiting.

Two things need this: the link, which hears what is signalled on every master, and the poll, which asks sentinels or
cluster nodes who the masters are. What they say and hear differs; that connections are opened, lost and opened again,
and that a thread ends when it should, is here.

Opening a connection takes several round trips, each of which may wait for its whole time-out. With one peer the thread
does that itself; with several, each attempt has a short-lived thread of its own.
"""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import threading
import time
import weakref
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Collection, Sequence
from typing import Any, ClassVar

from ..errors import TierError
from .redis_sockets import Sockets, sockets

__all__ = ["Peer", "PeerLostError", "Peers", "packed"]

_LATER = (BlockingIOError, InterruptedError, ssl.SSLWantReadError, ssl.SSLWantWriteError)
_IDLE = 1.0  # seconds
_MOST = 65_536  # bytes that are received at once


class PeerLostError(Exception):
    """A connection is of no more use; the text says why."""


class Peer:
    """One server, and the connection to it while there is one.

    Attributes:
        name: by which the owner knows it.
        sock: the open socket, or None.
        ignored: whether another thread reads what arrives now (see `TrackingLink.expect`).
        state: whatever the owner keeps for it.
    """

    __slots__ = ("connection", "dialling", "ignored", "name", "reader", "retry_at", "sock", "state")

    def __init__(self, name: str, state: Any) -> None:
        self.name = name
        self.state = state
        self.connection: Any = None
        self.sock: socket.socket | None = None
        self.ignored = False
        self.reader: Any = None
        self.dialling = False
        self.retry_at = 0.0

    def send(self, data: bytes) -> None:
        """Send a little; a peer that does not take even that counts as lost."""
        if self.sock is None:
            raise PeerLostError("not connected")
        try:
            sent = self.sock.send(data)
        except _LATER:
            sent = 0
        if sent < len(data):
            raise PeerLostError("the server does not read")


class Peers(ABC):
    """Keeps a connection to each of some servers, in one thread.

    The names of the servers may change at any time. All methods whose names begin with an underscore are called by the
    thread, but for `_dial`.

    Args:
        monotonic: the clock.
    """

    title: ClassVar[str]
    """The name of the thread."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._stopping = threading.Event()
        self._reset()
        _all.add(self)

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._stopping = threading.Event()
        self._wake: tuple[socket.socket, socket.socket] | None = None
        self._sockets: Sockets | None = None
        self._receiving = threading.Lock()
        self._peers: dict[str, Peer] = {}
        self._dialling: set[int] = set()
        self._dialled: deque[tuple[Peer, tuple[Any, Any] | None, Exception | None]] = deque()
        self._due = 0.0

    # -- what the owner decides ---------------------------------------------------------------------------------------

    @abstractmethod
    def _needed(self) -> bool:
        """Return whether anybody still wants this; the thread ends otherwise."""

    @abstractmethod
    def _names(self) -> Collection[str]:
        """Return the servers to be connected to; cheap, without I/O."""

    @abstractmethod
    def _state(self, name: str) -> Any:
        """Return what to keep for a new peer."""

    @abstractmethod
    def _dial(self, name: str) -> tuple[Any, Any]:
        """Open a connection, blocking, in whatever thread; return it with the reader of what it says."""

    @abstractmethod
    def _opened(self, peer: Peer) -> None:
        """A connection is open."""

    @abstractmethod
    def _received(self, peer: Peer, messages: list[Any]) -> bool:
        """Something was said; return whether that may have made something due. Raise PeerLostError to end this."""

    @abstractmethod
    def _failed(self, peer: Peer, reason: str, error: Exception | None) -> float:
        """A connection was lost or could not be opened; return the seconds to wait before the next attempt."""

    @abstractmethod
    def _turn(self, now: float) -> float:
        """Do what is due; return the seconds until something is due again."""

    @abstractmethod
    def _ended(self) -> None:
        """The thread ends."""

    # -- from outside -------------------------------------------------------------------------------------------------

    def ensure(self) -> None:
        """Start the thread unless it runs; cheap enough to be called before every trip to the server.

        Where no thread or socket is to be had, nothing happens this time.
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
            self._thread = threading.Thread(target=self._run, name=self.title, daemon=True)
            try:
                self._thread.start()
            except RuntimeError:
                self._thread = self._wake = None
                for end in wake:
                    end.close()

    def stop(self) -> None:
        """End the thread and close the connections."""
        before = self._thread
        self._stopping.set()
        self.nudge()
        # One that ends by itself just now has left its place before it has done everything.
        thread = self._thread or before
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout=5.0)

    def nudge(self) -> None:
        """Have the thread look at once at what there is to do."""
        wake = self._wake
        if wake is not None:
            try:
                wake[1].send(b"x")
            except (BlockingIOError, OSError):
                return  # it is awake already, or gone

    @property
    def beginning(self) -> bool:
        """Whether the thread that asks is opening one of these connections."""
        return threading.get_ident() in self._dialling

    # -- the thread ---------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        wake = self._wake
        try:
            with contextlib.closing(sockets()) as watched:
                if wake is None:
                    return
                self._sockets = watched
                watched.watch(wake[0], None)
                while not self._stopping.is_set() and self._needed():
                    self._look(watched, wake[0])
        finally:
            with self._lock:
                # A dial that ends from here on finds its peer gone, and closes what it opened.
                peers, self._peers = self._peers, {}
                dialled, self._dialled = self._dialled, deque()
            for peer in peers.values():
                self._hang_up(peer, None)
            for _, found, _ in dialled:
                if found is not None:
                    _disconnect(found[0])
            self._wake = self._sockets = None
            for end in wake or ():
                end.close()
            # Whatever ended the thread, a later call may start another.
            self._thread = None
            self._ended()

    def _look(self, watched: Sockets, wake: socket.socket) -> None:
        self._adjust(watched)
        now = self._monotonic()
        for peer in tuple(self._peers.values()):
            if peer.sock is None and not peer.dialling and now >= peer.retry_at:
                self._begin(peer)
        self._collect()
        pause = max(0.0, min(self._turn(self._monotonic()), _IDLE))
        now = self._monotonic()
        for peer in self._peers.values():
            if peer.sock is None and not peer.dialling:
                pause = min(pause, peer.retry_at - now)
        self._due = now + pause
        # What is heard, mostly, makes nothing due: then there is no need to look around after each message.
        while True:
            for peer in watched.wait(max(0.0, self._due - self._monotonic())):
                if peer is None:
                    self._due = 0.0
                    _drain(wake)
                elif peer.sock is not None:
                    self.guarded(peer, self._read)
            if self._monotonic() >= self._due:
                break
        self._collect()

    def guarded(self, peer: Peer, action: Callable[[Peer], None]) -> None:
        """Do something with a peer; what goes wrong ends its connection and nothing else."""
        try:
            action(peer)
        except Exception as error:
            self._give_up(peer, _reason(error), error)

    def _give_up(self, peer: Peer, reason: str, error: Exception | None) -> None:
        self._due = 0.0
        self._hang_up(peer, self._sockets)
        peer.retry_at = self._monotonic() + self._failed(peer, reason, error)

    def _adjust(self, watched: Sockets) -> None:
        names = dict.fromkeys(self._names())
        for name in [name for name in self._peers if name not in names]:
            with self._lock:
                peer = self._peers.pop(name)
            self._hang_up(peer, watched)
        for name in names:
            if name not in self._peers:
                peer = Peer(name, self._state(name))
                with self._lock:
                    self._peers[name] = peer

    def _begin(self, peer: Peer) -> None:
        peer.dialling = True
        if len(self._peers) == 1:
            self._connect(peer)
            return
        try:
            threading.Thread(target=self._connect, args=(peer,), name=f"{self.title} dial", daemon=True).start()
        except RuntimeError as error:
            self._dialled.append((peer, None, error))

    def _connect(self, peer: Peer) -> None:
        found, failure = None, None
        self._dialling.add(threading.get_ident())
        try:
            found = self._dial(peer.name)
        except Exception as error:
            failure = error
        finally:
            self._dialling.discard(threading.get_ident())
        with self._lock:
            if self._peers.get(peer.name) is peer and not self._stopping.is_set():
                self._dialled.append((peer, found, failure))
                found = None
        if found is not None:
            _disconnect(found[0])
        self.nudge()

    def _collect(self) -> None:
        while self._dialled:
            peer, found, error = self._dialled.popleft()
            peer.dialling = False
            if self._peers.get(peer.name) is not peer:
                if found is not None:
                    _disconnect(found[0])
            elif found is None:
                self._give_up(peer, _reason(error), error)
            else:
                peer.connection, peer.reader = found
                self.guarded(peer, self._join)

    def _join(self, peer: Peer) -> None:
        sock: socket.socket = peer.connection._sock
        sock.setblocking(False)
        peer.sock = sock
        if self._sockets is not None:
            self._sockets.watch(sock, peer)
        self._opened(peer)
        self._read(peer)  # what came with the greeting's last answer waits in no socket

    def _read(self, peer: Peer) -> None:
        sock = peer.sock
        closed = False
        while sock is not None:
            try:
                with self._receiving:
                    data = sock.recv(_MOST)
            except _LATER:
                break
            if not data:
                closed = True
                break
            peer.reader.feed(data)
            if len(data) < _MOST and not isinstance(sock, ssl.SSLSocket):
                break  # that was all; what comes after it wakes the thread again
        messages: list[Any] = []
        while (message := peer.reader.gets()) is not Ellipsis:
            messages.append(message)
        if messages and self._received(peer, messages):
            self._due = 0.0
        if closed:
            raise PeerLostError("the server closed the connection")

    def _hang_up(self, peer: Peer, watched: Sockets | None) -> None:
        with self._receiving:
            sock, peer.sock = peer.sock, None
            peer.ignored = False
        connection, peer.connection = peer.connection, None
        if sock is not None and watched is not None:
            with contextlib.suppress(KeyError, ValueError, OSError):
                watched.unwatch(sock)
        if connection is not None:
            _disconnect(connection)

    def after_fork(self) -> None:
        """Start afresh in a forked child: the thread stayed in the parent, and so did the connections.

        The child's copies of the sockets are closed without a word to the server, which would hear it as the parent's.
        """
        for peer in self._peers.values():
            sock = getattr(peer.connection, "_sock", None)
            if sock is not None:
                os.close(sock.detach())
                peer.connection._sock = None
        for end in self._wake or ():
            end.close()
        stopped = self._stopping.is_set()
        self._reset()
        if stopped:
            self._stopping.set()


def _reason(error: Exception | None) -> str:
    # Of whatever else a connection can raise the name of the class says enough, and holds no secret.
    return str(error) if isinstance(error, PeerLostError | TierError) else type(error).__name__


def packed(*words: str) -> bytes:
    """Return a command as it travels."""
    parts = [f"*{len(words)}\r\n".encode()]
    for word in words:
        data = word.encode()
        parts.append(b"$%d\r\n%s\r\n" % (len(data), data))
    return b"".join(parts)


def answers(sock: socket.socket, reader: Any, commands: Sequence[bytes]) -> list[Any]:
    """Send commands over a blocking socket and return one reply to each; what is pushed meanwhile stays unread."""
    sock.sendall(b"".join(commands))
    replies: list[Any] = []
    while len(replies) < len(commands):
        if (message := reader.gets()) is Ellipsis:
            data = sock.recv(65536)
            if not data:
                raise PeerLostError("the server closed the connection")
            reader.feed(data)
        else:
            replies.append(message)
    return replies


def _disconnect(connection: Any) -> None:
    with contextlib.suppress(Exception):  # it is being thrown away
        connection.disconnect()


def _drain(wake: socket.socket) -> None:
    try:
        while wake.recv(4096):
            continue
    except (BlockingIOError, InterruptedError):
        return


_all: weakref.WeakSet[Peers] = weakref.WeakSet()


def _after_fork() -> None:
    for peers in list(_all):
        peers.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
