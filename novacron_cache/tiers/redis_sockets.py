"""Which sockets a thread waits for, any of which another thread may take on itself for a moment.

Waking a thread costs more than what it then reads, and it wants the interpreter just when its waker does. So a thread
that knows what is about to arrive can have the one that waits sleep through it. That needs a kernel that can be told of
it while somebody waits; where there is none, everybody is woken as ever.
"""

from __future__ import annotations

import selectors
import socket
import sys
from typing import Any

__all__ = ["Sockets", "sockets"]


class Sockets:
    """What one thread waits for: sockets, each with whatever its owner wants to have back when there is news of it."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()

    def watch(self, sock: socket.socket, owner: Any) -> None:
        """Wait for a socket too."""
        self._selector.register(sock, selectors.EVENT_READ, owner)

    def unwatch(self, sock: socket.socket) -> None:
        """Wait for it no more; raises KeyError where nobody did."""
        self._selector.unregister(sock)

    def wait(self, seconds: float) -> list[Any]:
        """Return the owners of sockets that have something to be read; none where nothing came in time."""
        return [key.data for key, _ in self._selector.select(seconds)]

    def ignore(self, sock: socket.socket) -> bool:
        """Have nobody woken by what arrives at a socket until `heed`; return whether that can be had."""
        return False

    def heed(self, sock: socket.socket) -> None:
        """Have the one who waits woken again, at once where something has arrived meanwhile."""

    def close(self) -> None:
        """Let go of what the kernel keeps for this."""
        self._selector.close()


_best: type[Sockets] = Sockets

if sys.platform == "linux":
    import select

    class _Polled(Sockets):
        """The same by `epoll` itself, which may be told of changes while another thread waits for it."""

        def __init__(self) -> None:
            self._epoll = select.epoll()
            self._owners: dict[int, Any] = {}

        def watch(self, sock: socket.socket, owner: Any) -> None:
            self._owners[number := sock.fileno()] = owner
            self._epoll.register(number, select.EPOLLIN)

        def unwatch(self, sock: socket.socket) -> None:
            del self._owners[number := sock.fileno()]
            self._epoll.unregister(number)

        def wait(self, seconds: float) -> list[Any]:
            owners = self._owners
            return [owners[number] for number, _ in self._epoll.poll(seconds) if number in owners]

        def ignore(self, sock: socket.socket) -> bool:
            # That a connection is lost is told all the same.
            return self._modify(sock, 0)

        def heed(self, sock: socket.socket) -> None:
            self._modify(sock, select.EPOLLIN)

        def _modify(self, sock: socket.socket, events: int) -> bool:
            try:
                self._epoll.modify(sock.fileno(), events)
            except (OSError, ValueError):
                return False  # the thread has just ended, or closed it: nobody waits for it any more
            return True

        def close(self) -> None:
            self._epoll.close()

    _best = _Polled


def sockets() -> Sockets:
    """Return what a thread can wait with, of the best kind that this system has."""
    return _best()
