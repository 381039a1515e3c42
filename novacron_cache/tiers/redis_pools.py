"""What is done to all pools of a redis tier: counted, and opened anew.

Each event loop has a pool of its own beside that of blocking callers, and a cluster has one for each node; what an
operator wants to know is their sum.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from queue import Empty
from typing import Any, NamedTuple

__all__ = ["PoolUse", "renew", "renew_pool", "use_of"]


class PoolUse(NamedTuple):
    """How many connections are lent out, how many wait to be, and how many there may be.

    Attributes:
        limit: the bound of one pool times the pools there are; 0 before the first connection.
    """

    in_use: int
    idle: int
    limit: int


def use_of(client: Any, others: Iterable[Any]) -> PoolUse:
    """Return the sum over a client's pools and those of others; either may be missing."""
    in_use = idle = limit = 0
    for pool in _pools([*([] if client is None else [client]), *others]):
        (waiting, _), (lent, _) = pool.get_connection_count()
        in_use, idle, limit = in_use + lent, idle + waiting, limit + pool.max_connections
    return PoolUse(in_use, idle, limit)


def renew(client: Any) -> None:
    """Have every connection of a blocking client opened anew before it is next used; none in use is interrupted."""
    for pool in _pools([client]):
        renew_pool(pool)


def renew_pool(pool: Any) -> None:
    """Do what `renew` does with one blocking pool."""
    for connection in tuple(pool._connections):
        connection.mark_for_reconnect()  # what is in use is closed when it is given back
    # Nobody is given what is taken out here: closing what another thread has just been given fails its command.
    free = []
    with suppress(Empty):
        while True:
            free.append(pool.pool.get_nowait())
    for connection in reversed(free):
        if connection is not None:
            connection.disconnect()
        pool.pool.put_nowait(connection)


def _pools(clients: Iterable[Any]) -> Iterator[Any]:
    for client in clients:
        pool = client.connection_pool
        nodes = getattr(pool, "pools", None)
        yield from (pool,) if nodes is None else nodes()
