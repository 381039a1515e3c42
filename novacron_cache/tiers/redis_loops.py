"""Asynchronous clients and the event loops they belong to.

A connection belongs to the loop that opened it, and one tier may be used from many loops: one after the other
(`asyncio.run` twice), or side by side in threads. Sockets must be closed before, or without, their loop; a library that
leaves them to the collector greets its user with warnings and `Event loop is closed`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

__all__ = ["AsyncClients", "close_now"]


@dataclass(slots=True)
class _Kept:
    client: Any
    guard: AsyncGenerator[None]
    turn: int


class AsyncClients:
    """One asynchronous client for each running event loop.

    Loops that are shut down the usual way (`asyncio.run`, `Runner`, any loop that runs `shutdown_asyncgens`) first
    close the asynchronous generators that were started on them: each client is guarded by one, whose `finally`
    disconnects. What is left of a loop closed otherwise is abandoned when the next loop appears or at `close()`.

    The map holds loops strongly: each connection refers to its loop, so a weak key would never die before its value.

    Args:
        build: returns a new client.
    """

    def __init__(self, build: Callable[[], Any]) -> None:
        self._build = build
        self._clients: dict[asyncio.AbstractEventLoop, _Kept] = {}
        self._graveyard: list[Any] = []
        self._renewals: set[asyncio.Task[None]] = set()
        self._turn = 0

    async def current(self) -> Any:
        """Return the client of the running loop, building it at the first call."""
        loop = asyncio.get_running_loop()
        known = self._clients.get(loop)
        if known is not None:
            if known.turn != self._turn:
                # Another client rather than the same with other connections: that would take its time, and meanwhile
                # somebody would be given one of the old.
                known.turn = self._turn
                self._retire(known.client)
                known.client = self._build()
            return known.client
        self._sweep()
        guard = self._guard(loop)
        await anext(guard)  # does not wait: no other task gets between the look-up and this assignment
        known = self._clients[loop] = _Kept(self._build(), guard, self._turn)
        return known.client

    def clients(self) -> list[Any]:
        """Return the clients there are, for a look at them; they belong to their loops."""
        return [known.client for known in list(self._clients.values())]

    async def _guard(self, loop: asyncio.AbstractEventLoop) -> AsyncGenerator[None]:
        try:
            yield
        finally:
            # Whoever took the client out of the map has closed it already.
            known = self._clients.pop(loop, None)
            if known is not None:
                with suppress(Exception):
                    await known.client.connection_pool.disconnect()

    def renew(self) -> None:
        """Have whoever asks for a client from now on, in whatever loop, get one without the present connections."""
        self._turn += 1

    def _retire(self, client: Any) -> None:
        task = asyncio.get_running_loop().create_task(_retired(client))
        self._renewals.add(task)
        task.add_done_callback(self._renewals.discard)

    async def aclose(self) -> None:
        """Disconnect the running loop's client, waiting for its sockets, and every other one as `close` does."""
        known = self._clients.get(asyncio.get_running_loop())
        if known is not None:
            await known.guard.aclose()
        self.close()

    def close(self) -> None:
        """Disconnect every client; a loop running in another thread closes its own sockets a moment later."""
        try:
            here: asyncio.AbstractEventLoop | None = asyncio.get_running_loop()
        except RuntimeError:
            here = None
        for loop in tuple(self._clients):
            client = self._take(loop)
            if client is None:
                continue
            if loop.is_running() and loop is not here:
                try:
                    loop.call_soon_threadsafe(_close_now, client)
                    continue
                except RuntimeError:
                    pass  # it was closed in between
            if loop.is_closed():
                _abandon(client)
            else:
                _close_now(client)

    def forget(self) -> None:
        """In a forked child: let go of the parent's clients without touching them.

        Closing a transport would take its socket out of the poll set, which the child shares with its parent.
        """
        for known in self._clients.values():
            detached = [_detach(connection) for connection in _connections(known.client)]
            self._graveyard += [known.client, known.guard, *detached]
        self._clients.clear()

    def _sweep(self) -> None:
        for loop in tuple(self._clients):
            if loop.is_closed() and (client := self._take(loop)) is not None:
                _abandon(client)

    def _take(self, loop: asyncio.AbstractEventLoop) -> Any:
        known = self._clients.pop(loop, None)
        if known is None:
            return None
        # Out of the map, the generator ends without waiting; left suspended, its collection would look for its loop.
        with suppress(StopIteration, RuntimeError):
            known.guard.aclose().send(None)
        return known.client


async def _retired(client: Any) -> None:
    """Close the connections of a client that nobody is given any more; those in use, when they are done."""
    with suppress(Exception):  # a connection that cannot be closed is not used again either
        await client.connection_pool.run_proactive_reconnect()


def _connections(client: Any) -> list[Any]:
    pool = client.connection_pool
    return [*getattr(pool, "_available_connections", ()), *getattr(pool, "_in_use_connections", ())]


def _detach(connection: Any) -> Any:
    writer = getattr(connection, "_writer", None)
    if writer is not None:
        connection._writer = connection._reader = None
    return writer


def _close_now(client: Any) -> None:
    """Close the sockets of an open loop without waiting; called on the loop's thread, or while it does not run."""
    close_now(_connections(client))


def close_now(connections: Iterable[Any]) -> None:
    """Do what `_close_now` does with some connections."""
    for connection in connections:
        if (writer := _detach(connection)) is not None:
            writer.close()


def _abandon(client: Any) -> None:
    """Close the sockets of a closed loop. Its transports can no longer do so: they would schedule a callback."""
    for connection in _connections(client):
        if (writer := _detach(connection)) is None:
            continue
        outer = getattr(writer, "transport", None)
        inner = getattr(getattr(outer, "_ssl_protocol", None), "_transport", None)
        for transport in filter(None, (outer, inner)):
            if (sock := getattr(transport, "_sock", None)) is not None:
                sock.close()
                transport._sock = None
            for flag in ("_closing", "_closed"):
                if hasattr(transport, flag):
                    setattr(transport, flag, True)
