"""Reads of one event loop that travel together.

A read that is alone goes at once. While one is under way, those that come in the same turn of the loop share the next
trip: one command for all their keys and markers, each asked for once. Nobody waits for another's answer, and no read
joins a trip that has begun, so what is found was there after the read was asked for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from ..effects import Fetch, Fetched
from ..errors import TierUnavailableError

__all__ = ["Coalescing"]

MOST = 256
"""How many reads share one trip; a longer command would keep the server from others for too long."""

Waiting = tuple[Fetch, "asyncio.Future[Fetched]"]


class Coalescing:
    """Brings the reads of each event loop together.

    Args:
        fetch: carries out one read, or several made one.
    """

    def __init__(self, fetch: Callable[[Fetch], Awaitable[Fetched]]) -> None:
        self._fetch = fetch
        self._turns: dict[asyncio.AbstractEventLoop, _Turn] = {}

    async def fetch(self, operation: Fetch) -> Fetched:
        """Return what `fetch` finds, alone or together with other reads.

        Raises:
            TierError: what the trip failed with.
        """
        loop = asyncio.get_running_loop()
        turn = self._turns.get(loop)
        if turn is None:
            for other in [other for other in self._turns if other.is_closed()]:
                self._turns.pop(other, None)
            turn = self._turns[loop] = _Turn(self._fetch)
        if not turn.under_way or len(operation.keys) > 1:
            return await turn.alone(operation)
        return await turn.join(loop, operation)

    def forget(self) -> None:
        """In a forked child: the parent's loops are not this process's."""
        self._turns = {}


class _Turn:
    """What one loop has under way, and what leaves next."""

    def __init__(self, fetch: Callable[[Fetch], Awaitable[Fetched]]) -> None:
        self._fetch = fetch
        self._waiting: list[Waiting] = []
        self._trips: set[asyncio.Task[None]] = set()
        self.under_way = 0

    async def alone(self, operation: Fetch) -> Fetched:
        self.under_way += 1
        try:
            return await self._fetch(operation)
        finally:
            self.under_way -= 1

    def join(self, loop: asyncio.AbstractEventLoop, operation: Fetch) -> asyncio.Future[Fetched]:
        future: asyncio.Future[Fetched] = loop.create_future()
        if not self._waiting:
            loop.call_soon(self._leave, loop)
        self._waiting.append((operation, future))
        return future

    def _leave(self, loop: asyncio.AbstractEventLoop) -> None:
        waiting, self._waiting = self._waiting, []
        for first in range(0, len(waiting), MOST):
            trip = loop.create_task(self._together(waiting[first : first + MOST]))
            self._trips.add(trip)
            trip.add_done_callback(self._trips.discard)

    async def _together(self, waiting: Sequence[Waiting]) -> None:
        wanted = [operation for operation, future in waiting if not future.done()]
        keys = list(dict.fromkeys(key for operation in wanted for key in operation.keys))
        deps = list(dict.fromkeys(dep for operation in wanted for dep in operation.deps))
        try:
            found = await self.alone(Fetch(keys, deps))
        except BaseException as error:
            # The loop that ends cancels its tasks in any order: whoever waits is told what is true of the trip.
            failure = error if isinstance(error, Exception) else TierUnavailableError("cancelled", tier="redis")
            for _, future in waiting:
                if not future.done():
                    future.set_exception(failure)
            if not isinstance(error, Exception):
                raise
            return
        if not found.whole:
            # A server that failed takes nothing from those who asked another.
            await asyncio.gather(*(self._apart(operation, future) for operation, future in waiting))
            return
        payloads = dict(zip(keys, found.payloads, strict=True))
        ids = dict(zip(deps, found.ids, strict=True))
        for operation, future in waiting:
            if not future.done():
                mine = Fetched([payloads[key] for key in operation.keys], [ids[dep] for dep in operation.deps])
                future.set_result(mine)

    async def _apart(self, operation: Fetch, future: asyncio.Future[Fetched]) -> None:
        try:
            found = await self.alone(operation)
        except Exception as error:
            if not future.done():
                future.set_exception(error)
        else:
            if not future.done():
                future.set_result(found)
